"""`care evaluate table`: data sets found, divided as published, done once and never twice; what is missing is said."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import runner

from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.evaluation import paper_tables, protocols
from care_cli.evaluation.ablations import Cell
from care_cli.evaluation.metrics import METRICS
from care_cli.evaluation.published import published
from care_cli.exchange import layouts
from care_cli.features import FeatureConfig
from care_cli.records import Selection
from care_cli.stages import (
    benchmark,
    cell_words,
    cells,
    evaluate_reid,
    split_lists,
    table,
    table_report,
    train,
    trained,
)
from care_cli.stages.cells import Recipe
from care_cli.stages.evaluation_data import crops_of
from care_cli.stages.split_lists import Line
from care_cli.stages.table import TableConfig
from care_cli.stages.train_settings import TrainRequest
from care_cli.training import methods

SETTINGS = {"input_size": 32, "options": {"img_size": 32}, "epochs": 0.5, "individuals": 3, "photos": 2,
            "accumulate": 1, "arc_scale": 16.0, "learning_rate": 0.01}  # fmt: skip


def coats(root: Path, paths: dict[str, list[str]]) -> Path:
    """Small photos of individuals that differ in colour."""
    for animal, own in enumerate(paths.values()):
        coat = np.random.default_rng(animal).integers(30, 226, 3)
        for number, path in enumerate(own):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([animal, number]).integers(-30, 30, (40, 48, 3))
            Image.fromarray((coat + noise).clip(0, 255).astype(np.uint8)).save(root / path, "JPEG")
    return root


def lions(root: Path) -> Path:
    """Six lions to learn from and four to be asked about, four photos each, none of them in the list of the real."""
    parts = ["train"] * 6 + ["val"] * 4
    return coats(root, {str(n): [f"Lion_Data_Zero/{part}/Leo{n}/Leo{n}_{face}.png" for face in "abcd"]
                        for n, part in enumerate(parts)})  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Lions, and macaques without any table of theirs."""
    root = tmp_path_factory.mktemp("data")
    lions(root / "LionData")
    return coats(root, {"x": ["MacaqueFaces/Good/Dan/1.jpg"]})


@pytest.fixture(autouse=True, scope="module")
def small():
    """Table 2 of the CARE paper as two cells of a method that is quick to train, and one that is not trained."""

    def columns(size):
        frozen = Cell(size, "frozen", None, begins="demo-embedder", paper=("clip-zero-shot", None, "CLIP, frozen"))
        return [frozen, *(Cell(size, f"margin {margin}", "vit", settings={"triplet_margin": margin},
                               paper=("care", 2, f"margin {margin}")) for margin in (0.1, 0.7))]  # fmt: skip

    small = paper_tables.Table("the margin", ("LionData", "MPDD"), ("own",), columns, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "TABLES", {**paper_tables.TABLES, ("care", "2"): small})
        yield


@pytest.fixture
def cfg(data, tmp_path):
    return config(data, tmp_path / "tables")


def config(data: Path, out: Path) -> TableConfig:
    examine = evaluate_reid.EvaluateConfig(open_share=0, engine="torch")
    recipe = Recipe(as_paper=True, request=TrainRequest(settings=SETTINGS), examine=examine)
    return TableConfig("care", "2", data, out, sizes=("test_vit",), seeds=1, recipe=recipe)


# -- tables as data


def test_every_table_has_its_cells_and_published_figures():
    """All data sets of a table are known by layout; each column has the paper's figure, Tables as the papers number."""
    assert set(paper_tables.TABLES) == {("ckpe", str(n)) for n in range(1, 8)} | {
        ("care", "1"), ("care", "2"), ("care", "methods")}  # fmt: skip
    for (paper, number), one in paper_tables.TABLES.items():
        assert set(one.datasets) <= set(layouts.known())
        every = [cell for size in one.sizes for cell in one.cells(size)]
        printed = [cell for cell in every if cell.paper and cell.paper[0] == paper]
        if number != "methods":
            columns = next(t["settings"] for t in published()["tables"] if (t["paper"], t.get("number")) == (
                paper, int(number)))  # fmt: skip
            assert sorted(cell.paper[2] for cell in printed) == sorted(columns)
            papers = [name for name in one.datasets if name != paper_tables.PUBLIC_STOATS]
            assert all(cell.published(name) for cell in printed for name in papers)
    assert paper_tables.TABLES["care", "1"].datasets == paper_tables.CARE_SETS and len(paper_tables.CARE_SETS) == 9
    methods = paper_tables.TABLES["care", "methods"].cells("own")
    assert [cell.method for cell in methods] == [None, "clip-ft", "clip-reid", "transreid", "adafreq", "care"]
    assert methods[0].published("LionData") == pytest.approx({"mAP": 0.137, "top1": 0.148})
    assert methods[-1].published("LionData")["mAP"] == pytest.approx(0.403)


def test_the_schedule_of_a_data_set_is_the_papers():
    assert paper_tables.schedules("LionData") == {"care": ("lion",)} and paper_tables.schedules("MacaqueFaces") == {}
    cfg = methods.configure("care", presets=paper_tables.schedules("LionData")["care"])
    assert (cfg.learning_rate, cfg.individuals * cfg.photos, cfg.epochs) == (8e-6, 32, 60)
    known = methods.presets("care")
    assert set(paper_tables.SCHEDULES) == set(paper_tables.CARE_SETS) and set(paper_tables.SCHEDULES.values()) <= known


# -- lists and protocols


def test_a_list_says_who_asks_whom():
    """Against plain loops: only queries of the list ask, only its gallery answers, others do neither."""
    chance = np.random.default_rng(3)
    names = np.array(["a", "a", "b", "b", "c", "c", "a"])
    none = np.full(7, "")
    crops = protocols.Crops(np.arange(7) + 10, names, np.arange(7), np.full(7, -1), none, none, none, none)
    vectors = chance.normal(size=(7, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    protocol = protocols.Protocol("list", queries=(10, 12, 14), gallery=(11, 13, 15))
    queries, gallery = protocols.sides(crops, protocol)
    found = protocols.answers(crops, vectors, protocol, queries, gallery)
    assert (
        found.query.tolist() == [0, 2, 4] and found.compared.tolist() == [3, 3, 3] and found.right.tolist() == [1] * 3
    )
    for place, query in enumerate((0, 2, 4)):
        order = sorted((1, 3, 5), key=lambda one: -float(vectors[query] @ vectors[one]))
        rank = [names[one] for one in order].index(names[query]) + 1
        assert found.first[place] == rank and found.precision[place] == pytest.approx(1 / rank)
    may = np.arange(7) != 2
    assert protocols.sides(crops, protocol, may)[0].tolist() == [0, 4]
    for wrong in (
        {"kind": "list"},
        {"kind": "loo", "queries": (1,), "gallery": (2,)},
        {"kind": "list", "queries": (1,)},
    ):
        with pytest.raises(CareError, match="needs both"):
            protocols.Protocol(**wrong)


# -- data sets in catalogs


def test_the_lions_are_divided_as_the_paper_divides_them(shared, tmp_path):
    """A.3: 75 lions with 594 photos train, 61 photos of 19 others ask 85; and the same anywhere, as the list ships."""
    [copy] = benchmark.find(shared / "data" / "reid", ["LionData"]).values()
    assert copy.notes == ("counts as published: 94 individuals in 740 photos",)
    with Catalog(tmp_path / "LionData.db", create=True) as catalog:
        divided = benchmark.prepare(catalog, copy, "care")
        parts = catalog.split_parts("care")
        names = catalog.names_of_crops(parts)
        sizes = {part: (len({names[crop] for crop, its in parts.items() if its == part}),
                        list(parts.values()).count(part)) for part in ("train", "test")}  # fmt: skip
        assert sizes == {"train": (75, 594), "test": (19, 146)}
        asks, answers = divided.protocol.queries, divided.protocol.gallery
        assert (len(asks), len(answers)) == (61, 85) and {parts[crop] for crop in (*asks, *answers)} == {"test"}
        assert {names[crop] for crop in asks} == {names[crop] for crop in answers} and not set(asks) & set(answers)
        assert any("the split has the published sizes" in note for note in divided.notes)
        assert benchmark.prepare(catalog, copy, "care").protocol == divided.protocol
        assert benchmark.standing(catalog, "LionData", "care").protocol == divided.protocol
        shipped = (benchmark.LISTS / "LionData.csv").read_text("utf-8")
        drawn = benchmark._sided("LionData", [replace(line, part="") for line in split_lists.read(
            benchmark.LISTS / "LionData.csv")], {names[crop] for crop in asks})  # fmt: skip
        assert split_lists.written(drawn) == shipped  # the list is what the seed draws
        loo = benchmark.prepare(catalog, copy, "ckpe")
        assert loo.protocol == protocols.Protocol() and set(catalog.split_parts("ckpe").values()) == {"train", "test"}


def test_an_official_split_stands_and_others_are_drawn(tmp_path):
    own = {str(n): [f"{part}/{n}_1_{k}.jpg" for k, part in enumerate(("train",) * 4 if n < 5 else (
        "gallery", "gallery", "query", "gallery"))] for n in range(8)}  # fmt: skip
    for name, folder in (("MPDD", "MPDD"), ("SeaStarReID2023", "stars")):
        if name == "MPDD":
            root = coats(tmp_path / folder, own)
        else:
            root = coats(tmp_path / folder, {str(n): [f"Anau{n}/{k}.jpg" for k in range(4)] for n in range(8)})
        with Catalog(tmp_path / f"{name}.db", create=True) as catalog:
            divided = benchmark.prepare(catalog, benchmark.look(root, name), "care")
            by_part = Counter(line.part for line in split_lists.read(tmp_path / f"{name}.csv"))
        notes = " ".join(divided.notes)
        assert "A PART OF THE DATA SET" in notes and "THE SPLIT DIFFERS" in notes and "last epoch" in notes
        if name == "MPDD":
            assert by_part == {"train": 20, "gallery": 9, "query": 3} and "divided as it is published" in notes
        else:  # at least two individuals, 14 of 95 are fewer; half of their photos ask, as 189 of 419
            assert by_part == {"train": 24, "gallery": 4, "query": 4} and "drawn by seed 666" in notes


def test_a_list_finds_its_photos_wherever_they_lie(tmp_path):
    root = lions(tmp_path / "deep" / "folder")
    lines = [Line("val/Leo6/Leo6_a.png", "Leo6", "query"), Line("val/Leo6/Leo6_b.png", "Leo6", "gallery"),
             Line("val/Leo6/Leo6_a.png", "Leo7", "gallery"), Line("val/Leo9/none.png", "Leo9", "query")]  # fmt: skip
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        benchmark.import_dataset.run(catalog, benchmark.Dataset(root, layout="LionData"))
        found, lost = split_lists.matched(catalog, lines)
        assert sorted(line.part for line in found.values()) == ["gallery", "query"]
        assert [(line.individual, line.path) for line in lost] == [
            ("Leo7", "val/Leo6/Leo6_a.png"), ("Leo9", "val/Leo9/none.png")]  # fmt: skip
        (tmp_path / "list.csv").write_text(split_lists.written(lines[:1]))
        with pytest.raises(CareError, match="names no gallery"):
            split_lists.protocol_of(catalog, tmp_path / "list.csv")
        (tmp_path / "list.csv").write_text("path,part\nx,query\n")
        with pytest.raises(CareError, match="columns path, individual, part"):
            split_lists.protocol_of(catalog, tmp_path / "list.csv")


# -- doing a table


def test_a_row_has_its_figures_without_the_querys_own_event_too():
    told = {
        seed: {
            "model": f"m-{seed}",
            "queries": 9,
            "metrics": {"top1": top, "mAP": None},
            "variants": {"event": {"top1": top - 0.2, "mAP": 0.1}},
        }
        for seed, top in ((0, 0.5), (1, 0.7))
    }
    row = cells.row(cells.Planned(Cell("base", "x", "vit"), TrainRequest()), Recipe(seeds=(0, 1)), told)
    half = 12.706 * (0.02**0.5) / 2**0.5  # t of one degree of freedom, the standard deviation, two seeds
    assert row["metrics"]["top1"]["mean"] == pytest.approx(0.6) and "mAP" not in row["metrics"]
    assert row["metrics"]["top1"]["half"] == pytest.approx(half, rel=1e-4)
    line = cell_words.line(row, ("top1",))
    assert (line["top1"], line["top1_apart"], line["paper_top1"]) == (60.0, 40.0, None)


@pytest.fixture(scope="module")
def finished(data, small, tmp_path_factory) -> tuple[TableConfig, dict, list[str]]:
    """A table that was killed within its second cell and begun again; what it found and which models it examined."""
    cfg = config(data, tmp_path_factory.mktemp("out") / "tables")
    before = table.listing(cfg)
    assert not cfg.out.exists()  # nothing is written
    assert [len(row["seeds"]) for group in before["datasets"] for row in group["rows"]] == [0] * 6
    measure, done = evaluate_reid.measure, []

    def watched(catalog, spec, asked):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(spec.name)
        assert asked.protocol.kind == "list" and asked.part == "test"
        return measure(catalog, spec, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_reid, "measure", watched)
        with pytest.raises(KeyboardInterrupt):
            table.run(cfg)
        patch.setattr(evaluate_reid, "measure", lambda *given: done.append(given[1].name) or measure(*given))
        return cfg, table.run(cfg), done


def test_a_killed_table_goes_on_and_says_what_is_missing(finished):
    cfg, found, done = finished
    assert len(done) == len(set(done)) == 3  # each model once
    lion, dog = found["datasets"]
    assert [(len(row["seeds"]), row["wanted"]) for row in lion["rows"]] == [(1, 1)] * 3
    assert lion["rows"][0]["begun_from"] == "demo-embedder"
    assert lion["rows"][0]["published"] == pytest.approx({"mAP": 0.137, "top1": 0.148})
    assert lion["rows"][2]["published"]["top1"] == pytest.approx(0.553)
    assert set(METRICS) <= set(lion["rows"][1]["metrics"])
    assert dog["folder"] is None and not any(row["metrics"] for row in dog["rows"])
    [absent] = table.lacks(found)
    assert "MPDD (dog)" in absent and "https://data.mendeley.com" in absent
    said = " ".join(table.remarks(found))
    assert "A PART OF THE DATA SET" in said and "last epoch" in said and "from scratch" in said
    assert found["settings"] == SETTINGS and "NOT AS IN THE PAPER: " in said and "; epochs=0.5; " in said
    assert "; the backbone test_vit, beside figures of clip-vit-b-16" in said
    with Catalog(cfg.out / "LionData.db") as catalog:  # figures are those of the list, asked by themselves
        protocol = split_lists.protocol_of(catalog, cfg.out / "LionData.csv")
        spec = trained.find(catalog, lion["rows"][1]["models"][0])
        asked = evaluate_reid.EvaluateConfig(protocol=protocol, split="care", part="test", engine="torch")
        alone = evaluate_reid.measure(catalog, spec, asked)
        assert alone["metrics"]["mAP"] == lion["rows"][1]["metrics"]["mAP"]["values"][0]
        assert alone["queries"] == len(protocol.queries) == lion["rows"][1]["queries"]
        assert len(crops_of(catalog)) == 40
        assert {row["species"] for row in catalog.crop_rows(Selection())} == {"lion"}


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    cfg, found, _ = finished

    def forbidden(*_, **__):
        raise AssertionError("what is done was begun again")

    monkeypatch.setattr(train, "run", forbidden)
    monkeypatch.setattr(evaluate_reid, "measure", forbidden)
    assert table.run(cfg) == found
    assert [row["seeds"] for row in table.listing(cfg)["datasets"][0]["rows"]] == [[0]] * 3
    more = table.listing(replace(cfg, seeds=2))["datasets"][0]["rows"]
    assert [(row["seeds"], row["wanted"]) for row in more] == [([0], 1), ([0], 2), ([0], 2)]
    other = replace(cfg.recipe, request=TrainRequest(settings=SETTINGS | {"epochs": 1.0}))
    assert [row["seeds"] for row in table.listing(replace(cfg, recipe=other))["datasets"][0]["rows"]] == [[0], [], []]


def test_what_cannot_be_done_is_said_for_each_kind(cfg, data):
    """Unknown methods, weights that are not here, templates that nobody made."""
    care = " ".join(table.lacks(table.listing(replace(cfg, table="methods", sizes=()))))
    assert "clip-vit-b-16" in care and "the method" not in care
    assert "care models pull vit-base" in care
    assert "care models pull clip-vit-b-16" in care and "FriesianCattle2017" in care
    ckpe = " ".join(table.lacks(table.listing(replace(cfg, paper="ckpe", table="1", sizes=()))))
    assert "care models pull vit-huge" in ckpe and "care templates add NAME --crop ID --points FILE" in ckpe
    assert "--begin swin_base_patch4_window7_224=FILE" in ckpe and "miele2021" in ckpe and "clwitham" in ckpe
    for wrong, says in (
        ({"table": "9"}, "care: 1, 2, methods; ckpe: 1, 2, 3"),
        ({"datasets": ("CTai",)}, "'CTai' is no data set of this table"),
        ({"data": data / "none"}, "folder of data sets"),
        ({"recipe": Recipe(begin={"giant": "x"})}, "the size 'giant'"),
        ({"table": "methods"}, "--begin care=FILE"),
    ):
        with pytest.raises(CareError, match=says):
            table.listing(replace(cfg, **wrong))


def test_what_is_not_the_papers_is_said(cfg):
    """Other weights, and rows of which each is taught and told as its authors have it."""
    begin = {"clip-ft": "none", "care": "none", "transreid": "none"}
    asked = replace(cfg, table="methods", sizes=(), datasets=("LionData",), recipe=Recipe(begin=begin, as_paper=True))
    found = table.listing(asked)
    assert (found["settings"], found["begin"]) == ({}, begin)
    said = " ".join(table.remarks(found))
    assert "CARE: 256 x 128 px, rate 8e-06, batch 32, 60 epochs" in said
    assert "NOT AS IN THE PAPER: clip-ft begins from scratch (--begin clip-ft=WEIGHTS); transreid begins" in said
    assert "TransReID: 256 x 256 px" in said and "120 epochs, told camera and flank where known (weight 3)" in said
    rows = [one | {"begun_from": "toy.safetensors"} for one in found["datasets"][0]["rows"] if one["method"] == "care"]
    assert cell_words.departures(found, rows) == ["NOT AS IN THE PAPER: care begins from toy.safetensors."]
    assert cell_words.unlike(rows) is None
    carried = FeatureConfig(size=96)
    as_paper = Recipe(features=carried, as_paper=True)
    asked = replace(cfg, paper="ckpe", table="3", sizes=("base",), datasets=(), recipe=as_paper)
    found = table.listing(asked)
    said = " ".join(table.remarks(found))
    assert "NOT AS IN THE PAPER: --carry size=96; the backbone base, beside figures of vit-large." in said
    rows = [one | {"extractor": {"name": "dino", "diffusion": False}} for one in found["datasets"][0]["rows"]]
    assert "; points carried by dino, no diffusion model." in cell_words.departures(found, rows)[0]


def test_a_data_set_that_fails_is_told_and_others_go_on(cfg, monkeypatch):
    def broken(*_, **__):
        raise CareError("the disk is full")

    monkeypatch.setattr(benchmark, "prepare", broken)
    found = table.run(replace(cfg, datasets=("LionData",)))
    assert {row["failure"] for row in found["datasets"][0]["rows"]} == {"the disk is full"}
    assert table.lacks(found) == ["Failed (all cells): the disk is full"]
    assert "from scratch" not in " ".join(table.remarks(found))  # nothing was begun


def test_the_command_lists_what_is_done(finished, tmp_path, monkeypatch, capfd):
    cfg, found, _ = finished
    care = runner(monkeypatch, capfd, tmp_path / "unused.db")
    words = ["evaluate", "table", "--paper", "care", "--table", "2", "--data", cfg.data, "--out", cfg.out]
    words += ["--backbone", "test_vit", "--seeds", "1"]
    words += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    plan = care(*words, "--dry-run")
    assert plan.code == 0 and plan.out.count("1 of 1") == plan.out.count("0 of 1") == 3 and "MPDD" in plan.err
    assert care(*words, "--report", cfg.data / "LionData" / "page").code == 2
    done = care(*words, "--csv")
    assert done.code == 0, done.err
    lines = list(csv.DictReader(done.out.splitlines()))
    assert [line["seeds"] for line in lines] == ["1 of 1"] * 3 + ["0 of 1"] * 3
    assert lines[2]["paper_mAP"] == "40.3" and 0 <= float(lines[2]["mAP"]) <= 100
    nothing = care(*words, "--only", "MPDD")
    assert nothing.code == 2 and "Not here: MPDD" in nothing.err
    lion = ["--catalog", cfg.out / "LionData.db", "evaluate", "--model", "demo-embedder", "--engine", "torch"]
    alone = care(*lion, "--split", "care", "--split-file", cfg.out / "LionData.csv", "--json")
    assert alone.json["data"]["queries"] == found["datasets"][0]["rows"][0]["queries"]
    assert alone.json["rows"][0]["metrics"]["mAP"]["mean"] == found["datasets"][0]["rows"][0]["metrics"]["mAP"]["mean"]
    refused = care(*lion, "--protocol", "list")
    assert refused.code == 2 and "--split-file" in refused.err


def test_the_page_has_the_table_and_a_report_of_each_data_set(finished, tmp_path):
    cfg, found, _ = finished
    files = table_report.write(cfg, found, tmp_path / "page")
    assert {path.name for path in files} == {"index.html", "result.json", "table.csv", "table.png"}
    page = (tmp_path / "page" / "index.html").read_text("utf-8")
    assert (
        'href="LionData/index.html"' in page and "paper 40.3 ± 0.3 / 55.3 ± 0.2" in page and "data.mendeley.com" in page
    )
    result = json.loads((tmp_path / "page" / "result.json").read_text("utf-8"))
    assert result == json.loads(json.dumps(found))
    assert f"{100 * result['datasets'][0]['rows'][2]['metrics']['mAP']['mean']:.1f} / " in page
    assert "one seed, and so no interval" in page
    inner = (tmp_path / "page" / "LionData" / "index.html").read_text("utf-8")
    assert "margin 0.7" in inner and "frozen" in inner and "the crops that a list says" in inner
    told = json.loads((tmp_path / "page" / "LionData" / "result.json").read_text("utf-8"))
    assert [row["name"] for row in told["rows"]] == ["frozen", "margin 0.1", "margin 0.7"]
    assert {one["baseline"] for one in told["differences"]} == {"frozen"}  # above the others in the Grad-CAM
    for row, cell in zip(told["rows"], found["datasets"][0]["rows"], strict=True):
        assert row["metrics"]["top1"]["mean"] == cell["metrics"]["top1"]["mean"]
    with pytest.raises(CareError, match="other files"):
        table_report.write(cfg, found, cfg.out)
