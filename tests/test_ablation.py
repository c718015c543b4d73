"""`care evaluate ablation`: what its cells are made of, what they lack, and that none is done twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import textures
from scipy import stats
from test_cli import runner
from test_train import herd

from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.evaluation.ablations import ABLATIONS, SOURCES, Ablation
from care_cli.features import FeatureConfig
from care_cli.records import NamedPoint
from care_cli.stages import ablation, evaluate_reid, propagate, splits, train
from care_cli.stages.ablation import AblationConfig
from care_cli.stages.train_settings import TrainRequest

SETTINGS = {"input_size": 32, "options": {"img_size": 32}, "epochs": 0.5, "individuals": 3, "photos": 2,
            "accumulate": 1, "arc_scale": 16.0, "learning_rate": 0.01}  # fmt: skip
EYES = [NamedPoint("left_eye", 110, 70), NamedPoint("right_eye", 130, 70), NamedPoint("nose", 120, 90)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extractor")
    textures.extractor(folder)
    return folder / "test_resnet.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve animals with three crops each, and a template of three points."""
    path = tmp_path_factory.mktemp("herd") / "care.db"
    herd(path)
    with Catalog(path) as opened:
        opened.add_template("eyes", 1, EYES, "expert")
    return path


@pytest.fixture
def catalog(made, tmp_path):
    shutil.copy(made, tmp_path / "care.db")
    with Catalog(tmp_path / "care.db") as opened:
        yield opened


@pytest.fixture
def pair(monkeypatch):
    """The scale's cells without points and with CKPE, as an ablation of their own."""
    cells = ABLATIONS["scale"].cells
    monkeypatch.setitem(ABLATIONS, "pair", Ablation("two of three", (), lambda size: cells(size)[::2]))
    return "pair"


@pytest.fixture
def cfg(weights):
    return AblationConfig(
        "scale",
        sizes=("test_vit",),
        seeds=(0,),
        extractor="timm:test_resnet",
        extractor_weights=weights,
        features=FeatureConfig(96, 1),
        request=TrainRequest(split=splits.SplitRequest(val=0.2), settings=SETTINGS),
        examine=evaluate_reid.EvaluateConfig(open_share=0, engine="torch"),  # no model is converted to be asked once
    )


# -- the table


def test_every_figure_of_the_papers_ablations_has_its_cell():
    """Tables 2 to 7 as ALGORITHMS prints them; two figures of each."""
    found = {}
    for one in ABLATIONS.values():
        for size in one.sizes:
            for cell in one.cells(size):
                if cell.published("MacaqueFaces") is not None:
                    top1 = cell.published("MacaqueFaces")["top1"]
                    assert found.setdefault(cell.paper[1:], top1) == top1
    assert {number: sum(key[0] == number for key in found) for number in range(2, 8)} == {
        2: 4, 3: 9, 4: 9, 5: 12, 6: 6, 7: 6}  # fmt: skip
    expected = {
        (2, "gradcam-resnet"): 96.9,
        (2, "vlm"): 99.2,
        (3, "0"): 98.9,
        (3, "1000"): 96.9,
        (4, "base, none"): 92.5,
        (4, "huge, ckpe"): 99.6,
        (5, "base, 10"): 96.9,
        (5, "huge, 1"): 98.8,
        (6, "large, random"): 96.2,
        (6, "base, keypoint"): 97.3,
        (7, "base, random"): 96.9,
        (7, "huge, keypoints"): 99.6,
    }
    assert {key: round(100 * found[key], 1) for key in expected} == expected


def test_cells_are_of_their_sources_counts_and_timesteps():
    sources = [cell.source for cell in ABLATIONS["keypoint-source"].cells("large")]
    assert set(sources) == set(SOURCES)
    assert [cell.timestep for cell in ABLATIONS["timestep"].cells("large")] == [
        0,
        50,
        100,
        150,
        200,
        250,
        300,
        500,
        999,
    ]
    assert [(cell.method, cell.source) for cell in ABLATIONS["scale"].cells("base")] == [
        ("vit", None), ("kpe", "expert"), ("ckpe", "expert")]  # fmt: skip
    assert [cell.settings for cell in ABLATIONS["tokens"].cells("own")] == [{"text.tokens": w} for w in (2, 4, 8, 16)]
    margins = ABLATIONS["margin"].cells("own")
    assert [cell.settings["triplet_margin"] for cell in margins] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert margins[3].published("LionData") == pytest.approx(
        {"mAP": 0.403, "mAP_half": 0.003, "top1": 0.553, "top1_half": 0.002}
    )
    assert margins[3].published("MacaqueFaces") is None and margins[3].published(None) is None
    assert [cell.count for cell in ABLATIONS["keypoints"].cells("base")] == [1, 3, 6, 10]
    assert [(cell.source, cell.count) for cell in ABLATIONS["random"].cells("base")] == [
        ("random", 1), ("expert", 1), ("random", 3), ("expert", 3)]  # fmt: skip


def test_care_is_taught_by_the_schedule_of_the_data_set_whose_figures_stand_beside(catalog, cfg, monkeypatch):
    monkeypatch.setattr(ablation.published, "recognise", lambda *_: "LionData")
    plain = replace(cfg, name="tokens", sizes=(), begin={"care": "none"}, request=TrainRequest())
    found = ablation.listing(catalog, plain)
    assert {(row["training"]["batch"], row["training"]["epochs"]) for row in found["rows"]} == {(32, 60)}
    [of_paper] = [line for line in ablation.remarks(found) if "LionData" in line]
    assert "10 seeds" in of_paper and "every photo of the test part" in of_paper


# -- what is missing


def lacks(catalog, cfg, name, **more) -> list[str]:
    return ["; ".join(one.missing) for one in ablation.plan(catalog, replace(cfg, name=name, **more))]


def test_what_a_cell_lacks_is_said(catalog, cfg):
    assert lacks(catalog, cfg, "scale") == ["", "", ""]
    few = lacks(catalog, cfg, "keypoints")
    assert few[:2] == ["", ""] and "at least 6 points: 'eyes' has 3" in few[2] and "10 points" in few[3]
    assert all("diffusion" in one for one in lacks(catalog, cfg, "timestep"))
    by_variant = {one.cell.variant: one.missing for one in ablation.plan(catalog, replace(cfg, name="keypoint-source"))}
    assert by_variant["expert"] == () and "--vlm-url" in by_variant["vlm"][0]
    assert "--gradcam" in by_variant["gradcam-vit"][0] and "--random" in by_variant["random"][0]
    catalog.add_template("more", 2, EYES, "expert")
    assert "which of the templates eyes, more: --template expert=NAME" in lacks(catalog, cfg, "scale")[2]
    assert lacks(catalog, cfg, "scale", templates={"expert": "more"}) == ["", "", ""]
    absent = lacks(catalog, cfg, "scale", extractor="timm:test_resnet", extractor_weights=None)
    assert absent[0] == "" and "--weights" in absent[2]
    assert "no-such-model" in lacks(catalog, cfg, "scale", begin={"test_vit": "no-such-model"})[0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "colour"}, "no ablation 'colour'; there are keypoint-source, timestep"),
        ({"templates": {"oracle": "eyes"}}, "a source of expert"),
        ({"begin": {"huge": "vit-huge"}}, "the size 'huge', but the sizes are test_vit"),
        ({"name": "timestep"}, "No cell of the ablation timestep can be done here"),
    ],
)
def test_wrong_use_is_refused(catalog, cfg, wrong, says):
    with pytest.raises(CareError, match=says):
        ablation.run(catalog, replace(cfg, **wrong))
    assert catalog.split("default") is None  # before anything was done


# -- end to end


def forbidden(*_, **__):
    raise AssertionError("a cell that is done was begun again")


def test_a_killed_ablation_goes_on_and_a_finished_one_stands(catalog, cfg, pair, monkeypatch):
    propagate.run(catalog, propagate.PropagateConfig(textures_spec(cfg), features=FeatureConfig(96, 1, None, None)))
    standing = catalog.propagate_runs()[0]["id"]
    catalog.add_template("random", 3, [NamedPoint("a", 120, 80), NamedPoint("b", 150, 90)], "random")
    cfg = replace(cfg, name=pair, seeds=(0, 1), templates={"expert": "random"})
    measure, done, train_run = evaluate_reid.measure, [], train.run
    before = standing_points(catalog)

    def watched(catalog, request):
        assert standing_points(catalog) == before  # while others are carried, too
        return train_run(catalog, request)

    monkeypatch.setattr(train, "run", watched)

    def killed(catalog, spec, asked):
        if spec.name.startswith("ckpe"):  # it is shown the points that it learned with
            shown = catalog.keypoints([4], asked.points_run)[4]
            assert shown.names == ("a", "b") and catalog.run_settings(asked.points_run)["features"]["size"] == 96
        if len(done) == 3:  # in the second cell, between its seeds
            raise KeyboardInterrupt
        done.append(spec.name)
        return measure(catalog, spec, asked)

    monkeypatch.setattr(evaluate_reid, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(catalog, cfg)
    assert standing_points(catalog) == before  # the points that counted still do
    assert propagate.COMMAND not in {run["command"] for run in catalog.unfinished_runs()}  # and nothing is broken
    listed = ablation.listing(catalog, cfg)["rows"]
    assert [row["seeds"] for row in listed] == [[0, 1], [0]]
    monkeypatch.setattr(evaluate_reid, "measure", lambda *given: done.append(given[1].name) or measure(*given))
    found = ablation.run(catalog, cfg)
    assert [row["seeds"] for row in found["rows"]] == [[0, 1]] * 2
    assert len(done) == len(set(done)) == 4  # each model once
    assert standing_points(catalog) == before and catalog.propagate_runs()[0]["id"] == standing

    for row in found["rows"]:
        values = row["metrics"]["top1"]["values"]
        assert row["metrics"]["top1"]["mean"] == pytest.approx(np.mean(values))
        half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
        assert row["metrics"]["top1"]["half"] == pytest.approx(half)
    assert [row["points"] for row in found["rows"]] == [[], ["a", "b"]]

    for stage in (propagate, train, evaluate_reid):
        monkeypatch.setattr(stage, "measure" if stage is evaluate_reid else "run", forbidden)
    assert ablation.run(catalog, cfg) == found
    more = replace(cfg, seeds=(0, 1, 2))
    assert [row["seeds"] for row in ablation.listing(catalog, more)["rows"]] == [[0, 1]] * 2
    other = replace(cfg, request=replace(cfg.request, settings=SETTINGS | {"epochs": 1.0}))
    assert [row["seeds"] for row in ablation.listing(catalog, other)["rows"]] == [[]] * 2


def test_points_that_are_carried_apart_never_count(catalog, cfg):
    """Neither by finishing their run, nor by joining a finished one that lacks them; finished later, they are there."""
    asked = propagate.PropagateConfig(textures_spec(cfg), features=FeatureConfig(96, 1, None, None))
    apart = replace(asked, stands=False)
    [first] = propagate.run(catalog, apart)["runs"]
    assert standing_points(catalog) == {} and len(catalog.keypoints(range(1, 37), first)) == 36
    assert catalog.unfinished_runs() == []
    assert propagate.run(catalog, apart)["new"] == 0
    done = propagate.run(catalog, asked)
    assert (done["runs"], done["new"]) == ([first], 0) and len(standing_points(catalog)) == 36
    assert propagate.run(catalog, apart)["runs"] == [first]
    with catalog.transaction():
        catalog.db.conn.execute("DELETE FROM keypoints WHERE crop_id > 30")
    before = standing_points(catalog)
    [other] = propagate.run(catalog, apart)["runs"]
    assert standing_points(catalog) == before and len(before) == 30
    assert other != first and len(catalog.keypoints(range(1, 37), other)) == 36


def standing_points(catalog) -> dict:
    return {crop: (one.names, one.kp_image.tolist()) for crop, one in catalog.keypoints(range(1, 37)).items()}


def textures_spec(cfg):
    from care_cli.stages.extractors import find

    return find(cfg.extractor, cfg.extractor_weights, "cpu")


def test_a_cell_that_fails_is_told_and_the_others_go_on(catalog, cfg, pair, monkeypatch):
    run = train.run

    def broken(catalog, request):
        if request.method == "vit":
            raise CareError("the disk is full")
        return run(catalog, request)

    monkeypatch.setattr(train, "run", broken)
    rows = ablation.run(catalog, replace(cfg, name=pair))["rows"]
    assert [row["failure"] for row in rows] == ["the disk is full", None]
    assert [len(row["metrics"]) > 0 for row in rows] == [False, True]


def test_the_command_lists_draws_and_prints(catalog, pair, weights, tmp_path, monkeypatch, capfd):
    catalog.checkpoint()
    care = runner(monkeypatch, capfd, catalog.path)
    words = ["evaluate", "ablation", pair, "--sizes", "test_vit", "--seeds", "1", "--extractor", "timm:test_resnet"]
    words += ["--extractor-weights", weights, "--carry", "size=96", "--carry", "block=1"]
    settings = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    words += [word for text in settings for word in ("--set", text)]
    none = care("evaluate", "ablation", "timestep", *words[3:], "--dry-run")
    assert none.err.count("Cannot be done here (all cells)") == 1 and "Not done" not in none.err
    plan = care(*words, "--dry-run")
    assert plan.code == 0 and plan.out.count("0 of 1") == 2, plan.err
    assert catalog.split("default") is None
    assert care("train", "--show-split", "--val", "0.2").code == 0
    done = care(*words, "--plot", tmp_path / "figure.png", "--csv")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("size,variant,method,template,points,seeds,top1,top1_half")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    again = care(*words)
    assert again.out.count("1 of 1") == 2 and "from scratch" in again.err
    assert care(*words, "--plot", tmp_path / "figure.gif").code == 2
    assert care("evaluate", "ablation", "scale", "--carry", "prompt=3").code == 2
    assert care("evaluate", "ablation", "scale", "--template", "eyes").code == 2
