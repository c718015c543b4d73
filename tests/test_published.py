"""Published figures are those of the papers, and data sets are told by what they are called or count."""

from __future__ import annotations

import re

import pytest

from care_cli.evaluation import published

NAMES = {"Tiger": "ATRW", "Cattle": "FriesianCattle2017", "Lion": "LionData", "Dog": "MPDD", "Panda": "IPanda50",
         "Sea Star": "SeaStarReID2023", "Nyala": "NyalaData", "Stoat": "Stoat"}  # fmt: skip


def test_figures_read_off_the_papers():
    assert published.cells("care", 1, "ATRW")["w = 4"] == {"mAP": 56.8, "mAP_half": 0.2, "top1": 95.3, "top1_half": 0.1}
    assert published.cells("care", 2, "NyalaData")["margin 0.7"]["top1"] == 29.0
    assert published.cells("ckpe", 1, "Giraffes") == {
        "WildlifeDatasets": {"top1": 41.0}, "KPE": {"top1": 89.6}, "CKPE": {"top1": 91.1}
    }  # fmt: skip
    assert published.cells("ckpe", 4, "MacaqueFaces")["base, none"] == {"top1": 92.5}
    assert published.cells("ckpe", 7, "MacaqueFaces")["huge, keypoints"] == {"top1": 99.6}
    assert published.cells("ckpe", 4, "ATRW") == {}


def test_every_cell_of_the_care_paper(shared):
    """Line by line the text of the paper's Tables 1 and 2."""
    [text] = [text for file in (shared / "seeds").glob("*.txt") if "VDTDG" in (text := file.read_text("utf-8"))]
    lines = re.findall(r"^(" + "|".join(NAMES) + r")\t(.*±.*)$", text, re.MULTILINE)
    assert len(lines) == 2 * len(NAMES)
    for place, (name, line) in enumerate(lines):
        said = [[float(one) for one in cell.split("±")] for cell in line.split("\t") if cell]
        ours = published.cells("care", 1 + place // len(NAMES), NAMES[name]).values()
        assert [one for pair in zip(said[::2], said[1::2], strict=True) for one in pair] == [
            [cell[metric], cell[f"{metric}_half"]] for cell in ours for metric in ("mAP", "top1")
        ], name


def test_gains_that_the_papers_claim():
    """CKPE's own text: 6.2, 21.0 and 24.2 points above the baseline; margin 0.7 has the best mAP on five data sets."""
    gains = []
    for dataset in ("MacaqueFaces", "IPanda50", "CTai"):
        row = published.cells("ckpe", 1, dataset)
        gains.append(round(row["CKPE"]["top1"] - row["WildlifeDatasets"]["top1"], 1))
    assert gains == [6.2, 21.0, 24.2]
    best = []
    for dataset in NAMES.values():
        row = published.cells("care", 2, dataset)
        best.append(max(row, key=lambda setting: row[setting]["mAP"]))
    assert best.count("margin 0.7") == 5


def test_splits_sum_to_the_counts_of_the_data_sets():
    """Gallery and query are of the same individuals, and none of them trains."""
    for name, about in published.published()["datasets"].items():
        if "split" in about:
            parts = about["split"]
            assert parts["gallery"][0] == parts["query"][0]
            assert parts["train"][0] + parts["query"][0] == about["individuals"], name
            assert sum(images for _, images in parts.values()) == about["images"], name


@pytest.mark.parametrize(
    ("folders", "counts", "expected"),
    [
        (["lion_data"], (19, 146), "LionData"),
        (["nyala_train_288"], (179, 1213), "NyalaData"),
        (["ATRW-sample"], (20, 77), "ATRW"),
        (["IPanda-50"], (50, 6874), "IPanda50"),
        (["my photos"], (94, 740), "LionData"),
        (["my photos"], (94, 741), None),
        (["lion_data", "nyala"], (90, 700), None),
        (["nyala of our park"], (400, 9000), None),
        (["octail"], (10, 50), None),
        (["MetaWild-stoat"], (253, 6733), "MetaWildStoat"),
        ([], (0, 0), None),
    ],
)
def test_a_data_set_is_recognised(folders, counts, expected):
    assert published.recognise(folders, *counts) == expected


def test_rows_beside_ours_say_what_they_lack():
    rows = published.beside("LionData")
    assert {(row["paper"], row["setting"]) for row in rows} == {
        ("care", "w = 4"), ("clip-zero-shot", "CLIP, frozen"), ("megadescriptor", "MegaDescriptor-L-384")
    }  # fmt: skip
    assert all(row["needs"] and row["protocol"] and row["title"] for row in rows)
    care, clip, mega = rows
    assert care["mAP"] == {"value": 40.3, "half": 0.3} and clip["top1"] == {"value": 14.8, "half": None}
    assert mega["mAP"] is None
    [line] = published.differences("LionData", 20, 100)
    assert "20 individuals in 100 crops" in line and "19 in 146 photos" in line
    assert published.differences("LionData", 19, 146) == []
