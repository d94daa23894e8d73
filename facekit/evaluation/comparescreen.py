"""The document of ``facekit runs compare`` for the terminal: the findings first, then the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from facekit.core.reporting import printable, ranged
from facekit.evaluation.verdict import signed

Document = Mapping[str, Any]
UNPAIRED = (
    "Intervals of separate measurements cannot decide between runs: all were measured on the same people or images, so "
    "even overlapping intervals may hide a real difference. Add --benchmark to compare them one by one."
)
NAMES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}


# --- on one benchmark ------------------------------------------------------------------------------------


def paired(content: Document) -> Iterator[Table | Text | str]:
    """Each finding as loud as the next; then a table for each point, the leading one first."""
    yield from heading(content, f"on {tested(content)}")
    numbers, lead = content["numbers"], (content["metric"], content["leading"])
    ways = list(dict.fromkeys(row["way"] for row in numbers))
    where = {way: f", {way}" if len(ways) > 1 else "" for way in ways}
    for finding in content["findings"]:
        line = f"{finding['arm']}{where[finding['way']]}, at {named(*lead)}: {finding['sentence']}"
        yield Text(printable(line), "bold")
    if content["findings"]:
        yield ""
    points = dict.fromkeys((row["metric"], row["at"]) for row in numbers)
    ordered = sorted(points, key=lambda point: (point != lead, -(point[1] or 0.0)))
    for way in ways:
        for point in ordered:
            rows = [row for row in numbers if (row["way"], row["metric"], row["at"]) == (way, *point)]
            if rows[0]["mean"] is None:
                yield f"{rows[0]['note']}{where[way]}"
            else:
                yield table_at(rows, content, named(*point) + where[way])
    yield (
        f"Intervals: 95 %, {drawn(content['ci_method'])} drawn with replacement, the same ones for all seeds and both "
        "arms. sd, min..max: over seeds. Smallest effect: the true difference that this comparison would notice four "
        "times in five. "
        f"Only {named(*lead)} is judged; other differences are shown, not tested."
    )


def named(metric: str, at: float | None) -> str:
    """``FAR 0.001``, ``top-1 accuracy``."""
    return NAMES.get(metric, metric) if at is None else f"FAR {at:g}"


def drawn(ci_method: str) -> str:
    """What was drawn."""
    return "images" if ci_method == "image_bootstrap" else "people"


def tested(content: Document) -> str:
    """What the benchmark holds."""
    about = content["benchmark"]
    if "classes" in about:
        return f"{about['name']}: {about['images']:,} images of {len(about['classes'])} classes"
    people = "people unknown" if about["identities"] is None else f"{about['identities']:,} people"
    return (
        f"{about['name']}: {about['genuine']:,} genuine and {about['impostor']:,} impostor pairs, {people}, "
        f"flip-{content['flip']}"
    )


def heading(content: Document, text: str) -> Iterator[str]:
    """How much is compared, on what, what to mind, what the control is."""
    runs = sum(len(arm["runs"]) for arm in content["arms"])
    yield ""
    yield printable(f"{plural(len(content['arms']), 'arm')}, {plural(runs, 'run')} {text}")
    yield from (printable(f"note: {note}") for note in content["notes"])
    yield printable(f"control: {content['control']}")
    yield ""


def plural(count: int, noun: str) -> str:
    """``1 arm``, ``2 arms``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def table_at(rows: Sequence[Document], content: Document, title: str) -> Table:
    """All arms at one point; the range over seeds where an arm has several."""
    seeds = {arm["name"]: len(arm["runs"]) for arm in content["arms"]}
    value = "TAR %" if rows[0]["metric"] == "tar@far" else "accuracy %"
    shown = empty_table(("runs", value, "sd", "min..max", "change to control", "smallest\neffect"), title)
    for row in rows:
        change = (row["change"] or {}).get(drawn(content["ci_method"]))
        several = len(row["values"]) > 1
        shown.add_row(
            arm_cell(row["arm"], content),
            str(seeds[row["arm"]]),
            ranged(row["mean"], row["low"], row["high"]) + "*" * (row["status"] == "low_support"),
            f"{100 * row['sd']:.1f}" if several else "",
            f"{100 * min(row['values']):.1f}..{100 * max(row['values']):.1f}" if several else "",
            "" if change is None else changed(change),
            "" if change is None or change["smallest"] is None else f"{100 * change['smallest']:.1f}",
        )
    note = next((row["note"] for row in rows if row["note"]), None)
    shown.caption = f"* {note}" if note else None
    return shown


def changed(change: Document) -> str:
    """``+1.2 (+0.3..+2.0)``."""
    between = "" if change["low"] is None else f" ({signed(change['low'])}..{signed(change['high'])})"
    return signed(change["value"]) + between


def empty_table(columns: Sequence[str], title: str) -> Table:
    """The look of both levels: arms on the left, numbers on the right."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        collapse_padding=True,
        title=title,
        title_justify="left",
        title_style="",
        caption_justify="left",
        caption_style="",
    )
    shown.add_column("arm", overflow="fold")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    return shown


def arm_cell(name: str, content: Document) -> str:
    """An arm in a table; the control's options are in the heading."""
    return "control" if name == content["control"] else printable(name)


# --- from their own results ------------------------------------------------------------------------------


def side_by_side(content: Document) -> Iterator[Table | Text | str]:
    """One table per benchmark: an arm's numbers, their mean and sd where it has several runs."""
    yield from heading(content, "from their own results")
    boards = list(dict.fromkeys((row["benchmark"], row["variant"]) for row in content["numbers"]))
    for benchmark, variant in boards:
        rows = [row for row in content["numbers"] if (row["benchmark"], row["variant"]) == (benchmark, variant)]
        columns = list(dict.fromkeys((row["metric"], row["at"]) for row in rows))
        titles = [metric if at is None else f"{metric}={at:g}" for metric, at in columns]
        shown = empty_table(("runs", *titles), printable(f"{benchmark}, {variant}, percent"))
        for arm in content["arms"]:
            own = [row for row in rows if row["arm"] == arm["name"]]
            cells = [several([row for row in own if (row["metric"], row["at"]) == column]) for column in columns]
            if own:
                shown.add_row(arm_cell(arm["name"], content), str(len({row["run"] for row in own})), *cells)
        yield shown
    yield "Intervals: 95 %, each of one run. Of several runs: mean ± sd over seeds."
    yield Text(UNPAIRED, "bold")


def several(rows: Sequence[Document]) -> str:
    """``72.5 (69.0..75.7)`` of one run, ``72.5 ± 0.4`` of several."""
    if not rows:
        return ""
    if len(rows) == 1:
        return ranged(rows[0]["value"], rows[0]["low"], rows[0]["high"])
    values = [row["value"] for row in rows]
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
