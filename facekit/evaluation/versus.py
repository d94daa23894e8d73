"""Two ways to score the same pairs: is the second better, and is that more than chance?

The two are two models, or raw and aligned scores of one. Both see the same draws of people, so their difference is
known better than either rate. *Undecided* is an answer like any other, and says what would have been noticed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.results import Row
from facekit.evaluation.statistics import (
    LEAST_FALSE,
    LEVEL,
    Difference,
    IdentityBootstrap,
    bootstrap_p,
    holm,
    mcnemar,
    paired_difference,
)

ALPHA = 0.05
AGAINST = " against "
"""Between the two models in the ``model`` column of a comparison."""
Word = Literal["better", "worse", "undecided", "identical"]
"""Of the second against the first; every note of a ``delta`` row begins with it."""


# --- what is compared ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RateDraws:
    """F rates of one score or network, as TAR at F rates of false accepts: observed, and in every draw [F,R]."""

    observed: tuple[v.OperatingPoint, ...]
    drawn: np.ndarray
    """NaN where a rate cannot be measured; [F,0] without a bootstrap"""


def draw_tar(scores: np.ndarray, same: np.ndarray, fars: Sequence[float], boot: IdentityBootstrap | None) -> RateDraws:
    """Strict TAR of pair scores [P], each draw with its own threshold."""
    split = v.Scores.of(scores, same)
    observed = tuple(v.tar_at_far(split, far) for far in fars)
    if boot is None:
        return RateDraws(observed, np.empty((len(fars), 0)))
    drawn = np.full((len(fars), boot.multiplicity.shape[1]), np.nan)
    usable = [i for i, point in enumerate(observed) if point.value is not None]
    if usable:
        drawn[usable] = boot.tar_at_far(scores, [fars[i] for i in usable])
    return RateDraws(observed, drawn)


@dataclass(frozen=True)
class Change:
    """The second score against the first at one FAR."""

    far: float
    support: v.OperatingPoint
    """Of the first score: whether the FAR can be measured at all"""
    expected_false: Fraction
    """FAR x impostor pairs"""
    difference: Difference | None
    """TAR of the second - TAR of the first; None where it cannot"""
    p_holm: float
    """Two-sided, after Holm's correction over the FARs; 1 without a bootstrap"""
    word: Word

    @property
    def reason(self) -> str:
        """Why the word is what it is."""
        return reason(self.word, self.difference, self.p_holm, self.expected_false)


@dataclass(frozen=True)
class Accuracies:
    """10-fold accuracy of both, each at its own exact thresholds, and McNemar's exact test on the same pairs."""

    first: float
    second: float
    only_first_right: int
    only_second_right: int
    p: float

    @property
    def word(self) -> Word:
        """What the test allows to say."""
        if self.p > ALPHA:
            return "undecided"
        return "better" if self.only_second_right > self.only_first_right else "worse"


@dataclass(frozen=True)
class Versus:
    """The whole comparison, always of the second against the first."""

    names: tuple[str, str]
    changes: tuple[Change, ...]
    accuracies: Accuracies | None
    """None where the pairs have no folds"""
    knows_people: bool
    """False: pairs were drawn because the people are unknown, and intervals are too narrow"""
    method: str | None
    """For the ``ci_method`` column; None without a bootstrap"""


# --- comparing -------------------------------------------------------------------------------------------


def versus(
    pairs: PairSet,
    first: np.ndarray,
    second: np.ndarray,
    names: tuple[str, str],
    fars: Sequence[float],
    boot: IdentityBootstrap | None,
) -> Versus:
    """Compare two scores [P] of the same pairs: TAR at every FAR over the same draws of people, and accuracy."""
    alike = same_order(first, second)
    a, b = (draw_tar(scores, pairs.same, fars, boot) for scores in (first, second))
    found = [difference(a, b, i, alike, boot) for i in range(len(fars))]
    measured = [i for i, change in enumerate(found) if change is not None]
    corrected = dict(zip(measured, holm([bootstrap_p(b.drawn[i] - a.drawn[i]) for i in measured]), strict=True))
    n_impostor = int(np.sum(~pairs.same))
    changes = []
    for i, far in enumerate(fars):
        p, expected = corrected.get(i, 1.0), Fraction(str(far)) * n_impostor
        word: Word = "identical" if alike else decide(found[i], p, expected)
        changes.append(Change(far, a.observed[i], expected, found[i], p, word))
    return Versus(
        names=names,
        changes=tuple(changes),
        accuracies=accuracies(pairs, first, second),
        knows_people=boot is None or boot.knows_people,
        method=None if boot is None else boot.method,
    )


def same_order(first: np.ndarray, second: np.ndarray) -> bool:
    """True where two scores [P] order all pairs alike, ties included: then no rate can ever differ."""
    order = np.argsort(first)
    return bool(np.array_equal(np.sign(np.diff(first[order])), np.sign(np.diff(second[order]))))


def difference(a: RateDraws, b: RateDraws, i: int, alike: bool, boot: IdentityBootstrap | None) -> Difference | None:
    """TAR of b - TAR of a at the i-th FAR; None where it cannot be measured.

    Scores that order all pairs alike differ by exactly 0 in every crowd, not only in those that were drawn.
    """
    before, after = a.observed[i].value, b.observed[i].value
    if before is None or after is None:
        return None
    if alike:
        return Difference(0.0, 0.0, 0.0, 0.0, None)
    return paired_difference(after - before, a.drawn[i], b.drawn[i], 1 if boot is None else boot.trials)


def decide(change: Difference | None, p_holm: float, expected_false: Fraction | float) -> Word:
    """*better* and *worse* need an interval without zero, p <= 0.05 after Holm, and ten false accepts expected."""
    if change is None or not change.decided or p_holm > ALPHA or expected_false < LEAST_FALSE:
        return "undecided"
    return "better" if change.value > 0 else "worse"


def accuracies(pairs: PairSet, first: np.ndarray, second: np.ndarray) -> Accuracies | None:
    """McNemar on the decisions of both."""
    if pairs.fold is None:
        return None
    forms = [v.accuracy_10fold(-scores, pairs.same, pairs.fold, exact=True) for scores in (first, second)]
    right = [
        (-scores < form.thresholds[pairs.fold]) == pairs.same
        for scores, form in zip((first, second), forms, strict=True)
    ]
    only_first, only_second = int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))
    return Accuracies(forms[0].mean, forms[1].mean, only_first, only_second, mcnemar(only_first, only_second))


# --- rows ------------------------------------------------------------------------------------------------


def delta_rows(
    raw: np.ndarray,
    aligned: np.ndarray,
    pairs: PairSet,
    base: Row,
    boot: IdentityBootstrap | None,
    fars: Sequence[float],
) -> Iterator[Row]:
    """An aligned score against the raw one on the same pairs; ``base`` names the aligned one."""
    return paired_rows(versus(pairs, raw, aligned, ("raw", base.score or "aligned"), fars, boot), base)


def rows(found: Versus, base: Row) -> Iterator[Row]:
    """One model against another; the ``model`` column names both."""
    first, second = found.names
    return paired_rows(found, dataclasses.replace(base, model=f"{second}{AGAINST}{first}"))


def paired_rows(found: Versus, base: Row) -> Iterator[Row]:
    """``delta.tar@far`` and its smallest effect for every FAR; ``mcnemar``, whose value is p."""
    paired = dataclasses.replace(base, protocol="paired", ci_method=found.method)
    for change in found.changes:
        row = dataclasses.replace(paired, metric="delta.tar@far", at=change.far, status=change.support.status)
        d = change.difference
        if d is None:
            yield dataclasses.replace(row, note=f"{change.word}: {change.support.note}")
            continue
        level = None if d.low is None else LEVEL
        yield dataclasses.replace(
            row, value=d.value, low=d.low, high=d.high, level=level, note=f"{change.word}: {change.reason}"
        )
        yield dataclasses.replace(row, metric="smallest_effect.delta.tar@far", value=d.smallest)
    if (a := found.accuracies) is not None:
        note = (
            f"{a.word}: {found.names[0]} alone is right on {a.only_first_right} pairs, {found.names[1]} alone on "
            f"{a.only_second_right}; accuracy {100 * a.first:.2f} % and {100 * a.second:.2f} %"
        )
        yield dataclasses.replace(paired, metric="mcnemar", value=a.p, ci_method=None, note=note)


# --- sentences -------------------------------------------------------------------------------------------


def sentences(found: Versus) -> list[str]:
    """What a person should take home: one sentence for each FAR that can be measured, and one for accuracy."""
    first, second = found.names
    if all(change.word == "identical" for change in found.changes):
        return [f"IDENTICAL: {second} and {first} order all pairs alike; every rate is the same."]
    said = [sentence(change, first, second) for change in found.changes if change.difference is not None]
    if (a := found.accuracies) is not None:
        said.append(
            f"{a.word.upper()} in accuracy: {second} {100 * a.second:.2f} %, {first} {100 * a.first:.2f} %; "
            f"{a.only_second_right} pairs are right only with {second}, {a.only_first_right} only with {first} "
            f"(McNemar p {a.p:.2g})."
        )
    if not found.knows_people:
        said.append("The people are unknown, so pairs were drawn: these intervals are too narrow.")
    return said


def sentence(change: Change, first: str, second: str) -> str:
    """``BETTER at FAR 0.001: student accepts 2.1 points more genuine pairs than teacher (0.9 more to 3.3 more) ..``"""
    d = change.difference
    assert d is not None
    between = "" if d.low is None or d.high is None else f" ({more(d.low)} to {more(d.high)})"
    claim = f"{second} accepts {more(d.value, 'points ')} genuine pairs than {first}{between}"
    return f"{change.word.upper()} at FAR {change.far:g}: {claim}; {change.reason}."


def more(share: float, unit: str = "") -> str:
    """``2.1 points more``, ``0.9 fewer``."""
    return f"{abs(100 * share):.1f} {unit}{'more' if share >= 0 else 'fewer'}"


def reason(word: Word, change: Difference | None, p_holm: float, expected_false: Fraction | float) -> str:
    """Why the word is what it is."""
    if word == "identical":
        return "both order all pairs alike"
    if word in ("better", "worse"):
        return f"more than chance (p {p_holm:.2g})"
    if expected_false < LEAST_FALSE:
        return f"fewer than {LEAST_FALSE} false accepts are expected, too few to decide anything"
    if change is None or change.smallest is None:
        return "without a bootstrap nothing can be told"
    if change.decided:
        return f"asked at several rates, it may still be chance (p {p_holm:.2g} after Holm)"
    return f"a true difference below {100 * change.smallest:.1f} points would mostly go unnoticed here"
