"""Pictures of how a model sees animals: t-SNE of individuals, CMC curves, similarities, reliability. PNG bytes."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli.errors import CareError
from care_cli.evaluation.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INDIVIDUALS = 15  # of a t-SNE
CROPS = 40  # of an individual in a t-SNE
COMPONENTS = 50  # of the PCA before it
LEAST = 5  # crops of a t-SNE
SEED = 0
MARKERS = "os^Dv"
DPI = 150
LETTERS = 22  # of a name


def for_tsne(individuals: Sequence[str]) -> np.ndarray:
    """Rows `(N,) int64`, ascending, that a t-SNE shows: CROPS at most, evenly, of the INDIVIDUALS with the most crops.

    Of animals with as many crops those come first that come first by name.
    """
    names = np.asarray(individuals)
    counts = Counter(names.tolist())
    chosen = sorted(counts, key=lambda name: (-counts[name], name))[:INDIVIDUALS]
    rows = []
    for name in chosen:
        own = np.flatnonzero(names == name)
        rows.append(own[np.linspace(0, len(own) - 1, min(CROPS, len(own))).round().astype(int)])
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64)


def perplexity(count: int) -> float:
    """How many neighbours of each of `count` crops a t-SNE keeps together: 30, or a third of the others."""
    return min(30.0, (count - 1) / 3)


def embedded(vectors: np.ndarray) -> np.ndarray:
    """Places `(N,2) float32` of vectors `(N,D)` by t-SNE (van der Maaten & Hinton 2008): cosine, after a PCA.

    The same vectors always have the same places. Raises CareError for fewer than LEAST vectors.
    """
    if len(vectors) < LEAST:
        raise CareError(f"A t-SNE takes {LEAST} crops or more, but got {len(vectors)}.")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    parts = min(COMPONENTS, *vectors.shape)
    with np.errstate(invalid="ignore"):  # equal vectors have no variance to explain
        reduced = PCA(parts, svd_solver="full").fit_transform(np.asarray(vectors, np.float64))
    reduced[np.linalg.norm(reduced, axis=1) < 1e-12] = 1e-12  # the very mean has no direction
    settings = {"metric": "cosine", "init": "random", "random_state": SEED, "perplexity": perplexity(len(vectors))}
    return TSNE(2, **settings).fit_transform(reduced)


def embedded_together(vectors: np.ndarray, prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places `(N,2)` of vectors `(N,D)` and `(C,2)` of prototypes `(C,D)` in one t-SNE, as `embedded` makes it.

    Their directions alone count: a text's feature and a photo's are not equally long. Raises CareError where D differs.
    """
    if vectors.shape[1:] != prototypes.shape[1:]:
        raise CareError(
            f"Photos and texts are seen together where their features are as long, but got {vectors.shape[1]} and "
            f"{prototypes.shape[1]} numbers."
        )
    both = np.concatenate([np.asarray(vectors, np.float64), np.asarray(prototypes, np.float64)])
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    places = embedded(both)
    return places[: len(vectors)], places[len(vectors) :]


def tsne(
    panels: Sequence[tuple[str, np.ndarray]],
    individuals: Sequence[str],
    prototypes: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Models side by side: each a title and the places `(N,2)` of the same N crops, coloured by individual.

    `prototypes` are places `(2,)` by individual, of each a cross in the colour of its crops.
    """
    from matplotlib.patheffects import withStroke

    names = sorted(set(individuals))
    whose = np.asarray(individuals)

    def draw(subplots: Sequence[Axes]) -> None:
        for axes, (title, places) in zip(subplots, panels, strict=True):
            for number, name in enumerate(names):
                own = places[whose == name]
                look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS)]}
                axes.scatter(own[:, 0], own[:, 1], s=26, lw=0.4, edgecolors="white", label=_short(name), **look)
                if prototypes and name in prototypes:
                    for width, colour in ((5.0, "white"), (2.6, look["color"])):
                        axes.scatter(*prototypes[name], s=110, marker="x", lw=width, color=colour, zorder=3)
                centre = own[np.linalg.norm(own - np.median(own, 0), axis=1).argmin()]
                label = axes.annotate(
                    _short(name),
                    centre,
                    xytext=(0, 9 if prototypes else 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                )
                label.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
            axes.set_title(title, fontsize=10)
            axes.set(xticks=[], yticks=[])
            axes.margins(0.08)
        handles, labels = subplots[0].get_legend_handles_labels()
        room = 5.4 * min(len(panels), 3) / (0.5 + 0.075 * max(map(len, labels)))  # columns, inches by inches
        look = {"ncols": max(1, min(len(names), int(room))), "fontsize": 8, "frameon": False}
        subplots[0].figure.legend(handles, labels, loc="outside lower center", **look)

    return _drawn(draw, columns=len(panels), size=(5.4, 5.2))


def cmc(curves: Mapping[str, Sequence[float]], chance: float | None = None) -> bytes:
    """CMC: the share of queries with a right crop among the first k answers, k = 1, 2, ...; a line a model."""

    def draw(subplots: Sequence[Axes]) -> None:
        [axes] = subplots
        for number, (name, curve) in enumerate(curves.items()):
            ranks = range(1, len(curve) + 1)
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "ms": 3.5}
            axes.plot(ranks, np.asarray(curve) * 100, lw=1.6, label=_short(name, 48), **look)
        if chance is not None:
            axes.axhline(100 * chance, color="0.6", ls=":", lw=1.2, label="first answer by chance")
        most = max(len(curve) for curve in curves.values())
        axes.set(xlabel="answers looked at", ylabel="queries with the right animal among them, %", ylim=(0, 101))
        axes.set_xticks(sorted({1, *range(5, most + 1, 5)}))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="lower right")

    return _drawn(draw, size=(6.4, 4.2))


def similarities(models: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """How alike crops of the same animal, and of different ones, are to each model: cosines of pairs."""

    def draw(subplots: Sequence[Axes]) -> None:
        for axes, (name, (same, different)) in zip(subplots, models.items(), strict=True):
            both = np.concatenate([same, different])
            bins = np.linspace(both.min(), both.max() + 1e-6, 41)
            for values, colour, label in (
                (different, COLOURS[1], "different animals"),
                (same, COLOURS[0], "same animal"),
            ):
                shares = np.full(len(values), 100 / max(len(values), 1))
                axes.hist(
                    values, bins, weights=shares, color=colour, alpha=0.55, label=f"{label} ({len(values):,} pairs)"
                )
            axes.set_title(_short(name, 48), fontsize=10)
            axes.set(xlabel="similarity (cosine)", ylabel="pairs, %")
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8)

    return _drawn(draw, columns=len(models), size=(5.4, 3.6))


def reliability(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Do said probabilities come true? A line a calibration of spans as `calibration.reliability` gives them."""

    def draw(subplots: Sequence[Axes]) -> None:
        [axes] = subplots
        axes.plot([0, 100], [0, 100], color="0.6", ls=":", lw=1.2, label="as said")
        for number, (name, spans) in enumerate(curves.items()):
            said, true, pairs = (np.array([one[key] for one in spans]) for key in ("probability", "same", "pairs"))
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(100 * said, 100 * true, color=colour, lw=1.4, label=_short(name, 48))
            axes.scatter(100 * said, 100 * true, s=8 + 90 * np.sqrt(pairs / pairs.max()), color=colour, alpha=0.75)
        axes.set(
            xlabel="probability said, %", ylabel="pairs that are the same animal, %", xlim=(-2, 102), ylim=(-2, 102)
        )
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="upper left")

    return _drawn(draw, size=(4.8, 4.4))


def _drawn(draw: Callable[[Sequence[Axes]], None], *, columns: int = 1, size: tuple[float, float]) -> bytes:
    """PNG of up to three panels a row, each of `size` inches. Names are text, whatever signs they hold."""
    import matplotlib
    from matplotlib.figure import Figure

    across = min(columns, 3)
    down = -(-columns // across)
    stream = io.BytesIO()
    plain: dict[str, Any] = {"text.parse_math": False, "text.usetex": False}
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name's letters that the font has not
        figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False).ravel())
        for spare in panels[columns:]:
            spare.remove()
        draw(panels[:columns])
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def _short(name: str, letters: int = LETTERS) -> str:
    """The name, its middle left out when it is long; a leading underscore would hide it from a legend."""
    name = name if len(name) <= letters else f"{name[: letters // 2]}…{name[-(letters // 2 - 1) :]}"
    return f"\u200b{name}" if name.startswith("_") else name
