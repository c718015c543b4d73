"""Nearest neighbours by cosine: a half-precision scan of memory-mapped blocks that says how far off it may be."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TYPES = {b"f": np.dtype("<f2"), b"i": np.dtype("<i8")}
HEADER = struct.Struct("<8sIIcdd24s")  # magic, rows, columns, type, length, error, digest of all that follows
LINE = 64  # bytes of a line of the processor's cache: the header, and the steps at which values begin
MAGIC = b"CAREblk1"


@dataclass(frozen=True)
class Block:
    """Some rows of a table by ascending id: `ids (N,) int64`, `values (N, D)`, float16 vectors or int64 numbers.

    Of vectors also `length`, the greatest L2 norm before they were rounded, and `error`, the greatest L2 norm of
    what rounding changed.
    """

    ids: np.ndarray
    values: np.ndarray
    length: float = 0.0
    error: float = 0.0


def rounded(ids: np.ndarray, vectors: np.ndarray) -> Block:
    """A block of `vectors (N, D) float32`; those that are not finite match nothing and are left out."""
    finite = np.isfinite(vectors).all(axis=1)
    ids, vectors = ids[finite], vectors[finite]
    half = vectors.astype(np.float16)
    return Block(ids, half, _longest(vectors), _longest(vectors - half.astype(np.float32)))


def _longest(vectors: np.ndarray) -> float:
    """The greatest L2 norm of `vectors (N, D) float32`, and never less."""
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max(initial=0))) * (1 + 1e-4)  # sums in float32


def save(block: Block, path: Path) -> None:
    """Write a block to a file through a temporary one and a rename; OSError when the disk does not take it."""
    kind = block.values.dtype.kind.encode()
    ids = np.ascontiguousarray(block.ids, "<i8").tobytes()
    values = np.ascontiguousarray(block.values, TYPES[kind]).tobytes()
    body = ids.ljust(_lines(len(ids)), b"\0") + values
    facts = (MAGIC, *block.values.shape, kind, block.length, block.error)
    digest = hashlib.sha256(body).digest()[:24]
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(HEADER.pack(*facts, digest).ljust(LINE, b"\0"))
            stream.write(body)
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def load(path: Path) -> Block:
    """A saved block, memory-mapped; what it holds is not checked, see `intact`.

    OSError when the file is not there, ValueError when it is no block of the size that it says.
    """
    with path.open("rb") as stream:
        bytes_ = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if len(bytes_) < LINE:
        raise ValueError(f"{path} is too short for a block")
    magic, rows, columns, kind, length, error, _ = HEADER.unpack_from(bytes_)
    if magic != MAGIC or kind not in TYPES:
        raise ValueError(f"{path} is no block")
    start = LINE + _lines(8 * rows)
    if len(bytes_) != start + rows * columns * TYPES[kind].itemsize:
        raise ValueError(f"{path} has {len(bytes_)} bytes, not those of a block of {rows} rows")
    values = np.frombuffer(bytes_, TYPES[kind], rows * columns, start).reshape(rows, columns)
    return Block(np.frombuffer(bytes_, "<i8", rows, LINE), values, length, error)


def _lines(size: int) -> int:
    """`size` bytes rounded up to whole lines."""
    return -(-size // LINE) * LINE


def intact(path: Path) -> bool:
    """Whether a saved block is what was written, by its checksum; False too when it cannot be read."""
    try:
        load(path)
        data = path.read_bytes()
    except (OSError, ValueError):
        return False
    return hashlib.sha256(data[LINE:]).digest()[:24] == HEADER.unpack_from(data)[-1]


def scan(query: np.ndarray, blocks: Sequence[Block]) -> tuple[np.ndarray, float]:
    """Cosines of unit `query (D,) float32` with all rows of `blocks`, `(N,) float32`, and how far off they may be.

    With q, g the true vectors and p, h the rounded ones, q·g - p·h = (q - p)·g + p·(g - h), so that by
    Cauchy-Schwarz |q·g - p·h| <= |q - p| |g| + |p| |g - h|; these norms are known, not estimated. Products of
    halves are exact in float32; adding D of them and rounding the outcome changes it by less than
    (D + 4) 2^-24 |p| |h|. The bound is the sum of the two: about 4e-4 for D = 512.
    """
    import numkong

    query = np.asarray(query, np.float32)
    half = query.astype(np.float16)
    cosines = [
        np.asarray(numkong.cdist(half[None], block.values, "dot"), np.float32)[0] for block in blocks if len(block.ids)
    ]
    length = max((block.length for block in blocks), default=0.0)
    error = max((block.error for block in blocks), default=0.0)
    own = float(np.linalg.norm(half.astype(np.float64)))
    moved = float(np.linalg.norm(query.astype(np.float64) - half))
    added = (len(query) + 4) * 2.0**-24 * own * (length + error)
    return np.concatenate(cosines) if cosines else np.zeros(0, np.float32), moved * length + own * error + added


def similarities(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines `(N,) float32` of unit `query (D,) float32` with unit `vectors (N, D) float32`.

    Added up in float64, each row for itself: the same two vectors give the same cosine in any company.
    """
    return (vectors * np.asarray(query, np.float64)).sum(axis=1).astype(np.float32)
