"""Which drawn faces may stand for virtual people: like what was asked for, like nobody real, and each one once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LEAST_IDENTITY = 0.3
"""A drawn face must be at least this similar to the embedding it was drawn for."""
LEAST_APART = 0.4
"""Two candidates at least this similar count as one person."""
NORM_PERCENTILE = 5
_BLOCK = 1024


class Kept(NamedTuple):
    """What passes the filter, and why the rest does not."""

    rows: np.ndarray
    """int64 [n], rising"""
    report: dict[str, Any]
    """Counts: candidates, what each rule refused in turn, kept; the acceptance rate."""


def keep_candidates(
    vectors: np.ndarray,
    identity: np.ndarray,
    prototypes: np.ndarray,
    *,
    threshold: float,
    norms: np.ndarray | None = None,
    real_norms: np.ndarray | None = None,
    most: int = 10_000,
) -> Kept:
    """Which drawn faces are people of their own. ``vectors`` [N,D] are unit rows of the faces; ``identity`` [N] is the
    cosine of each face to the embedding it was drawn for, by the model that it was drawn for.

    In turn: similar to its condition (cosine >= 0.3); no real person (below the raw ``threshold`` to every prototype
    [P,D]); a face at all (norm [N] before normalisation above the 5th percentile of ``real_norms``; None for a model
    that gives unit vectors); nobody twice (below 0.4 to all kept before). Stops at ``most``.
    """
    left = np.arange(len(vectors))
    report: dict[str, Any] = {"candidates": len(left), "threshold": threshold}

    def refuse(rule: str, passes: np.ndarray) -> None:
        nonlocal left
        report[rule] = int(np.sum(~passes))
        left = left[passes]

    refuse("unlike_condition", identity >= LEAST_IDENTITY)
    refuse("real_person", closest(vectors[left], prototypes) < threshold)
    if norms is None or real_norms is None:
        report["small_norm"] = "skipped: the model gives unit vectors"
    else:
        refuse("small_norm", norms[left] > np.percentile(real_norms, NORM_PERCENTILE))
    refuse("twice", apart_from_earlier(vectors[left], most))
    report |= {"kept": len(left), "acceptance": len(left) / max(len(vectors), 1)}
    return Kept(left, report)


def closest(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Largest inner product of each row [N,D] with the others [P,D], in blocks; -inf without others."""
    blocks = [vectors[start : start + _BLOCK] @ others.T for start in range(0, len(vectors), _BLOCK)]
    return np.concatenate([block.max(axis=1, initial=-np.inf) for block in blocks] or [np.empty(0)])


def apart_from_earlier(vectors: np.ndarray, most: int) -> np.ndarray:
    """bool [N]: the rows that a greedy choice keeps, each less than 0.4 from all kept before it; at most ``most``."""
    kept = np.zeros(len(vectors), bool)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        fresh = np.flatnonzero(closest(block, vectors[kept]) < LEAST_APART)
        conflict = np.tril(block[fresh] @ block[fresh].T >= LEAST_APART, -1)
        chosen = start + fresh[greedy(conflict)]
        kept[chosen[: most - int(kept.sum())]] = True
    return kept


def greedy(conflict: np.ndarray) -> np.ndarray:
    """bool [n]: each row in turn is kept unless it conflicts with an earlier kept one; ``conflict`` [n,n] is lower
    triangular.

    All rows whose earlier rivals are decided are decided together, so there are few rounds.
    """
    kept, open_ = np.zeros(len(conflict), bool), np.ones(len(conflict), bool)
    while open_.any():
        free = open_ & ~(conflict & open_).any(axis=1)
        kept |= free
        open_ &= ~free & ~conflict[:, free].any(axis=1)
    return kept
