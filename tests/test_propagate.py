"""Points of templates on every crop of a catalog: where the photos say they are, once a setting, and no run lost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
import textures
from PIL import Image
from test_cli import Care, runner

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.features import FeatureConfig
from care_cli.keypoints.matching import MatchConfig
from care_cli.records import ModelSpec, NamedPoint, Selection
from care_cli.stages import crops, gallery, propagate
from care_cli.stages.extractors import find, prompt_for, worded
from care_cli.stages.propagate import PropagateConfig

SIZE, BLOCK = 96, 1  # px; cells of 4 px
CROPS = 5


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return textures.extractor(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def survey(tmp_path: Path):
    """A catalog with template 'lynx' on its first crop, and the truth by crop id."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        truth = textures.survey(catalog, CROPS)
        annotate(catalog, truth, "lynx", 1)
        yield catalog, truth


def annotate(catalog: Catalog, truth: dict, name: str, crop: int, species: str | None = None) -> None:
    catalog.add_template(name, crop, textures.named(truth[crop]), "expert", species=species)


def config(spec: ModelSpec, **asked) -> PropagateConfig:
    return PropagateConfig(
        spec, **{"features": FeatureConfig(SIZE, BLOCK), "match": MatchConfig(refine="argmax"), "batch": 2} | asked
    )


def errors(catalog: Catalog, truth: dict, run: int | None = None) -> dict[int, float]:
    """By crop, how far its worst point is from the truth, px of the photo."""
    found = catalog.keypoints(truth, run)
    return {
        crop: max(np.hypot(*(one.kp_image[one.names.index(name)] - points[name])) for name in points)
        for crop, points in truth.items()
        if (one := found.get(crop))
    }


def test_points_land_where_the_animal_has_them(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    done = propagate.run(catalog, config(spec))
    assert done["new"] == done["crops"] == CROPS and done["known"] == 0 and done["uncertain"] == 0
    found = errors(catalog, truth)
    assert len(found) == CROPS and max(found.values()) < 4  # a cell is 4 px of a crop of about its size
    one = catalog.keypoints([3])[3]
    assert set(one.names) == set(textures.POINTS) and one.source == "propagated" and one.templates == (1, 1, 1)
    assert one.visible.all() and one.confidence.min() > 0.9
    again = propagate.run(catalog, config(spec))
    assert (again["runs"], again["new"], again["known"]) == (done["runs"], 0, CROPS)


def test_a_run_is_a_setting(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    settings = [
        config(spec),
        config(spec, match=MatchConfig(refine="soft")),
        config(spec, match=MatchConfig(refine="argmax", cycle=0.2)),
        config(spec, features=FeatureConfig(64, BLOCK)),
        config(spec, batch=3),  # results do not depend on it
    ]
    runs = [propagate.run(catalog, cfg)["runs"][0] for cfg in settings]
    assert len(set(runs)) == len(runs) - 1 and runs[-1] == runs[0]
    catalog.remove_template("lynx", with_points=True)
    annotate(catalog, truth, "the same again", 1)
    assert propagate.run(catalog, config(spec))["runs"] == runs[:1]  # a template is its pixels and points
    assert len(errors(catalog, truth, runs[0])) == CROPS
    catalog.remove_template("the same again", with_points=True)
    catalog.add_template("moved", 1, textures.named(truth[1] | {"nose": (150.0, 100.0)}), "expert")
    assert propagate.run(catalog, config(spec))["runs"][0] not in runs


def test_new_photos_join_the_run(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    first = propagate.run(catalog, config(spec))
    detect = catalog.latest_run("detect")["id"]
    more = dict(textures.add(catalog, detect, number) for number in (20, 21))
    second = propagate.run(catalog, config(spec))
    assert (second["runs"], second["new"], second["known"]) == (first["runs"], 2, CROPS)
    assert max(errors(catalog, truth | more).values()) < 4


def test_several_references_of_the_same_points(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    annotate(catalog, truth, "other", 4)
    with pytest.raises(CareError, match="several templates for the species 'Lynx': lynx, other"):
        propagate.run(catalog, config(spec))
    done = propagate.run(catalog, config(spec, templates=("lynx", "other")))
    turned = propagate.run(catalog, config(spec, templates=("other", "lynx")))
    assert turned["runs"] == done["runs"] and turned["known"] == CROPS
    assert max(errors(catalog, truth).values()) < 4
    assert catalog.keypoints([1])[1].templates == (1, 1, 1) and catalog.keypoints([4])[4].templates == (2, 2, 2)
    with pytest.raises(CareError, match="named twice"):
        propagate.run(catalog, config(spec, templates=("lynx", "lynx")))


def test_references_with_other_points_are_refused_before_anything_runs(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    catalog.add_template("other", 2, [NamedPoint("nose", *truth[2]["nose"]), NamedPoint("tail", 100, 100)], "expert")
    with pytest.raises(CareError, match="differ in left_eye, right_eye, tail"):
        propagate.run(catalog, config(spec, templates=("lynx", "other")))
    assert catalog.propagate_runs() == []


def test_mirrored_animals_by_the_mirrored_reference(survey, spec: ModelSpec) -> None:
    """Only the mirror image of the coat fits, so that eyes are carried to their own side."""
    catalog, _ = survey
    turned = dict([textures.add(catalog, catalog.latest_run("detect")["id"], 30, mirrored=True)])
    propagate.run(catalog, config(spec))
    assert errors(catalog, turned).popitem()[1] > 10
    cfg = config(spec, match=MatchConfig(refine="argmax", align=True))
    propagate.run(catalog, cfg)
    assert errors(catalog, turned).popitem()[1] < 4


def test_points_that_displace_others_say_so(survey, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, _ = survey
    said: list[str] = []
    monkeypatch.setattr(catalog, "notice", said.append)
    [first] = propagate.run(catalog, config(spec))["runs"]
    assert not [text for text in said if "now count" in text]
    other = config(spec, match=MatchConfig(refine="soft"))
    [second] = propagate.run(catalog, other)["runs"]
    propagate.run(catalog, other)  # nothing changes
    [text] = [text for text in said if "now count" in text]
    assert f"instead of those of run {first};" in text and f"`care keypoints remove --run {second}`" in text
    propagate.run(catalog, config(spec))  # the first is the newest again
    assert f"instead of those of run {second};" in said[-1]


# -- which templates for which crops


def test_each_species_has_its_own_template(survey, spec: ModelSpec) -> None:
    catalog, _ = survey
    detect = catalog.latest_run("detect")["id"]
    fox, foxes = textures.add(catalog, detect, 40, species="Fox")
    hare, _ = textures.add(catalog, detect, 41, species="Hare")
    annotate(catalog, {fox: foxes}, "fox", fox)
    done = propagate.run(catalog, config(spec))
    assert len(done["runs"]) == 2 and done["crops"] == done["new"] == CROPS + 1
    assert done["without_template"] == {"Hare": 1} and hare not in catalog.keypoints([hare])
    assert catalog.keypoints([fox])[fox].templates == (2, 2, 2)
    with pytest.raises(CareError, match="no template for Hare"):
        propagate.run(catalog, config(spec, selection=Selection(category="animal", species="Hare")))
    asked = config(spec, templates=("lynx",), selection=Selection(category="animal", species="Hare"))
    assert propagate.run(catalog, asked)["new"] == 1
    with pytest.raises(CareError, match="for Fox, Lynx"):
        propagate.run(catalog, config(spec, templates=("lynx", "fox")))


def test_a_template_of_no_species_serves_those_that_have_none(tmp_path: Path, spec: ModelSpec) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        truth = textures.survey(catalog, 3, species=None)
        textures.add(catalog, catalog.latest_run("detect")["id"], 40, species="Fox")
        annotate(catalog, truth, "any", 1)
        done = propagate.run(catalog, config(spec))
        assert done["new"] == 4 and len(done["runs"]) == 1 and done["without_template"] == {}
        assert json.loads(catalog.propagate_runs()[0]["settings"])["prompt"] == ""


def test_prompts() -> None:
    assert worded("a photo of a {species}", "Lynx lynx") == "a photo of a Lynx lynx"
    assert worded("{species}, infrared", None) == "animal, infrared"


def test_words_are_for_extractors_that_have_them(mini_diffusion: Path, survey, spec: ModelSpec) -> None:
    catalog, _ = survey
    diffusion = registry.find_extractor(f"sd:{mini_diffusion}")
    assert prompt_for(diffusion, None) == "a photo of a {species}" and prompt_for(diffusion, "") == ""
    assert prompt_for(diffusion, "a {species} at night") == "a {species} at night"
    for wrong in ("a {breed}", "a {species} {", "{}", "{Species}", "{{species}}"):
        with pytest.raises(CareError, match=r"one placeholder, \{species\}"):
            prompt_for(diffusion, wrong)
    assert prompt_for(spec, None) == ""
    with pytest.raises(CareError, match="--prompt is for diffusion models"):
        propagate.run(catalog, config(spec, prompt="a photo of a {species}"))
    assert catalog.propagate_runs() == []


def test_without_the_default_weights_others_are_named(mini_diffusion: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "models"))
    files = json.dumps(registry.find_extractor(f"sd:{mini_diffusion}").files)
    (tmp_path / "mine.toml").write_text(
        f'[models.demo-mini]\ntask = "diffusion"\nfamily = "diffusers"\nfiles = {files}\n'
        f"file = {json.dumps(str(mini_diffusion))}\n"
    )
    registry.add(tmp_path / "mine.toml")
    usual = registry.default("propagate:cpu")
    with pytest.raises(CareError) as refusal:
        find(None, None, "cpu")
    words = str(refusal.value)
    assert f"care models pull {usual.name}" in words and "--extractor timm:NAME --weights FILE" in words
    assert "--extractor demo-mini (rendered animals only)" in words and "vit-base" not in words
    assert "demo-embedder" not in words  # here, but of a kind that gives no features
    other = registry.find("vit-base")
    registry.location(other).parent.mkdir(parents=True)
    registry.location(other).write_bytes(b"weights")
    with pytest.raises(CareError, match=r"here: --extractor vit-base, .*--extractor demo-mini"):
        find(None, None, "cpu")
    registry.location(usual).parent.mkdir(parents=True, exist_ok=True)
    registry.location(usual).write_bytes(b"weights")
    assert find(None, None, "cpu") == usual


def test_nothing_to_carry_is_said(tmp_path: Path, spec: ModelSpec) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        with pytest.raises(CareError, match="no animal crop"):
            propagate.run(catalog, config(spec))
        textures.survey(catalog, 1)
        with pytest.raises(CareError, match="templates add"):
            propagate.run(catalog, config(spec))
        with pytest.raises(CareError, match="no template 'cat'"):
            propagate.run(catalog, config(spec, templates=("cat",)))
        assert catalog.latest_run("propagate-keypoints") is None


# -- bad crops


def test_bad_crops_are_listed_and_the_rest_goes_on(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    jpeg = catalog.pixels([2])[2]
    catalog.replace_pixels(2, jpeg[: len(jpeg) // 3])
    narrow = catalogs.crop_of(textures.photo(3)[0], catalogs.found((50, 50, 40, 4)))
    catalog.put_pixels(3, narrow.jpeg, narrow.size)
    done = propagate.run(catalog, config(spec))
    assert (done["damaged"], done["too_small"], done["new"]) == ([2], [3], CROPS - 2)
    assert done["crops"] == CROPS - 2  # those with points
    assert errors(catalog, truth).keys() == {1, 4, 5}
    catalog.replace_pixels(2, jpeg)  # mended: the same command goes on
    again = propagate.run(catalog, config(spec))
    assert (again["runs"], again["new"], again["damaged"]) == (done["runs"], 1, [])


def test_a_damaged_reference_is_refused(survey, spec: ModelSpec) -> None:
    catalog, _ = survey
    catalog.replace_pixels(1, b"no picture")
    with pytest.raises(CareError, match="template 'lynx' cannot be a reference"):
        propagate.run(catalog, config(spec))
    assert catalog.latest_run("propagate-keypoints") is None


def test_weights_that_are_not_here(survey) -> None:
    catalog, _ = survey
    with pytest.raises(CareError, match="care models pull"):
        propagate.run(catalog, config(registry.find("vit-base"), features=FeatureConfig()))
    assert catalog.latest_run("propagate-keypoints") is None


# -- the cache of reference features


def cached(catalog: Catalog) -> list[Path]:
    return sorted(gallery.references_folder(catalog).glob("*"))


def test_reference_features_are_kept_and_made_anew_when_damaged(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    cfg = config(spec, match=MatchConfig(refine="argmax", align=True))
    run = propagate.run(catalog, cfg)["runs"][0]
    files = cached(catalog)
    assert len(files) == 2  # the crop and its mirror image
    expected, written = errors(catalog, truth, run), [path.read_bytes() for path in files]
    files[0].write_bytes(written[0][: len(written[0]) // 2])
    flipped = bytearray(written[1])
    flipped[-1] ^= 1
    files[1].write_bytes(flipped)
    catalog.remove_template("lynx", with_points=True)
    annotate(catalog, truth, "lynx", 1)
    propagate.run(catalog, cfg)
    assert errors(catalog, truth, run) == expected
    assert cached(catalog) == files and [path.read_bytes() for path in files] == written
    propagate.run(catalog, config(spec, features=FeatureConfig(64, BLOCK)))
    assert len(cached(catalog)) == 3


def test_what_is_kept_is_what_is_used(survey, spec: ModelSpec) -> None:
    """The second run reads the file: features put there show in the points."""
    from care_cli.keypoints import references

    catalog, truth = survey
    propagate.run(catalog, config(spec))
    [path] = cached(catalog)
    references._write(path, np.roll(references._read(path), 6, axis=2))
    catalog.remove_template("lynx", with_points=True)
    annotate(catalog, truth, "lynx", 1)
    propagate.run(catalog, config(spec))
    assert min(errors(catalog, truth).values()) > 10


def test_a_cache_that_cannot_be_written_is_no_error(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    folder = gallery.references_folder(catalog)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"a file where the folder should be")
    assert propagate.run(catalog, config(spec))["new"] == CROPS
    assert max(errors(catalog, truth).values()) < 4


def test_a_reference_that_is_a_person_leaves_the_cache(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    annotate(catalog, truth, "other", 4)
    propagate.run(catalog, config(spec, templates=("lynx", "other")))
    assert len(cached(catalog)) == 2
    kept = hashlib.sha256(catalog.pixels([4])[4]).hexdigest()
    crops.set_crops(catalog, [1], category="person")
    assert [path.name.startswith(kept[:32]) for path in cached(catalog)] == [True]


# -- what a run was made with, for those who come later


def test_a_run_can_be_gone_on_with(survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    annotate(catalog, truth, "other", 4)
    cfg = config(spec, templates=("lynx", "other"), match=MatchConfig(refine="argmax", align=True, cycle=0.3))
    propagate.run(catalog, cfg)
    [run] = catalog.propagate_runs()
    propagator, settings = propagate.of_run(catalog, run)
    assert json.loads(json.dumps(settings)) == json.loads(run["settings"])
    found = propagator.points(list(catalog.pixels(truth).values()))
    frames = catalog.crop_frame(truth)
    for crop, one in zip(truth, found, strict=True):
        stored, ours = catalog.keypoints([crop])[crop], propagator.keypoints(one, frames[crop])
        assert ours.names == stored.names and ours.templates == stored.templates
        np.testing.assert_allclose(ours.kp_image, stored.kp_image, atol=1e-6)
        np.testing.assert_allclose(ours.confidence, stored.confidence, atol=1e-5)
    catalog.remove_template("other", with_points=True)
    with pytest.raises(CareError, match="template of these points is gone"):
        propagate.of_run(catalog, run)


@pytest.mark.parametrize("noise", [True, False])
def test_diffusion_models_carry_points_too(
    survey, mini_diffusion: Path, tmp_path: Path, monkeypatch, noise: bool
) -> None:
    """Untrained, they know little, but a crop has the same points in any batch, and words are part of a run."""
    catalog, truth = survey
    spec = registry.find_extractor(f"sd:{mini_diffusion}")
    if not noise:
        monkeypatch.setenv("CARE_MODELS", str(tmp_path / "models"))
        weights = str(mini_diffusion / "unet" / "diffusion_pytorch_model.safetensors")
        base = f'[models.mini]\ntask = "diffusion"\nfamily = "diffusers"\nfile = {json.dumps(str(mini_diffusion))}\n'
        (tmp_path / "mine.toml").write_text(
            f"{base}files = {json.dumps(spec.files)}\n[models.clean]\ntask = 'diffusion'\nfamily = 'cleandift'\n"
            f"architecture = 'mini'\nfile = {json.dumps(weights)}\n"
        )
        registry.add(tmp_path / "mine.toml")
        spec = registry.find_extractor("sd:clean")
    features = FeatureConfig(block=2, ensemble=2, timestep=100) if noise else FeatureConfig(block=2)
    cfg = config(spec, features=features, selection=Selection(category="animal", ids=(1, 2, 3)))
    done = propagate.run(catalog, cfg)
    [run] = catalog.propagate_runs()
    assert json.loads(run["settings"])["prompt"] == "a photo of a Lynx" and done["new"] == 3
    propagator, settings = propagate.of_run(catalog, run)
    assert json.loads(json.dumps(settings)) == json.loads(run["settings"])
    for crop, frame in catalog.crop_frame([1, 2, 3]).items():
        [found] = propagator.points([catalog.pixels([crop])[crop]])
        stored = catalog.keypoints([crop])[crop].kp_image
        np.testing.assert_allclose(propagator.keypoints(found, frame).kp_image, stored, atol=0.02)
    assert errors(catalog, {1: truth[1]})[1] < 12  # the reference finds itself, in cells of 16 px
    assert propagate.run(catalog, replace(cfg, prompt="{species}"))["runs"] != done["runs"]


# -- the command


@pytest.fixture
def care(monkeypatch, capfd, tmp_path: Path) -> Care:
    return runner(monkeypatch, capfd, tmp_path / "care.db")


def test_command(care: Care, survey, spec: ModelSpec) -> None:
    catalog, truth = survey
    asked = ["propagate-keypoints", "--extractor", spec.name, "--weights", spec.file, "--size", SIZE, "--block", BLOCK]
    done = care("--json", *asked, "--refine", "argmax", "--template", "lynx")
    assert done.code == 0, done.err
    assert done.json["new"] == CROPS
    assert max(errors(catalog, truth).values()) < 4
    again = care(*asked, "--refine", "argmax")
    assert again.code == 0 and again.out.startswith(f"{CROPS} crops with points by timm:test_resnet, 0 new")
    catalog.replace_pixels(2, b"no picture")
    textures.add(catalog, catalog.latest_run("detect")["id"], 40, species="Fox")
    assert "Sheet" not in again.err and not (catalog.path.parent / "points.jpg").exists()
    bad = care(*asked, "--no-cycle", "--confidence", 0.1, "--sheet", catalog.path.parent / "points.jpg")
    assert bad.code == 1
    assert "damaged; run `care doctor`: 2." in bad.err and "1 crops of Fox have no template" in bad.err
    with Image.open(catalog.path.parent / "points.jpg") as sheet:
        assert sheet.width > 1000  # four crops beside each other
    assert care(*asked, "--sheet", catalog.path.parent / "points.png").code == 2
    assert care(*asked, "--refine", "best").code == 2
    for wrong, words in (
        (["--cycle", 0.1, "--no-cycle"], "contradict"),
        (["--prompt", "a cat"], "--prompt is for diffusion models"),
    ):
        refused = care(*asked, *wrong)
        assert refused.code == 2 and words in refused.err
    refused = care("propagate-keypoints", "--weights", spec.file)
    assert refused.code == 2 and "--extractor timm:NAME" in refused.err


def test_a_sheet_shows_this_execution(care: Care, survey, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both species of a run on one sheet, and nothing of an earlier one; the summary comes even where drawing fails."""
    from care_cli.pages import keypoint_sheet

    catalog, _ = survey
    detect = catalog.latest_run("detect")["id"]
    fox, foxes = textures.add(catalog, detect, 40, species="Fox")
    annotate(catalog, {fox: foxes}, "fox", fox)
    drawn: list[list[str]] = []
    sheet = keypoint_sheet.keypoint_sheet

    def noted(cells, path, of=None):
        drawn.append([cell.caption for cell in cells])
        return sheet(cells, path, of)

    monkeypatch.setattr(keypoint_sheet, "keypoint_sheet", noted)
    page = catalog.path.parent / "points.jpg"
    asked = ["propagate-keypoints", "--extractor", spec.name, "--weights", spec.file, "--size", SIZE, "--block", BLOCK]
    both = care(*asked, "--sheet", page)
    assert both.code == 0 and page.name in both.err and len(drawn[-1]) == CROPS + 1
    other = care(*asked, "--template", "fox", "--sheet", page)
    assert other.code == 0 and drawn[-1] == [f"crop {fox} · Fox"]
    crossed = care(*asked, "--template", "fox", "--species", "Lynx", "--sheet", page)
    assert "shows the species Fox, the crops Lynx" in crossed.err
    assert len(drawn[-1]) == CROPS and "Fox" not in "".join(drawn[-1])

    def broken(cells, path, of=None):
        raise CareError("The disk is full.")

    monkeypatch.setattr(keypoint_sheet, "keypoint_sheet", broken)
    failed = care("--json", *asked, "--sheet", page)
    assert failed.code == 2 and "disk is full" in failed.err and failed.json["crops"] == CROPS + 1
    assert care(*asked, "--sheet", catalog.path.parent / "none" / "points.jpg").out == ""  # refused before the work
