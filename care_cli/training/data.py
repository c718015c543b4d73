"""What a training learns from: labelled crops, as pixels and as points."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from care_cli.errors import CareError
from care_cli.geometry import InputSize
from care_cli.images import decode_jpeg
from care_cli.preparation import Preparation
from care_cli.records import Scheme

MOST_HELD = 4_000_000_000  # bytes of decoded crops in memory, and at most a quarter of what there is
PAGE = 64  # crops decoded at once
WORKERS = min(8, os.cpu_count() or 1)  # decoders leave Python's lock while they work


class Photos:
    """Stored crops squashed to one size: `photos[rows (B,) int64]` is `(B, H, W, 3) uint8` RGB; from any thread.

    keys   (N,) what `read` knows them by
    read   from some keys to their encoded pixels, by key; called from any thread
    size   px, of a square, or height and width
    digests  (N,) of the encoded pixels, where they are known: `digest` then tells these photos from others
    bound  bytes that stay decoded once they are; the others are read and decoded anew each time

    Indexing raises CareError when pixels are damaged; `damaged` finds them beforehand.
    """

    def __init__(
        self,
        keys: Sequence[int],
        read: Callable[[Sequence[int]], dict[int, bytes]],
        size: InputSize,
        digests: Sequence[str] | None = None,
        bound: int | None = None,
    ):
        self.keys = np.asarray(keys, np.int64)
        self._read = read
        self._digests = None if digests is None else np.asarray(digests)
        self._prepare = Preparation(size, mode="squash")
        self._places = np.arange(len(self.keys))
        bound = held() if bound is None else bound
        shape = (self._prepare.height, self._prepare.width, 3)
        self._kept = np.empty((min(len(self.keys), bound // math.prod(shape)), *shape), np.uint8)
        self._known = np.zeros(len(self.keys), bool)  # which of the kept ones are decoded
        self._pool = ThreadPoolExecutor(WORKERS)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digests(self) -> list[str] | None:
        """Of the encoded pixels of each photo; None where they are not known."""
        return None if self._digests is None else self._digests.tolist()

    @property
    def digest(self) -> str | None:
        """SHA-256 of the size and the digests of these photos; None where they are not known."""
        if self._digests is None:
            return None
        return hashlib.sha256(" ".join([str(self._prepare.size), *self._digests]).encode()).hexdigest()

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        known = self._known[self._places[rows]]
        out = np.empty((len(rows), *self._kept.shape[1:]), np.uint8)
        out[known] = self._kept[self._places[rows[known]]]
        missing = np.flatnonzero(~known)
        for i, (key, pixels) in zip(missing, self._decoded(rows[missing]), strict=True):
            if pixels is None:
                raise CareError(f"The pixels of crop {key} are damaged. Run `care doctor`.")
            out[i] = pixels
        return out

    def of(self, rows: Sequence[int]) -> Photos:
        """These rows alone, over the same memory."""
        some = copy.copy(self)
        some.keys, some._places = self.keys[rows], self._places[rows]
        some._digests = None if self._digests is None else self._digests[rows]
        return some

    def damaged(self, report: Callable[[int], object] = lambda done: None) -> list[int]:
        """Decode everything once; the rows whose pixels cannot be decoded. `report` takes numbers of crops done."""
        bad = []
        for start in range(0, len(self), PAGE):
            rows = np.arange(start, min(start + PAGE, len(self)))
            bad += [int(row) for row, (_, pixels) in zip(rows, self._decoded(rows), strict=True) if pixels is None]
            report(len(rows))
        return bad

    def _decoded(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
        """Key and pixels of each row, None for damaged ones; what has room stays decoded."""
        if not len(rows):
            return
        keys = self.keys[rows].tolist()
        encoded = self._read(keys)
        for row, key, pixels in zip(rows, keys, self._pool.map(self._squashed, map(encoded.get, keys)), strict=True):
            place = self._places[row]
            if pixels is not None and place < len(self._kept):
                self._kept[place] = pixels
                self._known[place] = True
            yield key, pixels

    def _squashed(self, encoded: bytes | None) -> np.ndarray | None:
        try:
            return None if encoded is None else self._prepare(decode_jpeg(encoded))
        except CareError:
            return None


def held() -> int:
    """Bytes of decoded crops that stay in memory unless something else is said."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not told on every system
        memory = MOST_HELD
    return min(MOST_HELD, memory // 4)


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """N crops of C individuals.

    photos  `Photos`, or `(N, H, W, 3) uint8` RGB; what a network that stays as it is made of them, `(N, D) float32`
    labels  (N,) int64, 0..C-1
    beside  what is told beside the pixels, by `scheme`, all of it zero where nothing is known
            points (N, K, 3) float32: x and y as shares 0..1 of the crop's width and height, and a weight: 0 absent,
            else the confidence in (0, 1]; column k is `scheme.names[k]`
            viewpoints (N, V) float32: 1 at the place of its camera and view
    """

    photos: Photos | np.ndarray
    labels: np.ndarray
    beside: np.ndarray | None = None
    scheme: Scheme | None = None
    names: tuple[str, ...] = ()  # (C,) of the individuals, for methods that describe them in words
    animals: tuple[str, ...] = ()  # (C,) what they are: a species' name, "animal" where it is open
