"""Greedy search for anchors: the next one is the hardest state of the route that the student can still follow.

Known second-hand of RCO (arXiv 1904.09149): a greedy search with a divergence as hardness and a threshold delta. The
rule is ours. With H_i(j) the distance of the student after the stage on state i from teacher state j:

    r_i(j) = H_i(j) / max(H_i(i), 1e-12)      scan j = i+1, i+2, ... while r_i(j) <= delta, stop at the first failure
    next   = the last j that passed, or i+1 where none did

States are numbered 0..m-1 in the order of time, m-1 is the converged teacher and always the last anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facekit.core.errors import UsageError

_LEAST = 1e-12


def next_anchor(row: Sequence[float], position: int, delta: float) -> int:
    """The state after ``position``, given H_position(j) for all m states in ``row``. ``position`` is below m - 1.

    Only the states behind ``position`` are read. A failure is not jumped over:

    >>> next_anchor([0.1, 0.12, 0.5, 0.13], 0, delta=1.6)
    1
    """
    limit = delta * max(row[position], _LEAST)
    following = range(position + 1, len(row))
    first_failure = next((j for j in following if row[j] > limit), len(row))
    return max(first_failure - 1, position + 1)


@dataclass(frozen=True)
class Greedy:
    """GS(delta) over ``states`` states. It is asked between the stages, because a row needs the trained student.

    ``first`` is the first anchor; ``most`` anchors are used at most, 1 means the converged teacher alone.
    """

    states: int
    delta: float
    first: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.states < 1:
            raise UsageError("a greedy search needs at least one state of the teacher")
        if self.delta < 1:
            raise UsageError(f"--delta is {self.delta:g}, out of range: it must be >= 1")
        if self.most is not None and self.most < 1:
            raise UsageError(f"--max-anchors is {self.most}, out of range: it must be >= 1")
        if not 0 <= self.first < self.states:
            raise UsageError(f"the first anchor is state {self.first}; the route has 0 to {self.states - 1}")

    def start(self) -> int:
        """The first anchor."""
        return self.states - 1 if self.most == 1 else self.first

    def following(self, used: Sequence[int], row: Sequence[float]) -> int | None:
        """The anchor after those ``used``, the last of which ``row`` was measured at; None where the search ends."""
        if used[-1] == self.states - 1:
            return None
        if self.most is not None and len(used) >= self.most - 1:
            return self.states - 1
        return next_anchor(row, used[-1], self.delta)
