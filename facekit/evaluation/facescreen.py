"""Coded faces for the terminal: every rate at every setting, then how few bytes will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from facekit.core.reporting import printable
from facekit.evaluation.bytebudget import METRICS, Budget, savings, sentences
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.facefigures import TITLES
from facekit.evaluation.facerows import SIDES, FaceRow
from facekit.evaluation.rdscreen import headed


def face_screen(rows: Sequence[FaceRow], budgets: Sequence[Budget]) -> Iterator[Table | str]:
    """For each benchmark and case the rates and the bytes that will do; then what that saves."""
    whole = [budget for budget in budgets if budget.counted == "whole"]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        for side in SIDES:
            mine = [row for row in rows if row.benchmark == benchmark and row.sides in (side, "")]
            if any(row.sides for row in mine):
                yield f"\n{printable(benchmark)}: {TITLES[side]}"
                yield rate_table(mine)
                if kept := [row for row in mine if row.metric == "tar@threshold"]:
                    yield threshold_table(kept, [row for row in mine if row.metric == "far@threshold"])
                if asked := [b for b in whole if (b.benchmark, b.sides) == (benchmark, side)]:
                    yield budget_table(asked)
    yield (
        "bytes: mean of whole files; * near the size of the files the faces come from, where the loss is too small to "
        "be true. Will do: interpolated between settings. Keeps: the last setting before the first that loses more. "
        "Shown: the last whose whole interval keeps. None keeps: its largest files lose more already. Fewer may do: "
        "nothing smaller was measured."
    )
    for codec in dict.fromkeys(budget.codec for budget in whole if budget.codec not in CLASSICAL):
        yield from sentences(savings(whole, codec))


def rate_table(rows: Sequence[FaceRow]) -> Table:
    """One line a setting: uncompressed its rates, the others what they change."""
    points = list(dict.fromkeys((row.metric, row.at) for row in rows if row.metric in METRICS))
    table = headed(
        "rates of uncompressed faces in %; of coded ones the change in points",
        ("codec", "setting"), ("bytes", "cosine", *(heading(*point) for point in points)),
    )  # fmt: skip
    lines: dict[tuple[str, str], dict[tuple[str, float | None], FaceRow]] = {}
    for row in rows:
        lines.setdefault((row.codec, row.setting), {})[row.metric, row.at] = row
    for (codec, setting), line in lines.items():
        one = next(iter(line.values()))
        cosine = "" if one.cosine is None else f"{one.cosine:.4f}"
        table.add_row(
            printable(codec), printable(setting), size(one.bytes, one.near_source), cosine,
            *(rate(line[point]) for point in points),
        )  # fmt: skip
    return table


def heading(metric: str, at: float | None) -> str:
    """``TAR@0.001``."""
    return "accuracy" if at is None else f"TAR@{at:g}"


def rate(row: FaceRow) -> str:
    """``98.21`` of the uncompressed, ``-0.34`` of the others."""
    value = row.delta if row.sides else row.value
    return "-" if value is None else f"{100 * value:+.2f}" if row.sides else f"{100 * value:.2f}"


def threshold_table(accepted: Sequence[FaceRow], impostors: Sequence[FaceRow]) -> Table:
    """What becomes of TAR and of FAR where the threshold stays: one line for a setting and a threshold."""
    table = headed(
        "at thresholds that uncompressed images of other people chose", ("codec", "setting"),
        ("bytes", "chosen for FAR", "TAR %", "FAR"),
    )  # fmt: skip
    for genuine, impostor in zip(accepted, impostors, strict=True):
        table.add_row(
            printable(genuine.codec), printable(genuine.setting), size(genuine.bytes, genuine.near_source),
            f"{genuine.at:g}",
            "-" if genuine.value is None else f"{100 * genuine.value:.2f}",
            "-" if impostor.value is None else f"{impostor.value:.2g}",
        )  # fmt: skip
    return table


def budget_table(budgets: Sequence[Budget]) -> Table:
    """One line for a rate and a codec."""
    title = f"bytes a face that lose at most {100 * budgets[0].allowed:g} points"
    table = headed(title, ("rate", "codec"), ("will do", "keeps", "shown"))
    table.add_column("note")
    for budget in sorted(budgets, key=lambda budget: (METRICS.index(budget.metric), -(budget.at or 0))):
        table.add_row(
            heading(budget.metric, budget.at),
            printable(budget.codec),
            "-" if budget.bytes is None else size(budget.bytes, budget.near_source),
            kept_at(budget.setting, budget.setting_bytes),
            kept_at(budget.shown_setting, budget.shown_bytes),
            remark(budget),
        )
    return table


def remark(budget: Budget) -> str:
    """A budget's note in few words; the legend has the others."""
    return "" if not budget.note else "none keeps" if budget.setting is None else "fewer may do"


def size(count: float, near_source: bool) -> str:
    """``1,204*``."""
    return f"{count:,.0f}{'*' * near_source}"


def kept_at(name: str | None, count: float | None) -> str:
    """``quality 30: 812``."""
    return "-" if name is None or count is None else f"{printable(name)}: {count:,.0f}"
