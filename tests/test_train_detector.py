"""`care train --method detector`: from a folder of labelled photos to a model that `care detect` uses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import COUNTS, NAMES, write_folder, write_places
from PIL import Image
from safetensors.numpy import load_file
from test_cli import runner

from care_cli.catalog import Catalog
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.stages import train_detector as stage
from care_cli.training.detector import BEST, HISTORY, LAST, DetectorConfig, check_learnable, train_detector
from care_cli.training.labelled_photos import read_folder, read_labels

EPOCHS = 2
SETTINGS = {"input_size": 64, "epochs": EPOCHS, "batch": 4, "nominal_batch": 8, "close_mosaic": 1, "optimizer": "AdamW"}
OPTIONS = ["--size", "64", "--epochs", str(EPOCHS), "--batch", "4", "--set", "nominal_batch=8"]
OPTIONS += ["--set", "close_mosaic=1", "--set", "optimizer=AdamW", "--weights", "none", "--name", "shapes"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The same bits in this process and in one that is killed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photos beside what Ultralytics would unpickle, and what it would take for a photo's pixels."""
    made = write_folder(tmp_path_factory.mktemp("labelled") / "shapes")
    (made / "labels" / "train.cache").write_bytes(b"\x80\x04cos\nabort\n(tR.")  # ends the process that loads it
    np.save(made / "images" / "train" / "train0.npy", np.zeros((64, 64, 3), np.uint8))
    return made


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory) -> tuple[dict, Path]:
    """What a training told, and the catalog; with sockets, unsafe loads and writing of pickles forbidden."""
    import torch

    catalog = tmp_path_factory.mktemp("trained") / "care.db"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def forbidden(*_args, **_kwargs):
        raise AssertionError("training asked for the network or for a pickle")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, forbidden)
        patch.setattr(socket, "getaddrinfo", forbidden)
        patch.setattr(torch, "load", forbidden)
        patch.setattr(torch, "save", forbidden)
        patch.setattr(np, "load", forbidden)
        with Catalog(catalog, create=True) as opened:
            done = stage.run(
                opened, stage.DetectorRequest(data=folder, name="shapes", weights="none", settings=SETTINGS)
            )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "the folder was written to"
    return done, catalog


def test_a_training_leaves_a_model_that_says_all_of_itself(trained, folder: Path) -> None:
    done, catalog = trained
    [model] = done["models"]
    models = catalog.parent / "care.models"
    assert {path.name for path in (models / "shapes").iterdir()} == {LAST, BEST, HISTORY}
    assert not list(models.rglob("*.pt")) and not list(models.rglob("*.part"))
    header = read_header(Path(model["file"]))
    assert header["names"] == list(NAMES) and header["input_size"] == 64 and header["shown"] == 0.25
    assert header["classes"] == {name: {"category": "animal", "species": name} for name in NAMES}
    assert header["training"]["recipe"] == {"settings": {"recipe": {"name": "shapes", "burst": 3}}}
    assert header["training"]["locations"] == ["train ridge 0", "train ridge 1"]
    assert header["training"]["settings"]["epochs"] == EPOCHS
    examined = header["metrics"]["examination"]
    assert examined["part"] == "test" and examined["photos"] == COUNTS["test"]
    assert [row["class"] for row in examined["classes"]] == list(NAMES)
    assert header["metrics"]["validation"].keys() == {"precision", "recall", "mAP50", "mAP50_95"}
    card = Path(model["card"]).read_text("utf-8")
    assert "by the recipe shapes" in card and "AGPL-3.0-or-later" in card and f"{COUNTS['test']} photos" in card
    assert f"{EPOCHS} epochs of at most {EPOCHS}" in " ".join(card.split())
    with Catalog(catalog) as opened:
        [row] = opened.trained_models()
    assert row["name"] == "shapes" and row["task"] == "detector" and row["licence"] == "AGPL-3.0-or-later"


def test_it_is_found_by_name_at_once(trained, folder: Path, monkeypatch, capfd) -> None:
    _, catalog = trained
    care = runner(monkeypatch, capfd, catalog)
    listed = care("models", "list", "--task", "detector", "--json").json
    assert [row["here"] for row in listed if row["name"] == "shapes"] == [True]
    assert "**What for.**" in care("models", "show", "shapes", "--json").json["card"]
    found = care("detect", folder / "images" / "test", "--model", "shapes", "--engine", "torch", "--json")
    assert found.code == 0 and found.json["images"] == COUNTS["test"]
    with Catalog(catalog) as opened:
        assert opened.run(found.json["run"], "detect")["model"] == "shapes"
    assert "trained in this catalog: shapes" in care("detect", folder / "images", "--model", "shapse").err


def test_the_same_command_finds_it_finished(trained, folder: Path, monkeypatch, capfd) -> None:
    done, catalog = trained
    care = runner(monkeypatch, capfd, catalog)
    again = care("train", "--method", "detector", "--data", folder, *OPTIONS, "--json").json
    assert again["models"][0]["new"] is False and again["models"][0]["run"] == done["models"][0]["run"]
    assert again["models"][0]["metrics"] == done["models"][0]["metrics"]
    other = care("train", "--method", "detector", "--data", folder, *OPTIONS, "--patience", "3")
    assert other.code == 2 and "There is a model 'shapes' already" in other.err


def test_detect_gives_the_boxes_of_the_trainers_model(trained, folder: Path) -> None:
    """Ultralytics' own suppression on the trainer's float32 weights, against our file in half precision."""
    import torch
    from ultralytics.utils.nms import non_max_suppression

    from care_cli import registry
    from care_cli.detectors import letterbox, load_detector
    from care_cli.training.state import read
    from care_cli.yolo import build_graph

    file = Path(trained[0]["models"][0]["file"])
    header = read_header(file)
    best = file.with_suffix("") / BEST
    identity = {
        "settings": header["training"]["settings"],
        "classes": list(NAMES),
        "data": header["training"]["data"]["train"],
        "validation": header["training"]["data"]["val"],
        "weights": None,
    }
    model = build_graph("yolo11n", NAMES).eval()
    model.load_state_dict(read(best, identity)[0])
    detector = load_detector(registry.find(file), file, engine="torch", precision="float32", least=0.001)
    for path in sorted((folder / "images" / "test").glob("*.jpg")):
        pixels = np.asarray(Image.open(path))
        seen = letterbox(pixels, 64, 32)
        with torch.no_grad():
            raw = model(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None].float() / 255)
        [rows] = non_max_suppression(raw[0], 0.001, 0.7, max_det=300)
        ours = detector.detect([pixels])[0]
        assert len(rows) and abs(len(ours) - len(rows)) <= 0.1 * len(rows) + 1
        top, best_one = rows[0].numpy(), ours[0]
        scale = pixels.shape[1] / 64
        offset = (seen.shape[0] - 48) / 2
        x1, y1, x2, y2 = (top[:4] - [0, offset, 0, offset]) * scale
        expected = np.clip([x1, y1, x2, y2], 0, [96, 72, 96, 72])
        x, y, w, h = best_one.box
        assert np.allclose([x, y, x + w, y + h], expected, atol=1.0)
        assert best_one.confidence == pytest.approx(top[4], abs=0.01) and best_one.label == NAMES[int(top[5])]


KILLED = """
import os, sys
from care_cli.yolo import prepare_ultralytics
prepare_ultralytics()
from care_cli import cli
from care_cli.training.detector_trainer import Training
honest = Training._on_train_batch_end
def fall(training):
    honest(training)
    if training.epoch == 1:
        os.kill(os.getpid(), 9)
Training._on_train_batch_end = fall
cli.main()
"""  # within the second epoch


def test_killed_it_goes_on_from_the_last_epoch_to_the_same_bits(trained, folder: Path, tmp_path, monkeypatch, capfd):
    """A process that is killed in the middle of an epoch, and the same command again."""
    whole, catalog = Path(trained[0]["models"][0]["file"]), tmp_path / "care.db"
    command = ["train", "--method", "detector", "--data", folder, *OPTIONS]
    words = [sys.executable, "-c", KILLED, "--catalog", catalog, "--device", "cpu", *command]
    root = str(Path(stage.__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    ended = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode in (-9, 9), ended.stderr
    left = tmp_path / "care.models"
    assert (left / "shapes" / LAST).exists() and not (left / "shapes.safetensors").exists()
    done = runner(monkeypatch, capfd, catalog)(*command, "--json")
    [model] = done.json["models"]
    assert model["resumed_from"] == 1 and model["epochs"] == EPOCHS
    ours, theirs = load_file(model["file"]), load_file(whole)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert model["metrics"] == trained[0]["models"][0]["metrics"]


def test_another_training_in_its_place_is_refused_by_what_differs(trained, folder: Path) -> None:
    out = Path(trained[0]["models"][0]["file"]).with_suffix("")
    cfg = DetectorConfig(**SETTINGS | {"mosaic": 0.5, "precision": "float32"})
    with pytest.raises(CareError, match=r"settings\.mosaic \(1\.0 there, 0\.5 here\)"):
        train_detector(read_folder(folder), cfg, out)


def test_it_begins_from_weights_that_fit_and_from_no_others(folder: Path, tmp_path) -> None:
    """From a detector of 80 classes, whose last layers are wider: all others are taken, and the file loads."""
    import torch

    from care_cli.checkpoints import load_state
    from care_cli.yolo import build_graph, load_model, save_detector

    names, start = [f"class {number}" for number in range(80)], tmp_path / "start.safetensors"
    torch.manual_seed(5)
    header = {"name": "coarse", "architecture": "yolo11n", "names": names, "input_size": 64}
    save_detector(build_graph("yolo11n", names), start, header)
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        asked = stage.DetectorRequest(data=folder, weights=str(start), backbone="yolo11s")
        with pytest.raises(CareError, match="not those of yolo11s"):
            stage.run(catalog, asked)
        still = {"epochs": 1, "optimizer": "SGD", "learning_rate": 1e-9, "weight_decay": 0.0}
        done = stage.run(catalog, stage.DetectorRequest(data=folder, weights=str(start), settings=SETTINGS | still))
    assert done["begun_from"] == "coarse" and done["backbone"] == "yolo11n"
    file = Path(done["models"][0]["file"])
    load_model(file, read_header(file))
    before, after = load_state(start), load_state(file)
    weights = [name for name in before if name.endswith("conv.weight") and ".cv3." not in name]
    assert len(weights) > 50
    assert all(np.allclose(before[name], after[name], atol=1e-5) for name in weights)


# -- folders that are not as they should be


BAD = {
    "wrong class": ("2 0.5 0.5 0.2 0.2", "is of no class from 0 to 1"),
    "half a class": ("0.5 0.5 0.5 0.2 0.2", "is of no class"),
    "no number": ("0 nan 0.5 0.2 0.2", "holds what is no number"),
    "infinite": ("0 0.5 0.5 inf 0.2", "holds what is no number"),
    "beyond": ("0 0.95 0.5 0.2 0.2", "lies outside the photo"),
    "negative": ("0 0.5 0.5 -0.2 0.2", "lies outside the photo"),
    "pixels": ("0 50 40 20 20", "lies outside the photo"),
    "words": ("cat 0.5 0.5 0.2 0.2", "is no class with centre"),
    "short": ("0 0.5 0.5 0.2", "is no class with centre"),
    "no text": ("\udcff", "cannot be read"),
}


@pytest.mark.parametrize("line,why", BAD.values(), ids=BAD)
def test_a_photo_with_an_unsound_label_is_left_out(line: str, why: str, tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("0 0.5 0.5 0.2 0.2\n" + line).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=why):
        read_labels(path, 2)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 4), *[st.floats(0.01, 0.99)] * 2, *[st.floats(0.002, 1)] * 2), max_size=6, unique=True
    )
)
def test_labels_come_back_as_they_were_written(boxes: list, tmp_path_factory) -> None:
    """Corners, centre and size of every box that lies in the photo, whatever the order; doubles once."""
    kept = [(label, x, y, min(w, 2 * x, 2 * (1 - x)), min(h, 2 * y, 2 * (1 - y))) for label, x, y, w, h in boxes]
    path = tmp_path_factory.mktemp("labels") / "a.txt"
    path.write_text("".join(" ".join(map(repr, box)) + "\n" for box in [*kept, *kept]))
    classes, found = read_labels(path, 5)
    assert classes.tolist() == [box[0] for box in dict.fromkeys(kept)]
    assert np.allclose(found, np.array([box[1:] for box in dict.fromkeys(kept)]).reshape(-1, 4), atol=1e-9)


def test_what_cannot_be_used_is_counted_and_named(folder: Path, tmp_path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    train, labels = copy / "images" / "train", copy / "labels" / "train"
    data = (train / "train0.jpg").read_bytes()
    (train / "train0.jpg").write_bytes(data[: len(data) // 2])
    (train / "train1.jpg").write_text("no photo")
    (train / "train2.jpg").unlink()
    (labels / "train4.txt").unlink()
    (labels / "train5.txt").write_text("7 0.5 0.5 0.2 0.2\n")
    read = read_folder(copy, notes=tmp_path / "notes.json")
    why = {fault["file"]: fault["why"] for fault in read.faults}
    assert why.keys() == {
        "train/train0.jpg", "train/train1.jpg", "labels/train/train2.txt", "train/train4.jpg", "train/train5.jpg",
    }  # fmt: skip
    assert why["labels/train/train2.txt"] == "its photo is missing"
    assert "that of an empty photo is empty" in why["train/train4.jpg"]
    assert len(read.photos("train")) == COUNTS["train"] - 5
    again = read_folder(copy, notes=tmp_path / "notes.json")
    assert again.digest("train") == read.digest("train") and again.faults == read.faults
    assert read.digest("train") != read_folder(folder).digest("train")


def test_photos_are_read_as_they_stand_upright(tmp_path) -> None:
    """A photo that the camera held sideways: its label is of the upright one, and so is what is learned from."""
    from care_cli.yolo import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.cfg import get_cfg

    from care_cli.training.detector_trainer import Photos

    folder = write_folder(tmp_path / "f", {"train": 1, "val": 1})
    upright = np.zeros((120, 80, 3), np.uint8)
    upright[60:110, 10:30] = (250, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    side = Image.fromarray(np.rot90(upright))
    side.save(folder / "images" / "train" / "train0.jpg", exif=exif, quality=95)
    (folder / "labels" / "train" / "train0.txt").write_text(f"0 {20 / 80} {85 / 120} {20 / 80} {50 / 120}\n")
    read = read_folder(folder)
    [photo] = read.photos("train")
    assert (photo.width, photo.height) == (80, 120) and np.allclose(photo.corners, [[10, 60, 20, 50]])
    data = {"names": dict(enumerate(NAMES)), "nc": 2, "channels": 3}
    plain = {"imgsz": 64, "batch_size": 1, "augment": False, "hyp": get_cfg(), "stride": 32, "data": data}
    image, whole, size = Photos(read.photos("train"), 0, 1, **plain).load_image(0)
    assert whole == (120, 80) and size == (64, 43)
    blue, _, red = image[45, 11].astype(int)
    assert red > 200 and blue < 80  # BGR, in the middle of the shape
    assert np.abs(image.astype(int) - cv2.resize(upright[..., ::-1], (43, 64))).mean() < 6


def test_folders_that_teach_nothing_are_refused(folder: Path, tmp_path) -> None:
    with pytest.raises(CareError, match="is no training folder"):
        read_folder(tmp_path)
    bare = write_folder(tmp_path / "bare", {"train": 4})
    with pytest.raises(CareError, match=r"images.val, but found none there"):
        check_learnable(read_folder(bare))
    empty = write_folder(tmp_path / "empty", {"train": 4, "val": 4})
    for path in (empty / "labels" / "train").glob("*.txt"):
        path.write_text("")
    with pytest.raises(CareError, match="nothing can be told"):
        check_learnable(read_folder(empty))
    for names in ("[cat, cat]", "[]", "7", "{0: cat, 2: dog}"):
        (empty / "data.yaml").write_text(f"names: {names}\n")
        with pytest.raises(CareError, match=r"data\.yaml"):
            read_folder(empty)
    (empty / "data.yaml").unlink()
    with pytest.raises(CareError, match="is missing; it names the classes"):
        read_folder(empty)


def test_parts_that_share_places_or_photos_are_refused(tmp_path, monkeypatch, capfd) -> None:
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    folder = write_folder(tmp_path / "f", {"train": 4, "val": 4, "test": 4})
    rows = [(f"{part}{i}.jpg", part, "north" if part != "val" else "south") for part in COUNTS for i in range(4)]
    write_places(folder, rows)
    refused = care("train", "--method", "detector", "--data", folder, "--weights", "none")
    assert refused.code == 2 and "1 places of the part test are learned from too (north)" in refused.err
    (folder / "photos.csv").unlink()
    shutil.copy(folder / "images" / "train" / "train0.jpg", folder / "images" / "val" / "val0.jpg")
    refused = care("train", "--method", "detector", "--data", folder, "--weights", "none")
    assert refused.code == 2 and "1 photos of the part val are learned from too (val/val0.jpg)" in refused.err


def test_a_class_without_examples_is_said(folder: Path, tmp_path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "data.yaml").write_text("names: [box, disc, kiwi]\n")
    said = []
    with Catalog(tmp_path / "care.db", create=True, notice=said.append) as catalog:
        cfg = stage.settings_of(request := stage.DetectorRequest(data=copy), None, None)
        training = stage.Training(catalog, request, read_folder(copy), cfg, None, None, tmp_path)
    assert training.without_examples == ["kiwi"] and "Nothing to learn from for: kiwi." in said


REFUSED = {
    "no folder": (["--method", "detector", "--weights", "none"], "name it with --data"),
    "no weights": (["--method", "detector", "--data", "."], "--weights none"),
    "species": (["--method", "detector", "--species", "Cat"], "--species is not for --method detector"),
    "split": (["--method", "detector", "--split-by", "site"], "--split-by is not for --method detector"),
    "data": (["--method", "vit", "--data", "."], "--data is not for --method vit"),
    "patience": (["--patience", "3"], "--patience is not for --method ckpe"),
    "batch": (["--method", "detector", "--data", ".", "--batch", "16x4"], "--batch of a detector is a whole number"),
    "epochs": (["--method", "detector", "--data", ".", "--epochs", "1.5"], "--epochs of a detector is a whole number"),
    "setting": (["--method", "detector", "--data", ".", "--set", "ema=0.9"], "names are input_size, epochs, patience"),
    "kind": (["--method", "detector", "--data", ".", "--set", "momentum=much"], "momentum is a number"),
    "size": (["--method", "detector", "--data", ".", "--size", "100"], "input_size is a multiple of 32"),
    "rate": (["--method", "detector", "--data", ".", "--learning-rate", "0.1"], "'auto' sets its own learning rate"),
    "precision": (["--method", "detector", "--data", ".", "--precision", "float16"], "auto, float32 or bfloat16"),
    "backbone": (["--method", "detector", "--data", ".", "--backbone", "tiny"], "no detection architecture 'tiny'"),
    "weights": (["--method", "detector", "--data", ".", "--weights", "vit-small"], "needs a model of 'detector'"),
}


@pytest.mark.parametrize("arguments,why", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_by_name(arguments: list, why: str, tmp_path, monkeypatch, capfd) -> None:
    catalog = tmp_path / "care.db"
    Catalog(catalog, create=True).close()
    done = runner(monkeypatch, capfd, catalog)("train", *arguments)
    assert done.code == 2 and why in done.err


def test_a_recipe_is_trained_from_and_what_is_missing_is_said(tmp_path, monkeypatch, capfd) -> None:
    """Drawn shapes with labels, from the catalog by a recipe whose settings are given beside the training's."""
    photos = write_folder(tmp_path / "shapes", {"train": 12})
    (photos / "images" / "train" / "train0.jpg").rename(tmp_path / "elsewhere.jpg")
    images, boxes = [], []
    for i in range(12):
        images.append({"id": i, "file_name": f"train{i}.jpg", "location": f"ridge {i % 6}", "width": 96, "height": 72})
        for line in (photos / "labels" / "train" / f"train{i}.txt").read_text().splitlines():
            kind, x, y, w, h = map(float, line.split())
            box = [(x - w / 2) * 96, (y - h / 2) * 72, w * 96, h * 72]
            boxes.append({"id": i, "image_id": i, "category_id": int(kind), "bbox": box})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    recipe = tmp_path / "shapes.toml"
    recipe.write_text('name = "shapes"\n[classes]\nbox = []\ndisc = []\n')
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    assert care("import", "labels", labels, "--images", photos / "images" / "train").code == 0
    command = ["train", "--method", "detector", "--recipe", recipe, *OPTIONS, "--set", "val=0.2", "--set", "test=0.2"]
    done = care(*command, "--json")
    assert done.code == 1, done.err
    assert done.json["missing"] == 1 and "The originals of 1 more photos" in " ".join(done.json["remarks"])
    assert sum(part["photos"] for part in done.json["parts"]) == len({box["image_id"] for box in boxes}) - 1
    settings = read_header(Path(done.json["models"][0]["file"]))["training"]["recipe"]["settings"]["recipe"]
    assert settings["val"] == settings["test"] == 0.2
    assert care(*command, "--json").json["models"][0]["new"] is False


def test_a_loss_that_is_no_number_ends_the_training(folder: Path, tmp_path, monkeypatch) -> None:
    from care_cli.yolo import prepare_ultralytics

    prepare_ultralytics()
    from care_cli.training.detector_trainer import Network

    honest = Network.loss
    monkeypatch.setattr(Network, "loss", lambda *args: tuple(one * float("nan") if i == 0 else one
                                                             for i, one in enumerate(honest(*args))))  # fmt: skip
    cfg = DetectorConfig(**SETTINGS | {"epochs": 1})
    with pytest.raises(CareError, match="no longer a number in epoch 1"):
        train_detector(read_folder(folder), cfg, tmp_path / "out")
    assert not (tmp_path / "out" / LAST).exists()
