"""`care identify --keypoints`: a query photo's points by the templates and the extractor of the gallery's own."""

from __future__ import annotations

import json
from pathlib import Path

import catalogs
import numpy as np
import pytest
import textures
from PIL import Image

from care_cli.errors import CareError
from care_cli.features import FeatureConfig
from care_cli.records import ModelSpec
from care_cli.stages import answers, identify, index, individuals, propagate
from care_cli.stages.identify import IdentifyConfig

MARGIN = 10  # px left round the animal of a query photo


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return textures.extractor(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def catalog(tmp_path: Path, spec: ModelSpec):
    """Four crops, of which one is named, all in an index; points carried to all of them."""
    with catalogs.new(tmp_path / "care.db") as opened:
        truth = textures.survey(opened, 4)
        opened.add_template("lynx", 1, textures.named(truth[1]), "expert")
        individuals.name(opened, [1], "Asha")
        index.run(opened, index.IndexConfig(spec))
        propagate.run(opened, propagate.PropagateConfig(spec, features=FeatureConfig(96, 1)))
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> tuple[Path, dict]:
    """A photo that the catalog does not know, and where its animal's points are."""
    pixels, (x, y, w, h), points = textures.photo(50)
    left, top = int(x) - MARGIN, int(y) - MARGIN
    cut = pixels[top : top + int(h) + 2 * MARGIN, left : left + int(w) + 2 * MARGIN]
    Image.fromarray(cut).save(tmp_path / "query.png")
    return tmp_path / "query.png", {name: (u - left, v - top) for name, (u, v) in points.items()}


def ask(catalog, path: Path, **how):
    return identify.run(catalog, IdentifyConfig(paths=(path,), whole=True, **{"keypoints": True} | how))


def worst(points: list[dict], truth: dict) -> float:
    assert {point["name"] for point in points} == set(truth)
    return max(np.hypot(*(np.array(truth[point["name"]]) - (point["x"], point["y"]))) for point in points)


def test_a_new_photo_gets_its_points(catalog, photo) -> None:
    path, truth = photo
    identifier, photos = ask(catalog, path)
    [crop] = answers.contract(identifier, photos)["photos"][0]["crops"]
    assert worst(crop["keypoints"], truth) < 4
    assert all(point["visible"] and point["confidence"] > 0.8 for point in crop["keypoints"])
    json.dumps(crop)
    assert len(catalog.keypoints(range(1, 100))) == 4  # nothing was written


def test_nothing_is_loaded_unasked(catalog, photo) -> None:
    identifier, photos = ask(catalog, photo[0], keypoints=False)
    assert identifier.points is None
    assert "keypoints" not in answers.contract(identifier, photos)["photos"][0]["crops"][0]


def test_a_confirmed_photo_keeps_them_in_the_gallery_s_run(catalog, photo, spec: ModelSpec) -> None:
    path, truth = photo
    done = identify.confirm(*ask(catalog, path, name="Bindi", new=True), None)
    [run] = catalog.propagate_runs()
    stored = catalog.keypoints([done["crop"]], run["id"])[done["crop"]]
    assert max(np.hypot(*(stored.kp_image[stored.names.index(name)] - truth[name])) for name in truth) < 4
    assert stored.templates == (1, 1, 1)
    again = propagate.run(catalog, propagate.PropagateConfig(spec, features=FeatureConfig(96, 1), templates=("lynx",)))
    assert (again["runs"], again["new"]) == ([run["id"]], 0)


def test_points_that_the_catalog_has_are_read(catalog, photo) -> None:
    path, _ = photo
    crop = identify.confirm(*ask(catalog, path, name="Bindi", new=True), None)["crop"]
    catalog.correct_keypoint(crop, "nose", 12.0, 34.0, visible=False)
    identifier, photos = ask(catalog, path)
    [query] = photos[0].queries
    nose = query.keypoints.names.index("nose")
    assert query.keypoints.kp_image[nose].tolist() == [12.0, 34.0] and not query.keypoints.visible[nose]
    assert query.points_run is None and identifier.points._loaded == {}


def test_animals_of_other_species_get_none(catalog, photo) -> None:
    path = photo[0]
    crop = identify.confirm(*ask(catalog, path, name="Bindi", new=True, keypoints=False), None)["crop"]
    catalog.db.conn.execute("UPDATE crops SET species = 'Fox' WHERE id = ?", (crop,))
    identifier, photos = ask(catalog, path)
    assert answers.contract(identifier, photos)["photos"][0]["crops"][0]["keypoints"] == []
    catalog.db.conn.execute("UPDATE crops SET species = 'Lynx' WHERE id = ?", (crop,))
    _, [photo] = ask(catalog, path)
    assert photo.queries[0].points_run == catalog.propagate_runs()[0]["id"]


def test_without_a_propagation_it_is_refused(catalog, photo) -> None:
    catalog.remove_template("lynx", with_points=True)
    with pytest.raises(CareError, match="care propagate-keypoints"):
        ask(catalog, photo[0])
