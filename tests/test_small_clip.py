"""The small CLIP of rendered scenes: learns which caption is whose, and is a checkpoint that everything else reads."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from care_cli import registry
from care_cli.checkpoints import load_state, read_header
from care_cli.clip import Clip, TextTower, tokenizer
from care_cli.embedders import load_embedder
from care_cli.encoders import build_backbone
from demo import captions, examine_methods, examine_photos, train_clip
from demo.captions import COLOURS, caption
from demo.train_clip import OPTIONS, SIZE, Captioned, Recipe
from scenes import make_individual
from scenes.coats import Look


def test_it_learns_which_caption_belongs_to_which_chip() -> None:
    colours = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (230, 230, 230)}
    chips = np.stack([np.full((SIZE, SIZE, 3), rgb, np.uint8) for rgb in colours.values()]).repeat(2, 0)
    chips[1::2] = (0.9 * chips[1::2]).astype(np.uint8)
    said = tokenizer()([f"A photo of a {name} cat." for name in colours], OPTIONS["text_context_length"]).numpy()
    data = Captioned(chips, np.arange(4).repeat(2), np.stack([said, said], 1).repeat(2, 0))
    torch.manual_seed(0)
    clip = Clip(**OPTIONS).eval()
    before = train_clip.retrieval(clip, data)
    lines: list[str] = []
    train_clip.learn(clip, data, replace(Recipe(), batch=4, steps=30, warmup=5, individuals=4), lines.append)
    after = train_clip.retrieval(clip, data)
    assert before["image_to_text_R1"] < 1 and before["image_to_text_R5"] == 1
    assert after == dict.fromkeys(before, 1.0)


def test_a_batch_has_each_individual_once() -> None:
    labels, rng = np.arange(6).repeat(3), np.random.default_rng(0)
    batches = [train_clip.drawn(labels, 4, rng) for _ in range(200)]
    assert all(len(set(labels[rows])) == 4 for rows in batches)
    counts = np.bincount(np.concatenate(batches), minlength=18)
    assert counts.min() > 0.5 * counts.mean()


def test_the_checkpoint_is_read_by_all_that_begin_from_it(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    few = replace(Recipe(), individuals=4, chips=1, batch=4, steps=2, warmup=1, asked=2)
    found = train_clip.make_clip(few, path, report=lambda line: None)
    assert set(found) == {f"{way}_R{first}" for way in ("image_to_text", "text_to_image") for first in (1, 5)}
    header, state = read_header(path), load_state(path)
    assert "rendered scenes" in header["purpose"] and header["training"]["on"] == "rendered scenes alone"
    clip = build_backbone(header["architecture"], **header["options"]).eval()
    clip.load_state_dict(state)
    chips, sentences = train_clip.told(train_clip.HELD_OUT[0], 2)
    words = tokenizer()([said[0] for said in sentences], clip.context_length)
    with torch.inference_mode():
        seen, read = train_clip.features(clip, chips, words.numpy())
        text = TextTower(clip)
        prompts = torch.nn.functional.normalize(text(text.vectors(words), words.argmax(1)))
    embedder = load_embedder(registry.find(path, task="embedder"), path)
    assert np.allclose(embedder.embed(chips), seen, atol=2e-3)  # CLIP zero-shot
    assert np.allclose(prompts, read, atol=1e-5) and text.scale == pytest.approx(clip.logit_scale.exp().item())


def test_a_name_by_which_nothing_finds_the_weights_is_refused_at_once(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["train_clip", "--out", str(tmp_path / "small")])
    with pytest.raises(SystemExit):
        train_clip.main()
    assert "must end in .safetensors" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_nobody_is_asked_about_who_was_learned_from_or_chosen_by() -> None:
    known = {*train_clip.KNOWN[: Recipe.individuals]}
    for make in examine_methods.STUDIES.values():
        study = make()
        compared, others = set(study.compared.seeds), set(study.others.seeds)
        assert len(compared) == len(others) == 170
        assert not compared & others and not (compared | others) & known
        assert not known & {*examine_photos.ANNOTATED, *train_clip.HELD_OUT}
        assert study.baseline in study.rows


def test_the_longest_caption_has_room() -> None:
    word = max(COLOURS, key=lambda name: len(tokenizer().encode(name)))
    for style in captions.PATTERNS:
        for infrared in (False, True):
            said = caption(make_individual("Deer", 3), Look(COLOURS[word], style), "right", infrared)
            assert len(tokenizer().encode(said)) + 2 <= OPTIONS["text_context_length"]


def test_the_table_pairs_seed_by_seed() -> None:
    def row(*values: float) -> dict:
        half = 1.0 if len(values) > 1 else None
        figure = {"mean": float(np.mean(values)), "half": half, "values": list(values), "low": 0.25, "high": 0.5}
        return {"metrics": {"top1": figure, "mAP": figure}}

    lines = examine_methods.told({"a": row(0.2, 0.4), "b": row(0.3, 0.4), "c": row(0.1)}, "a")
    # b - a: 0.1 and 0, so 0.05 +- 12.706 x 0.0707 / sqrt 2; c - a: -0.1 and -0.3, so -0.2 +- 12.706 x 0.1414 / sqrt 2
    assert lines[2].startswith("| a | 30.0 ± 100.0 [25, 50] |") and lines[2].endswith("|  |  |")
    assert "| +5.0 ± 63.5 |" in lines[3] and "| -20.0 ± 127.1 |" in lines[4]
    assert lines[4].startswith("| c | 10.0 [25, 50] |")
