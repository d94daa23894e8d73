"""Intervals and comparisons: how far chance alone moves a number.

Face pairs share images and people, so they are not independent trials. Where people are known, whole
*identities* are drawn with replacement (multiplicity m_a): a genuine pair of person a then weighs m_a, an
impostor pair of a and b weighs m_a * m_b, and threshold and rate are computed anew in every draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from facekit.evaluation.verification import Scores

DRAWS = 1000
"""Bootstrap draws behind every interval."""
LEVEL = 0.95
DETECTABLE = 2.8
"""Standard deviations of a difference that a two-sided 5 % test finds four times in five: 1.96 + 0.84."""
LEAST_FALSE = 10
"""Fewer expected false accepts than this decide nothing: a bootstrap cannot draw what was hardly seen."""
_BLOCK = 256
_CELLS = 1 << 20
"""Drawn numbers held at once."""


# --- closed forms ----------------------------------------------------------------------------------


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """95 % Wilson interval of a rate from independent trials.

    No error in 1,000 trials: the success rate lies in (0.9962, 1).
    """
    z, p, n = 1.96, successes / trials, trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """Exact two-sided p of two models on the same pairs, from the discordant counts b and c.

    p = min(1, 2 P[Bin(b+c, 1/2) <= min(b, c)]). Six discordant pairs, all one way, are the least that
    reach p < 0.05: 0.031.
    """
    n, low = only_first_right + only_second_right, min(only_first_right, only_second_right)
    term, total = 1, 1
    for i in range(low):
        term = term * (n - i) // (i + 1)
        total += term
    return min(1.0, 2 * total / 2**n) if n else 1.0


def t_interval(values: Sequence[float]) -> tuple[float, float, float, float]:
    """(mean, sd with ddof 1, low, high) over seeds: a 95 % t interval of the mean; needs two values or more."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two seeds")
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = t_quantile(len(values) - 1) * sd / math.sqrt(len(values))
    return mean, sd, mean - half, mean + half


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| < t) = level, by bisection of the closed form for whole degrees of freedom.

    Abramowitz and Stegun 26.7.3-4: two seeds 12.706, five seeds 2.776.
    """

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        term = math.cos(angle) if freedom % 2 else 1.0
        total = term if freedom > 1 else 0.0
        for i in range(2 + freedom % 2, freedom, 2):
            term *= math.cos(angle) ** 2 * (i - 1) / i
            total += term
        return 2 / math.pi * (angle + math.sin(angle) * total) if freedom % 2 else math.sin(angle) * total

    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return high


# --- summaries of replicates -----------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval; draws in which the number did not exist are left out."""

    low: float | None
    high: float | None
    sd: float | None
    method: str | None = None

    @staticmethod
    def of(replicates: np.ndarray, method: str | None = None) -> Interval:
        """2.5 and 97.5 percentiles and the standard deviation of replicates [R]."""
        kept = replicates[np.isfinite(replicates)]
        if len(kept) < 2:
            return Interval(None, None, None, method)
        low, high = np.percentile(kept, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        return Interval(float(low), float(high), float(np.std(kept, ddof=1)), method)

    @staticmethod
    def wilson(successes: float, trials: float, method: str) -> Interval:
        """The Wilson interval, its width read as 2 x 1.96 standard deviations."""
        low, high = wilson(successes, trials)
        return Interval(low, high, (high - low) / (2 * 1.96), method)


@dataclass(frozen=True)
class Difference:
    """A paired difference second - first: both arms saw the same draws of people."""

    value: float
    low: float | None
    high: float | None
    opposite: float | None
    """Share of draws in which the difference has the other sign."""
    smallest: float | None
    """The smallest true difference that this test would find four times in five."""

    @property
    def decided(self) -> bool:
        """True where the interval excludes zero: only then may the words better or worse be used."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(value: float, first: np.ndarray, second: np.ndarray, people: int) -> Difference:
    """Summarise replicates [R] of two arms drawn together; ``value`` is the observed second - first.

    Where no draw differs from another, a bootstrap cannot say how much was not seen: then the rule of three
    does, 3 / ``people`` to either side.
    """
    change = second - first
    kept = change[np.isfinite(change)]
    interval = Interval.of(change)
    opposite = float(np.mean(kept * math.copysign(1.0, value) < 0)) if len(kept) else None
    if interval.sd == 0:
        return Difference(value, value - 3 / people, value + 3 / people, opposite, 3 / people)
    smallest = None if interval.sd is None else DETECTABLE * interval.sd
    return Difference(value, interval.low, interval.high, opposite, smallest)


def bootstrap_p(change: np.ndarray) -> float:
    """Two-sided p of "no difference" from the draws [R] of one: at most 0.05 where the 95 % interval excludes zero.

    Twice the share of draws on the smaller side of zero; a draw of exactly zero counts for both sides. R draws
    cannot show less than 2/R: 0.002 for 1,000.
    """
    kept = change[np.isfinite(change)]
    if not len(kept):
        return 1.0
    smaller = min(int(np.sum(kept <= 0)), int(np.sum(kept >= 0)))
    return min(1.0, 2 * max(smaller, 1) / len(kept))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of several comparisons: those at most 0.05 stand together, wrong once in 20 families.

    0.01, 0.04, 0.03 become 0.03, 0.06, 0.06: the smallest is multiplied by 3, the next by 2, the last by 1, and
    none may be smaller than the one before it.
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def smallest_effect(sd: float | None) -> float | None:
    """The smallest difference from another model, measured as noisily and *not* paired, that would be found
    four times in five: 2.8 * sqrt(2) * sd. A paired comparison of two models finds smaller ones.
    """
    return None if sd is None else DETECTABLE * math.sqrt(2) * sd


# --- the identity bootstrap ------------------------------------------------------------------------


def draw_identities(people: int, draws: int, seed: int) -> np.ndarray:
    """Multiplicities int32 [A,R]: how often each of A people occurs in each of R draws of A with replacement.

    Some draws at a time: their numbers are the same, and nothing but the result grows with A R.
    """
    generator = np.random.default_rng(seed)
    multiplicity = np.empty((people, draws), np.int32)
    step = max(1, _CELLS // people)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        cell = generator.integers(0, people, (some, people)) + people * np.arange(some)[:, None]
        counts = np.bincount(cell.ravel(), minlength=some * people).reshape(some, people)
        multiplicity[:, start : start + some] = counts.T
    return multiplicity


class IdentityBootstrap:
    """Draws of people for one list of pairs; every score set asked about sees the same draws.

    ``left`` and ``right`` [P] are the people (numbers >= 0) of the two images of each pair, ``same`` [P] says
    which pairs are genuine. Where the people are unknown, ``right`` None draws pairs instead: that sees nothing
    of what pairs share, and so gives intervals that are too narrow. All rates equal those of writing each pair
    down as often as it weighs, bit for bit; the cost is linear in the scores above the thresholds asked for, the
    memory a few blocks.
    """

    def __init__(
        self,
        left: np.ndarray,
        right: np.ndarray | None,
        same: np.ndarray,
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        if right is None:
            people, first, second = len(left), np.arange(len(left)), None
        else:
            used = np.zeros(max(int(left.max()), int(right.max())) + 1, bool)
            used[left] = used[right] = True
            code = np.cumsum(used) - 1
            people, first, second = int(used.sum()), code[left], code[right]
        self.same = same
        self.multiplicity = draw_identities(people, draws, seed)
        self.genuine = first[same]
        self.impostor = first[~same], None if second is None else second[~same]
        self.genuine_total = total_weight(self.multiplicity, self.genuine, None)
        self.impostor_total = total_weight(self.multiplicity, *self.impostor)

    @property
    def knows_people(self) -> bool:
        """False where pairs are drawn because the people are unknown."""
        return self.impostor[1] is not None

    @property
    def method(self) -> str:
        """For the ``ci_method`` column."""
        return "identity_bootstrap" if self.knows_people else "pair_bootstrap"

    @property
    def trials(self) -> int:
        """Independent units behind the genuine pairs: people who have any, or the pairs themselves."""
        return len(np.unique(self.genuine))

    def interval(self, value: float, replicates: np.ndarray) -> Interval:
        """The percentile interval of a rate; Wilson on ``trials`` where no draw differs from another.

        All right in every draw does not mean certain: 100 % on 30 people leaves room down to 88.6 %.
        """
        found = Interval.of(replicates, self.method)
        return Interval.wilson(value * self.trials, self.trials, "wilson") if found.sd == 0 else found

    def tar_at_far(self, scores: np.ndarray, fars: Sequence[float | Fraction]) -> np.ndarray:
        """Strict TAR at each FAR in each draw [F,R], the threshold found anew in every draw.

        NaN in draws that hold no genuine or no impostor pair.
        """
        genuine, impostor, ranks = self._ranked(scores)
        out = np.empty((len(fars), len(self.genuine_total)))
        for i, far in enumerate(fars):
            share = Fraction(str(far))
            allowed = np.array([int(w) * share.numerator // share.denominator for w in self.impostor_total])
            accepted = genuine.before(ranks[impostor.first_beyond(allowed)])
            out[i] = ratio(accepted, self.genuine_total)
        out[:, self.impostor_total == 0] = np.nan
        return out

    def tar(self, scores: np.ndarray, threshold: float) -> np.ndarray:
        """TAR at a fixed threshold in each draw [R]."""
        accepted = self.genuine[scores[self.same] >= threshold]
        return ratio(total_weight(self.multiplicity, accepted, None), self.genuine_total)

    def far(self, scores: np.ndarray, threshold: float) -> np.ndarray:
        """FAR at a fixed threshold in each draw [R]."""
        accepted = scores[~self.same] >= threshold
        return ratio(total_weight(self.multiplicity, *self._impostors(accepted)), self.impostor_total)

    def accuracy(self, correct: np.ndarray) -> np.ndarray:
        """Share of right decisions in each draw [R], each class keeping its share of the pairs; decisions [P] fixed."""
        true_accept = total_weight(self.multiplicity, self.genuine[correct[self.same]], None)
        true_reject = total_weight(self.multiplicity, *self._impostors(correct[~self.same]))
        share = float(np.mean(self.same))
        return share * ratio(true_accept, self.genuine_total) + (1 - share) * ratio(true_reject, self.impostor_total)

    def auc(self, scores: np.ndarray) -> np.ndarray:
        """AUC in each draw [R], ties counted half."""
        genuine, impostor = scores[self.same], np.sort(scores[~self.same])
        order = np.argsort(-scores[~self.same])
        left, right = self._impostors(order)
        levels, group = np.unique(-genuine, return_inverse=True)
        above = len(impostor) - np.searchsorted(impostor, -levels, side="right")
        tied = len(impostor) - np.searchsorted(impostor, -levels, side="left")
        members = np.split(self.genuine[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1])
        twice, running = np.zeros((2, len(self.genuine_total)), np.int64)
        start = 0
        # All impostors between two genuine levels lose to the same genuine pairs: their weights are summed first.
        for people, stop, end in zip(members, above, tied, strict=True):
            twice += 2 * running * _span(self.multiplicity, left, right, start, stop)
            before, running = running, running + self.multiplicity[people].sum(axis=0)
            twice += (before + running) * _span(self.multiplicity, left, right, stop, end)
            start = end
        twice += 2 * running * _span(self.multiplicity, left, right, start, len(left))
        return ratio(twice, 2 * self.genuine_total * self.impostor_total)

    def eer(self, scores: np.ndarray) -> np.ndarray:
        """EER in each draw [R]: (FAR + FRR)/2 where they are closest."""
        genuine, impostor, _ = self._ranked(scores)
        split = Scores.of(scores, self.same)
        levels = np.unique(scores)[::-1]
        n_genuine = np.concatenate([[0], len(split.genuine) - np.searchsorted(split.genuine, levels)])
        n_impostor = np.concatenate([[0], len(split.impostor) - np.searchsorted(split.impostor, levels)])

        def rates(level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            far = ratio(impostor.before(n_impostor[level]), self.impostor_total)
            return far, 1.0 - ratio(genuine.before(n_genuine[level]), self.genuine_total)

        # FAR - FRR rises with the number of accepted levels: bisect for the first level where it is not negative.
        low, high = np.zeros(len(self.genuine_total), np.int64), np.full(len(self.genuine_total), len(levels))
        while np.any(low < high):
            middle = (low + high) // 2
            far, frr = rates(middle)
            enough = far >= frr
            low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
        after, before = rates(high), rates(np.maximum(high - 1, 0))
        closer = np.abs(after[0] - after[1]) <= np.abs(before[0] - before[1])
        return np.where(closer, after[0] + after[1], before[0] + before[1]) / 2

    def _ranked(self, scores: np.ndarray) -> tuple[Ranked, Ranked, np.ndarray]:
        """Genuine and impostor trials by falling score; for each impostor (and the end) the genuine above it."""
        genuine, impostor = scores[self.same], scores[~self.same]
        by_genuine, by_impostor = np.argsort(-genuine), np.argsort(-impostor)  # in ties any order gives the same rates
        above = len(genuine) - np.searchsorted(genuine[by_genuine][::-1], impostor[by_impostor], side="right")
        return (
            Ranked(self.multiplicity, self.genuine[by_genuine], None),
            Ranked(self.multiplicity, *self._impostors(by_impostor)),
            np.concatenate([above, [len(genuine)]]),
        )

    def _impostors(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The people of some impostor pairs, by mask or by position."""
        left, right = self.impostor
        return left[chosen], None if right is None else right[chosen]


class Ranked:
    """Trials in a fixed order, their weights in every draw summed in blocks, as far down as anybody asked."""

    def __init__(self, multiplicity: np.ndarray, left: np.ndarray, right: np.ndarray | None) -> None:
        self.multiplicity, self.left, self.right = multiplicity, left, right
        # At most 8,192 block sums per draw are kept, however long the list.
        self.block = max(_BLOCK, -(-len(left) // 8192))
        self.running = np.zeros((-(-len(left) // self.block) + 1, multiplicity.shape[1]), np.int64)  # before each block
        self.summed = 0

    def first_beyond(self, weight: np.ndarray) -> np.ndarray:
        """Per draw the first position at which the running weight exceeds ``weight`` [R]; the length if none."""
        while not np.all(self.running[self.summed] > weight) and self._extend():
            pass
        running = self.running[: self.summed + 1]
        block = np.maximum((running <= weight).sum(axis=0) - 1, 0)  # the last block that starts at or below it
        inside = self._inside(block)
        inside += running[block, np.arange(len(block))][:, None]
        return np.minimum(block * self.block + (inside <= weight[:, None]).sum(axis=1), len(self.left))

    def before(self, position: np.ndarray) -> np.ndarray:
        """Per draw the weight of all trials before ``position`` [R]."""
        block = position // self.block
        while self.summed < block.max() and self._extend():
            pass
        inside = np.concatenate([np.zeros((len(block), 1), np.int64), self._inside(block)], axis=1)
        rows = np.arange(len(block))
        return self.running[block, rows] + inside[rows, position - block * self.block]

    def _extend(self) -> bool:
        start = self.summed * self.block
        if start >= len(self.left):
            return False
        stop = min(start + self.block, len(self.left))
        self.running[self.summed + 1] = self.running[self.summed] + _span(
            self.multiplicity, self.left, self.right, start, stop
        )
        self.summed += 1
        return True

    def _inside(self, block: np.ndarray) -> np.ndarray:
        """Running weights [R, block size] inside each draw's own block."""
        position = block[:, None] * self.block + np.arange(self.block)
        valid = position < len(self.left)
        position = np.where(valid, position, 0)
        rows = np.arange(len(block))[:, None]
        weight = self.multiplicity[self.left[position], rows] * valid
        if self.right is not None:
            weight *= self.multiplicity[self.right[position], rows]
        return np.cumsum(weight, axis=1, dtype=np.int64)


def _span(multiplicity: np.ndarray, left: np.ndarray, right: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    """Weight of the trials start..stop in every draw, int64 [R]; blocks stay in the processor's cache."""
    total = np.zeros(multiplicity.shape[1], np.int64)
    for begin in range(start, stop, _BLOCK):
        part = slice(begin, min(begin + _BLOCK, stop))
        weight = multiplicity[left[part]]
        if right is not None:
            weight *= multiplicity[right[part]]
        # int32 holds it: 256 products of multiplicities, which stay below 20 even among a million people.
        total += np.add.reduce(weight, axis=0, dtype=np.int32)
    return total


def total_weight(multiplicity: np.ndarray, left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """Weight of all trials in every draw, int64 [R]."""
    people = len(multiplicity)
    if right is None:
        counts = np.bincount(left, minlength=people).astype(np.float64)
        return np.rint(counts @ multiplicity).astype(np.int64)
    if people * people > 4 * len(left):
        return _span(multiplicity, left, right, 0, len(left))
    # Dense: count pairs of people once, then m' C m. Exact, as all numbers stay far below 2^53.
    pairs = np.bincount(left * people + right, minlength=people * people).reshape(people, people).astype(np.float64)
    weight = multiplicity.astype(np.float64)
    return np.rint(np.einsum("ar,ar->r", pairs @ weight, weight)).astype(np.int64)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the draw holds no such pair."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole != 0)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties share their mean rank, float64 [n]."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[position]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two score lists over the same pairs."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])
