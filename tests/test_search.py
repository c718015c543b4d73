"""Saved blocks, and the scan's bound against float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli import search
from care_cli.search import Block


def unit(rng: np.random.Generator, rows: int, dim: int, spread: float = 0.0) -> np.ndarray:
    """Vectors `(rows, dim) float32` of norm 1; `spread` in decades makes some components tiny."""
    vectors = rng.standard_normal((rows, dim)) * 10.0 ** (-spread * rng.random((rows, dim)))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 40), st.sampled_from([0.0, 3.0, 12.0]))
def test_the_scan_is_never_further_off_than_it_says(seed, dim, rows, spread):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, rows, dim, spread)
    query = unit(rng, 1, dim, spread)[0]
    halves = [search.rounded(np.arange(len(part)), part) for part in np.array_split(vectors, 3)]
    cosines, error = search.scan(query, halves)
    true = vectors.astype(np.float64) @ query.astype(np.float64)
    assert cosines.dtype == np.float32 and np.abs(cosines - true).max() <= error < 1.1e-3


def test_the_bound_is_not_idle():
    """Rounding errors that all point one way come near the bound: a smaller one would be wrong."""
    grain = np.float32(2.0**-14)  # spacing of halves just above 1/16, where 1/16 + 0.49 grain becomes 1/16
    vector = np.full(256, 1 / 16 + 0.49 * grain, np.float32)
    cosines, error = search.scan(vector, [search.rounded(np.zeros(1, np.int64), vector[None])])
    off = abs(float(cosines[0]) - float(vector.astype(np.float64) @ vector.astype(np.float64)))
    assert 0.9 * error < off <= error


def test_no_blocks_no_cosines():
    query = np.eye(1, 8, dtype=np.float32)[0]
    assert search.scan(query, [])[0].shape == (0,)
    nothing = search.rounded(np.zeros(0, np.int64), np.zeros((0, 8), np.float32))
    assert search.scan(query, [nothing])[0].shape == (0,)


def test_a_cosine_does_not_depend_on_its_company():
    rng = np.random.default_rng(1)
    vectors, query = unit(rng, 500, 384), unit(rng, 1, 384)[0]
    together = search.similarities(query, vectors)
    alone = np.array([search.similarities(query, vector[None])[0] for vector in vectors])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(together, vectors.astype(np.float64) @ query, atol=6e-8, rtol=0)


def test_what_is_not_finite_matches_nothing():
    vectors = np.eye(4, dtype=np.float32)
    vectors[1, 0], vectors[2, 0] = np.nan, np.inf
    block = search.rounded(np.array([3, 5, 8, 9]), vectors)
    assert block.ids.tolist() == [3, 9] and np.isfinite(block.values).all() and block.length < 1.001


@pytest.mark.parametrize("shape", [(0, 512), (1, 1), (37, 3), (100, 512)])
def test_a_saved_block_comes_back(tmp_path, shape):
    block = search.rounded(np.arange(shape[0]) * 7 + 2**40, unit(np.random.default_rng(0), *shape))
    search.save(block, tmp_path / "a.block")
    loaded = search.load(tmp_path / "a.block")
    np.testing.assert_array_equal(loaded.values, block.values)
    np.testing.assert_array_equal(loaded.ids, block.ids)
    assert (loaded.length, loaded.error) == (block.length, block.error)
    assert not loaded.values.flags.writeable  # it is the file itself
    assert search.intact(tmp_path / "a.block") and [path.name for path in tmp_path.iterdir()] == ["a.block"]


def test_numbers_are_saved_too(tmp_path):
    block = Block(np.array([1, 9]), np.array([[2**60], [-5]]))
    search.save(block, tmp_path / "n.block")
    assert search.load(tmp_path / "n.block").values.tolist() == [[2**60], [-5]]


def test_damage_is_seen(tmp_path):
    path = tmp_path / "a.block"
    search.save(search.rounded(np.arange(9), unit(np.random.default_rng(0), 9, 16)), path)
    whole = path.read_bytes()
    for place in (search.LINE, search.LINE + 9 * 8, len(whole) - 9, len(whole) - 1, 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not search.intact(path), place
    for broken in (b"", whole[:20], whole[:-1], whole + b"\0", b"something else" * 50):
        path.write_bytes(broken)
        assert not search.intact(path)
        with pytest.raises(ValueError):
            search.load(path)
    path.unlink()
    assert not search.intact(path)
    with pytest.raises(OSError):
        search.load(path)


def test_a_block_that_cannot_be_written_leaves_nothing(tmp_path):
    block = search.rounded(np.arange(2), np.eye(2, dtype=np.float32))
    (tmp_path / "taken.block").mkdir()
    with pytest.raises(OSError):
        search.save(block, tmp_path / "taken.block")
    with pytest.raises(OSError):
        search.save(block, tmp_path / "no folder" / "a.block")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.block"]
