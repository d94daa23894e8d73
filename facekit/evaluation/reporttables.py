"""From result rows to the tables of the report: what stands beside what, and in which order. No number is made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from facekit.evaluation.results import CLASS, Row
from facekit.evaluation.screen import condition_of
from facekit.evaluation.versus import AGAINST, Word

RATES = {
    "tar@far": ("Genuine pairs that pass (TAR)", "FAR"),
    "tpir@fpir": ("Enrolled people who are found (TPIR)", "FPIR"),
    "cmc": ("Identification rate", "rank"),
    "recall@k": ("Recall", "first"),
}
"""Metric with operating points -> (title of its table, what its points are called)."""
NUMBERS = {
    "accuracy_10fold": "Accuracy, 10 folds",
    "accuracy_lfw": "Accuracy, exact thresholds",
    "eer": "EER",
    "eer_rocch": "EER of the convex hull",
    "auc": "AUC",
    "partial_auc": "Mean TAR to FAR 0.001",
    "map": "mAP",
    "val@far": "VAL at FAR 0.001",
    "tar@far_nearest": "TAR at the nearest FAR",
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "nll": "NLL, nats",
    "ece": "Calibration error",
}
"""Metrics without, and those of published tables."""
TRIALS = {
    "1:N-closed": ("searches of enrolled people", "searches of others"),
    "1:N-open": ("searches of enrolled people", "searches of others"),
    "retrieval": ("queries with a match", "queries without"),
}
"""Protocol -> what ``n_genuine`` and ``n_impostor`` count; pairs elsewhere."""
FROZEN = ("tar@threshold", "far@threshold")
THIRDS = ("loneliest", "middle", "most crowded")


class Way(NamedTuple):
    """A way to score, of one model."""

    model: str | None
    score: str
    support: str | None
    alpha: float | None
    neighbours: int | None
    transductive: bool

    @property
    def label(self) -> str:
        """As in the curves: ``dao, cohort``."""
        return self.score if self.support is None else f"{self.score}, {self.support}"

    @property
    def control(self) -> bool:
        """Rows that should show no effect: white noise for neighbours, or no strength."""
        return self.support == "noise" or self.alpha == 0

    @property
    def details(self) -> str:
        """``alpha 0.5, K 50, control``."""
        parts = [] if self.alpha is None else [f"alpha {self.alpha:g}"]
        parts += [] if self.neighbours is None else [f"K {self.neighbours}"]
        parts += ["transductive"] if self.transductive else []
        return ", ".join([*parts, "control"] if self.control else parts)


def way_of(row: Row) -> Way:
    """How a row was scored."""
    return Way(row.model, row.score or "raw", row.support, row.alpha, row.neighbours, bool(row.transductive))


def in_order(ways: Iterable[Way]) -> list[Way]:
    """Raw first, then aligned scores as they came, controls last; models as they came."""
    found = list(dict.fromkeys(ways))
    models = list(dict.fromkeys(way.model for way in found))
    return sorted(found, key=lambda way: (models.index(way.model), way.score != "raw", way.control))


# --- tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One score at one operating point."""

    way: Way
    row: Row
    effect: float | None
    """Smallest difference from another model, measured apart, that could have been noticed"""
    change: Row | None
    """Against the raw score, on the same draws"""
    change_effect: float | None

    @property
    def word(self) -> Word | None:
        """better, worse, undecided or identical, as the change's note begins."""
        words: tuple[Word, ...] = get_args(Word)
        note = "" if self.change is None else self.change.note
        return next((word for word in words if note.startswith(f"{word}:")), None)


@dataclass(frozen=True)
class RateTable:
    """One metric at its operating points, every score at each."""

    title: str
    unit: str
    """What the points are called: FAR, rank"""
    variant: str | None
    """None where all of the benchmark's numbers are of one variant"""
    points: tuple[tuple[float, tuple[Line, ...]], ...]

    @property
    def trials(self) -> list[tuple[int, str]]:
        """How many trials are behind it, of either kind."""
        row = self.points[0][1][0].row
        names = TRIALS.get(row.protocol or "", ("genuine pairs", "impostor pairs"))
        return [(n, name) for n, name in zip((row.n_genuine, row.n_impostor), names, strict=True) if n is not None]

    @property
    def several(self) -> bool:
        """Whether there is anything to compare."""
        return any(len(lines) > 1 for _, lines in self.points)

    @property
    def thresholds(self) -> bool:
        """Whether the points have thresholds; ranks have none."""
        return any(line.row.threshold is not None for _, lines in self.points for line in lines)


@dataclass(frozen=True)
class NumberTable:
    """Numbers without operating points: one column each, one line a score."""

    columns: tuple[str, ...]
    lines: tuple[tuple[Way, tuple[Row | None, ...]], ...]


@dataclass(frozen=True)
class FrozenTable:
    """What a threshold that was chosen elsewhere holds, in every condition, under every score."""

    at: float
    ways: tuple[Way, ...]
    conditions: tuple[tuple[str, tuple[tuple[Row | None, Row | None], ...], str], ...]
    """(condition, (TAR, FAR) per score, who keeps the FAR)"""
    source: str
    """The note of its rows: where the threshold comes from"""


@dataclass(frozen=True)
class ThirdsTable:
    """FAR of lonely, middling and crowded pairs at one threshold, raw and aligned."""

    fars: tuple[float, ...]
    groups: tuple[tuple[Way, tuple[tuple[str, tuple[Row | None, ...]], ...]], ...]
    """Whose neighbours make the thirds -> (label of the score, FAR of the three thirds at each of the ``fars``)"""


@dataclass(frozen=True)
class Section:
    """All tables of one benchmark."""

    name: str
    closed: bool
    """Whether images are classified, not compared"""
    about: Mapping[str, Any]
    """Its entry in the document's ``benchmarks``; empty where there is none"""
    counts: tuple[tuple[int | None, str], ...]
    """Images, people (or classes), failed images"""
    rates: tuple[RateTable, ...]
    numbers: NumberTable | None
    published: NumberTable | None
    """Forms that are only for comparison with published tables"""
    compared: tuple[Row, ...]
    """One model against another on the same pairs"""
    frozen: tuple[FrozenTable, ...]
    thirds: ThirdsTable | None
    statuses: frozenset[str]
    methods: frozenset[str]
    """Of the intervals"""
    notes: tuple[str, ...]
    """Of rows that are marked"""
    several_models: bool


def sections(rows: Sequence[Row], benchmarks: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One section a benchmark, in the order of the rows."""
    about = {entry.get("name"): entry for entry in benchmarks}
    names = dict.fromkeys(row.benchmark for row in rows if row.benchmark is not None)
    return [section(name, [row for row in rows if row.benchmark == name], about.get(name, {})) for name in names]


def section(name: str, rows: Sequence[Row], about: Mapping[str, Any]) -> Section:
    """Sort the rows of one benchmark into its tables."""
    compared, own = parted(rows, lambda row: AGAINST in (row.model or ""))
    compat, plain = parted(filter(is_measured, own), lambda row: row.status == "compat")
    any_of = plain[0] if plain else rows[0]
    closed = any_of.protocol == "closed-set"
    rates, numbers = parted(plain, lambda row: row.at is not None and row.metric != "partial_auc")
    return Section(
        name=name,
        closed=closed,
        about=about,
        counts=(
            (any_of.n_images, "images"),
            (any_of.n_identities, "classes" if closed else "people"),
            (any_of.n_failed, "images failed"),
        ),
        rates=tuple(rate_tables(rates, own)),
        numbers=number_table(numbers),
        published=number_table(compat),
        compared=tuple(row for row in compared if not row.metric.startswith("smallest_effect.")),
        frozen=tuple(frozen_tables([row for row in own if row.metric in FROZEN])),
        thirds=thirds_table([row for row in own if row.metric.startswith("far@tercile")]),
        statuses=frozenset(row.status for row in rows),
        methods=frozenset(row.ci_method for row in rows if row.ci_method is not None),
        notes=tuple(dict.fromkeys(row.note for row in plain if row.status != "ok" and row.note)),
        several_models=len({row.model for row in plain}) > 1,
    )


def parted(rows: Iterable[Row], belongs: Callable[[Row], bool]) -> tuple[list[Row], list[Row]]:
    """(those that belong, the others), each in order."""
    found: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        found[0 if belongs(row) else 1].append(row)
    return found


def is_measured(row: Row) -> bool:
    """False for rows that are columns or tables of their own."""
    details = ("threshold.", "smallest_effect.", "delta.", "far@tercile", "mcnemar", CLASS)
    return not row.metric.startswith(details) and row.metric not in FROZEN


def rate_tables(rates: Sequence[Row], rows: Sequence[Row]) -> list[RateTable]:
    """One table a variant and metric."""
    beside = {(way_of(row), row.variant, row.metric, row.at): row for row in rows}
    variants = {row.variant for row in rates}
    tables = []
    for variant, metric in dict.fromkeys((row.variant, row.metric) for row in rates):
        mine = [row for row in rates if (row.variant, row.metric) == (variant, metric)]
        title, unit = RATES.get(metric, (metric, "at"))
        points = tuple(
            (at, lines_at(mine, at, beside)) for at in dict.fromkeys(row.at for row in mine) if at is not None
        )
        tables.append(RateTable(title, unit, variant if len(variants) > 1 else None, points))
    return tables


def lines_at(
    rows: Sequence[Row], at: float, beside: Mapping[tuple[Way, str | None, str, float | None], Row]
) -> tuple[Line, ...]:
    """Every score at one operating point; what belongs to it is looked up ``beside``."""
    here = {way_of(row): row for row in rows if row.at == at}
    lines = []
    for way in in_order(here):
        row = here[way]
        effect, change, change_effect = (
            beside.get((way, row.variant, name.format(row.metric), at))
            for name in ("smallest_effect.{}", "delta.{}", "smallest_effect.delta.{}")
        )
        lines.append(Line(way, row, value_of(effect), change, value_of(change_effect)))
    return tuple(lines)


def value_of(row: Row | None) -> float | None:
    """The number of a row that may be missing."""
    return None if row is None else row.value


def number_table(rows: Sequence[Row]) -> NumberTable | None:
    """One line a score."""
    if not rows:
        return None
    variants = {row.variant for row in rows}
    columns = list(dict.fromkeys((row.variant, row.metric, row.at) for row in rows))
    cells = {(way_of(row), row.variant, row.metric, row.at): row for row in rows}
    headings = [
        NUMBERS.get(metric, metric)
        + (f" {at:g}" if at is not None and metric not in ("val@far", "partial_auc") else "")
        + (f" ({variant})" if len(variants) > 1 else "")
        for variant, metric, at in columns
    ]
    ways = in_order(map(way_of, rows))
    return NumberTable(
        tuple(headings), tuple((way, tuple(cells.get((way, *column)) for column in columns)) for way in ways)
    )


# --- frozen thresholds ----------------------------------------------------------------------------------------


def frozen_tables(rows: Sequence[Row]) -> list[FrozenTable]:
    """One table a FAR; conditions down, scores across."""
    cells = {(way_of(row), row.variant, row.metric, row.at): row for row in rows}
    ways, tables = in_order(map(way_of, rows)), []
    for at in dict.fromkeys(row.at for row in rows if row.at is not None):
        conditions = []
        for variant in dict.fromkeys(row.variant for row in rows):
            pairs = tuple(tuple(cells.get((way, variant, metric, at)) for metric in FROZEN) for way in ways)
            held = [(way.label, pair[1]) for way, pair in zip(ways, pairs, strict=True) if pair[1] is not None]
            conditions.append((condition_of(variant), tuple((p[0], p[1]) for p in pairs), steadiest(held)))
        source = next((row.note for row in rows if row.at == at and row.note), "")
        tables.append(FrozenTable(at, tuple(ways), tuple(conditions), source))
    return tables


def steadiest(held: Sequence[tuple[str, Row]]) -> str:
    """Under which score a frozen threshold keeps the FAR that it was chosen for, as far as intervals tell.

    It *keeps* it where the interval of the FAR holds the target. Where none does, the nearest (by ratio) is named if
    its interval is apart from that of the next.
    """
    told = [(label, row) for label, row in held if None not in (row.value, row.low, row.high, row.at)]
    if len(told) < 2:
        return ""
    keeping = [label for label, row in told if (row.low or 0) <= (row.at or 0) <= (row.high or 0)]
    if len(keeping) == len(told):
        return "all keep it" if len(told) > 2 else "both keep it"
    if keeping:
        return "; ".join(keeping)
    (label, nearest), (_, following), *_ = sorted(told, key=lambda item: off_target(item[1]))
    apart = (nearest.high or 0) < (following.low or 0) or (following.high or 0) < (nearest.low or 0)
    return f"none; {label} is nearest" if apart else "none; undecided which is nearer"


def off_target(row: Row) -> float:
    """|log(FAR / target)|."""
    return abs(math.log(row.value / row.at)) if row.value and row.at else math.inf


def thirds_table(rows: Sequence[Row]) -> ThirdsTable | None:
    """Each aligned score below the raw one in the same thirds."""
    cells = {(way_of(row), row.metric, row.at): row for row in rows}
    fars = tuple(dict.fromkeys(row.at for row in rows if row.at is not None))

    def line(way: Way, name: str) -> tuple[Row | None, ...]:
        return tuple(cells.get((way, f"far@tercile{k}.{name}", far)) for far in fars for k in (1, 2, 3))

    ways = in_order(map(way_of, rows))
    groups = tuple((way, (("raw", line(way, "raw")), (way.label, line(way, way.score)))) for way in ways)
    return ThirdsTable(fars, groups) if groups else None
