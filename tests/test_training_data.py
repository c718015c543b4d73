"""From stored crops to squares and points: decoded once, within a bound, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import catalogs
import numpy as np
import pytest
from PIL import Image

from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.images import decode_jpeg
from care_cli.records import NamedPoint
from care_cli.stages.training_data import gather, labelled, scheme_of

SIDE = 20  # px
BOX = (40.0, 30.0, 80.0, 60.0)  # px; grown by a tenth of its sides it is cut from (32, 24), 96 x 72 px


@pytest.fixture
def catalog(tmp_path):
    """Seven crops, the first four named: A, B, A, C."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        ids = catalogs.survey(catalog, 7, BOX)
        for crop, name in zip(ids, "ABC", strict=False):
            catalog.decide(Decision("create", crop_id=ids[3] if name == "C" else crop, value=name))
        catalog.decide(Decision("name", crop_id=ids[2], individual_id=catalog.find_individual("A")))
        yield catalog


def squares(catalog, ids) -> np.ndarray:
    """What Pillow makes of the stored pixels."""
    stored = catalog.pixels(ids)
    resized = [decode_jpeg(stored[crop]).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for crop in ids]
    return np.stack([np.asarray(image) for image in resized])


@pytest.mark.parametrize("bound", [0, 2 * 3 * SIDE * SIDE, None])
def test_photos_are_the_stored_crops_squashed_whatever_is_held(catalog, bound) -> None:
    crops, damaged = labelled(catalog, gather(catalog, range(1, 8)), SIDE, bound=bound)
    assert damaged == [] and len(crops.photos) == 4 and crops.labels.tolist() == [0, 1, 0, 2]
    expected = squares(catalog, [1, 2, 3, 4])
    for rows in ([0, 1, 2, 3], [3, 3, 0], []):
        assert np.array_equal(crops.photos[np.array(rows, np.int64)], expected[rows].reshape(-1, SIDE, SIDE, 3))
    with ThreadPoolExecutor(4) as pool:  # other threads than the catalog's own
        for rows, found in zip(
            [[2], [1, 0]] * 4, pool.map(lambda r: crops.photos[np.array(r)], [[2], [1, 0]] * 4), strict=True
        ):
            assert np.array_equal(found, expected[rows])


def test_what_is_held_is_not_read_again(catalog) -> None:
    from care_cli.training.data import Photos

    asked: list[int] = []

    def read(keys):
        asked.extend(keys)
        return catalog.pixels(keys)

    photos = Photos([1, 2, 3, 4], read, SIDE, bound=3 * 3 * SIDE * SIDE)
    assert photos.damaged() == [] and asked == [1, 2, 3, 4]
    photos[np.array([3, 2, 1, 0, 0])]
    assert asked == [1, 2, 3, 4, 4]
    assert np.array_equal(photos.of([1, 3])[np.array([1, 0])], squares(catalog, [4, 2]))


def test_damaged_and_missing_pixels_are_found_before_and_refused_after(catalog) -> None:
    with catalog.transaction():
        catalog.replace_pixels(2, b"\xff\xd8 no more")
    crops, damaged = labelled(catalog, gather(catalog, [1, 2, 3, 4]), SIDE)
    assert damaged == [2] and crops.labels.tolist() == [0, 0, 1]  # B is gone, C is the second now
    assert np.array_equal(crops.photos[np.arange(3)], squares(catalog, [1, 3, 4]))
    from care_cli.training.data import Photos

    photos = Photos([1, 2, 99], catalog.pixel_reader(), SIDE)
    assert photos.damaged() == [1, 2]
    with pytest.raises(CareError, match="crop 99 are damaged"):
        photos[np.array([2])]


def test_points_are_shares_of_the_crop_by_category(catalog) -> None:
    points = [NamedPoint("left_ear", 32 + 24, 24 + 18), NamedPoint("tail", 32 + 96, 24.0)]
    catalog.say_keypoints(3, points)
    catalog.add_template(
        "ear", 1, [NamedPoint("right_ear", 50, 50, "left_ear"), NamedPoint("left_ear", 60, 50, "right_ear")], "expert"
    )
    scheme = scheme_of(catalog, [1, 2, 3, 4])
    assert scheme.names == ("left_ear", "tail") and scheme.mirrors == {}  # nobody has the other ear
    catalog.say_keypoints(2, [NamedPoint("right_ear", 32.0, 24.0)])
    scheme = scheme_of(catalog, [1, 2, 3, 4])
    assert scheme.names == ("left_ear", "right_ear", "tail") and scheme.swap.tolist() == [1, 0, 2]
    found = gather(catalog, [1, 2, 3, 4], scheme)
    assert found.without_points == [1, 4]
    assert found.beside[2].tolist() == [[0.25, 0.25, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    assert found.beside[1].tolist() == [[0.0] * 3, [0.0, 0.0, 1.0], [0.0] * 3]
    assert scheme_of(catalog, [1, 2, 3], names=("tail", "nose")).names == ("tail",)
    assert scheme_of(catalog, [1, 4]) is None


def test_the_digest_tells_of_pixels_of_who_is_whom_and_of_points_but_not_of_names(catalog) -> None:
    seen = {gather(catalog, [1, 2, 3, 4]).digest()}
    catalog.decide(Decision("rename", individual_id=catalog.find_individual("A"), value="Zoe"))
    assert gather(catalog, [4, 3, 2, 1]).digest() in seen
    catalog.say_keypoints(3, [NamedPoint("nose", 60, 50)])
    assert gather(catalog, [1, 2, 3, 4]).digest() in seen  # without a scheme no point is looked at
    seen.add(gather(catalog, [1, 2, 3, 4], scheme_of(catalog, [3])).digest())
    catalog.correct_keypoint(3, "nose", 61, 50)
    seen.add(gather(catalog, [1, 2, 3, 4], scheme_of(catalog, [3])).digest())
    catalog.decide(Decision("name", crop_id=4, individual_id=catalog.find_individual("B")))
    seen.add(gather(catalog, [1, 2, 3, 4]).digest())
    with catalog.transaction():
        catalog.replace_pixels(1, catalog.pixels([2])[2])
    seen.add(gather(catalog, [1, 2, 3, 4]).digest())
    assert len(seen) == 5
