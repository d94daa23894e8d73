"""How many distractors beat each mate: exact counts from blocks of scores, without looking twice at most of them.

For a probe p, each other image g of its person is a *mate*, enrolled alone among all distractors. A distractor d beats
it where s(p,d) >= s(p,g) (pessimistic), or only where it is higher (optimistic).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mates(NamedTuple):
    """The mates of P probes, each probe's in a row of its own by ascending score; the rows are filled up at the end."""

    score: np.ndarray
    """float64 [P,K], infinity where there is none"""
    who: np.ndarray
    """int64 [P,K], the enrolled probe; -1 where there is none"""


class Rivals:
    """Counts of the distractors that beat each mate, exact below ``limit`` and at least ``limit`` beyond it.

    Most scores are lower than the probe's lowest mate and are never looked at again. A mate that ``limit`` distractors
    beat has lost at every rank that is asked for, so from then on only higher scores matter: whatever the scores are,
    at most ``limit`` x K of a probe's are looked at, and one block.
    """

    def __init__(self, mates: Mates, limit: int, optimistic: bool = False) -> None:
        self.mates, self.limit, self.optimistic = mates, limit, optimistic
        probes, most = mates.score.shape
        self.tally = np.zeros((probes, most + 1), np.int32)
        """How many distractors beat exactly the k lowest mates of each probe."""
        self.floor = mates.score[:, 0].copy()
        """float64 [P], the lowest mate that is not out yet; a lower score beats nobody who is still in."""

    def beaten(self, rows: slice = slice(None)) -> np.ndarray:
        """How many distractors beat each mate of some probes, int32 [p,K] in the order of ``mates``."""
        return np.cumsum(self.tally[rows, :0:-1], axis=1, dtype=np.int32)[:, ::-1]

    def add(self, probe: np.ndarray, score: np.ndarray) -> None:
        """Count scores [n] of some probes [n], each with another distractor."""
        place = place_among(self.mates.score, probe, score, above=self.optimistic)
        np.add.at(self.tally, (probe, place), 1)

    def drop_the_lost(self, rows: slice) -> None:
        """Raise the floor of some probes over the mates that are out."""
        lost = (self.beaten(rows) >= self.limit).sum(axis=1)  # counts fall from the lowest mate to the highest
        padded = np.pad(self.mates.score[rows], ((0, 0), (0, 1)), constant_values=np.inf)
        self.floor[rows] = padded[np.arange(len(lost)), lost]


def place_among(ascending: np.ndarray, row: np.ndarray, value: np.ndarray, above: bool = False) -> np.ndarray:
    """How many of ``ascending[row]`` the values reach or, with ``above``, exceed, int64 [n]: all bisected at once."""
    width = ascending.shape[1]
    low, high = np.zeros(len(row), np.int64), np.full(len(row), width)
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        at = ascending[row, np.minimum(middle, width - 1)]
        passed = ((at < value) if above else (at <= value)) & (low < high)
        low, high = np.where(passed, middle + 1, low), np.where(passed, high, middle)
    return low
