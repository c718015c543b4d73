"""`care evaluate keypoints`: pairs by their rules, points against a plain computation, the command as it is used."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_cli import runner

from care_cli import geometry, registry
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.evaluation import pairs
from care_cli.evaluation.pairs import Animal
from care_cli.features import FeatureConfig, load_extractor, prepare
from care_cli.features.untrained import untrained
from care_cli.images import decode_jpeg
from care_cli.keypoints.matching import MatchConfig
from care_cli.records import Keypoints, ModelSpec, Photo
from care_cli.stages import carrying, import_keypoints
from care_cli.stages.evaluate_keypoints import EvaluateConfig, run
from care_cli.stages.sweep import SWEEPS, Setting, parse, setting_of, sweep_of, varied

SIZE = 128  # px, of the network's input; its maps have 8 x 8 cells
POINTS = {"nose": (0.2, 0.4), "left_eye": (0.3, 0.25), "right_eye": (0.35, 0.6), "tail": (0.85, 0.45)}
MIRRORED = {"left_eye": "right_eye", "right_eye": "left_eye"}


# Pairs ----------------------------------------------------------------------------------------------


def some_crops(draw: st.DrawFn) -> list[Animal]:
    names = ["nose", "left_eye", "right_eye"]
    return [
        Animal(crop, draw(st.integers(0, 6)), draw(st.sampled_from(["cat", "dog"])),
                  draw(st.sampled_from([None, "a", "b", "c"])), (0, 0, 9, 9), (0, 0, 9, 9), (9, 9),
                  dict.fromkeys(draw(st.sets(st.sampled_from(names))), (1.0, 2.0)))
        for crop in range(draw(st.integers(0, 9)))
    ]  # fmt: skip


crops = st.composite(some_crops)()


@given(crops)
def test_every_pair_is_of_one_species_two_photos_and_two_animals(some: list[Animal]) -> None:
    found = {(one.references, one.target, frozenset(one.names)) for one in pairs.transfers(some, some)}
    expected = set()
    for source in some:
        for target in some:
            common = frozenset(source.points) & frozenset(target.points)
            same = source.individual is not None and source.individual == target.individual
            if source.species == target.species and source.image != target.image and not same and common:
                expected.add(((source.crop,), target.crop, common))
    assert found == expected


@given(crops, st.integers(0, 3))
def test_more_references_are_the_fewer_and_others_and_ask_the_same_points(some: list[Animal], seed: int) -> None:
    by_number = [pairs.transfers(some, some, references=r, count=12, seed=seed) for r in (1, 2, 4)]
    for fewer, more in itertools.pairwise(by_number):
        assert [(one.target, one.names) for one in fewer] == [(one.target, one.names) for one in more]
        assert all(b.references[: len(a.references)] == a.references for a, b in zip(fewer, more, strict=True))
    known = {one.crop: one for one in some}
    for one in by_number[2]:
        assert len(set(one.references)) == len(one.references) <= 4
        assert all(known[crop].image != known[one.target].image for crop in one.references)


@given(crops, st.integers(1, 5), st.integers(0, 3))
def test_drawn_pairs_are_some_of_all(some: list[Animal], count: int, seed: int) -> None:
    every, drawn = pairs.transfers(some, some), pairs.transfers(some, some, count=count, seed=seed)
    assert set(drawn) <= set(every) and len(set(drawn)) == len(drawn)
    assert drawn == pairs.transfers(some, some, count=count, seed=seed)


@given(crops, st.integers(0, 3))
def test_halves_keep_an_animal_on_one_side(some: list[Animal], seed: int) -> None:
    first = pairs.halves(some, seed)
    clusters = {one.cluster for one in some}
    assert first <= clusters
    one_species = [one for one in some if one.species == "cat"]
    alone = pairs.halves(one_species, seed)
    assert len(alone) == (len({one.cluster for one in one_species}) + 1) // 2


@given(crops)
def test_a_mirror_image_twice_is_the_crop(some: list[Animal]) -> None:
    for one in some:
        again = one.flipped(MIRRORED).flipped(MIRRORED)
        assert (again.points, again.box, again.mirrored) == (one.points, one.box, False)


def test_a_mirror_image_by_hand() -> None:
    one = Animal(1, 1, "cat", None, (12, 5, 4, 6), (10, 5, 20, 9), (20, 9), {"left_eye": (13.0, 7.0)})
    turned = one.flipped(MIRRORED)
    assert turned.points == {"right_eye": (27.0, 7.0)}  # 3 px from the crop's other edge, 10 + 20 - 3
    assert turned.box == (24, 5, 4, 6)


# Sweeps ---------------------------------------------------------------------------------------------


def test_a_sweep_is_every_combination_of_its_values() -> None:
    sweep = sweep_of(["timestep=0,250", "align=on,off"])
    found = varied(setting_of({"size": 64, "refine": "argmax"}, no_cycle=True), sweep)
    assert [said for said, _ in found] == [
        {"timestep": 0, "align": True}, {"timestep": 0, "align": False},
        {"timestep": 250, "align": True}, {"timestep": 250, "align": False},
    ]  # fmt: skip
    for said, setting in found:
        assert setting.features == FeatureConfig(size=64, timestep=said["timestep"])
        assert setting.match == replace(MatchConfig(), refine="argmax", align=said["align"], cycle=None)
    assert parse("pose=all,points") == ("pose", ("all", "points"))
    assert parse("cycle=none,0.05") == ("cycle", (None, 0.05))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["steps=1"], "one of timestep"),
        (["timestep"], "whole numbers"),
        (["timestep=1,,2"], "whole numbers"),
        (["size=1e3"], "whole numbers"),
        (["align=yes"], "on or off"),
        (["refine=peak"], "argmax"),
        (["cycle=far"], "shares"),
        (["cycle=nan"], "0 or more"),
        (["size=64,64"], "twice"),
        (["size=64", "size=32"], "twice"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(CareError, match=words):
        varied(Setting(), sweep_of(texts))


# Points ---------------------------------------------------------------------------------------------


def texture(seed: int) -> np.ndarray:
    """A picture `(H,W,3) uint8` of blobs, no two places of which are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))


def add_animal(catalog: Catalog, detect: int, pixels: np.ndarray, box: geometry.Box, **said) -> int:
    """A photo with an annotated animal, its points at the places of POINTS in its box, or `points`."""
    photo = Photo(hashlib.sha256(pixels.tobytes() + str(box).encode()).hexdigest(), 1, width=320, height=240)
    image = catalog.add_image(photo, None)
    found = catalogs.found(box, species=said.get("species", "cat"))
    [crop] = catalog.add_crops(detect, image, [catalogs.crop_of(pixels, found)])
    x, y, w, h = box
    points = said.get("points") or {name: (x + fx * w, y + fy * h) for name, (fx, fy) in POINTS.items()}
    marked = catalog.begin_run("import-keypoints", {})
    ones = np.ones(len(points))
    catalog.add_keypoints(
        marked,
        [Keypoints(crop, tuple(points), np.array(list(points.values())), ones, ones > 0, source="import")],
    )
    catalog.finish_run(marked)
    if name := said.get("individual"):
        known = catalog.active(name)
        action = "create" if known is None else "name"
        catalog.decide(Decision(action, crop_id=crop, individual_id=known, value=name if known is None else None))
    return crop


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A network that never learned anything: it knows a place by its texture alone."""
    spec = ModelSpec("timm:mobilenetv2_050", "embedder", "timm", architecture="mobilenetv2_050")
    return untrained(spec, tmp_path_factory.mktemp("network"))


BOXES = [(20.0, 30.0, 200.0, 120.0), (20.0, 30.0, 110.0, 180.0), (60.0, 40.0, 150.0, 150.0)]


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A catalog of three animals of different shapes, all points in all, nothing in common but the pixels' kind."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        for seed, box in enumerate(BOXES):
            add_animal(catalog, detect, texture(seed), box)
    return tmp_path / "care.db"


@pytest.fixture
def textures(survey: Path) -> Iterator[Catalog]:
    """The survey, opened."""
    with Catalog(survey) as catalog:
        yield catalog


def asked(network: ModelSpec, match: MatchConfig | None = None, **other) -> EvaluateConfig:
    match = match or MatchConfig(refine="argmax", align=False)
    return EvaluateConfig(network, Setting(FeatureConfig(size=SIZE), match), engine="torch", **other)


def value(found: dict, alpha: str = "0.1", number: int = 0, network: str = "trained") -> float:
    part = found["settings"][number]["networks"][network]["parts"]
    return part.get("reported", part.get("all"))["all"]["pck"][alpha]["per_point"]["value"]


def sampled(cells: np.ndarray, x: float, y: float) -> np.ndarray:
    """The vector `(C,)` of a map `(C,h,w)` at a place of the input, px, between the centres of its cells."""
    found = 0.0
    place = [
        min(max(at / SIZE * count - 0.5, 0), count - 1) for at, count in ((y, cells.shape[1]), (x, cells.shape[2]))
    ]
    row, column = (int(at) for at in place)
    for r, wr in ((row, 1 - place[0] + row), (row + 1, place[0] - row)):
        for c, wc in ((column, 1 - place[1] + column), (column + 1, place[1] - column)):
            if wr and wc:
                found = found + wr * wc * cells[:, r, c]
    return found


def plain_errors(catalog: Catalog, network: ModelSpec) -> dict[tuple[int, int, str], float]:
    """Distances by pair and name, each a share of the box: up-sampled whole maps, a loop over pairs and points."""
    from torch.nn.functional import interpolate

    extractor = load_extractor(network, FeatureConfig(size=SIZE), engine="torch")
    said, frames = catalog.annotated(), catalog.crop_frame(catalog.annotated())
    maps = {crop: extractor(prepare(decode_jpeg(jpeg), SIZE)[None], [0]) for crop, jpeg in catalog.pixels(said).items()}
    found = {}
    for a, b in itertools.permutations(said, 2):
        whole = interpolate(maps[b], (SIZE, SIZE), mode="bilinear")[0].numpy()
        whole = whole / np.linalg.norm(whole, axis=0)
        for name, (px, py) in zip(said[a].names, said[a].kp_image.tolist(), strict=True):
            x, y, w, h = frames[a].rect
            query = sampled(maps[a][0].numpy(), (px - x) / w * SIZE, (py - y) / h * SIZE)
            similar = np.einsum("c,chw->hw", query, whole)
            r, c = np.unravel_index(similar.argmax(), similar.shape)
            x, y, w, h = frames[b].rect
            at = np.array([x + (c + 0.5) / SIZE * w, y + (r + 0.5) / SIZE * h])
            truth = said[b].kp_image[said[b].names.index(name)]
            found[a, b, name] = float(np.linalg.norm(at - truth) / max(frames[b].box[2:]))
    return found


def test_errors_equal_a_plain_computation(textures: Catalog, network: ModelSpec) -> None:
    known = carrying.truth(textures)
    extractor = load_extractor(network, FeatureConfig(size=SIZE), engine="torch")
    sources = {one.crop: one for one in known.crops}
    bank = carrying.FeatureBank(textures, extractor, "", known.crops)
    carrier = carrying.Carrier(bank, MatchConfig(refine="argmax", align=False), sources, sources, known.mirrors)
    carried = carrier.carry(pairs.transfers(known.crops, known.crops))
    expected = plain_errors(textures, network)
    ours = dict(zip(zip(carried.source.tolist(), carried.target.tolist(), carried.name.tolist(), strict=True),
                    carried.error.tolist(), strict=True))  # fmt: skip
    assert ours.keys() == expected.keys() and len(ours) == 3 * 2 * 4
    assert max(abs(ours[key] - expected[key]) for key in ours) < 0.02  # maps are kept in half precision


def test_an_untrained_network_finds_the_same_texture_elsewhere(tmp_path: Path, network: ModelSpec) -> None:
    """The very crop at other places of other photos: every point is found, in px of those photos."""
    pixels = texture(1)[20:180, 30:250]
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        for left, top in ((5, 8), (60, 40), (33, 70)):
            photo = np.full((240, 320, 3), 90 + left, np.uint8)
            photo[top : top + 160, left : left + 220] = pixels
            add_animal(catalog, detect, photo, (left + 25.0, top + 20.0, 170.0, 120.0))
        found = run(catalog, asked(network))
    assert found["animals"]["all"] == {"crops": 3, "photos": 3, "clusters": 3, "individuals": 0}
    assert value(found, "0.05") == 1
    assert found["settings"][0]["networks"]["trained"]["parts"]["all"]["all"]["confused"]["0.1"]["value"] == 0


def test_mirror_images_are_carried_to_and_told_by_alignment(tmp_path: Path, network: ModelSpec) -> None:
    """An animal and its mirror image: points lie on each other once the target, or the reference, is turned round."""
    pixels = texture(2)
    box = (60.0, 40.0, 200.0, 150.0)
    here = {name: (60 + x * 200, 40 + y * 150) for name, (x, y) in POINTS.items()}
    there = {MIRRORED.get(name, name): (320 - x, y) for name, (x, y) in here.items()}
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        add_animal(catalog, detect, pixels, box, points=here)
        add_animal(catalog, detect, pixels[:, ::-1].copy(), box, points=there)
        off, on = (asked(network, MatchConfig(refine="argmax", align=align)) for align in (False, True))
        plain, aligned = run(catalog, off), run(catalog, on)
        turned = run(catalog, replace(off, setting=replace(off.setting, mirrored=True)))
    assert value(plain, "0.05") < 0.7
    assert value(aligned, "0.05") == value(turned, "0.05") == 1


def test_what_does_not_fit_into_memory_is_computed_again(
    textures: Catalog, network: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = run(textures, asked(network, MatchConfig(align=True)))
    monkeypatch.setattr(carrying, "HELD", 1)  # two maps at a time, or what one pair needs
    tight = run(textures, asked(network, MatchConfig(align=True)))
    assert tight["settings"][0]["networks"]["trained"]["parts"] == roomy["settings"][0]["networks"]["trained"]["parts"]


def test_a_point_is_asked_of_the_references_that_show_it(tmp_path: Path, network: ModelSpec) -> None:
    """The second reference is the target's own picture: it wins wherever it shows the point."""
    pixels, box = texture(3), (40.0, 40.0, 200.0, 150.0)
    place = {name: (40 + x * 200, 40 + y * 150) for name, (x, y) in POINTS.items()}
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        target = add_animal(catalog, detect, pixels, box)
        other = add_animal(catalog, detect, texture(4), box)
        shifted = add_animal(catalog, detect, np.roll(pixels, 1, 0), box, points={"nose": place["nose"]})
        known = carrying.truth(catalog)
        extractor = load_extractor(network, FeatureConfig(size=SIZE), engine="torch")
        sources = {one.crop: one for one in known.crops}
        bank = carrying.FeatureBank(catalog, extractor, "", known.crops)
        carrier = carrying.Carrier(bank, MatchConfig(align=False), sources, sources, known.mirrors)
        carried = carrier.carry([pairs.Transfer(target, (other, shifted), ("nose", "tail"))])
    assert dict(zip(carried.name.tolist(), carried.source.tolist(), strict=True)) == {"nose": shifted, "tail": other}
    assert carried.error[0] < 0.1


# The run --------------------------------------------------------------------------------------------


def test_a_setting_is_chosen_on_animals_that_do_not_report_it(tmp_path: Path, network: ModelSpec) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        for seed in range(8):
            add_animal(catalog, detect, texture(seed), BOXES[seed % 3], individual=f"Tom {seed // 2}")
        cfg = asked(network, sweep={"refine": ("soft", "argmax"), "size": (96, 128)})
        found = run(catalog, replace(cfg, split=1))
        named = run(catalog, replace(cfg, choose_on=("Tom 0", "Tom 1")))
        with pytest.raises(CareError, match="No annotated crop shows Nobody"):
            run(catalog, replace(cfg, choose_on=("Nobody",)))
        with pytest.raises(CareError, match="add --sweep"):
            run(catalog, asked(network, split=1))
        with pytest.raises(CareError, match="reported half"):
            run(catalog, replace(cfg, choose_on=("Tom 0", "Tom 1", "Tom 2")))  # one animal alone has no pair
    for one in (found, named):
        assert {part: about["individuals"] for part, about in one["animals"].items()} == {"choosing": 2, "reported": 2}
        # two animals of two photos each: 2 * (2 * 2) ordered pairs of 4 points, and none across the halves
        for row in one["settings"]:
            assert {part["all"]["points"] for part in row["networks"]["trained"]["parts"].values()} == {8 * 4}
        scores = [
            row["networks"]["trained"]["parts"]["choosing"]["all"]["pck"]["0.1"]["per_point"]["value"]
            for row in one["settings"]
        ]
        assert scores[one["chosen"]] == max(scores)
    assert [row["setting"] for row in found["settings"]][:2] == [
        {"refine": "soft", "size": 96}, {"refine": "soft", "size": 128},
    ]  # fmt: skip


def test_the_untrained_network_is_measured_over_the_same_points(textures: Catalog, network: ModelSpec) -> None:
    found = run(textures, asked(network, untrained="unet", seed=0))
    again = run(textures, asked(network, untrained="unet", seed=0))
    rows = found["settings"][0]["networks"]
    assert rows["trained"]["parts"] == rows["untrained"]["parts"]  # the fixture's network was drawn from seed 0, too
    assert found["settings"][0]["above_untrained"]["all"]["value"] == 0
    assert again["settings"][0]["networks"]["untrained"]["parts"] == rows["untrained"]["parts"]
    other = run(textures, asked(network, untrained="unet", seed=5))["settings"][0]["networks"]
    assert other["trained"]["parts"]["all"]["all"]["pck"] != other["untrained"]["parts"]["all"]["all"]["pck"]


@pytest.mark.parametrize(("parts", "anew"), [("unet", {"unet"}), ("all", {"unet", "vae", "text_encoder"})])
def test_of_a_diffusion_model_the_parts_that_were_said_are_drawn_anew(
    mini_diffusion: Path, tmp_path: Path, parts: str, anew: set[str]
) -> None:
    spec = registry.find_extractor(f"sd:{mini_diffusion}")
    drawn = untrained(spec, tmp_path / "drawn", seed=3, parts=parts)
    again = untrained(spec, tmp_path / "again", seed=3, parts=parts)
    weights = {name: Path(drawn.file) / name for name in drawn.files if name.endswith(".safetensors")}
    changed = {name for name, path in weights.items() if path.read_bytes() != (mini_diffusion / name).read_bytes()}
    assert {name.split("/")[0] for name in changed} == anew
    assert registry.model_sha256(drawn) == registry.model_sha256(again) != registry.model_sha256(spec)
    cfg = FeatureConfig(block=1, timestep=100, ensemble=2)
    maps = load_extractor(drawn, cfg)(prepare(Image.fromarray(texture(0)), 128)[None], [1], "a cat")
    assert np.isfinite(maps.numpy()).all() and float(maps.std()) > 0


def test_what_can_not_be_used_is_left_out_and_said(tmp_path: Path, network: ModelSpec) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        animals = [add_animal(catalog, detect, texture(seed), BOXES[0]) for seed in range(3)]
        bad = add_animal(catalog, detect, texture(3), BOXES[0])
        catalog.replace_pixels(bad, b"no picture")
        outside = {"nose": (60.0, 60.0), "tail": (319.0, 239.0)}
        animals.append(add_animal(catalog, detect, texture(4), BOXES[1], points=outside))
        found = run(catalog, asked(network))
    assert found["animals"]["all"]["crops"] == len(animals)
    assert found["left_out"] == {"without_pixels": [], "damaged": [bad], "points_outside_their_crop": 1}


def test_without_two_animals_there_is_nothing_to_measure(tmp_path: Path, network: ModelSpec) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        detect = catalogs.detect_run(catalog)
        with pytest.raises(CareError, match=r"there are none\. Run `care keypoints import"):
            run(catalog, asked(network))
        add_animal(catalog, detect, texture(0), BOXES[0], species="cat")
        add_animal(catalog, detect, texture(1), BOXES[0], species="dog")
        with pytest.raises(CareError, match="two annotated crops of one species"):
            run(catalog, asked(network))
        add_animal(catalog, detect, texture(2), BOXES[0], species="cat", points={"paw": (50.0, 50.0)})
        with pytest.raises(CareError, match="share a visible point"):
            run(catalog, asked(network))


# The command ----------------------------------------------------------------------------------------


def test_the_command_prints_writes_and_draws(survey: Path, network: ModelSpec, monkeypatch, capfd) -> None:
    folder = survey.parent
    care = runner(monkeypatch, capfd, survey)
    given = ["evaluate", "keypoints", "--extractor", "timm:mobilenetv2_050", "--weights", network.file,
             "--engine", "torch", "--no-align"]  # fmt: skip
    done = care(*given, "--size", SIZE, "--against-untrained", "--plot", folder / "bars.png",
                "--report", folder / "found.json")  # fmt: skip
    assert done.code == 0, done.err
    assert "PCK@0.1" in done.out and "untrained network by" in done.err
    assert "Worst points" not in done.out  # three crops say too little of one
    report = json.loads((folder / "found.json").read_text("utf-8"))
    assert report["model"]["sha256"] == registry.model_sha256(network)
    swept = care(*given, "--sweep", f"size={SIZE},96", "--sweep", "align=on,off", "--split", 1, "--json")
    assert swept.code == 2 and "half" in swept.err  # three animals: a half has no pair
    swept = care(*given, "--sweep", f"size={SIZE},96", "--sweep", "align=on,off", "--json", "--plot", folder / "c.png")
    assert swept.code == 0, swept.err
    assert [row["setting"] for row in swept.json["settings"]][1] == {"size": SIZE, "align": False}
    assert swept.json["settings"][1]["networks"]["trained"]["parts"] == \
        report["settings"][0]["networks"]["trained"]["parts"]  # fmt: skip
    table = care(*given, "--size", SIZE, "--csv").out.splitlines()
    assert table[0].split(",")[:5] == ["part", "network", "species", "pairs", "points"] and len(table) == 3
    for name in ("bars.png", "c.png"):
        with Image.open(folder / name) as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
            assert picture.width > 800 and len(colours) > 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "plot.jpg"], "FILE.png"),
        (["--report", "nowhere/report.json"], "no folder"),
        (["--cycle", 0.1, "--no-cycle"], "contradict"),
        (["--pairs", 0], "at least 1"),
        (["--references", 0], "at least 1"),
        (["--choose-on", "nobody.txt"], "cannot be read"),
        (["--sweep", "size=64", "--sweep", "block=1", "--sweep", "align=on"], "one or two"),
        (["--timestep", 100], "diffusion"),
        (["--prompt", "a cat"], "--prompt is for diffusion models"),
        (["--species", "unicorn"], "unicorn"),
        (["--size", 100], "multiple"),
    ],
)
def test_wrong_use_is_said_in_words(
    survey: Path, network: ModelSpec, options: list, words: str, monkeypatch, capfd
) -> None:
    monkeypatch.chdir(survey.parent)
    care = runner(monkeypatch, capfd, survey)
    done = care("evaluate", "keypoints", "--extractor", "timm:mobilenetv2_050", "--weights", network.file,
                "--engine", "torch", *options)  # fmt: skip
    assert done.code == 2 and words in done.err and "Traceback" not in done.err
    assert not list(survey.parent.glob("*.part"))


def test_the_help_names_all_that_a_sweep_varies(survey: Path, monkeypatch, capfd) -> None:
    shown = runner(monkeypatch, capfd, survey)("evaluate", "keypoints", "--help").out
    listed = shown.partition("Vary one or two of:")[2].partition(".")[0]
    assert {word.strip() for word in listed.split(",")} == set(SWEEPS)


# Real photos ----------------------------------------------------------------------------------------


def test_on_real_photos_training_shows(shared: Path, tmp_path: Path) -> None:
    """Cats and dogs of Animal-Pose: PCK@0.1 of a network that was trained, against the same one that was not."""
    folder = shared / "data" / "keypoints" / "animal_pose_cat_dog"
    every = json.loads((folder / "annotations.coco.json").read_text("utf-8"))
    kept = [one for one in every["images"] if one["id"] % 3 == 0]
    numbers = {one["id"] for one in kept}
    some = [one for one in every["annotations"] if one["image_id"] in numbers]
    (tmp_path / "some.json").write_text(json.dumps(every | {"images": kept, "annotations": some}), "utf-8")
    weights = shared / "weights" / "timm_mobilenetv2_100_fp16.safetensors"
    spec = registry.find_extractor("timm:mobilenetv2_100", weights)
    match = MatchConfig(refine="argmax", align=False)
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        import_keypoints.run(catalog, tmp_path / "some.json", folder)
        found = run(catalog, EvaluateConfig(spec, Setting(match=match), pairs=150, untrained="unet"))
    assert found["animals"]["all"]["crops"] + len(found["left_out"]["damaged"]) == len(some)
    [row] = found["settings"]
    trained, untrained_ = (
        row["networks"][network]["parts"]["all"]["all"]["pck"]["0.1"]["per_point"] for network in row["networks"]
    )
    assert trained["low"] > untrained_["high"] and row["above_untrained"]["all"]["low"] > 0
    for species in ("cat", "dog"):
        one, other = (
            row["networks"][network]["parts"]["all"]["species"][species]["pck"]["0.1"]["per_point"]["value"]
            for network in row["networks"]
        )
        assert one > 1.5 * other
    print(f"{trained['value']:.3f} [{trained['low']:.3f}, {trained['high']:.3f}] against {untrained_['value']:.3f}")
