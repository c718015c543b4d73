"""`care index` and `care identify` with a model that looks at points: whose they are, and what goes without."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest
import textures
import torch
from PIL import Image
from test_cli import runner

from care_cli import encoders, registry
from care_cli.catalog import Catalog
from care_cli.features import FeatureConfig
from care_cli.records import ModelSpec, NamedPoint, Selection
from care_cli.stages import answers, doctor, gallery, identify, index, individuals, propagate, shown_points
from care_cli.stages.identify import IdentifyConfig

TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
NAMES = tuple(sorted(textures.POINTS))
PLAIN = [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return textures.extractor(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """An untrained CKPE model whose embeddings weigh, with the numbers that half precision keeps."""
    torch.manual_seed(2)
    keypoints = {"names": list(NAMES), "mirrors": textures.MIRRORS, "mode": "ckpe"}
    made = encoders.build_embedder("vit_tiny_patch16_224", TINY, keypoints).eval()
    torch.nn.init.normal_(made.embeddings, std=4)
    made.load_state_dict({k: t.half().float() if t.ndim > 1 else t for k, t in made.state_dict().items()})
    return made


@pytest.fixture(scope="module")
def embedder(model, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = tmp_path_factory.mktemp("model") / "own.safetensors"
    header = {"method": "ckpe", "architecture": "vit_tiny_patch16_224", "options": TINY, "input_size": 64,
              "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
              "crop_mode": "squash"}  # fmt: skip
    encoders.save_embedder(model, path, header)
    return registry.find(path, task="embedder")


@pytest.fixture
def catalog(tmp_path: Path):
    """Four crops of lynxes with a template on the first, and nothing carried yet."""
    with catalogs.new(tmp_path / "care.db") as opened:
        opened.truth = textures.survey(opened, 4)
        opened.add_template("lynx", 1, textures.named(opened.truth[1]), "expert")
        yield opened


def carry(catalog: Catalog, extractor: ModelSpec, **how) -> int:
    asked = {"features": FeatureConfig(96, 1)} | how
    return propagate.run(catalog, propagate.PropagateConfig(extractor, **asked))["runs"][0]


def embed(catalog: Catalog, embedder: ModelSpec, **how) -> dict:
    return index.run(catalog, index.IndexConfig(embedder, **how))


def by_hand(model, catalog: Catalog, crop_id: int, points: dict[str, tuple[float, float]] | None) -> np.ndarray:
    """The vector of a crop's stored pixels and these points of it, image frame, by the model alone."""
    jpeg = catalog.pixels([crop_id])[crop_id]
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy((np.asarray(picture) / 255 - 0.5) / 0.2).float().permute(2, 0, 1)[None]
    x, y, w, h = catalog.crop_frame([crop_id])[crop_id].rect
    told = [((points[n][0] - x) / w, (points[n][1] - y) / h, 1.0) if points and n in points else PLAIN for n in NAMES]
    with torch.no_grad():
        return torch.nn.functional.normalize(model(pixels, torch.tensor(told).float()[None]))[0].numpy()


def standing(catalog: Catalog, crop_id: int) -> dict[str, tuple[float, float]]:
    one = catalog.keypoints([crop_id])[crop_id]
    return {n: tuple(xy) for n, xy, visible in zip(one.names, one.kp_image, one.visible, strict=True) if visible}


def vector(catalog: Catalog, run: int, crop_id: int) -> np.ndarray:
    return catalog.vectors(run, [crop_id]).vectors[0]


def nearest(catalog: Catalog, run: int, crop_id: int) -> float:
    """The similarity of a crop's vector to the first of the gallery."""
    return gallery.open_gallery(catalog, run, Selection()).search(vector(catalog, run, crop_id))[0].similarity


def counted(done: dict) -> tuple[int, int, int]:
    return done["points"]["with"], done["points"]["without"], done["points"]["carried"]


# -- index


def test_crops_are_embedded_with_the_points_that_they_have(catalog, extractor, embedder, model) -> None:
    carry(catalog, extractor)
    done = embed(catalog, embedder)
    assert counted(done) == (4, 0, 0) and done["points"]["advice"] is None and done["new"] == 4
    assert done["points"]["names"] == list(NAMES)
    for crop_id in catalog.truth:
        told, alone = (by_hand(model, catalog, crop_id, points) for points in (standing(catalog, crop_id), None))
        found = vector(catalog, done["run"], crop_id)
        np.testing.assert_allclose(found, told, atol=1e-4)
        assert np.abs(found - alone).max() > 2e-3
    again = embed(catalog, embedder)
    assert (again["run"], again["new"], again["changed"], again["known"]) == (done["run"], 0, 0, 4)


def test_new_photos_get_their_points_first_in_the_run_of_the_others(catalog, extractor, embedder, model) -> None:
    run = carry(catalog, extractor)
    embed(catalog, embedder)
    detect = catalog.latest_run("detect")["id"]
    truth = dict(textures.add(catalog, detect, number) for number in (20, 21))
    done = embed(catalog, embedder)
    assert counted(done) == (6, 0, 2) and done["new"] == 2
    assert [row["id"] for row in catalog.propagate_runs()] == [run]
    for crop_id, points in truth.items():
        found = standing(catalog, crop_id)
        assert set(catalog.keypoints([crop_id])[crop_id].runs) == {run}
        assert max(np.hypot(*np.subtract(found[name], points[name])) for name in found) < 4
        np.testing.assert_allclose(
            vector(catalog, done["run"], crop_id), by_hand(model, catalog, crop_id, found), atol=1e-4
        )
    assert counted(embed(catalog, embedder)) == (6, 0, 0)


def test_without_points_the_plain_path_is_taken_and_said(catalog, embedder, model, monkeypatch, capfd) -> None:
    done = embed(catalog, embedder)
    assert counted(done) == (0, 4, 0)
    assert "care templates add" in done["points"]["advice"] and "care propagate-keypoints" in done["points"]["advice"]
    for crop_id in catalog.truth:
        np.testing.assert_allclose(
            vector(catalog, done["run"], crop_id), by_hand(model, catalog, crop_id, None), atol=1e-4
        )
    care = runner(monkeypatch, capfd, catalog.path)
    text = care("index", "--model", embedder.file)
    assert "4 of 4 animals have none" in text.err and "care propagate-keypoints" in text.err
    assert json.loads(care("index", "--model", embedder.file, "--json").out)["points"]["without"] == 4


def test_points_that_come_later_make_the_embeddings_anew(catalog, extractor, embedder, model) -> None:
    first = embed(catalog, embedder)
    blocks = catalog.embedding_blocks()
    before = {crop_id: vector(catalog, first["run"], crop_id) for crop_id in catalog.truth}
    carry(catalog, extractor)
    assert "older keypoints" in " ".join(doctor.in_words(doctor.examine(catalog)))
    done = embed(catalog, embedder)
    assert (done["run"], done["new"], done["changed"]) == (first["run"], 4, 4) and counted(done) == (4, 0, 0)
    assert catalog.embedding_blocks() != blocks
    assert all(np.abs(vector(catalog, done["run"], one) - old).max() > 2e-3 for one, old in before.items())
    assert "older keypoints" not in " ".join(doctor.in_words(doctor.examine(catalog)))


def test_a_corrected_point_changes_its_crop_alone(catalog, extractor, embedder, model) -> None:
    carry(catalog, extractor)
    run = embed(catalog, embedder)["run"]
    individuals.name(catalog, [3], "Asha")
    assert nearest(catalog, run, 3) == pytest.approx(1, abs=1e-5)
    x, y, w, h = catalog.crop_frame([3])[3].rect
    before = vector(catalog, run, 3)
    catalog.correct_keypoint(3, "nose", x + 0.1 * w, y + 0.1 * h)
    [row] = catalog.index_runs()
    assert shown_points.stale(catalog, row) == [3]
    done = embed(catalog, embedder)
    assert (done["new"], done["changed"]) == (1, 1)
    assert np.abs(vector(catalog, run, 3) - before).max() > 1e-3
    told = standing(catalog, 3) | {"nose": (x + 0.1 * w, y + 0.1 * h)}
    np.testing.assert_allclose(vector(catalog, run, 3), by_hand(model, catalog, 3, told), atol=1e-4)
    assert nearest(catalog, run, 3) == pytest.approx(1, abs=1e-5)


def test_a_species_that_nothing_was_carried_for_goes_without(catalog, extractor, embedder, model) -> None:
    carry(catalog, extractor)
    fox, _ = textures.add(catalog, catalog.latest_run("detect")["id"], 40, species="Fox")
    done = embed(catalog, embedder)
    assert counted(done) == (4, 1, 0) and "has a template" in done["points"]["advice"]
    np.testing.assert_allclose(vector(catalog, done["run"], fox), by_hand(model, catalog, fox, None), atol=1e-4)


def test_an_extractor_that_is_not_here_is_said(catalog, extractor, embedder, tmp_path) -> None:
    weights = tmp_path / "moved.safetensors"
    weights.write_bytes(Path(extractor.file).read_bytes())
    carry(catalog, replace(extractor, file=str(weights)))
    textures.add(catalog, catalog.latest_run("detect")["id"], 20)
    weights.unlink()
    done = embed(catalog, embedder)
    assert counted(done) == (4, 1, 0) and "not on this machine" in done["points"]["advice"]


def test_points_of_other_names_are_not_looked_at(catalog, extractor, embedder, model) -> None:
    catalog.remove_template("lynx")
    x, y = catalog.truth[1]["nose"]
    catalog.add_template("tails", 1, [NamedPoint("tail", x, y)], "expert")
    carry(catalog, extractor)
    textures.add(catalog, catalog.latest_run("detect")["id"], 20)
    done = embed(catalog, embedder)
    assert counted(done) == (0, 5, 0) and len(catalog.keypoints(range(1, 9))) == 4
    assert ", ".join(NAMES) in done["points"]["advice"]
    np.testing.assert_allclose(vector(catalog, done["run"], 1), by_hand(model, catalog, 1, None), atol=1e-4)


def test_points_of_a_run_that_no_longer_stands_can_be_asked_for(catalog, extractor, embedder, model) -> None:
    older = carry(catalog, extractor, features=FeatureConfig(64, 1))
    newer = carry(catalog, extractor)
    first, second = embed(catalog, embedder), embed(catalog, embedder, points_run=older, whole=False)
    assert first["run"] != second["run"] and older != newer and len(catalog.index_runs()) == 1
    one = catalog.keypoints([2], older)[2]
    told = {n: tuple(xy) for n, xy, visible in zip(one.names, one.kp_image, one.visible, strict=True) if visible}
    np.testing.assert_allclose(vector(catalog, second["run"], 2), by_hand(model, catalog, 2, told), atol=1e-4)


def test_what_was_interrupted_goes_on(catalog, extractor, embedder, monkeypatch) -> None:
    """Stopped while embeddings are made anew: none is lost, and the rest is made."""
    run = embed(catalog, embedder)["run"]
    carry(catalog, extractor)
    write, calls = Catalog.add_embeddings, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, *arguments)

    monkeypatch.setattr(Catalog, "add_embeddings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(catalog, embedder, batch=1)
    monkeypatch.undo()
    assert len(catalog.embeddings(run).ids) == 4
    done = embed(catalog, embedder, batch=1)
    assert (done["run"], done["new"], done["changed"]) == (run, 2, 2) and len(catalog.embeddings(run).ids) == 4


# -- identify


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo that the catalog does not know."""
    pixels, (x, y, w, h), _ = textures.photo(50)
    box = np.array((x - 10, y - 10, x + w + 10, y + h + 10)).astype(int)
    Image.fromarray(pixels).crop(tuple(box)).save(tmp_path / "query.png")
    return tmp_path / "query.png"


def ask(catalog: Catalog, path: Path, **how):
    return identify.run(catalog, IdentifyConfig(paths=(path,), whole=True, **how))


def test_a_query_is_shown_its_points_and_keeps_them(catalog, extractor, embedder, model, photo) -> None:
    """Asked about, confirmed and indexed: the same vector throughout."""
    run = carry(catalog, extractor)
    made = embed(catalog, embedder)["run"]
    individuals.name(catalog, [1], "Asha")
    identifier, photos = ask(catalog, photo, name="Bindi", new=True)
    answer = answers.contract(identifier, photos)
    assert answer["points"] == {"names": list(NAMES), "with": 1, "without": 0, "advice": None}
    assert "keypoints" not in answer["photos"][0]["crops"][0]
    assert "all 1 animals" in answers.remarks(identifier, photos)[0]
    [query] = photos[0].queries
    crop = identify.confirm(identifier, photos, None)["crop"]
    stored = vector(catalog, made, crop)
    np.testing.assert_array_equal(stored, query.vector)
    assert set(catalog.keypoints([crop])[crop].runs) == {run}
    np.testing.assert_allclose(stored, by_hand(model, catalog, crop, standing(catalog, crop)), atol=1e-4)
    [row] = catalog.index_runs()
    assert shown_points.stale(catalog, row) == []
    identifier, photos = ask(catalog, photo)
    assert identifier.index_run["id"] == made
    assert answers.contract(identifier, photos)["points"]["with"] == 1


def test_a_query_without_points_takes_the_plain_path_and_says_so(catalog, embedder, model, photo) -> None:
    made = embed(catalog, embedder)["run"]
    individuals.name(catalog, [1], "Asha")
    identifier, photos = ask(catalog, photo, name="Bindi", new=True)
    told = answers.contract(identifier, photos)["points"]
    assert (told["with"], told["without"]) == (0, 1) and "care propagate-keypoints" in told["advice"]
    assert "1 of 1 animals have none" in answers.remarks(identifier, photos)[0]
    crop = identify.confirm(identifier, photos, None)["crop"]
    np.testing.assert_allclose(vector(catalog, made, crop), by_hand(model, catalog, crop, None), atol=1e-4)
    assert shown_points.stale(catalog, catalog.index_runs()[0]) == []


def test_an_absent_extractor_leaves_a_query_without_points_unless_they_were_asked_for(
    catalog, extractor, embedder, photo, tmp_path
) -> None:
    weights = tmp_path / "moved.safetensors"
    weights.write_bytes(Path(extractor.file).read_bytes())
    carry(catalog, replace(extractor, file=str(weights)))
    embed(catalog, embedder)
    weights.unlink()
    told = answers.contract(*ask(catalog, photo))["points"]
    assert told["without"] == 1 and "not on this machine" in told["advice"]
    with pytest.raises(Exception, match="not on this machine"):
        ask(catalog, photo, keypoints=True)
