"""Result rows as tables for the terminal; percent only here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from facekit.core.reporting import printable, ranged
from facekit.evaluation.results import CLASS, NO_RATES, Row, find
from facekit.evaluation.verification import to_degrees, to_distance

DETAILS = ("threshold.", "smallest_effect.", "delta.", "far@tercile", "partial_auc", "eer_rocch", "mcnemar", CLASS)
"""Rows for the document only: on screen they are columns of other rows, or too much."""
NAMES = {
    "accuracy_10fold": "10-fold ± sd",
    "accuracy_lfw": "LFW ± S_E",
    "tar@far": "TAR@",
    "auc": "AUC",
    "eer": "EER",
    "cmc": "rank-",
    "tpir@fpir": "TPIR@",
    "map": "mAP",
    "recall@k": "Recall@",
    "tar@threshold": "TAR for ",
    "far@threshold": "FAR for ",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "nll": "NLL (nats, not %)",
    "ece": "calibration error",
}
SHOWN_CLASSES = 3
"""Of the hardest ones."""
COMPARED = ("tar@far", "cmc", "tpir@fpir", "map")
"""What the side-by-side table shows of every score."""
FROZEN = ("tar@threshold", "far@threshold")


def score_of(row: Row) -> tuple[str | None, str | None]:
    """What tells one way to score from another."""
    return row.score, row.support


def title_of(row: Row) -> str:
    """``dao, cohort, alpha 0.5, K 50``."""
    parts = [row.score or "", row.support or ""]
    parts += [f"alpha {row.alpha:g}"] if row.alpha is not None else []
    parts += [f"K {row.neighbours}"] if row.neighbours is not None else []
    return ", ".join(p for p in parts if p) + (" (transductive)" if row.transductive else "")


def label_of_row(row: Row) -> str:
    """``dao, cohort``."""
    return row.score or "" if row.support is None else f"{row.score}, {row.support}"


def metric_name(row: Row) -> str:
    """``TAR@0.001``, ``rank-5``."""
    return NAMES.get(row.metric, row.metric) + ("" if row.at is None else f"{row.at:g}")


def plain_table(*headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    return table


def first_score(rows: Sequence[Row]) -> list[Row]:
    """The rows of the first way to score, without compat, detail and frozen ones."""
    first = score_of(rows[0])
    shown = [row for row in rows if score_of(row) == first and row.status != "compat"]
    return [row for row in shown if not row.metric.startswith(DETAILS) and row.metric not in FROZEN]


def metrics_table(rows: Sequence[Row]) -> tuple[Table, list[str]]:
    """All metrics of the first score, and the notes of its marked rows; columns without a number are left out."""
    first = first_score(rows)
    headings = ("metric", "value %", "95 %\ninterval", "smallest\neffect", "cos", "d²", "angle", "false\naccepts")
    own = [row for row in rows if score_of(row) == score_of(first[0])]
    lines = [cells(row, find(own, f"smallest_effect.{row.metric}", row.at)) for row in first]
    kept = [i for i in range(len(headings)) if i < 2 or any(line[i] for line in lines)]
    table = plain_table(*(headings[i] for i in kept))
    for line in lines:
        table.add_row(*(line[i] for i in kept))
    return table, list(dict.fromkeys(row.note for row in first if row.note))


def cells(row: Row, effect: Row | None) -> tuple[str, ...]:
    """One line of the table of metrics."""
    unit = 1 if row.metric in NO_RATES else 100
    value = "unmeasurable" if row.value is None else f"{unit * row.value:.2f}"
    if row.std is not None:
        value += f" ± {unit * row.std:.2f}"
    between = f"{unit * row.low:.2f}..{unit * row.high:.2f}" if row.low is not None and row.high is not None else ""
    smallest = f"{unit * effect.value:.2f}" if effect is not None and effect.value is not None else ""
    t = row.threshold
    units = ("", "", "") if t is None else (f"{t:.3f}", f"{to_distance(t):.3f}", f"{to_degrees(t):.1f}°")
    false = "" if row.n_false is None else f"{row.n_false:,}"
    return metric_name(row) + ("*" if row.status != "ok" else ""), value, between, smallest, *units, false


def hardest_classes(rows: Sequence[Row]) -> Iterator[str]:
    """The classes of a closed set with the lowest accuracy."""
    ordered = sorted((row for row in rows if row.metric.startswith(CLASS)), key=lambda row: row.value or 0.0)
    if len(ordered) > 1:
        told = (f"{r.metric.removeprefix(CLASS)} {ranged(r.value, r.low, r.high)}" for r in ordered[:SHOWN_CLASSES])
        yield printable(f"Lowest of {len(ordered)} classes, %: {', '.join(told)}")


def scores_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Every way to score side by side, a table for each metric: its value, beneath it its change to the first."""
    for metric in dict.fromkeys(row.metric for row in rows if row.metric in COMPARED and row.status != "compat"):
        shown = [row for row in rows if row.metric == metric and row.status != "compat"]
        ways = list(dict.fromkeys(map(score_of, shown)))
        if len(ways) > 1:
            yield side_by_side(shown, [row for row in rows if row.metric == f"delta.{metric}"], ways)


def side_by_side(values: Sequence[Row], changes: Sequence[Row], ways: Sequence[tuple[str | None, str | None]]) -> Table:
    """One metric: a line for each way to score, a column for each operating point."""
    points = list(dict.fromkeys(row.at for row in values))
    table = plain_table("score", *(metric_name(Row(metric=values[0].metric, at=at)) + " %" for at in points))
    for way in ways:
        own, changed = ([row for row in part if score_of(row) == way] for part in (values, changes))
        found = (([r for r in own if r.at == at], [r for r in changed if r.at == at]) for at in points)
        table.add_row(title_of(own[0]), *(both(value, change) for value, change in found))
    return table


def both(value: Sequence[Row], change: Sequence[Row]) -> Text | str:
    """``27.5 (24.4..30.5)`` and, beneath, ``+1.7 (+0.7..+2.8)``, bold where the interval excludes zero."""
    if not value or value[0].value is None:
        return "unmeasurable" if value else ""
    text = ranged(value[0].value, value[0].low, value[0].high)
    if not change or (by := change[0].value) is None:
        return text
    low, high = change[0].low, change[0].high
    if low is None or high is None:
        return f"{text}\n{100 * by:+.1f}"
    line = f"{100 * by:+.1f} ({100 * low:+.1f}..{100 * high:+.1f})"
    return Text(f"{text}\n").append(line, "bold" if low > 0 or high < 0 else "")


def frozen_table(rows: Sequence[Row]) -> Table | None:
    """TAR and FAR at thresholds that were chosen elsewhere, one line per score and condition."""
    shown = [row for row in rows if row.metric in FROZEN]
    if not shown:
        return None
    fars = sorted({row.at for row in shown if row.at is not None}, reverse=True)
    table = plain_table("images", "score", *(f"{name} %\nset for {far:g}" for far in fars for name in ("TAR", "FAR")))
    for variant, *way in dict.fromkeys((row.variant, *score_of(row)) for row in shown):
        own = [row for row in shown if row.variant == variant and score_of(row) == tuple(way)]
        line = [find(own, metric, far) for far in fars for metric in FROZEN]
        table.add_row(condition_of(variant), label_of_row(own[0]), *(rate(row) for row in line))
    return table


def condition_of(variant: str | None) -> str:
    """``flip-none,mask`` is ``mask``; without a condition the images are as they are."""
    return (variant or "").partition(",")[2] or "as they are"


def rate(row: Row | None) -> str:
    """A rate with its interval; false-accept rates with the digits that they need."""
    if row is None or row.value is None:
        return ""
    if row.metric == "far@threshold":
        between = "" if row.low is None or row.high is None else f"\n({100 * row.low:.2g}..{100 * row.high:.2g})"
        return f"{100 * row.value:.2g}{between}"
    return ranged(row.value, row.low, row.high).replace(" (", "\n(")


def notes_of(rows: Sequence[Row]) -> Iterator[str]:
    """How to read the intervals, in a sentence or two."""
    methods = {row.ci_method for row in rows} - {None}
    unit = "people"
    if methods & {"image_bootstrap", "wilson_images"}:
        how, unit = "Intervals: 95 %, images drawn with replacement.", "images"
    elif "identity_bootstrap" in methods:
        how = "Intervals: 95 %, people drawn with replacement."
    elif methods:
        how = "Intervals: 95 %, Wilson on pairs: the people are unknown, and what pairs share makes them too narrow."
    else:
        return
    yield (
        f"{how} Smallest effect: a true difference from another model, measured separately on as many {unit}, that "
        "would be noticed four times in five, in points; a paired comparison notices smaller ones."
    )


def screens(
    rows: Sequence[Row], advice: Mapping[str, Sequence[str]], sentences: Sequence[str]
) -> Iterator[Table | str]:
    """Everything for the terminal, benchmark by benchmark; what to take home comes last."""
    for name in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == name]
        for variant in dict.fromkeys(row.variant for row in own if is_measured(row)):
            yield from variant_screens([row for row in own if row.variant == variant])
        if (kept := frozen_table(own)) is not None:
            yield kept
        yield from notes_of(own)
        yield from advice.get(name or "", ())
    if sentences:
        yield ""
        yield from sentences


def is_measured(row: Row) -> bool:
    """Not a comparison, not a threshold from elsewhere: those have tables of their own."""
    return row.protocol != "paired" and not row.metric.endswith(FROZEN)


def variant_screens(rows: Sequence[Row]) -> Iterator[Table | str]:
    """One variant of a benchmark: all metrics of the first score, then all scores side by side."""
    measured = [row for row in rows if is_measured(row)]
    yield ""
    yield headline(max(measured, key=lambda row: row.n_impostor or 0))
    table, notes = metrics_table(measured)
    yield table
    yield from (f"* {note}" for note in notes)
    yield from hardest_classes(rows)
    beside = [*scores_tables(rows)]
    yield from beside
    if beside:
        yield "Beneath a value: its change against raw in points, people drawn alike; bold excludes zero."


def headline(row: Row) -> str:
    """``mbf_half@1f2e on lfw: 3,000 genuine and 3,000 impostor pairs, 7,701 images, ...``."""
    kinds = "classes" if row.protocol == "closed-set" else "people"
    counts = [
        f"{row.n_genuine:,} genuine and {row.n_impostor:,} impostor pairs" if row.n_genuine and row.n_impostor else "",
        f"{row.n_images:,} images" if row.n_images else "",
        f"{kinds} unknown" if row.n_identities is None else f"{row.n_identities:,} {kinds}",
        row.variant or "",
        f"{row.n_failed} images or people failed" if row.n_failed else "",
    ]
    return f"{row.model} on {row.benchmark}: {', '.join(c for c in counts if c)}"
