"""Which states of a teacher's route a student learns from, in which order, and for how long.

After the abstract and the algorithm figure of RCO (arXiv 1904.09149); the equal intervals are known second-hand, exact
rules and controls are ours:

    EEI(E, interval) = interval, 2 interval, ... up to E, and E     the converged teacher is always last
    one stage        = n anchors within the epochs of one training, stage s from epoch floor(s E / n) on

A control changes one thing only. ``restart`` keeps stages, epochs and restarts and learns from the converged teacher
throughout; ``reversed`` and ``shuffled`` keep the anchors and lose "easy to hard"; ``long`` keeps the number of epochs,
in one schedule.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from facekit.core.errors import MissingFile, UsageError, unknown_name

Anchors = tuple[int, ...]
"""Epochs of the teacher's training, in the order of use."""


def eei(epochs: int, interval: int) -> Anchors:
    """Anchors at equal epoch intervals, the last epoch included. Raises UsageError for numbers below 1.

    >>> eei(240, 80), eei(20, 6), eei(10, 20)
    ((80, 160, 240), (6, 12, 18, 20), (10,))
    """
    if epochs < 1 or interval < 1:
        raise UsageError(f"anchors every {interval} epochs of {epochs}: both must be at least 1")
    return (*range(interval, epochs, interval), epochs)


def default_interval(epochs: int, grid: int) -> int:
    """A quarter of the epochs, rounded to the ``grid`` on which states were saved, at least one step of it.

    >>> default_interval(240, 10), default_interval(20, 3), default_interval(20, 20)
    (60, 6, 20)
    """
    return max(1, round(epochs / 4 / grid)) * grid


def one_stage_bounds(total: int, n: int) -> tuple[int, ...]:
    """First epoch of every anchor, counted from 0, and ``total`` behind them: n + 1 numbers. Raises UsageError.

    >>> one_stage_bounds(200, 3), one_stage_bounds(26, 4)
    ((0, 66, 133, 200), (0, 6, 13, 19, 26))
    """
    if n < 1 or total < n:
        raise UsageError(f"{total} epochs cannot be shared among {n} anchors: each needs an epoch of its own")
    return tuple(stage * total // n for stage in range(n + 1))


def check_saved(wanted: Sequence[int], saved: Sequence[int], route: Path) -> None:
    """Every anchor must be a saved state. Raises MissingFile with the missing epochs and the saved ones."""
    if missing := sorted(set(wanted) - set(saved)):
        raise MissingFile(
            f"{route} has no state of epoch {', '.join(map(str, missing))}; saved are {', '.join(map(str, saved))}. "
            "Choose among those, or record a route with a --save-route that divides the interval"
        )


def controlled(control: str, anchors: Anchors, final: int, seed: int) -> Anchors:
    """The anchors as a control uses them: as many stages, except for ``long``, which is one. Raises UsageError.

    ``reversed`` and ``shuffled`` keep their last anchor in its place. A shuffle differs from the order it was given.

    >>> controlled("restart", (60, 120, 240), 240, 0), controlled("reversed", (60, 120, 240), 240, 0)
    ((240, 240, 240), (120, 60, 240))
    """
    if control == "none":
        return anchors
    if control == "restart":
        return (final,) * len(anchors)
    if control == "long":
        return (final,)
    *others, last = anchors
    if control not in ("reversed", "shuffled"):
        raise unknown_name("control", control, ("none", "restart", "reversed", "shuffled", "long"))
    if len(set(others)) < 2:
        raise UsageError(f"--control {control} needs at least 3 anchors, the last one stays last; there are {anchors}")
    if control == "reversed":
        return (*reversed(others), last)
    drawn, source = list(others), random.Random(seed)
    while drawn == others:
        source.shuffle(drawn)
    return (*drawn, last)
