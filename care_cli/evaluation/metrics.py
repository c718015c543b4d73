"""Metrics of re-identification: who is ranked first, and how well all of an animal's crops are found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from care_cli.errors import CareError


def average_precision(relevant: np.ndarray) -> float:
    """AP of one ranked list: mean over its relevant entries of the precision down to each of them.

    `relevant (G,) bool`, best match first. AP = Σ_k P(k)·rel(k) / R (Manning et al. 2008, 8.4).
    """
    places = np.flatnonzero(relevant)
    return float(np.mean(np.arange(1, len(places) + 1) / (places + 1))) if len(places) else float("nan")


def leave_one_out(vectors: np.ndarray, individuals: Sequence[str]) -> dict[str, float]:
    """Every crop asks all the others: `top1` and `mAP` over crops whose individual has another crop.

    `vectors (N, D) float32` of L2 norm 1, `individuals (N,)` names. The query itself is left out by index,
    not by similarity. Raises CareError when no individual has two crops.
    """
    names = np.asarray(individuals)
    similarity = vectors @ vectors.T
    first, precision = [], []
    for query in range(len(names)):
        others = np.delete(np.arange(len(names)), query)
        ranked = others[np.argsort(-similarity[query, others], kind="stable")]
        relevant = names[ranked] == names[query]
        if relevant.any():
            first.append(relevant[0])
            precision.append(average_precision(relevant))
    if not first:
        raise CareError("Leave-one-out needs an individual with at least two crops, but none has.")
    return {"queries": len(first), "top1": float(np.mean(first)), "mAP": float(np.mean(precision))}
