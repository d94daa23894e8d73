"""The fewest bytes a face can be kept in before recognition loses more than is allowed.

The settings of a codec are walked from the largest file to the smallest, and the walk ends at the first that loses
more: a smaller one that happens to lose less is chance, not a bargain. Three answers come of it, from the boldest to
the safest: bytes *interpolated* between the last setting that keeps and the first that does not (the loss linear in the
log of bytes), the last *setting* that keeps, and the last that is *shown* to keep, the whole paired interval of its
loss being within what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.facerows import FaceRow

ALLOWED = 0.005
"""Half a point."""
METRICS = ("tar@far", "accuracy_lfw")
"""Rates that no moved threshold can flatter."""
_ROUNDING = 1e-12
Counted = Literal["whole", "payload"]
SIZES: dict[Counted, Callable[[FaceRow], float]] = {"whole": lambda row: row.bytes, "payload": lambda row: row.payload}
"""Whole files, or without what all files of a setting share."""
COUNTED: dict[Counted, str] = {"whole": "whole files", "payload": "payload"}


@dataclass(frozen=True)
class Budget:
    """Mean bytes a face; None where no setting will do, and the note says so."""

    benchmark: str
    codec: str
    sides: str
    metric: str
    at: float | None
    counted: Counted
    allowed: float
    bytes: float | None = None
    """Interpolated"""
    setting: str | None = None
    """The last that keeps"""
    setting_bytes: float | None = None
    shown_setting: str | None = None
    """The last that is shown to keep; None without a bootstrap, or where the interval is too wide"""
    shown_bytes: float | None = None
    near_source: bool = False
    """True: the last setting that keeps is too near the files the faces come from to be trusted"""
    note: str = ""


def budgets(rows: Sequence[FaceRow], allowed: float = ALLOWED) -> list[Budget]:
    """For every codec, case and rate: how few bytes lose at most ``allowed`` of it, against the uncompressed."""
    groups: dict[tuple[str, str, str, str, float | None], list[FaceRow]] = {}
    for row in rows:
        if row.delta is not None and row.metric in METRICS:
            groups.setdefault((row.benchmark, row.codec, row.sides, row.metric, row.at), []).append(row)
    return [budget(mine, counted, allowed) for mine in groups.values() for counted in SIZES]


def budget(rows: Sequence[FaceRow], counted: Counted, allowed: float) -> Budget:
    """Of one rate of one codec at its settings."""
    size, first = SIZES[counted], rows[0]
    ordered = sorted(rows, key=size, reverse=True)
    kept = list(takewhile(lambda row: loss(row) <= allowed + _ROUNDING, ordered))
    shown = list(takewhile(lambda row: worst_loss(row) <= allowed + _ROUNDING, ordered))
    found = Budget(first.benchmark, first.codec, first.sides, first.metric, first.at, counted, allowed)
    if not kept:
        return replace(found, note=f"{ordered[0].setting}, the largest that was measured, already loses more")
    last, beyond = kept[-1], ordered[len(kept) : len(kept) + 1]
    return replace(
        found,
        bytes=crossing(last, beyond[0], size, allowed) if beyond else size(last),
        setting=last.setting,
        setting_bytes=size(last),
        shown_setting=shown[-1].setting if shown else None,
        shown_bytes=size(shown[-1]) if shown else None,
        near_source=last.near_source,
        note="" if beyond else "nothing smaller was measured: fewer bytes may do",
    )


def loss(row: FaceRow) -> float:
    """What was lost, as measured."""
    assert row.delta is not None
    return -row.delta


def worst_loss(row: FaceRow) -> float:
    """What may have been lost: the far end of the paired interval."""
    return math.inf if row.delta_low is None else -row.delta_low


def crossing(kept: FaceRow, beyond: FaceRow, size: Callable[[FaceRow], float], allowed: float) -> float:
    """Bytes at which the loss is ``allowed``, between a setting that keeps and a smaller one that does not."""
    share = (allowed - loss(kept)) / (loss(beyond) - loss(kept))
    return size(kept) ** (1 - share) * size(beyond) ** share


# --- against the classical codecs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Saving:
    """A codec against the classical one that needs the fewest bytes for the same rate."""

    mine: Budget
    best: Budget
    share: float
    """Of bytes that are saved; below 0 where it needs more"""


def savings(found: Sequence[Budget], codec: str) -> list[Saving]:
    """Of a codec, wherever it and a classical one keep the rate."""
    wins = []
    for mine in found:
        rivals = [b for b in found if b.codec in CLASSICAL and question(b) == question(mine) and b.bytes is not None]
        if mine.codec != codec or mine.bytes is None or not rivals:
            continue
        best = min(rivals, key=lambda rival: rival.bytes or math.inf)
        assert best.bytes is not None
        wins.append(Saving(mine, best, 1 - mine.bytes / best.bytes))
    return wins


def question(asked: Budget) -> tuple[object, ...]:
    """What a budget answers, whoever answers it."""
    return asked.benchmark, asked.sides, asked.metric, asked.at, asked.counted, asked.allowed


def sentences(found: Sequence[Saving]) -> Iterator[str]:
    """``EDIC keeps TAR at FAR 0.0001 within 0.5 points at 412 bytes a face (both sides, whole files); ...``"""
    for saving in found:
        mine, best = saving.mine, saving.best
        rate = "accuracy" if mine.at is None else f"TAR at FAR {mine.at:g}"
        case = f"{'both sides' if mine.sides == 'both' else 'probe only'}, {COUNTED[mine.counted]}"
        yield (
            f"{mine.codec} keeps {rate} within {100 * mine.allowed:g} points at {mine.bytes:.0f} bytes a face "
            f"({case}); "
            f"{best.codec}, the best of the classical codecs, needs {best.bytes:.0f}: "
            f"{abs(100 * saving.share):.0f} % {'fewer' if saving.share >= 0 else 'more'}."
        )
