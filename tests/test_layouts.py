"""Known data sets, each written as it is published in miniature: who is on which photo, which copy is what, counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import runner

from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.evaluation.published import counted, published
from care_cli.exchange import layouts
from care_cli.exchange.dataset_table import Dataset
from care_cli.records import Selection
from care_cli.stages import import_dataset


def photos(root: Path, *paths: str) -> Path:
    """Small JPEGs, no two alike."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, len(path)]).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(root / path, "JPEG")
    return root


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def atrw(root: Path) -> Path:
    photos(
        root, "atrw_reid_train/train/000001.jpg", "atrw_reid_train/train/000002.jpg", "atrw_reid_test/test/000007.jpg",
        "atrw_detection_test/test/0007.jpg",
    )  # fmt: skip
    text(root / "atrw_anno_reid_train/reid_list_train.csv", "250,000001.jpg\n17,000002.jpg\n17,000099.jpg\n")
    plain = [{"query": "sing", "entityid": 199, "frame": [23, 4, 657], "imgid": 7}]
    wild = {"7": [{"bbox": [2, 3, 12, 9], "query": "multi", "eid": 16, "fid": [1, 9, 16]},
                  {"bbox": [1, 1, 5, 5], "query": "multi", "eid": 87, "fid": [1, 9, 16]}]}  # fmt: skip
    annotations = root / "eval_script/ATRWEvalScript-main/annotations"
    text(annotations / "gt_test_plain.json", json.dumps(plain))
    text(annotations / "gt_test_wild.json", json.dumps(wild))
    return root


def macaques(root: Path) -> Path:
    photos(root, "MacaqueFaces/Contrast/Dan/Macaque_Face_1.jpg", "MacaqueFaces/Good/Judd/Macaque_Face_9.jpg")
    text(root / "MacaqueFaces_ImageInfo.csv",
         "FileName,Path,ID,Group,Category,DateTaken\n"
         "Macaque_Face_1.jpg,/Contrast/Dan,Dan,G58,Contrast,03-07-2014\n"
         "Macaque_Face_9.jpg,/Good/Judd,Judd,G46,Good,21-07-2015\n")  # fmt: skip
    return root


def chimpanzees(root: Path) -> Path:
    folder = root / "chimpanzee_faces-master/datasets_cropped_chimpanzee_faces/data_CTai"
    photos(folder, *(f"face_images/img-id{number}-object-1.png" for number in (1, 2, 3)))
    rest = "Age 32 Age_group Adult Gender Male RightEye 81 82 LeftEye 159 102 MouthCenter Inf Inf \n"
    lines = [f"face_images/img-id{n}-object-1.png Name {name} {rest}" for n, name in enumerate(("Freddy", "Adult"), 1)]
    text(folder / "annotations_ctai.txt", "".join(lines))
    return root


# name of the folder, what is written there, and of each photo found: path's end, identity, and more that is told
PUBLISHED = {
    "ATRW": ("ATRW", atrw, [
        ("000001.jpg", "250", {}), ("000002.jpg", "17", {}), ("000007.jpg", "199", {}),
        ("0007.jpg", "16", {"box": (2, 3, 10, 6)}), ("0007.jpg", "87", {"box": (1, 1, 4, 4)})]),
    "FriesianCattle2017": ("FriesianCattle2017", lambda root: photos(root, "2yizc/005/a.jpg", "2yizc/017/b.jpg"), [
        ("005/a.jpg", "005", {}), ("017/b.jpg", "017", {})]),
    "LionData": ("main", lambda root: photos(
        root, "Lion_Data_Zero/train/Ayo/Ayo_Left_Face.png", "Lion_Data_Zero/val/Amber/Amber_Nose.png"), [
        ("Ayo_Left_Face.png", "Ayo", {"part": "train"}), ("Amber_Nose.png", "Amber", {"part": "val"})]),
    "MPDD": ("Multi-pose dog dataset", lambda root: photos(
        root, "pytorch/train/12_3_7.jpg", "pytorch/gallery/80_1_2.jpg", "pytorch/query/80_-1_3_x.jpg"), [
        ("12_3_7.jpg", "12", {"part": "train", "camera": "3"}), ("80_1_2.jpg", "80", {"part": "gallery"}),
        ("80_-1_3_x.jpg", "80", {"part": "query", "camera": None})]),
    "IPanda50": ("pandas", lambda root: photos(
        root, "iPanda50-images/00_aoyun/1.jpg", "iPanda50-images/01_baidian/2.jpg"), [
        ("00_aoyun/1.jpg", "00_aoyun", {}), ("01_baidian/2.jpg", "01_baidian", {})]),
    "SeaStarReID2023": ("stars", lambda root: photos(root, "sea-star-re-id/Anau02/1.JPG", "sea-star-re-id/Asru1/2.JPG"),
        [("Anau02/1.JPG", "Anau02", {}), ("Asru1/2.JPG", "Asru1", {})]),
    "NyalaData": ("Nyala_Data_Zero", lambda root: photos(
        root, "train/60/630_leftphoto.jpg", "test/1/14_rightphoto(1).jpg"), [
        ("630_leftphoto.jpg", "60", {"part": "train", "flank": "left", "event": "630"}),
        ("14_rightphoto(1).jpg", "1", {"part": "test", "flank": "right", "event": "14"})]),
    "Stoat": ("Stoat", lambda root: photos(root, "train/1_CREK_2.jpg", "gallery/1_FC01_5.jpg", "query/1_FC-1_6.jpg"), [
        ("1_CREK_2.jpg", "train-1", {"part": "train", "camera": "CREK"}), ("1_FC01_5.jpg", "test-1", {}),
        ("1_FC-1_6.jpg", "test-1", {"part": "query"})]),
    "MetaWildStoat": ("MetaWild stoat", lambda root: photos(root, "train/1_C1_2.jpg", "gallery/9_C2_5.jpg"), [
        ("1_C1_2.jpg", "1", {"part": "train", "camera": "C1"}), ("9_C2_5.jpg", "9", {"part": "gallery"})]),
    "MacaqueFaces": ("macaques", macaques, [
        ("Dan/Macaque_Face_1.jpg", "Dan", {"date": "2014-07-03", "event": "2014-07-03"}),
        ("Judd/Macaque_Face_9.jpg", "Judd", {"date": "2015-07-21"})]),
    "Giraffes": ("giraffes", lambda root: photos(
        root, "pbil/miele2021/clusters/ind7/IMG_20140203_1.jpg", "pbil/miele2021/clusters/ind8/IMG_None_2.jpg"), [
        ("IMG_20140203_1.jpg", "ind7", {"date": "2014-02-03"}), ("IMG_None_2.jpg", "ind8", {"date": None})]),
    "CTai": ("apes", chimpanzees, [("id1-object-1.png", "Fredy", {}), ("id2-object-1.png", "unknown", {})]),
}  # fmt: skip


def test_every_data_set_of_the_papers_is_known():
    assert set(PUBLISHED) == set(layouts.known()) == set(published()["datasets"])
    assert all(about["where"] and about["licence"] and about["called"] for about in layouts.known().values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_set_is_read_as_it_is_published(name, tmp_path):
    folder, write, expected = PUBLISHED[name]
    root = write(tmp_path / folder)
    assert layouts.recognise(root) == name
    found, lost = layouts.read(root, name)
    assert len(found) == len(expected)
    for end, identity, told in expected:
        [one] = [one for one in found if one.found.path.as_posix().endswith(end) and one.identity == identity]
        assert {key: getattr(one, key) for key in told} == told
    assert len(lost) == (1 if name == "ATRW" else 0)  # 000099.jpg, which a table names


def test_what_is_no_known_data_set_is_none(tmp_path):
    ours = photos(tmp_path / "our herd", *(f"{cow:03}/{photo}.jpg" for cow in range(3) for photo in range(2)))
    assert layouts.recognise(ours) is None  # as Friesian cattle are laid out, but not called so
    mixed = photos(tmp_path / "mixed", "Lion_Data_Zero/train/Ayo/Ayo_Body.png", *(f"DCIM/{n}.jpg" for n in range(9)))
    assert layouts.recognise(mixed) is None
    with pytest.raises(CareError, match=r"not laid out as LionData.*tvanzyl"):
        layouts.read(ours, "LionData")
    text(tmp_path / "apes" / "annotations_ctai.txt", "face_images/none.png Name Fredy Age 3\n")
    assert layouts.recognise(tmp_path / "apes") is None
    text(macaques(tmp_path / "bad") / "gt_test_plain.json", "[{")
    assert layouts.recognise(tmp_path / "bad") == "MacaqueFaces"


def test_public_stoats_are_not_taken_for_the_papers(tmp_path):
    for animal in ("stoat", "deer"):
        photos(tmp_path / "MetaWild" / animal, "train/1_C1_2.jpg", "gallery/9_C2_5.jpg", "query/9_C1_3.jpg")
    assert layouts.recognise(tmp_path / "MetaWild" / "stoat") == "MetaWildStoat"
    assert layouts.recognise(tmp_path / "MetaWild" / "deer") is None
    assert layouts.recognise(tmp_path / "MetaWild") is None  # all its animals


@pytest.mark.parametrize("content", ["[{", "[3]", '{"a": 3}', '[{"entityid": 1}]', "[" * 9999])
def test_a_table_that_is_not_as_published_is_named(content, tmp_path):
    root = atrw(tmp_path / "ATRW")
    text(root / "eval_script/ATRWEvalScript-main/annotations/gt_test_plain.json", content)
    with pytest.raises(CareError, match=r"gt_test_plain\.json cannot be read as it is published"):
        layouts.read(root, "ATRW")


def test_counts_are_compared_with_the_papers():
    cattle = {str(number): 11 for number in range(84)} | {str(number): 1 for number in range(90, 95)}
    used, lines = counted("FriesianCattle2017", cattle)
    assert len(used) == 84 and "5 individuals of a single photo" in lines[0] and "OTHER PHOTOS" not in lines[1]
    assert "924" in lines[1] and "84 in 934" in lines[1] and "A PART" in lines[1]
    assert counted("LionData", {str(n): 7 for n in range(93)} | {"z": 89})[1] == [
        "counts as published: 94 individuals in 740 photos"
    ]
    assert "OTHER PHOTOS" in counted("MPDD", {str(n): 2 for n in range(300)})[1][0]
    assert "do not say" in counted("Giraffes", {"a": 2, "b": 3})[1][0]


def test_import_recognises_a_data_set_and_says_so(tmp_path, monkeypatch, capfd):
    lions = photos(
        tmp_path / "Lion_Data_Zero", *(f"{part}/{name}/{name}_{face}.png" for part, name in
        (("train", "Ayo"), ("val", "Amber")) for face in ("Left_Face", "Right_Ear", "Nose")),
    )  # fmt: skip
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    done = care("import", "dataset", lions, "--json")
    assert done.code == 0 and done.json["layout"] == "LionData" and "A PART OF THE DATA SET" in done.json["notes"][0]
    rows = care("crops", "--json").json
    assert Counter(row["individual"] for row in rows) == {"Ayo": 3, "Amber": 3}
    assert Counter(row["flank"] for row in rows) == {"left": 2, "right": 2, None: 2}
    assert {row["species"] for row in rows} == {"lion"}
    assert care("import", "dataset", lions, "--json").json["new"] == 0
    assert care("import", "dataset", lions, "--layout", "MPDD").code == 2
    assert care("import", "dataset", lions, "--layout", "MPDD", "--csv", "x.csv").code == 2
    plain = runner(monkeypatch, capfd, tmp_path / "plain.db")
    assert "layout" not in plain("import", "dataset", lions, "--layout", "none", "--json").json
    assert {row["species"] for row in plain("crops", "--json").json} == {None}


def test_cameras_boxes_and_dates_come_into_the_catalog(tmp_path):
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        for name in ("MPDD", "MacaqueFaces", "ATRW"):
            folder, write, _ = PUBLISHED[name]
            import_dataset.run(catalog, Dataset(write(tmp_path / folder), layout=name, prefix=f"{name} "))
        rows = {row["individual"]: row for row in catalog.crop_rows(Selection())}
    assert rows["MPDD 12"]["deployment"] == "Multi-pose dog dataset camera 3"
    assert rows["MacaqueFaces Dan"]["taken_at"] == "2014-07-03 00:00:00"
    assert [rows["ATRW 16"][side] for side in "xywh"] == [2, 3, 10, 6]


@pytest.mark.parametrize(
    ("folder", "name", "individuals", "count"),
    [("lion_data", "LionData", 94, 740), ("nyala_train_288", "NyalaData", 179, 1213), ("atrw_sample", "ATRW", 20, 77)],
)
def test_real_copies_are_recognised_and_counted(shared, folder, name, individuals, count):
    root = shared / "data" / "reid" / folder
    assert layouts.recognise(root) == name
    found, lost = layouts.read(root, name)
    assert (len({one.identity for one in found}), len(found), lost) == (individuals, count, [])
    if name == "LionData":
        assert Counter(one.part for one in found) == {"train": 594, "val": 146}
    if name == "NyalaData":
        assert {one.flank for one in found} == {"left", "right"} and all(one.event for one in found)
