"""Rates over searches, with intervals over the searched people, and each score against the first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facekit.evaluation.pairwise import with_interval
from facekit.evaluation.results import Row
from facekit.evaluation.statistics import (
    DRAWS,
    LEVEL,
    IdentityBootstrap,
    bootstrap_p,
    draw_identities,
    holm,
    paired_difference,
    ratio,
    total_weight,
)
from facekit.evaluation.verification import OperatingPoint
from facekit.evaluation.versus import decide, reason


class SearchBootstrap(IdentityBootstrap):
    """Draws of the searched people: a search weighs as often as its person is drawn, mated or not.

    ``subject`` [P] are the people, ``mated`` [P] says who of them can be found. The gallery stays as it is: rates
    depend on its size. Every score asked about sees the same draws.
    """

    def __init__(self, subject: np.ndarray, mated: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> None:
        people, code = np.unique(subject, return_inverse=True)
        self.multiplicity = draw_identities(len(people), draws, seed)
        self.same = mated
        self.genuine, self.impostor = code[mated], (code[~mated], None)
        self.genuine_total = total_weight(self.multiplicity, self.genuine, None)
        self.impostor_total = total_weight(self.multiplicity, *self.impostor)

    @property
    def knows_people(self) -> bool:
        """A search without its person could not be judged at all."""
        return True

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the mated searches in each draw [R]; ``values`` [mated]."""
        of_person = np.bincount(self.genuine, weights=values, minlength=len(self.multiplicity))
        return ratio(of_person @ self.multiplicity, self.genuine_total)


def plain_rate(value: float, note: str = "") -> OperatingPoint:
    """A rate that has no threshold."""
    return OperatingPoint(value, None, None, None, "ok", note)


@dataclass(frozen=True)
class Rates:
    """One metric of one score at n operating points."""

    protocol: str
    metric: str
    at: Sequence[float | None]
    points: Sequence[OperatingPoint]
    drawn: Sequence[np.ndarray | None]
    """[R] in every draw of people; None without a bootstrap, or where the rate cannot be measured"""


def rate_rows(rates: Rates, base: Row, boot: SearchBootstrap | None) -> Iterator[Row]:
    """Every rate with its interval, and the smallest effect it could show."""
    for at, point, drawn in zip(rates.at, rates.points, rates.drawn, strict=True):
        row = dataclasses.replace(
            base,
            protocol=rates.protocol,
            metric=rates.metric,
            at=at,
            value=point.value,
            threshold=point.threshold,
            achieved=point.achieved,
            n_false=point.n_false,
            status=point.status,
            note=point.note,
        )
        yield from with_interval(row, boot, drawn, None)


def delta_rows(first: Rates, second: Rates, base: Row, boot: SearchBootstrap | None) -> Iterator[Row]:
    """``delta.<metric>``: the second score minus the first over the same draws, and the smallest effect it could show.

    Notes begin with better, worse or undecided, as those of ``versus`` do: the first two need an interval without zero,
    p <= 0.05 after Holm's correction over the points, and ten false alarms expected where there are any.
    """
    paired = dataclasses.replace(base, protocol="paired", metric=f"delta.{second.metric}")
    changes = [None if b is None or a is None else b - a for a, b in zip(first.drawn, second.drawn, strict=True)]
    measured = [i for i, change in enumerate(changes) if change is not None]
    p = dict(zip(measured, holm([bootstrap_p(c) for c in changes if c is not None]), strict=True))
    for i, (at, before, after) in enumerate(zip(second.at, first.points, second.points, strict=True)):
        row = dataclasses.replace(paired, at=at, status=after.status)
        a, b = first.drawn[i], second.drawn[i]
        if before.value is None or after.value is None:
            yield dataclasses.replace(row, note=f"undecided: {after.note}")
            continue
        if boot is None or a is None or b is None:
            note = "undecided: without a bootstrap nothing can be told"
            yield dataclasses.replace(row, value=after.value - before.value, note=note)
            continue
        d = paired_difference(after.value - before.value, a, b, boot.trials)
        # Only rates with a threshold have false alarms to be short of.
        expected = math.inf if at is None or after.n_false is None else at * len(boot.impostor[0])
        word = decide(d, p[i], expected)
        note = f"{word}: {reason(word, d, p[i], expected)}"
        yield dataclasses.replace(
            row, value=d.value, low=d.low, high=d.high, level=LEVEL, ci_method=boot.method, note=note
        )
        yield dataclasses.replace(row, metric=f"smallest_effect.{row.metric}", value=d.smallest, ci_method=boot.method)
