"""Strict and compat TAR where impostor scores are too many to sort: only the best of them decide a low FAR.

The best are found in two passes (a histogram says above which value they lie), or kept while scores stream by. A
histogram's bin edge is never a threshold: thresholds are read from the scores themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from facekit.evaluation import verification as v

Chunks = Callable[[], Iterable[np.ndarray]]
"""Starts a pass over all scores: floats [n], in pieces of any length."""
BINS = 1 << 16
TAG_BITS = 16
UNPACKED = 1 << 20
"""Kept scores that are unpacked at once."""


@dataclass(frozen=True)
class Tail:
    """The best of ``total`` impostor scores; whatever is left out is lower than all of them, or tied with the last."""

    best: np.ndarray
    """[k], highest first"""
    total: int


def depth(fars: Iterable[float], total: int, times: int = 1) -> int:
    """How many scores a tail needs for every one of the FARs, ``times`` over."""
    return min(total, times * max((v.allowed_false(far, total) + 1 for far in fars), default=1) + 1)


# --- operating points ---------------------------------------------------------------------------------------


def tar_at_far(genuine: np.ndarray, tail: Tail, far: float | Fraction) -> v.OperatingPoint:
    """Strict TAR at FAR, as ``verification.tar_at_far``; genuine scores ascending.

    Where the tail is too short for the FAR, that is not measurable either.
    """
    status, note = v.support(far, tail.total)
    allowed = v.allowed_false(far, tail.total)
    if status != "not_measurable" and len(tail.best) <= allowed < tail.total:
        status, note = "not_measurable", f"only the {len(tail.best):,} best of {tail.total:,} impostor scores were kept"
    if status == "not_measurable":
        return v.OperatingPoint(None, None, None, None, status, note)
    if allowed < tail.total:
        threshold = float(np.nextafter(np.float64(tail.best[allowed]), np.inf))
    else:
        threshold = float(min(genuine[0], tail.best[-1]))
    found = v.Scores(genuine, tail.best[::-1])
    n_false = found.n_false(threshold)
    return v.OperatingPoint(found.tar(threshold), threshold, n_false / tail.total, n_false, status, note)


def tar_at_far_nearest(genuine: np.ndarray, tail: Tail, far: float) -> tuple[float, float]:
    """Compat (tar, achieved far), as ``verification.tar_at_far_nearest``; genuine scores ascending.

    The tail must hold ``depth(fars, total, times=2)`` scores and all that tie with the last: the points beyond it are
    farther from ``far`` than FAR 0 is.
    """
    best = tail.best[: above(tail.best, float(tail.best[depth([far], tail.total, times=2) - 1]))]
    seen = genuine[np.searchsorted(genuine, best[-1]) :] if len(best) < tail.total else genuine
    false, true = v.roc_corners(v.Scores(seen, best[::-1]))
    index = v.nearest(false / tail.total, far)
    return float(true[index] / len(genuine)), float(false[index] / tail.total)


def above(descending: np.ndarray, threshold: float) -> int:
    """How many scores are at or above the threshold."""
    return len(descending) - int(np.searchsorted(descending[::-1], threshold))


# --- two passes ---------------------------------------------------------------------------------------------


def tail_of(chunks: Chunks, keep: int) -> Tail:
    """The ``keep`` best scores of all chunks, a little more, and all that tie with them: two passes.

    Memory: the result and one chunk. The work is linear: 1e8 scores cost a few nanoseconds each.
    """
    edge, total = lower_edge(chunks, keep)
    best = [chunk[chunk.astype(np.float32, copy=False) >= edge] for chunk in chunks()]
    return Tail(np.sort(np.concatenate(best))[::-1], total)


def lower_edge(chunks: Chunks, keep: int) -> tuple[float, int]:
    """(a value that at least ``keep`` scores, rounded to float32, reach; number of scores): one pass.

    The bins of the histogram are the upper half of float32's bits, so they need no range and resolve 0.4 to 0.8 % of
    any value.
    """
    counts = np.zeros(BINS, np.int64)
    for chunk in chunks():
        counts += np.bincount(upper_bits(chunk), minlength=BINS)
    total = int(counts.sum())
    last = int(np.searchsorted(np.cumsum(counts[descending_bins()]), min(keep, total)))
    lowest = int(descending_bins()[last]) << 16
    # Among negative numbers the lowest of a bin has the largest bits.
    bits = np.array([lowest | 0xFFFF if lowest >> 31 else lowest], np.uint32)
    return float(bits.view(np.float32)[0]), total


@cache
def descending_bins() -> np.ndarray:
    """The bins by falling value, int64 [BINS]."""
    return np.argsort(ordered(np.arange(BINS, dtype=np.uint32) << 16))[::-1]


def upper_bits(scores: np.ndarray) -> np.ndarray:
    """The upper 16 of the 32 bits of each score as float32, uint32 [n]."""
    return np.ascontiguousarray(scores, np.float32).view(np.uint32) >> 16


def ordered(bits: np.ndarray) -> np.ndarray:
    """Bits of float32 (uint32 [n]) -> numbers uint32 [n] in the order of the values."""
    negative = (bits >> 31).astype(bool)
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def unordered(numbers: np.ndarray) -> np.ndarray:
    """What ``ordered`` was made from, as float32 [n]."""
    positive = (numbers >> 31).astype(bool)
    return np.where(positive, numbers ^ np.uint32(1 << 31), ~numbers).view(np.float32)


# --- one pass -----------------------------------------------------------------------------------------------


class TopScores:
    """The ``keep`` best of the scores that stream by, rounded to float32, each with a tag 0..65,535.

    Score and tag are packed into one integer whose order is that of the scores, so that a partial selection in place
    is all that is ever done: 8 bytes per score and an eighth as spare room.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.packed = np.empty(keep + max(1 << 16, keep // 8), np.int64)
        self.count = 0
        self.floor = -np.inf
        """A score below it cannot be among the best: it need not be added."""

    def add(self, scores: np.ndarray, tags: np.ndarray) -> None:
        """Take scores [n] with their tags [n] into account."""
        numbers = ordered(np.ascontiguousarray(scores, np.float32).view(np.uint32)).astype(np.int64)
        numbers <<= TAG_BITS
        numbers |= tags
        while len(numbers):
            room = len(self.packed) - self.count
            part, numbers = numbers[:room], numbers[room:]
            self.packed[self.count : self.count + len(part)] = part
            self.count += len(part)
            if self.count == len(self.packed):
                self.select()

    def select(self) -> None:
        """Drop all but the best."""
        drop = self.count - self.keep
        if drop > 0:
            self.packed[: self.count].partition(drop)
            self.packed[: self.keep] = self.packed[drop : self.count].copy()
            self.count = self.keep
            self.floor = float(score_of(self.packed[:1])[0])

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [k], highest first; their tags uint16 [k])."""
        self.select()
        kept = self.packed[: self.count]
        kept.sort()
        scores, tags = np.empty(len(kept), np.float32), np.empty(len(kept), np.uint16)
        for start in range(0, len(kept), UNPACKED):
            part = kept[::-1][start : start + UNPACKED]
            scores[start : start + UNPACKED] = score_of(part)
            tags[start : start + UNPACKED] = part & ((1 << TAG_BITS) - 1)
        return scores, tags


def score_of(packed: np.ndarray) -> np.ndarray:
    """The scores in packed integers [n]."""
    return unordered((packed >> TAG_BITS).astype(np.uint32))
