"""Which pairs are tested together while the threshold comes from the others.

A fold that holds one class only says nothing about a threshold, and lists sorted by class produce just that when they
are cut into tenths. So folds are the list's own where it has any; else disjoint in people where the people allow it;
else every tenth pair of each class. The rule is recorded in words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 10
LARGEST_GROUP = 0.05
"""Share of the pairs that one connected group of people may hold for people-disjoint folds to be balanced."""


@dataclass(frozen=True)
class Folds:
    """``fold`` int64 [P], and how it came about. No fold: the set is too small, or is not scored by folds."""

    fold: np.ndarray | None
    rule: str


def both_classes(fold: np.ndarray, same: np.ndarray) -> bool:
    """Whether every fold holds same and different pairs."""
    count = int(fold.max()) + 1
    genuine, impostor = np.bincount(fold[same], minlength=count), np.bincount(fold[~same], minlength=count)
    return bool((genuine > 0).all() and (impostor > 0).all())


def contiguous_tenths(n: int) -> np.ndarray:
    """int64 [n]: ten runs, the first n mod 10 of them one longer.

    12 items: 0 0 1 1 2 3 4 5 6 7 8 9.
    """
    sizes = np.full(FOLDS, n // FOLDS) + (np.arange(FOLDS) < n % FOLDS)
    return np.repeat(np.arange(FOLDS), sizes)


def ten_blocks(same: np.ndarray) -> Folds | None:
    """The layout of LFW and RFW: ten blocks, each n same pairs, then n different ones."""
    if len(same) % (2 * FOLDS) or len(same) == 0:
        return None
    blocks = same.reshape(FOLDS, 2, -1)
    if not (blocks[:, 0].all() and not blocks[:, 1].any()):
        return None
    return Folds(contiguous_tenths(len(same)), f"the list's own {FOLDS} blocks of same, then different pairs")


def within_class_tenths(same: np.ndarray) -> Folds | None:
    """The layout of CALFW: all same pairs first, fold k = the k-th tenth of each class."""
    genuine = int(same.sum())
    if not same[:genuine].all() or genuine % FOLDS or (len(same) - genuine) % FOLDS or not 0 < genuine < len(same):
        return None
    fold = np.concatenate([contiguous_tenths(genuine), contiguous_tenths(len(same) - genuine)])
    return Folds(fold, "the k-th tenth of the same and of the different pairs, as the sorted list lays them out")


def position_within_class(same: np.ndarray) -> Folds:
    """Every tenth pair of each class; fewer folds where a class has fewer than ten pairs."""
    count = min(FOLDS, int(same.sum()), int((~same).sum()))
    if count < 2:
        return Folds(None, "too few pairs for folds")
    fold = np.empty(len(same), np.int64)
    for one_class in (same, ~same):
        fold[one_class] = np.arange(int(one_class.sum())) % count
    return Folds(fold, f"position within its class mod {count}")


def make_folds(same: np.ndarray, people: np.ndarray | None) -> Folds:
    """Folds for a list that has none. ``people`` int64 [P,2] are the two persons of each pair, where known."""
    fold = None if people is None else people_disjoint(same, people)
    if fold is not None:
        return Folds(fold, f"{FOLDS} folds that share no person")
    return position_within_class(same)


def people_disjoint(same: np.ndarray, people: np.ndarray) -> np.ndarray | None:
    """Whole connected groups of people to folds, largest first to the emptiest fold; None where that is not balanced.

    Two persons are connected when a pair holds both.
    """
    group = connected_groups(people)[people[:, 0]]
    _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if sizes.max() > LARGEST_GROUP * len(same):
        return None
    genuine = np.bincount(group[same], minlength=len(sizes))
    load = np.zeros((FOLDS, 2))
    total = np.array([same.sum(), (~same).sum()])
    fold_of_group = np.empty(len(sizes), np.int64)
    for g in np.argsort(-sizes, kind="stable").tolist():
        share = np.array([genuine[g], sizes[g] - genuine[g]]) / np.maximum(total, 1)
        # The sum of squares balances both classes at once: adding to an already heavy class costs more.
        k = int(np.argmin(((load + share) ** 2 - load**2).sum(axis=1)))
        fold_of_group[g] = k
        load[k] += share
    fold = fold_of_group[group]
    complete = int(fold.max()) == FOLDS - 1 and both_classes(fold, same)
    return fold if complete else None


def connected_groups(people: np.ndarray) -> np.ndarray:
    """The least person connected with each person, int64 [max + 1]: labels spread until nothing changes."""
    root = np.arange(int(people.max()) + 1)
    while True:
        least = np.minimum(root[people[:, 0]], root[people[:, 1]])
        spread = root.copy()
        for side in (0, 1):
            np.minimum.at(spread, people[:, side], least)
            np.minimum.at(spread, root[people[:, side]], least)
        spread = spread[spread]  # pointer jumping: long chains close in a logarithm of their length
        if np.array_equal(spread, root):
            return root
        root = spread
