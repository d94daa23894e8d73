"""Coded faces for the terminal: every rate at every setting, then how few bytes will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from facekit.core.reporting import printable
from facekit.evaluation.bytebudget import METRICS, Budget, savings, sentences
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.facerows import SIDES, FaceRow

TITLES = {"both": "both images coded", "probe": "probe coded, gallery uncompressed"}
Point = tuple[str, float | None]
"""A metric and the FAR it is taken at."""


def face_screen(rows: Sequence[FaceRow], budgets: Sequence[Budget]) -> Iterator[Table | str]:
    """A table for each benchmark and case, one of the bytes that will do, and what that saves."""
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        for side in SIDES:
            mine = [row for row in rows if row.benchmark == benchmark and row.sides in (side, "")]
            if any(row.sides for row in mine):
                yield rate_table(mine, f"{benchmark}: {TITLES[side]}")
    yield (
        "Rates in %, in brackets the change against uncompressed. * near the size of the files the faces come from: "
        "the loss is too small to be true."
    )
    whole = [budget for budget in budgets if budget.counted == "whole"]
    if whole:
        yield budget_table(whole)
        yield (
            "bytes: interpolated. keeps: the smallest setting before the first that loses more. shown: the smallest "
            "whose whole interval keeps. Bytes without what all files share are in results.json."
        )
    for codec in dict.fromkeys(budget.codec for budget in whole if budget.codec not in CLASSICAL):
        yield from sentences(savings(whole, codec))


def rate_table(rows: Sequence[FaceRow], title: str) -> Table:
    """One line a setting; rates at moved and at kept thresholds in columns."""
    points: list[Point] = list(dict.fromkeys((row.metric, row.at) for row in rows))
    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title=printable(title), title_justify="left"
    )
    for column in ("codec", "setting"):
        table.add_column(column, no_wrap=True)
    for column in ("bytes", "payload", "PSNR", "cosine", *(heading(point) for point in points)):
        table.add_column(column, justify="right", no_wrap=True)
    lines: dict[tuple[str, str], dict[Point, FaceRow]] = {}
    for row in rows:
        lines.setdefault((row.codec, row.setting), {})[row.metric, row.at] = row
    for (codec, setting), line in lines.items():
        one = next(iter(line.values()))
        table.add_row(
            printable(codec),
            printable(setting),
            f"{one.bytes:,.0f}{'*' * one.near_source}",
            f"{one.payload:,.0f}",
            "" if one.psnr is None else f"{one.psnr:.2f}",
            "" if one.cosine is None else f"{one.cosine:.4f}",
            *(cell(line.get(point)) for point in points),
        )
    return table


def heading(point: Point) -> str:
    """``TAR@0.001``; with a threshold from other people ``TAR for 0.001`` and what FAR became of it."""
    metric, at = point
    names = {"tar@far": "TAR@", "tar@threshold": "TAR for ", "far@threshold": "FAR for "}
    return "accuracy" if at is None else f"{names[metric]}{at:g}"


def cell(row: FaceRow | None) -> str:
    """``98.21 (-0.34)``."""
    if row is None or row.value is None:
        return "-"
    return f"{100 * row.value:.2f}" + ("" if row.delta is None else f" ({100 * row.delta:+.2f})")


def budget_table(budgets: Sequence[Budget]) -> Table:
    """One line for a codec, case and rate."""
    title = f"bytes a face that lose at most {100 * budgets[0].allowed:g} points"
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for column in ("benchmark", "coded", "rate", "codec"):
        table.add_column(column, no_wrap=True)
    for column in ("bytes", "keeps", "shown"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note")
    ordered = sorted(budgets, key=lambda b: (b.benchmark, b.sides, METRICS.index(b.metric), -(b.at or 0)))
    for budget in ordered:
        table.add_row(
            printable(budget.benchmark),
            budget.sides,
            heading((budget.metric, budget.at)),
            printable(budget.codec),
            "-" if budget.bytes is None else f"{budget.bytes:,.0f}{'*' * budget.near_source}",
            setting(budget.setting, budget.setting_bytes),
            setting(budget.shown_setting, budget.shown_bytes),
            printable(budget.note),
        )
    return table


def setting(name: str | None, size: float | None) -> str:
    """``quality 30: 812``."""
    return "-" if name is None or size is None else f"{printable(name)}: {size:,.0f}"
