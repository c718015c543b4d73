"""`care identify` with a small embedder of random weights: what it may say, what it writes, what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace

import catalogs
import pytest

from care_cli import cli, encoders, registry
from care_cli.errors import CareError
from care_cli.matching import Thresholds
from care_cli.records import Selection
from care_cli.stages import doctor, identify, index, individuals
from care_cli.stages.identify import IdentifyConfig

TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
HEADER = {"method": "vit", "architecture": "vit_tiny_patch16_224", "options": TINY, "input_size": 64,
          "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
          "crop_mode": "squash"}  # fmt: skip


@pytest.fixture
def embedder(tmp_path):
    """Weights with thresholds of their own."""
    model = encoders.build_backbone("vit_tiny_patch16_224", **TINY)
    encoders.save_embedder(model, tmp_path / "own.safetensors", HEADER | {"thresholds": {"known": 0.8, "new": 0.4}})
    return registry.find(tmp_path / "own.safetensors", task="embedder")


@pytest.fixture
def card(tmp_path):
    return tmp_path / "card"


@pytest.fixture
def catalog(tmp_path, card, embedder):
    """Three photos on a card, each with an animal of a finished detect run; two are named, all are in an index."""
    with catalogs.new(tmp_path / "care.db") as opened:
        run = catalogs.detect_run(opened)
        for number in range(3):
            name = f"IMG_{number}.PNG"
            image = catalogs.add_photo(opened, name, f"2024-05-01 0{number}:00:00", folder=card)
            catalogs.add_crops(opened, run, image, name, [catalogs.found((40.0, 30.0, 80.0, 60.0))])
        individuals.name(opened, [1], "Asha")
        individuals.name(opened, [2], "Bindi")
        index.run(opened, index.IndexConfig(embedder))
        yield opened


def ask(catalog, *paths, **more):
    return identify.run(catalog, IdentifyConfig(paths=paths, **more))


def test_an_index_counts_crops_without_pixels_apart(catalog, embedder):
    catalog.db.conn.execute("DELETE FROM embeddings")
    catalog.db.conn.execute("DELETE FROM crop_pixels WHERE crop_id = 3")
    done = index.run(catalog, index.IndexConfig(embedder))
    assert (done["crops"], done["new"], done["known"], done["without_pixels"]) == (3, 2, 0, [3])
    again = index.run(catalog, index.IndexConfig(embedder))
    assert (again["crops"], again["new"], again["known"], again["without_pixels"]) == (3, 0, 2, [3])


@pytest.mark.skipif(sys.platform == "win32", reason="links onto themselves are made differently there")
def test_a_folder_that_cannot_be_looked_into_is_a_failure_beside_the_answers(catalog, card):
    (card / "loop").symlink_to("loop")
    _, photos = ask(catalog, card)
    assert [(photo.path.rpartition("/")[2], bool(photo.failure)) for photo in photos] == [
        ("IMG_0.PNG", False), ("IMG_1.PNG", False), ("IMG_2.PNG", False), ("loop", True)]  # fmt: skip
    assert all(len(photo.queries) == 1 for photo in photos[:3])


def test_a_whole_photo_of_the_catalog_is_asked_about_as_a_whole(catalog, card):
    photo = card / "IMG_2.PNG"
    assert ask(catalog, photo)[1][0].queries[0].crop_id == 3
    identifier, photos = ask(catalog, photo, whole=True, name="Chui", new=True)
    [query] = photos[0].queries
    assert (query.box, query.crop_id) == ((0.0, 0.0, 320.0, 240.0), None)
    done = identify.confirm(identifier, photos, None)
    crop = catalog.crop(done["crop"])
    assert (crop["image_id"], crop["w"], crop["h"], done["individual"]) == (3, 320.0, 240.0, "Chui")
    assert ask(catalog, photo, whole=True)[1][0].queries[0].crop_id == done["crop"]  # known by now
    assert catalog.active_run() == 1 and catalog.unfinished_runs() == []
    assert "runs" not in {finding["topic"] for finding in doctor.examine(catalog)["findings"]}


def test_another_detector_is_used_and_never_becomes_the_surveys(catalog, shared, tmp_path):
    photo = shared / "data/camera_trap/speciesnet_edge_cases/american_black_bear.jpg"
    cfg = {"detector": registry.find(shared / "weights/yolo11n.pt"), "name": "Bruno", "new": True}
    identifier, photos = ask(catalog, photo, **cfg)
    done = identify.confirm(identifier, photos, None)
    assert catalog.active_run() == 1 and catalog.unfinished_runs() == []
    assert [row["crop"] for row in catalog.crop_rows(Selection(individual="Bruno"))] == [done["crop"]]
    again = ask(catalog, photo, detector=cfg["detector"])[1][0]
    assert [query.crop_id for query in again.queries] == [done["crop"]]


def test_thresholds_come_in_pairs(catalog, card, tmp_path):
    photo = card / "IMG_2.PNG"
    assert ask(catalog, photo)[0].verdicts.thresholds() == Thresholds(0.8, 0.4)
    assert ask(catalog, photo, known=0.9)[0].verdicts.thresholds() == Thresholds(0.9, 0.4)
    with pytest.raises(CareError, match=r"0\.4 is above 0\.3.*model's own"):
        ask(catalog, photo, known=0.3)
    model = encoders.build_backbone("vit_tiny_patch16_224", **TINY)
    encoders.save_embedder(model, tmp_path / "plain.safetensors", HEADER)
    index.run(catalog, index.IndexConfig(registry.find(tmp_path / "plain.safetensors", task="embedder")))
    assert ask(catalog, photo)[0].verdicts.thresholds() is None
    for one in ({"known": 0.4}, {"new_below": 0.2}):
        with pytest.raises(CareError, match="both --known and --new-below"):
            ask(catalog, photo, **one)
    assert ask(catalog, photo, known=0.4, new_below=0.2)[0].verdicts.thresholds() == Thresholds(0.4, 0.2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "", "new": True}, "1 to 200 printable"),
        ({"name": "Asha", "new": True}, "already"),
        ({"name": "Nobody"}, "no individual called 'Nobody'"),
        ({"name": "Asha"}, "one photo, but there are 3"),
        ({"score": "worst"}, "--score is one of best, mean, vote"),
    ],
)
def test_what_cannot_be_said_is_refused_before_any_work(catalog, card, monkeypatch, options, says):
    monkeypatch.setattr(identify, "Identifier", None)  # would load models
    with pytest.raises(CareError, match=says):
        ask(catalog, card, **options)


def test_an_unreadable_photo_cannot_be_named(catalog, card):
    (card / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    identifier, photos = ask(catalog, card / "broken.jpg", name="Asha")
    with pytest.raises(CareError, match=r"broken\.jpg could not be read"):
        identify.confirm(identifier, photos, None)


def test_a_photo_of_no_event_is_not_compared_with_its_burst(catalog, card):
    catalog.db.conn.execute("UPDATE images SET serial = 'H500', captured_at = '2024-05-01 12:00:00'")
    catalog.db.conn.execute("UPDATE images SET event_id = NULL, deployment_id = NULL")
    identifier, photos = ask(catalog, card / "IMG_2.PNG")
    assert len(photos[0].queries[0].candidates) == 2  # the file itself tells no camera
    facts = replace(photos[0].reading.photo, serial="H500", captured_at="2024-05-01 12:00:10")
    photos[0].reading = replace(photos[0].reading, photo=facts)
    assert identifier.own_event(photos[0]) == {1, 2, 3}


def test_the_table_says_why_it_is_unsure(catalog, card, monkeypatch, capsys):
    similarity = ask(catalog, card / "IMG_2.PNG")[1][0].queries[0].candidates[0].similarity
    known, new = similarity + 0.01, similarity - 0.01
    for arguments, expected in (((known, new), f"between {new:.2f} and {known:.2f}"), ((new, new), None)):
        words = ["care", "--catalog", catalog.path, "--device", "cpu", "identify", card / "IMG_2.PNG",
                 f"--known={arguments[0]}", f"--new-below={arguments[1]}"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code
        out = capsys.readouterr().out
        assert (expected in out and "why" in out) if expected else "why" not in out
        assert "Asha" in out
