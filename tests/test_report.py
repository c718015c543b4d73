"""The report of an examination: it names everybody as text, shows what was answered, and goes where it may."""

from __future__ import annotations

import csv
import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
from PIL import Image
from test_cli import runner
from test_hostile_pages import HOSTILE, is_harmless

from care_cli import encoders, registry
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.evaluation import figures
from care_cli.evaluation.protocols import Protocol
from care_cli.records import KeypointScheme, NamedPoint
from care_cli.stages import evaluate_reid, report, report_evidence, report_tables, report_words
from care_cli.stages.evaluate_reid import EvaluateConfig

TINY = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}
HEADER = {"architecture": "vit_tiny_patch16_224", "options": TINY, "input_size": 64, "mean": [0.5] * 3,
          "std": [0.2] * 3, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}  # fmt: skip
BLOTS = 0.4  # of a photo's light: enough to find some animals, not all
PHOTOS = 3  # of an animal: the first two at one event


def saved(folder: Path, name: str, method: str, seed: int):
    """A model of random weights, one that sees points for ckpe, as trained with a seed."""
    import torch

    torch.manual_seed(seed)
    told = {"names": ["eye", "tail"], "mirrors": {}, "mode": "ckpe"} if method == "ckpe" else None
    model = encoders.build_embedder(HEADER["architecture"], TINY, told)
    header = HEADER | {"method": method, "training": {"settings": {"seed": seed}}}
    encoders.save_embedder(model, folder / f"{name}.safetensors", header)
    return registry.find(folder / f"{name}.safetensors", task="embedder")


def coat(animal: int, photo: int) -> np.ndarray:
    """A photo's pixels `(H, W, 3) uint8`: an animal's own blots, in noise of the photo's own."""
    blots = np.random.default_rng(animal).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    size = catalogs.WIDTH, catalogs.HEIGHT
    own = np.asarray(Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)).astype(float)
    cloud = np.random.default_rng(100 * animal + photo).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    light = np.asarray(Image.fromarray(cloud).resize(size, Image.Resampling.BICUBIC))
    return (BLOTS * own + (1 - BLOTS) * light).astype(np.uint8)


@pytest.fixture(scope="module")
def examined(tmp_path_factory) -> tuple[Path, dict]:
    """A catalog of animals with hostile names, and what two rows, one of two seeds, made of them."""
    folder = tmp_path_factory.mktemp("examined")
    specs = (saved(folder, "plain-0", "vit", 0), saved(folder, "plain-1", "vit", 1), saved(folder, "told", "ckpe", 0))
    with catalogs.new(folder / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        for number, text in enumerate(HOSTILE[:8]):
            for photo in range(PHOTOS):
                name = f"{number}-{photo} {text}"
                when = f"2024-05-0{number + 1} 12:{photo:02}:00" if photo < 2 else f"2024-06-0{number + 1} 12:00:00"
                image = catalogs.add_photo(catalog, name, when, deployment=f"site {text}")
                box = catalogs.found((40.0, 30.0, 80.0, 60.0), species=text)
                [crop] = catalog.add_crops(run, image, [catalogs.crop_of(coat(number, photo), box)])
                known = catalog.active(f"{number} {text}")
                action = Decision("name", crop_id=crop, individual_id=known) if known else None
                catalog.decide(action or Decision("create", crop_id=crop, value=f"{number} {text}"))
                catalog.say_keypoints(crop, [NamedPoint("eye", 60.0, 50.0), NamedPoint("tail", 100.0, 70.0)])
        for place in catalog.rows("SELECT id FROM deployments"):
            catalog.regroup(place["id"])
        result = evaluate_reid.run(catalog, EvaluateConfig(specs, leaks=True, engine="torch"))
    return folder, result


@pytest.fixture(scope="module")
def written(examined) -> tuple[Path, dict]:
    folder, result = examined
    with Catalog(folder / "care.db") as catalog:
        report.write(catalog, result, folder / "out")
    return folder / "out", result


def test_the_page_names_everybody_as_text(written):
    folder, result = written
    page = is_harmless((folder / "index.html").read_text("utf-8"))
    text = "".join(page.text)
    for row in result["rows"]:
        assert row["name"] in text
        for model in row["models"]:
            assert model["sha256"] in text
    asked = [name for name in HOSTILE[:8] if f"{HOSTILE.index(name)} {name}" in text]
    assert len(asked) >= report_evidence.SHOWN  # of the queries that are shown, one an animal
    assert not re.search(r"\b(nan|None|inf)\b", text.replace("None of", ""))
    for figure in ("Result", "Honesty", "New animals", "Curves", "Individuals", "Mistakes", "Where", "How"):
        assert figure in text


def test_its_pictures_decode_and_lie_beside_it(written):
    folder, _ = written
    page = is_harmless((folder / "index.html").read_text("utf-8"))
    pictures = {b64decode(one["src"].partition(",")[2]) for tag, one in page.elements if tag == "img"}
    sizes = [Image.open(io.BytesIO(one)).convert("RGB").size for one in pictures]
    assert len(sizes) > 4 and min(min(size) for size in sizes) > 20
    beside = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert beside.keys() == {"index.html", "result.json", "table.csv", "cmc.png", "similarities.png", "tsne.png",
                             "gradcam.jpg"}  # fmt: skip
    assert {data for name, data in beside.items() if name.endswith(("png", "jpg"))} <= pictures
    assert all(one.get("alt") for tag, one in page.elements if tag == "img")


def test_the_files_say_what_was_found(written):
    folder, result = written
    assert json.loads((folder / "result.json").read_text("utf-8")) == json.loads(json.dumps(result))
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = {(line["name"], line["variant"]): line for line in csv.DictReader(file)}
    assert len(lines) == sum(1 + len(row["variants"]) for row in result["rows"])
    for row in result["rows"]:
        for variant, part in {row["variant"]: row, **row["variants"]}.items():
            line = lines[row["name"], variant]
            for metric, figure in part["metrics"].items():
                for end, key in (("", "mean"), ("_half", "half"), ("_low", "low"), ("_high", "high")):
                    said = line[f"{metric}{end}"]
                    assert (float(said) if said else None) == figure[key]


def test_figures_of_the_page_are_those_of_the_result(written):
    """Every row's first-right share stands in the first table, with its interval."""
    folder, result = written
    text = (folder / "index.html").read_text("utf-8")
    for row in result["rows"]:
        top = row["metrics"]["top1"]
        below = f"{100 * top['low']:.1f} to {100 * top['high']:.1f}"
        if len(row["models"]) > 1:
            below = f"± {100 * top['half']:.1f}; {below}"
        assert f"<td>{100 * top['mean']:.1f}<small>{below}</small></td>" in text
    [difference] = result["differences"]
    assert f"<td>{100 * difference['metrics']['mAP']['mean']:+.1f}<small>" in text


def reopened(examined) -> tuple[Catalog, report_evidence.Examination]:
    folder, result = examined
    catalog = Catalog(folder / "care.db")
    return catalog, report._reopened(catalog, result)


def test_answers_that_are_shown_are_those_of_a_plain_ranking(examined):
    """The worst query's answers, and the first right one, by cosines computed crop by crop."""
    catalog, seen = reopened(examined)
    with catalog:
        row = seen.best
        chosen = report_evidence.worst(row, seen.crops)
        shown = report_evidence.shown(catalog, seen, row, chosen)
    vectors = dict(zip(seen.crops.id.tolist(), row.vectors, strict=True))
    names = dict(zip(seen.crops.id.tolist(), seen.crops.individual.tolist(), strict=True))

    def ranked(query: int) -> list[int]:
        others = [crop for crop in vectors if crop != query]
        return sorted(others, key=lambda crop: -float(vectors[crop] @ vectors[query]))

    def first(query: int) -> int:
        return next(rank for rank, crop in enumerate(ranked(query), 1) if names[crop] == names[query])

    latest = max(first(query) for query in vectors)
    assert len(shown) == len({one.asked.individual for one in shown}) == report_evidence.SHOWN
    for number, one in enumerate(shown):
        query = int(one.asked.facts[-1].removeprefix("crop "))
        order = ranked(query)
        answered = [int(answer.facts[-1].removeprefix("crop ")) for answer in one.answers]
        assert answered == order[: report_evidence.ANSWERS]
        assert [answer.kind == "right" for answer in one.answers] == [names[c] == names[query] for c in answered]
        if number == 0:
            assert first(query) == latest
        if one.match is not None:
            assert int(one.match.facts[-1].removeprefix("crop ")) == order[first(query) - 1]
        assert (one.match is None) == (first(query) <= report_evidence.ANSWERS)
        assert f"{first(query)}" in one.why


def test_crops_of_the_query_s_own_visit_are_told(examined):
    catalog, seen = reopened(examined)
    with catalog:
        shown = report_evidence.shown(catalog, seen, seen.best, range(len(seen.queries)))
        facts = {row["crop"]: row for row in seen.details.values()}
    told = 0
    for one in shown:
        query = int(one.asked.facts[-1].removeprefix("crop "))
        for answer in one.answers:
            crop = int(answer.facts[-1].removeprefix("crop "))
            same = facts[crop]["event"] == facts[query]["event"]
            assert ("same event as the query" in answer.facts) == same
            told += same
    assert told


def test_pairs_are_all_that_the_protocol_compares(examined):
    """Without photos of their own visit: each animal has one pair of visits left, two ways, for each of two photos."""
    folder, result = examined
    with Catalog(folder / "care.db") as catalog:
        crops = report.crops_of(catalog, result["crops"]["all"])
        runs = [("told", [result["rows"][1]["models"][0]["run"]])]
        asked = result["crops"]["asked"]
        seen = report_evidence.reopen(catalog, crops, asked, Protocol(filters=("event",)), runs)
    same, different = report_evidence.pairs(seen, seen.rows[0])
    animals = len(HOSTILE[:8])
    assert len(same) == animals * 2 * 2
    assert len(different) == animals * PHOTOS * (animals - 1) * PHOTOS


def test_a_network_that_sees_points_is_explained_with_them(examined):
    catalog, seen = reopened(examined)
    with catalog:
        columns, failures = report_evidence.looked(catalog, seen, seen.rows)
    assert not failures and len(columns) == report_evidence.LOOKED_AT
    for column in columns:
        plain, told = column.looked
        assert plain.points is None
        frame = 40 - 8, 30 - 6, 96, 72  # the box, grown by a tenth on each side
        expected = [((60 - frame[0]) / 96, (50 - frame[1]) / 72, 1), ((100 - frame[0]) / 96, (70 - frame[1]) / 72, 1)]
        np.testing.assert_allclose(told.points, expected, atol=1e-6)


def test_points_are_those_of_the_index_s_own_run(examined):
    """What a model was shown of another run than the standing points is what its picture shows."""
    from types import SimpleNamespace

    folder, result = examined
    with Catalog(folder / "care.db") as catalog, catalog.transaction():
        crop, index_run = result["crops"]["all"][0], result["rows"][1]["models"][0]["run"]
        other = catalog.begin_run("propagate-keypoints", {"other": 1})
        standing = catalog.keypoints([crop])[crop]
        moved = replace(standing, kp_image=standing.kp_image + 8.0)
        catalog.add_keypoints(other, [moved])
        settings = json.loads(catalog.run(index_run, "index")["settings"]) | {"keypoints_run": other}
        own = catalog.begin_run("index", settings, registry.recall(json.loads(catalog.run(index_run, "index")["spec"])))
        network = SimpleNamespace(scheme=KeypointScheme(("eye", "tail"), {}))
        before, after = (report_evidence._told(catalog, network, run, [crop]) for run in (index_run, own))
    np.testing.assert_allclose(after[0, :, :2] - before[0, :, :2], [[8 / 96, 8 / 72]] * 2, atol=1e-6)


def test_weights_that_went_are_said_and_the_rest_is_written(examined, tmp_path):
    """A model file that is no longer there costs its Grad-CAM row, no more."""
    folder, result = examined
    hidden = folder / "told.safetensors"
    hidden.rename(folder / "elsewhere")
    try:
        with Catalog(folder / "care.db") as catalog:
            report.write(catalog, result, tmp_path / "out")
    finally:
        (folder / "elsewhere").rename(hidden)
    text = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "Not shown: told" in text and (tmp_path / "out" / "gradcam.jpg").is_file()


def test_probabilities_are_shown_where_a_calibration_is(examined, tmp_path):
    folder, result = examined
    spans = [{"low": 0.0, "high": 0.1, "pairs": 5, "weight": 0.5, "probability": 0.05, "same": 0.1}]
    with Catalog(folder / "care.db") as catalog:
        run = catalog.run(result["rows"][0]["models"][0]["run"], "index")
        settings = json.loads(run["settings"]) | {"score": "best"}
        facts = {"known": 0.8, "new": 0.75, "pairs": 33, "individuals": 11, "ece": 0.0425}
        catalog.put_calibration(run["model_id"], None, settings, {"reliability": spans}, **facts)
        report.write(catalog, result, tmp_path / "out")
        catalog.db.conn.execute("DELETE FROM calibrations")
    text = "".join(is_harmless((tmp_path / "out" / "index.html").read_text("utf-8")).text)
    assert "Do probabilities come true?" in text and "4.2" in text and "0.800" in text
    assert (tmp_path / "out" / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_where_a_report_may_go(examined, tmp_path):
    folder, result = examined
    with Catalog(folder / "care.db") as catalog:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("mine")
        with pytest.raises(CareError, match="holds other files"):
            report.check(catalog, tmp_path / "full")
        with pytest.raises(CareError, match="no folder"):
            report.check(catalog, tmp_path / "none" / "out")
        (tmp_path / "file").write_text("")
        with pytest.raises(CareError, match="cannot be read as one"):
            report.check(catalog, tmp_path / "file")
        (tmp_path / "card").mkdir()
        source = catalog.add_source("v", b"x", "x", (tmp_path / "card").as_posix())
        catalog.db.conn.execute("UPDATE sources SET scanned_at = '2024-01-01T00:00:00Z' WHERE id = ?", (source,))
        with pytest.raises(CareError, match="scanned for photos"):
            report.check(catalog, tmp_path / "card" / "out")
        catalog.db.conn.execute("DELETE FROM sources WHERE id = ?", (source,))
        (tmp_path / "empty").mkdir()
        first = report.write(catalog, result, tmp_path / "empty")
        again = report.write(catalog, result, tmp_path / "empty")
        assert first == again and first[0] == tmp_path / "empty" / "index.html"
        crops = result["crops"] | {"all": [*result["crops"]["all"], 10**6]}
        report.check(catalog, tmp_path / "empty")
        with pytest.raises(CareError, match="has changed since"):
            report._reopened(catalog, result | {"crops": crops})


@pytest.mark.parametrize(
    ("mean", "half", "low", "high", "words"),
    [(0.1, None, 0.01, 0.2, "more animals right"), (-0.2, None, -0.3, -0.1, "fewer"),
     (0.1, None, -0.1, 0.2, "no difference"), (0.1, None, None, None, "can't be"),
     (0.1, 0.05, 0.01, 0.2, "more animals right"), (0.1, 0.11, 0.01, 0.2, "no difference"),
     (0.1, 0.05, -0.1, 0.2, "no difference")],
)  # fmt: skip
def test_a_difference_in_words(mean, half, low, high, words):
    values = [mean] if half is None else [mean] * 3
    figure = {"mean": mean, "half": half, "values": values, "low": low, "high": high}
    assert words in report_tables._verdict(figure)
    assert report_tables._verdict(figure | {"values": [mean] * 2}) == "two seeds support no claim" or low is None


def test_published_figures_stand_beside_ours(examined):
    _, result = examined
    html = report_tables.beside_papers(result, "LionData")
    assert "CARE, w = 4" in html and "<td>40.3<small>± 0.3</small></td>" in html and "<td>25.2</td>" in html
    assert "8 individuals in 24 crops" in html and "19 in 146 photos" in html
    assert "lists of query and gallery photos" in html


def test_the_command_writes_a_report_or_refuses_at_once(examined, monkeypatch, capfd, tmp_path):
    folder, result = examined
    care = runner(monkeypatch, capfd, folder / "care.db")
    model = folder / "plain-0.safetensors"
    (tmp_path / "mine.txt").write_text("")
    refused = care("evaluate", "--model", model, "--report", tmp_path)
    assert refused.code == 2 and "holds other files" in refused.err and not refused.out
    done = care("evaluate", "--model", model, "--engine", "torch", "--report", tmp_path / "out")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    [row] = told["rows"]
    assert row["metrics"]["top1"]["mean"] == result["rows"][0]["metrics"]["top1"]["values"][0]
    assert "plain-0" in (tmp_path / "out" / "index.html").read_text("utf-8")


# -- words


def left_beside(folder: Path, model: str, catalog: Catalog, dim: int, **changes) -> dict:
    """What a training with texts leaves beside its model: random features of the catalog's named crops."""
    import torch
    from safetensors.torch import save_file

    names, digests = catalog.names_of_crops(), catalog.pixel_digests(catalog.names_of_crops())
    crops = sorted(names)
    individuals = sorted(set(names.values()))
    chance = torch.Generator().manual_seed(0)
    state = {
        "text": torch.randn(len(crops), dim, generator=chance),
        "labels": torch.tensor([individuals.index(names[crop]) for crop in crops]),
        "bank": torch.randn(len(individuals), dim, generator=chance),
    } | changes
    header = {"individuals": individuals, "crops": [digests[crop] for crop in crops]}
    (folder / model).mkdir(exist_ok=True)
    save_file(state, folder / model / "prototypes.safetensors", {"care": json.dumps(header)})
    return {"crops": crops, "individuals": individuals, "names": names} | state


def test_photos_are_drawn_with_the_prototypes_of_their_texts(examined, tmp_path, monkeypatch):
    """The last numbers of the very vectors of the crops that were learned from, beside the bank's rows by name."""
    folder, result = examined
    seen, together = [], figures.embedded_together
    monkeypatch.setattr(figures, "embedded_together", lambda *given: seen.append(given) or together(*given))
    best = max(result["rows"], key=lambda row: row["metrics"]["mAP"]["mean"])
    with Catalog(folder / "care.db") as catalog:
        told = left_beside(folder, best["models"][0]["name"], catalog, dim=8)
        report.write(catalog, result, tmp_path / "out")
        [(vectors, prototypes)] = seen
        stored = catalog.vectors(best["models"][0]["run"], told["crops"])
    np.testing.assert_allclose(vectors, stored.vectors[:, -8:], atol=1e-6)
    np.testing.assert_array_equal(prototypes, told["bank"].numpy())
    page = is_harmless((tmp_path / "out" / "index.html").read_text("utf-8"))
    assert "What the model read" in "".join(page.text)
    for name in ("texts.png", "prototypes.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_prototypes_that_cannot_be_shown_are_told(examined, tmp_path):
    import torch

    folder, result = examined
    best = max(result["rows"], key=lambda row: row["metrics"]["mAP"]["mean"])["models"][0]["name"]
    with Catalog(folder / "care.db") as catalog:
        for changes, says in (
            ({"bank": torch.zeros(3, 8)}, "do not fit each other"),
            ({"labels": torch.zeros(2, dtype=torch.int64)}, "do not fit each other"),
        ):
            left_beside(folder, best, catalog, 8, **changes)
            with pytest.raises(CareError, match=says):
                report_words.beside(folder / f"{best}.safetensors")
        left_beside(folder, best, catalog, 40)  # the model has 24 numbers
        report.write(catalog, result, tmp_path / "long")
        assert "Photos with their prototypes are not shown" in (tmp_path / "long" / "index.html").read_text("utf-8")
        (folder / best / "prototypes.safetensors").write_bytes(b"no tensors")
        report.write(catalog, result, tmp_path / "broken")
        assert "Not shown: " in (tmp_path / "broken" / "index.html").read_text("utf-8")
        (folder / best / "prototypes.safetensors").unlink()
    assert report_words.beside(folder / f"{best}.safetensors") is None


def test_pictures_are_of_the_rows_that_are_asked_for_and_of_texts_of_photos(examined, monkeypatch):
    """Not the baseline of the figures and the best; and a worse row whose meta-net described every photo."""
    folder, result = examined
    names = [row["name"] for row in sorted(result["rows"], key=lambda row: row["metrics"]["mAP"]["mean"])]
    first = {row["name"]: row["models"][0]["name"] for row in result["rows"]}
    told = {first[name]: {"training": {"settings": {"text": {"meta_net": name == names[0]}}}} for name in names}
    shown = []
    monkeypatch.setattr(report_words, "header_of", lambda spec: told[spec.name])
    monkeypatch.setattr(report_words, "_body", lambda catalog, row, *_: shown.append(row.name) or "body")
    with Catalog(folder / "care.db") as catalog:
        seen = report._reopened(catalog, result)
        for asked in (names, names[::-1]):
            assert [row.name for row in report._pictured(seen, result | {"pictured": asked})] == asked
        others = report._pictured(seen, result | {"pictured": ["CLIP-FT", names[0]]})
        assert others == report._pictured(seen, result)
        for name in names:
            left_beside(folder, first[name], catalog, dim=8)
        assert report_words.section(catalog, seen.rows, {}) and shown == names[:1]
        for name in names:
            (folder / first[name] / "prototypes.safetensors").unlink()
