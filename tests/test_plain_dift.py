"""The peer of the benchmark of points: it is the procedure that it says it is, at the size that it says."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import carried, propagate, sd21
from benchmarks.dift import PlainDift, describe, find
from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.features import FeatureConfig, load_extractor, prepare
from care_cli.stages.carrying import truth


def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def test_points_are_where_the_up_sampled_maps_are_most_alike() -> None:
    import torch

    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 1, 6, 4, 4)).astype(np.float32)
    size, scale = 24, 6
    wide = [np.empty((6, size, size)) for _ in range(2)]
    for cells, whole in zip((ours[0], theirs[0]), wide, strict=True):
        for row in range(size):
            for column in range(size):
                places = [min(max((at + 0.5) / scale - 0.5, 0), 3) for at in (row, column)]
                (r, c), (fr, fc) = [int(at) for at in places], [at - int(at) for at in places]
                below, right = min(r + 1, 3), min(c + 1, 3)
                whole[:, row, column] = (1 - fr) * ((1 - fc) * cells[:, r, c] + fc * cells[:, r, right])
                whole[:, row, column] += fr * ((1 - fc) * cells[:, below, c] + fc * cells[:, below, right])
    points = np.array([(3.2, 7.9), (20.0, 0.1), (11.5, 23.9)])
    found = find(describe(torch.from_numpy(ours), points, size), torch.from_numpy(theirs), size)
    for (x, y), place in zip(points, found, strict=True):
        query = wide[0][:, int(y), int(x)]
        cosine = np.einsum("c,chw->hw", query, wide[1]) / np.linalg.norm(wide[1], axis=0)
        row, column = np.unravel_index(cosine.argmax(), cosine.shape)
        assert place.tolist() == [column + 0.5, row + 0.5]


def test_of_the_same_noise_its_features_are_those_of_care(mini_diffusion: Path, monkeypatch) -> None:
    """Two implementations of one formula; another timestep or scale of the latents is not missed."""
    import torch
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    cfg = FeatureConfig(size=128, block=1, timestep=100, ensemble=3)
    extractor = load_extractor(registry.find_extractor(f"sd:{mini_diffusion}"), cfg, precision="float32")
    ours = extractor(prepare(picture(), 128)[None], [7], "a photo of an animal")

    def noise(latents: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)  # one draw after the other, as CARE takes them
        return torch.stack([torch.randn(one.shape, generator=generator) for one in latents])

    monkeypatch.setattr(torch, "randn_like", noise)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", DiagonalGaussianDistribution.mode)

    def apart(timestep: int = 100, scale: float = 1.0) -> float:
        plain = PlainDift(mini_diffusion, 128, "a photo of an animal", block=1, timestep=timestep, ensemble=3)
        plain.vae.register_to_config(scaling_factor=scale * plain.vae.config.scaling_factor)
        theirs = plain.features(picture())
        assert theirs.shape == ours.shape
        return float((ours - theirs).abs().max() / theirs.std())

    assert apart() < 1e-4
    assert min(apart(timestep=101), apart(timestep=90), apart(scale=1.02)) > 1e-3
    assert min(apart(timestep=261), apart(scale=2.0)) > 0.02


def test_the_random_pipeline_has_the_size_of_stable_diffusion_2_1() -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**sd21.UNET), AutoencoderKL(**sd21.VAE)
    count = [sum(one.numel() for one in model.parameters()) for model in (unet, vae)]
    assert count == [865_910_724, 83_653_863]  # of the published weights


def test_both_ways_carry_points_with_the_same_weights(tmp_path: Path) -> None:
    small = {"block_out_channels": (32, 32, 64, 64)}
    sd21.write(
        tmp_path / "small",
        unet={**small, "sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": 4},
        vae={**small, "sample_size": 64},
        text={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    )
    stream = io.BytesIO()
    picture().save(stream, "JPEG")
    given = argparse.Namespace(folder=tmp_path / "small", size=64, ensemble=2, precision="float32", device="cpu")
    for way in (carried.care, carried.plain):
        [there, again] = way(given, stream.getvalue())([stream.getvalue()] * 2)
        assert there.shape == again.shape == (carried.POINTS, 2)
        assert (there > 0).all() and (there < 64).all()


def test_the_animals_of_the_accuracy_are_named_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagate, "ANIMALS", 2)
    propagate.animals(tmp_path / "animals.db")
    with Catalog(tmp_path / "animals.db") as catalog:
        known = truth(catalog)
    assert len(known.crops) == 4 and len({one.individual for one in known.crops}) == 2
    assert all(len(one.points) >= 4 for one in known.crops) and known.outside == 0
    assert all(known.mirrors[one.species]["left_eye"] == "right_eye" for one in known.crops)
