"""The evaluation report: one self-contained HTML page, made of result rows and curves alone."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from markupsafe import Markup

from facekit.evaluation.hardest import Hardest
from facekit.evaluation.page import change, percent, span, template
from facekit.evaluation.reportfigures import Drawn, draw, pens_of
from facekit.evaluation.reporttables import THIRDS, Line, Section, sections, way_of
from facekit.evaluation.results import NO_RATES, Row
from facekit.evaluation.scoring import Curve
from facekit.evaluation.swap import Rate
from facekit.evaluation.versus import Word

METHODS = {
    "identity_bootstrap": "people are drawn with replacement, and thresholds are found anew in every draw",
    "pair_bootstrap": "the people are unknown, so pairs are drawn; what pairs share makes these intervals too narrow",
    "wilson_pairs": "Wilson's interval on pairs, as if they were independent: too narrow where they share people",
    "wilson": "Wilson's interval on people (or images), where all draws agree",
    "image_bootstrap": "images are drawn with replacement",
    "wilson_images": "Wilson's interval on the images of one class",
}
"""``ci_method`` -> what it means."""


@dataclass(frozen=True)
class ReportContent:
    """What the page shows; every number on it stands in ``rows`` or ``curves``."""

    rows: Sequence[Row]
    curves: Sequence[Curve]
    benchmarks: Sequence[Mapping[str, Any]]
    """As in the results document"""
    models: Sequence[Mapping[str, Any]]
    """As in the results document; none where embeddings were given"""
    environment: Mapping[str, Any]
    command: str
    sentences: Sequence[str] = ()
    """What a reader should take home, for the box at the top"""
    advice: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Benchmark -> sentences about its thresholds"""
    warnings: Sequence[str] = ()
    """Identity leaks, overlaps, transductive scores"""
    hardest: Sequence[Hardest] = ()


@dataclass(frozen=True)
class Chapter:
    """One benchmark on the page."""

    tables: Section
    figures: Drawn
    advice: Sequence[str]
    hardest: Sequence[Hardest]


def render_report(content: ReportContent) -> str:
    """The page. Names and paths are escaped, figures are inlined, nothing is fetched.

    Raises MissingExtra without matplotlib where there are curves.
    """
    chapters = [
        chapter(content, tables, f"b{i}") for i, tables in enumerate(sections(content.rows, content.benchmarks))
    ]
    methods = {method for c in chapters for method in c.tables.methods}
    ways = {way_of(row) for row in content.rows}
    return template("report.html").render(
        content=content,
        title=title(content.models),
        chapters=chapters,
        summary=[*(sentence for c in chapters if (sentence := in_short(c.tables))), *content.sentences],
        methods=[text for name, text in METHODS.items() if name in methods],
        aligned=sum(way.score != "raw" and not way.control for way in ways),
        controls=any(way.control for way in ways),
        transductive=any(way.transductive for way in ways),
        frozen=any(c.tables.frozen for c in chapters),
        created=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        closed=any(c.tables.closed for c in chapters),
        rates=any(not c.tables.closed for c in chapters),
        no_rates=NO_RATES,
        thirds=THIRDS,
        svg=Markup,
    )


def title(models: Sequence[Mapping[str, Any]]) -> str:
    """``student``, ``student and teacher``."""
    return " and ".join(str(model.get("name")) for model in models) or "Given embeddings"


def in_short(tables: Section) -> str | None:
    """The benchmark in one sentence: the raw score at its strictest trustworthy rate, and what alignments change there.

    Of a closed set its accuracy. None where no rate has 30 false accepts behind it.
    """
    if tables.closed and tables.numbers is not None:
        top = tables.numbers.lines[0][1][0]
        assert top is not None
        between = span(Rate(top.value, top.low, top.high))
        return f"{tables.name}, top-1 accuracy: {percent(top.value)}" + (f" ({between})." if between else ".")
    trusted = [
        (at, table, lines)
        for table in tables.rates[:1]
        for at, lines in table.points
        if lines[0].row.status == "ok" and lines[0].row.value is not None
    ]
    if not trusted:
        return None
    at, table, lines = min(trusted, key=lambda point: point[0])
    raw = lines[0].row
    between = span(Rate(raw.value, raw.low, raw.high))
    metric = table.title[:1].lower() + table.title[1:]
    said = f"{tables.name}, {metric} at {table.unit} {at:g}: {lines[0].way.label} {percent(raw.value)}"
    said += f" ({between})" if between else ""
    for word in get_args(Word):
        named = ", ".join(changed(line) for line in lines[1:] if line.word == word)
        said += f"; {word.upper()} by points: {named}" if named else ""
    return f"{said}."


def changed(line: Line) -> str:
    """``dao with cohort +2.1 (+0.9 to +3.1)``."""
    assert line.change is not None
    value, low, high = line.change.value, line.change.low, line.change.high
    support = f" with {line.way.support}" if line.way.support else ""
    between = "" if low is None or high is None else f" ({change(low)} to {change(high)})"
    return f"{line.way.score}{support} {change(value)}{between}"


def chapter(content: ReportContent, tables: Section, name: str) -> Chapter:
    """Tables, figures and texts of one benchmark; ``name`` keeps ids apart."""
    curves = [curve for curve in content.curves if curve.benchmark == tables.name]
    return Chapter(
        tables=tables,
        figures=draw(curves, name) if curves else Drawn(pens_of(labels(tables)), (), None, None, (), None, None),
        advice=content.advice.get(tables.name, ()),
        hardest=[found for found in content.hardest if found.benchmark == tables.name],
    )


def labels(tables: Section) -> list[str]:
    """All scores of a benchmark."""
    return [line.way.label for table in tables.rates for _, lines in table.points for line in lines]
