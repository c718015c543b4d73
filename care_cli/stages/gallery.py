"""The named animals of an index run, ready to be compared with: cached, and exact all the same.

Vectors are cached in half precision, block by block, in files beside the weights. A file is named by the
generation of its block, a random number in the catalog that changes whenever a row of the block does: what it
holds never changes, and what is stale is no longer asked for. So the files may be deleted at any time, several
processes may write them, and a catalog that went back to a backup finds its older files or none.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import registry, search
from care_cli.errors import CareError
from care_cli.keypoints import references
from care_cli.matching import Candidate, rank, shortlist
from care_cli.records import ModelSpec, Selection
from care_cli.search import Block
from care_cli.weights import cache_folder

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE = 4096  # vectors compared at once
SUFFIX = ".block"


class Gallery:
    """Named crops of an index run, by ascending id: `crops (G,) int64`, `individuals (G,) int64`, 0 for no name.

    Vectors are there in half precision; the exact ones are read from the catalog where they matter.
    """

    def __init__(self, catalog: Catalog, run_id: int, blocks: list[Block], individuals: np.ndarray):
        self.catalog = catalog
        self.run_id = run_id
        self.blocks = blocks
        self.individuals = individuals
        self.crops = np.concatenate([block.ids for block in blocks]) if blocks else np.zeros(0, np.int64)

    def search(
        self,
        query: np.ndarray,
        top: int = 5,
        score: str = "best",
        m: int = 3,
        k: int = 5,
        without: Iterable[int] = (),
    ) -> list[Candidate]:
        """The first `top` individuals for `query (D,) float32, norm 1`; `matching.rank` says by which score.

        The answer is that of a scan of all exact vectors. Crops in `without` are left out. The `index` of a
        candidate is its place in `crops`.
        """
        cosines, error = search.scan(query, self.blocks)
        rows = self._candidates(without)
        chosen = rows[shortlist(cosines[rows], self.individuals[rows], error, top, score, m, k)]
        exact = self._exact(query, chosen)
        if np.any(np.abs(exact - cosines[chosen]) > error):  # a damaged file
            chosen, exact = rows, self._exact(query, rows)
        owners = self.individuals[chosen].tolist()
        names = self.catalog.names_of_individuals(set(owners))
        there = np.isfinite(exact) & np.array([one in names for one in owners], bool)  # unless deleted meanwhile
        chosen, exact = chosen[there], exact[there]
        ranked = rank(exact, [names[one] for one in self.individuals[chosen].tolist()], score, m, k)
        return [replace(one, index=int(chosen[one.index])) for one in ranked[:top]]

    def _candidates(self, without: Iterable[int]) -> np.ndarray:
        """Rows `(N,) int64` of named crops that are not in `without`."""
        wanted = self.individuals > 0
        left_out = np.fromiter(without, np.int64)
        start, end = (np.searchsorted(self.crops, left_out, side) for side in ("left", "right"))
        wanted[start[start < end]] = False
        return np.flatnonzero(wanted)

    def _exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines `(N,) float32` by the catalog's own vectors, NaN for a crop that has none any more."""
        exact = np.full(len(rows), np.nan, np.float32)
        for start in range(0, len(rows), PAGE):
            crops = self.crops[rows[start : start + PAGE]]
            stored = self.catalog.vectors(self.run_id, crops)
            exact[start + np.searchsorted(crops, stored.ids)] = search.similarities(query, stored.vectors)
        return exact


def index_run(catalog: Catalog, model: ModelSpec | None = None) -> dict:
    """The newest finished index run, of `model` where one is named; CareError when there is none."""
    wanted = registry.model_sha256(model) if model else None
    for row in catalog.index_runs():
        if wanted in (None, row["sha256"]):
            return row
    made = f" with {model.name}" if model else ""
    raise CareError(f"There is no finished index{made} in {catalog.path}. Run `care index` first.")


def open_gallery(catalog: Catalog, run_id: int, selection: Selection | None = None) -> Gallery:
    """The named crops of a run, of a species, site or flank where `selection` says so.

    Only blocks that changed are read from the catalog. Where the cache cannot be written, they stay in memory.
    """
    cache = _Cache(catalog)
    named = catalog.identity_blocks()
    embedded = {block: generation for (run, block), generation in catalog.embedding_blocks().items() if run == run_id}
    blocks, individuals = [], []
    for number in tqdm(sorted(named.keys() & embedded.keys()), "gallery", unit="block", delay=1, disable=None):
        vectors = cache.block(f"{run_id}-{number}", embedded[number], lambda n=number: _vectors(catalog, run_id, n))
        names = cache.block(f"names-{number}", named[number], lambda n=number: _names(catalog, n))
        if len(vectors.ids) and len(names.ids):
            blocks.append(vectors)
            individuals.append(_matched(vectors.ids, names))
    cache.close()
    everybody = np.concatenate(individuals) if individuals else np.zeros(0, np.int64)
    gallery = Gallery(catalog, run_id, blocks, everybody)
    if selection not in (None, Selection()):
        gallery.individuals = np.where(np.isin(gallery.crops, catalog.gallery_crops(selection)), everybody, 0)
    return gallery


def forget(catalog: Catalog) -> None:
    """What was deleted from the catalog leaves the bytes of its file and of its caches."""
    catalog.expunge()
    sweep(catalog)
    annotated = catalog.pixels(template.crop_id for template in catalog.templates())
    references.sweep(references_folder(catalog), [hashlib.sha256(jpeg).digest() for jpeg in annotated.values()])


def damaged(catalog: Catalog, delete: bool = False) -> list[Path]:
    """Files of the cache that are not what was written; those that could be deleted, if that is asked for."""
    found = [path for path in sorted(_folder(catalog).glob(f"*{SUFFIX}")) if not search.intact(path)]
    return [path for path in found if _deleted(path)] if delete else found


def _vectors(catalog: Catalog, run_id: int, number: int) -> tuple[int, Block]:
    generation, stored = catalog.embedding_block(run_id, number)
    return generation, search.rounded(stored.ids, stored.vectors)


def _names(catalog: Catalog, number: int) -> tuple[int, Block]:
    generation, named = catalog.identity_block(number)
    return generation, Block(named[:, 0], named[:, 1:])


def _matched(crops: np.ndarray, names: Block) -> np.ndarray:
    """Who each of `crops (N,)` is, `(N,) int64`; 0 for no name."""
    place = np.minimum(np.searchsorted(names.ids, crops), len(names.ids) - 1)
    return np.where(names.ids[place] == crops, names.values[place, 0], 0)


class _Cache:
    """Blocks from files; those that are missing are made, and what they replace is deleted at the end."""

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self.folder = _folder(catalog)

    def block(self, name: str, generation: int, read: Callable[[], tuple[int, Block]]) -> Block:
        """The block of a generation, else the present one as `read` gives it with its generation."""
        with contextlib.suppress(OSError, ValueError):  # not there, or not whole: made anew
            return search.load(self.folder / _file(name, generation))
        generation, block = read()
        path = self.folder / _file(name, generation)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            search.save(block, path)
            return search.load(path)
        except OSError:
            return block  # a cache that can't be written costs memory and a second reading, no more

    def close(self) -> None:
        sweep(self.catalog)


def _folder(catalog: Catalog) -> Path:
    """Where the blocks of this catalog and its copies are kept."""
    return cache_folder() / "galleries" / _number(catalog)


def references_folder(catalog: Catalog) -> Path:
    """Where the features of the annotated crops of this catalog and its copies are kept."""
    return cache_folder() / "references" / _number(catalog)


def _number(catalog: Catalog) -> str:
    return f"{catalog.number() & (1 << 64) - 1:016x}"


def _file(name: str, generation: int) -> str:
    return f"{name}-{generation & (1 << 64) - 1:016x}{SUFFIX}"


def sweep(catalog: Catalog) -> None:
    """Delete the cache's files of generations that are past, unfinished ones included."""
    present = {_file(f"{run}-{block}", one) for (run, block), one in catalog.embedding_blocks().items()}
    present |= {_file(f"names-{block}", one) for block, one in catalog.identity_blocks().items()}
    with contextlib.suppress(OSError):  # no folder: nothing was cached
        for path in list(_folder(catalog).iterdir()):
            if path.name not in present:
                _deleted(path)


def _deleted(path: Path) -> bool:
    """Whether a file could be deleted; on Windows, not while another process has it open."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
