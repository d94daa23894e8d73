"""The order in which to look at images, and how good it is where the truth is known.

Where an order does not tell images apart, its numbers are those expected if they were shuffled: an order that knows
nothing finds wrong labels at their base rate, wherever they lie in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
    """Images to look at, the most suspicious first; M of N where nothing can be said of some."""

    rows: np.ndarray
    """int64 [M], which image"""
    group: np.ndarray
    """int64 [M], the same number where neighbours are not told apart; they stand in the order of the data"""


class Found(NamedTuple):
    """What looking at the ``first`` images finds."""

    first: int
    wrong: float
    """Wrong labels among them; no whole number where a tie is cut"""
    precision: float
    recall: float
    """Of all wrong labels, also of those that the order leaves out"""


class Quality(NamedTuple):
    """How good an order is."""

    ranked: int
    ranked_wrong: int
    """Wrong labels among the ranked"""
    wrong: int
    """Wrong labels among all images"""
    base_rate: float
    """Share of wrong labels among the ranked: what an order that knows nothing finds"""
    auc: float | None
    """Probability that a wrong label stands before a right one; None where there are only right or only wrong ones"""
    at: tuple[Found, ...]


def ordered(*suspicion: np.ndarray) -> Order:
    """By the first suspicion [N], largest first; equals by the next ones. NaN in the first leaves an image out, in
    others it stands last.

    >>> ordered(np.array([1.0, 3.0, 1.0]), np.array([0.0, 0.0, 2.0])).rows.tolist()
    [1, 2, 0]
    """
    rows = np.flatnonzero(~np.isnan(suspicion[0]))
    keys = [np.where(np.isnan(key[rows]), np.inf, -key[rows]) for key in suspicion]
    places = np.lexsort(keys[::-1])
    steps = np.zeros(len(rows), bool)
    for key in keys:
        steps[1:] |= key[places][1:] != key[places][:-1]
    return Order(rows[places], np.cumsum(steps))


def found_by(order: Order, wrong: np.ndarray) -> np.ndarray:
    """Wrong labels (bool [N]) expected among the first 0, 1 ... M images, float64 [M+1]."""
    size = np.bincount(order.group)
    share = np.bincount(order.group, weights=wrong[order.rows]) / np.maximum(size, 1)
    return np.concatenate([[0.0], np.cumsum(share[order.group])])


def quality(order: Order, wrong: np.ndarray, firsts: Sequence[int]) -> Quality:
    """Against the truth, bool [N]. Of ``firsts`` those beyond the order are left out; as many as there are wrong
    labels is added: there precision and recall are equal.
    """
    ranked, total = len(order.rows), int(wrong.sum())
    ranked_wrong = int(wrong[order.rows].sum())
    found = found_by(order, wrong)
    places = sorted({k for k in (*firsts, total) if 0 < k <= ranked})
    return Quality(
        ranked=ranked,
        ranked_wrong=ranked_wrong,
        wrong=total,
        base_rate=ranked_wrong / ranked if ranked else 0.0,
        auc=area(order, wrong),
        at=tuple(among(k, float(found[k]), total) for k in places) if total else (),
    )


def among(first: int, wrong: float, total: int) -> Found:
    """``wrong`` of ``total`` wrong labels among the first images; sums of thirds are rounded."""
    wrong = round(wrong, 6)
    return Found(first, wrong, wrong / first, wrong / total)


def area(order: Order, wrong: np.ndarray) -> float | None:
    """Mann-Whitney: the share of pairs of a wrong and a right label in which the wrong one stands first, ties half."""
    bad = wrong[order.rows]
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if not n_bad or not n_good:
        return None
    size = np.bincount(order.group)
    middle = np.cumsum(size) - (size - 1) / 2
    before = middle[order.group][bad].sum() - n_bad * (n_bad + 1) / 2
    return float(1 - before / (n_bad * n_good))
