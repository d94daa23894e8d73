"""How things are timed: A and B in turn, CPU time, the median of paired ratios with a 95 % interval.

Pairing cancels what drifts (clock, temperature, neighbours); the median forgets the odd interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

REPEATS = 30


@dataclass(frozen=True)
class Row:
    """One line of the table: a measured ratio or size against its bar."""

    name: str
    value: float
    low: float | None
    high: float | None
    bar: str
    passed: bool
    unit: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Paired:
    """CPU seconds of A and B, measured in turn."""

    a: np.ndarray
    b: np.ndarray

    def ratio(self) -> tuple[float, float, float]:
        """Median of a/b and its 95 % interval (order statistics of a sign test: no distribution assumed)."""
        ratios = np.sort(self.a / self.b)
        n = len(ratios)
        half = 0.98 * np.sqrt(n)
        low, high = int(np.floor(n / 2 - half)), int(np.ceil(n / 2 + half))
        return float(np.median(ratios)), float(ratios[max(0, low)]), float(ratios[min(n - 1, high)])


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def interleave(a: Callable[[], object], b: Callable[[], object], repeats: int = REPEATS, warm: int = 2) -> Paired:
    """Time a and b in turn, the order swapped every other time."""
    for _ in range(warm):
        a()
        b()
    times = np.empty((2, repeats))
    for i in range(repeats):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which, i] = cpu_seconds((a, b)[which])
    return Paired(times[0], times[1])


def at_least(name: str, paired: Paired, bar: float, note: str) -> Row:
    """A ratio that must be ``bar`` or more."""
    value, low, high = paired.ratio()
    return Row(name, value, low, high, f">= {bar:g}", value >= bar, "x", note)


def at_most(name: str, paired: Paired, bar: float, note: str) -> Row:
    """A ratio that must be ``bar`` or less."""
    value, low, high = paired.ratio()
    return Row(name, value, low, high, f"<= {bar:g}", value <= bar, "x", note)


def reported(name: str, paired: Paired, note: str) -> Row:
    """A ratio that is told and has no bar."""
    value, low, high = paired.ratio()
    return Row(name, value, low, high, "none", True, "x", note)
