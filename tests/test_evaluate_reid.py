"""`care evaluate`: from the catalog's named crops to figures that equal those worked outside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
from catalogs import HEIGHT, WIDTH
from test_cli import Care, runner

from care_cli import checkpoints, registry
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.evaluation import open_set
from care_cli.evaluation.protocols import Protocol
from care_cli.images import decode_jpeg
from care_cli.records import ModelSpec
from care_cli.stages import evaluate_reid, evaluation_tables, index, report, report_tables
from care_cli.stages.evaluate_reid import EvaluateConfig

BOX = (110.0, 70.0, 100.0, 100.0)  # the animal, px of the image frame
NAMES = ("Ara", "Bodi", "Cato", "Dara", "Edda", "Fenn", "Gala", "Hugo", "Ines", "Jona")


def photo(animal: int, background: int, number: int) -> np.ndarray:
    """A flat place with an animal of three stripes in it; noise makes every photo another."""
    chance = np.random.default_rng([animal, background, number])
    place = np.random.default_rng(background + 50).integers(40, 220, 3)
    pixels = np.broadcast_to(place, (HEIGHT, WIDTH, 3)).copy()
    x, y, w, h = (int(side) for side in BOX)
    coat = np.random.default_rng(animal + 90).integers(0, 256, (3, 3))
    pixels[y : y + h, x : x + w] = np.repeat(coat, [30, 40, 30], axis=0)[:, None]
    return np.clip(pixels + chance.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)


def named(
    path: Path, *, animals: int = 6, photos: int = 4, by_place: bool = False, dated: bool = True, bursts: int = 2
) -> Path:
    """A catalog of named animals: each in `bursts` visits a day apart; `by_place`: each at a place of its own."""
    with catalogs.new(path) as catalog:
        run = catalogs.detect_run(catalog)
        for animal in range(animals):
            for number in range(photos):
                day, second = 1 + number % bursts, number // bursts
                name = f"{NAMES[animal]}-{number}.PNG"
                taken = f"2024-05-{day:02} {animal:02}:00:{second:02}" if dated else None
                image = catalogs.add_photo(catalog, name, taken, f"camera {animal}")
                pixels = photo(animal, animal if by_place else 7 * animal + number, number)
                crop = catalogs.crop_of(pixels, catalogs.found(BOX, species="Deer"))
                (crop_id,) = catalog.add_crops(run, image, [replace(crop, flank="left" if number % 2 else "right")])
                catalog.decide(
                    Decision("create", crop_id=crop_id, value=NAMES[animal])
                    if number == 0
                    else Decision("name", crop_id=crop_id, individual_id=catalog.find_individual(NAMES[animal]))
                )
            catalog.regroup(catalog.add_deployment(f"camera {animal}"))
    return path


def checkpoint(folder: Path, name: str, *, noise: float = 0.0, seed: int | None = None, **training) -> ModelSpec:
    """The demo's embedder as a model trained here: weights disturbed by `noise`, and what its header says of it."""
    shipped = registry.fetch(registry.find("demo-embedder"))
    header, state = checkpoints.read_header(shipped), checkpoints.load_state(shipped)
    import torch

    chance = torch.Generator().manual_seed(seed or 0)
    state = {key: t + noise * t.std() * torch.randn(t.shape, generator=chance) if t.ndim > 1 else t
             for key, t in state.items()}  # fmt: skip
    header |= {"name": name, "training": {"settings": {"epochs": 3, "seed": seed}, **training}}
    checkpoints.save(folder / f"{name}.safetensors", state, header)
    return registry.find(folder / f"{name}.safetensors")


def asked(path: Path, specs: Sequence[ModelSpec] = (), **settings) -> dict:
    specs = tuple(specs) or (registry.find("demo-embedder"),)
    with Catalog(path) as catalog:
        return evaluate_reid.run(catalog, EvaluateConfig(models=specs, engine="torch", **settings))


def vectors(path: Path, spec: ModelSpec) -> tuple[list[str], np.ndarray, list[dict]]:
    """Names, unit vectors and listed rows of all crops, without the index."""
    with Catalog(path) as catalog:
        embedder, _ = index.load(spec, "cpu", "torch")
        rows = catalog.crop_rows(evaluate_reid.Selection(category="animal"))
        rows.sort(key=lambda row: row["crop"])
        jpegs = catalog.pixels([row["crop"] for row in rows])
    inputs = np.stack([embedder.transform(decode_jpeg(jpegs[row["crop"]])) for row in rows])
    return [row["individual"] for row in rows], embedder.embed(inputs), rows


def top1(names: list[str], similarity: np.ndarray, apart: list | None = None) -> float:
    """Leave-one-out as it reads; `apart` are groups within which nothing is compared."""
    hits = []
    for query, name in enumerate(names):
        others = [i for i in range(len(names)) if i != query and (apart is None or apart[i] != apart[query])]
        if any(names[i] == name for i in others):
            hits.append(names[max(others, key=lambda i: similarity[query, i])] == name)
    return sum(hits) / len(hits)


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("herd") / "care.db")


def test_figures_equal_those_worked_outside(herd: Path, tmp_path: Path) -> None:
    spec = checkpoint(tmp_path, "shaken", noise=1.2)  # bad enough to be wrong at times
    found = asked(herd, [spec])
    names, own, rows = vectors(herd, spec)
    similarity = own @ own.T
    (row,) = found["rows"]
    assert (found["data"]["crops"], found["data"]["individuals"], found["data"]["events"]) == (24, 6, 12)
    assert row["metrics"]["top1"]["mean"] == pytest.approx(top1(names, similarity))
    events = [row["event"] for row in rows]
    assert row["variants"]["event"]["metrics"]["top1"]["mean"] == pytest.approx(top1(names, similarity, events))
    assert row["metrics"]["random"]["mean"] == pytest.approx(3 / 23)
    assert row["variants"]["event"]["metrics"]["random"]["mean"] == pytest.approx(2 / 22)
    days = asked(herd, [spec], protocol=Protocol(filters=("day",)))["rows"][0]
    apart = [row["taken_at"][:10] for row in rows]
    assert days["metrics"]["top1"]["mean"] == pytest.approx(top1(names, similarity, apart))
    assert list(days["variants"]) == ["plain", "event"]


def test_an_index_is_reused_and_none_is_made(herd: Path, tmp_path: Path) -> None:
    path = named(tmp_path / "care.db", animals=2)
    asked(path)
    with Catalog(path) as catalog:
        assert catalog.index_runs() == []  # `identify` takes no half an index for one
        (run,) = {row["run_id"] for row in catalog.rows("SELECT DISTINCT run_id FROM embeddings")}
        assert index.run(catalog, index.IndexConfig(registry.find("demo-embedder"), engine="torch"))["new"] == 0
        assert [row["id"] for row in catalog.index_runs()] == [run]
    assert asked(path)["rows"][0]["models"][0]["run"] == run


def test_seeds_are_one_row_and_compared_pair_by_pair(herd: Path, tmp_path: Path) -> None:
    ours = [checkpoint(tmp_path, f"ours-{seed}", noise=0.3, seed=seed, crops=[]) for seed in range(3)]
    other = [checkpoint(tmp_path, f"other-{seed}", noise=2.0, seed=seed, crops=[], begun_from="x") for seed in range(3)]
    found = asked(herd, [*other, *ours])
    assert [(row["name"], row["seeds"]) for row in found["rows"]] == [("other", [0, 1, 2]), ("ours", [0, 1, 2])]
    for row, specs in zip(found["rows"], (other, ours), strict=True):
        each = []
        for spec in specs:
            names, own, _ = vectors(herd, spec)
            each.append(top1(names, own @ own.T))
        figure = row["metrics"]["top1"]
        assert figure["values"] == pytest.approx(each) and figure["mean"] == pytest.approx(np.mean(each))
        assert figure["half"] == pytest.approx(4.302653 * np.std(each, ddof=1) / 3**0.5, abs=1e-6)
    (gain,) = found["differences"]
    assert (gain["row"], gain["baseline"], gain["seeds"]) == ("ours", "other", 3)
    values = np.subtract(*(row["metrics"]["top1"]["values"] for row in found["rows"][::-1]))
    assert gain["metrics"]["top1"]["mean"] == pytest.approx(values.mean())
    half = 4.302653 * values.std(ddof=1) / 3**0.5
    assert gain["metrics"]["top1"]["half"] == pytest.approx(half, abs=1e-6)
    shown = gain["metrics"]["top1"]
    assert shown["low"] < shown["mean"] < shown["high"]  # and over the animals
    lines = [*map(str, evaluation_tables.table_rows(found)), *evaluation_tables.remarks(found)]
    top = found["rows"][0]["metrics"]["top1"]
    ends = f"[{100 * top['low']:.1f}, {100 * top['high']:.1f}]"
    assert f"{100 * top['mean']:.1f} ± {100 * top['half']:.1f} {ends}" in lines[0]
    said = f"{100 * shown['mean']:+.1f} ± {100 * half:.1f} [{100 * shown['low']:+.1f}, {100 * shown['high']:+.1f}]"
    assert any(said in line for line in lines) and not any("Two seeds" in line for line in lines)
    assert any("Two seeds" in line for line in evaluation_tables.remarks(asked(herd, [*other[:2], *ours[:2]])))
    swapped = asked(herd, [other[0], ours[0]], baseline="ours-0")["differences"]
    assert (swapped[0]["row"], swapped[0]["seeds"]) == ("other-0", None)
    assert swapped[0]["metrics"]["top1"]["half"] is None
    with pytest.raises(CareError, match="No row is called"):
        asked(herd, [ours[0]], baseline="nobody")


def test_what_was_learned_is_not_examined(herd: Path, tmp_path: Path) -> None:
    with Catalog(herd) as catalog:
        ids = sorted(catalog.names_of_crops())
        digests = catalog.pixel_digests(ids)
    learned = [digests[ids[0]], digests[ids[5]]]  # one crop each of Ara and Bodi
    spec = checkpoint(tmp_path, "learned", seed=0, crops=learned)
    with pytest.raises(CareError, match=r"learned from 2 of these 6 animals \(Ara, Bodi\).*--closed-set"):
        asked(herd, [spec])
    found = asked(herd, [registry.find("demo-embedder"), spec], closed_set=True)
    assert found["closed_set"] and found["data"]["queries"] == 22  # of all models alike
    assert not {ids[0], ids[5]} & set(found["crops"]["asked"])
    assert found["data"]["gallery"] == 23
    everything = checkpoint(tmp_path, "everything", seed=0, crops=list(digests.values()))
    with pytest.raises(CareError, match="learned from all of them"):
        asked(herd, [everything], closed_set=True)


def test_a_split_s_test_part_is_examined_and_its_validation_part_chooses(tmp_path: Path) -> None:
    path = named(tmp_path / "care.db")
    with Catalog(path) as catalog:
        names = catalog.names_of_crops()
        part = {"Ara": "val", "Bodi": "val"} | dict.fromkeys(NAMES[2:], "test")
        catalog.put_split("mine", {"by": "individual"}, {crop: part[name] for crop, name in names.items()})
        digests = catalog.pixel_digests([crop for crop, name in names.items() if name == "Ara"])
    spec = checkpoint(tmp_path, "model", seed=0, crops=[], split={"name": "mine"})
    found = asked(path, [spec])
    assert (found["split"]["name"], found["split"]["part"]) == ("mine", "test")
    assert (found["data"]["individuals"], found["data"]["validation_crops"]) == (4, 8)
    assert asked(path, [spec], split="mine", part="all")["data"]["individuals"] == 6
    assert asked(path, [spec], split="mine", part="val")["data"]["individuals"] == 2
    assert asked(path)["split"] is None  # a model of others has no split of its own
    for wrong, says in (
        ({"part": "val"}, "--split"),
        ({"split": "none"}, "no split 'none'"),
        ({"split": "mine", "part": "both"}, "not 'both'"),
        ({"split": "mine", "part": "train"}, "holds no"),
    ):
        with pytest.raises(CareError, match=says):
            asked(path, **wrong)
    taught = checkpoint(tmp_path, "taught", seed=0, crops=list(digests.values()), split={"name": "mine"})
    assert asked(path, [taught])["data"]["individuals"] == 4  # Ara was learned from, and is in another part
    with pytest.raises(CareError, match="Name another part"):
        asked(path, [taught], part="val")


def balanced_by_definition(names: list[str], similarity: np.ndarray, new: set[str], cut: float) -> tuple[float, float]:
    """BAKS and BAUS of leave-one-out where the animals of `new` never answer, crop by crop."""
    shares: dict[str, list[bool]] = {}
    for query, name in enumerate(names):
        others = [i for i in range(len(names)) if i != query and names[i] not in new]
        best = max(others, key=lambda i: similarity[query, i])
        is_known = similarity[query, best] >= cut
        shares.setdefault(name, []).append(not is_known if name in new else is_known and names[best] == name)
    means = {name: np.mean(hits) for name, hits in shares.items()}
    return tuple(float(np.mean([means[name] for name in means if (name in new) == side])) for side in (False, True))


def test_new_animals_and_a_threshold_that_the_test_part_did_not_choose(tmp_path: Path) -> None:
    path = named(tmp_path / "care.db", animals=10, photos=3)
    spec = checkpoint(tmp_path, "shaken", noise=1.0)
    alone = asked(path, [spec])["rows"][0]["open_set"]
    assert (
        "--split" in alone["no_threshold"]
        and alone["threshold_from"] is None
        and set(alone["metrics"]) == {"AUROC", "EER", "TPR5"}
    )
    assert asked(path, [spec], open_share=0)["rows"][0]["open_set"] is None
    with Catalog(path) as catalog:
        crops = catalog.names_of_crops()
        part = {crop: "val" if name in NAMES[:4] else "test" for crop, name in crops.items()}
        catalog.put_split("mine", {}, part)
    found = asked(path, [spec], split="mine")["rows"][0]["open_set"]
    assert found["threshold_from"] == "the validation part" and found["draws"] == open_set.DRAWS
    names, own, _ = vectors(path, spec)
    similarity, cut = own @ own.T, found["thresholds"][0]
    parts = {}
    for side, animals in (("val", NAMES[:4]), ("test", NAMES[4:])):
        rows = [i for i, name in enumerate(names) if name in animals]
        those, square = [names[i] for i in rows], similarity[np.ix_(rows, rows)]
        draws = [set(open_set.unknown(np.array(those), 0.3, number)) for number in range(open_set.DRAWS)]
        parts[side] = lambda at, a=those, b=square, c=draws: [balanced_by_definition(a, b, new, at) for new in c]
    on_test = np.mean(parts["test"](cut), axis=0)
    assert [found["metrics"][name]["mean"] for name in ("BAKS", "BAUS")] == pytest.approx(on_test.tolist())

    def worth(at: float) -> float:
        return np.mean([(baks * baus) ** 0.5 for baks, baus in parts["val"](at)])

    rows = [i for i, name in enumerate(names) if name in NAMES[:4]]
    cuts = np.nextafter(np.unique(similarity[np.ix_(rows, rows)]), np.float32(2))  # just above each similarity
    assert worth(cut) == pytest.approx(max(map(worth, cuts)))


def test_too_few_validation_animals_are_counted_and_a_random_split_is_called_leaky(tmp_path: Path) -> None:
    path = named(tmp_path / "care.db")
    with Catalog(path) as catalog:
        names = catalog.names_of_crops()
        few = {crop: "val" if name == NAMES[0] else "test" for crop, name in names.items()}
        catalog.put_split("few", {"by": "individual"}, few)
        catalog.put_split("mixed", {"by": "random"}, dict.fromkeys(names, "test"))
    lines = evaluation_tables.remarks(asked(path, split="few"))
    assert "the split few (by individual)" in lines[0] and not any("leaky" in line for line in lines)
    assert any("has 1 animal," in line and "needs 4" in line and "--val" in line for line in lines)
    found = asked(path, split="mixed")
    lines = evaluation_tables.remarks(found)
    assert any("random" in line and "leaky and flatter" in line for line in lines)
    assert "leaky and flatter" in report._results(found) and "by random" in report_tables.data_words(found)
    chance = [row["chance %"] for row in evaluation_tables.table_rows(found)]
    assert chance == ["13.0", "9.1"]  # 3 of 23 others, and 2 of 22 without the own visit


@pytest.mark.parametrize("by_place", [True, False])
def test_the_leak_check_tells_places_that_give_animals_away(tmp_path: Path, by_place: bool) -> None:
    path = named(tmp_path / "care.db", by_place=by_place)
    leaks = asked(path, leaks=True)["rows"][0]["leaks"]
    figure = leaks["background"]["event"]["metrics"]
    assert leaks["bordered"] == 0 and figure["random"]["mean"] == pytest.approx(2 / 22)
    assert figure["top1"]["mean"] > 0.8 if by_place else figure["top1"]["mean"] < 0.4
    assert leaks["own_event"]["queries"] == 24


def test_undated_photos_have_no_event(tmp_path: Path) -> None:
    found = asked(named(tmp_path / "care.db", animals=3, dated=False), leaks=True)
    assert found["rows"][0]["variants"] == {} and found["rows"][0]["leaks"]["own_event"] is None
    assert found["data"]["without_event"] == 12
    assert any("no time" in line for line in evaluation_tables.remarks(found))


@pytest.mark.parametrize(
    ("made", "settings", "says"),
    [
        ({"animals": 1}, {}, "two individuals"),
        ({"photos": 1}, {}, "none of the 6 individuals has two crops"),
        ({"bursts": 1}, {"protocol": Protocol(filters=("event",))}, "nothing has anything|No query has anything"),
        ({"animals": 0}, {}, "No crop has a name"),
        ({}, {"species": "Cat"}, "No crop has a name"),
        ({}, {"open_share": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, made: dict, settings: dict, says: str) -> None:
    with pytest.raises(CareError, match=says):
        asked(named(tmp_path / "care.db", **made), **settings)


def test_damaged_pixels_are_left_out_for_every_model(tmp_path: Path) -> None:
    path = named(tmp_path / "care.db", animals=3)
    with Catalog(path) as catalog, catalog.transaction():
        catalog.db.conn.execute("UPDATE crop_pixels SET jpeg = x'00' WHERE crop_id = 2")
    found = asked(path, [registry.find("demo-embedder")])
    assert (found["data"]["left_out"], found["data"]["crops"]) == (1, 11)
    assert found["rows"][0]["models"][0]["damaged"] == [2]


def test_measure_is_a_row_of_one(herd: Path) -> None:
    spec = registry.find("demo-embedder")
    with Catalog(herd) as catalog:
        found = evaluate_reid.measure(catalog, spec, EvaluateConfig(engine="torch"))
    row = asked(herd)["rows"][0]
    assert found["metrics"] == {name: figure["mean"] for name, figure in row["metrics"].items()}
    assert found["queries"] == 24
    assert json.loads(json.dumps(found)) == found


# -- the command


@pytest.fixture
def care(monkeypatch, capfd, herd: Path) -> Care:
    return runner(monkeypatch, capfd, herd)


def test_the_command_says_what_it_found(care: Care, tmp_path: Path) -> None:
    shaken = checkpoint(tmp_path, "shaken", noise=2.0)
    done = care(
        "evaluate",
        "--engine",
        "torch",
        "--model",
        "demo-embedder",
        "--model",
        shaken.file,
        "--exclude",
        "event",
        "--leaks",
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["model", "left", "out"] and len(lines) == 2 + 4
    assert "24 crops of 6 individuals in 12 events (all named crops, for no split was named)" in done.err
    assert "shaken against demo-embedder, paired over individuals: top-1 " in done.err
    assert "backgrounds alone" in done.err and "(leaky)" in done.err and "AUROC" in done.err
    whole = care("evaluate", "--model", "demo-embedder", "--json").json
    assert whole["rows"][0]["variant"] == "plain" and whole["protocol"] == {"kind": "loo", "filters": []}
    table = care("evaluate", "--model", "demo-embedder", "--csv").out.splitlines()
    assert table[0].startswith("model,method,seeds,variant,queries,without_match,top1,top1_half") and len(table) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--protocol", "all"], "loo, qg, list"),
        (["--query-share", "0.2"], "--protocol qg"),
        (["--exclude", "burst"], "event, day, flank, camera"),
        (["--seeds", "2"], "--model NAME"),
        (["--model", "nothing-like-it"], "no model"),
        (["--model", "demo-embedder", "--part", "val"], "--split"),
        (["--model", "demo-embedder", "--same-flank", "--exclude", "event"], "Leave out"),
    ],
)
def test_wrong_use_is_refused(care: Care, arguments: list[str], says: str) -> None:
    done = care("evaluate", *arguments)
    assert done.code == 2 and says in done.err, done.err


def test_a_seeded_name_stands_for_its_seeds(monkeypatch, capfd, tmp_path: Path) -> None:
    path = named(tmp_path / "care.db", animals=3)
    with Catalog(path) as catalog:
        for seed in range(2):
            spec = checkpoint(tmp_path, f"mine-{seed}", noise=0.2, seed=seed)
            run = catalog.begin_run("train", {"seed": seed})
            catalog.finish_training(run, replace(spec, sha256=registry.model_sha256(spec)))
    care = runner(monkeypatch, capfd, path)
    asked_for = ("evaluate", "--engine", "torch", "--model", "mine", "--model", "demo-embedder", "--json")
    rows = care(*asked_for, "--seeds", "2").json["rows"]
    assert [(row["name"], row["seeds"]) for row in rows] == [("mine", [0, 1]), ("demo-embedder", [None])]
    alone = care("evaluate", "--engine", "torch", "--model", "mine-0", "--seeds", "1", "--json")  # as it was trained
    assert [row["name"] for row in alone.json["rows"]] == ["mine-0"]
    done = care("evaluate", "--model", "yours", "--seeds", "2")
    assert done.code == 2 and "No model yours-0" in done.err
    newest = care("evaluate", "--engine", "torch", "--json").json  # as `care index` takes it
    assert [row["name"] for row in newest["rows"]] == ["mine-1"]
