"""The swap certificate as one self-contained HTML page that a manager can read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from facekit.evaluation.figures import COLOURS, roc_svg, scores_svg
from facekit.evaluation.results import DescribedModel
from facekit.evaluation.scoring import label_of
from facekit.evaluation.statistics import LEAST_FALSE
from facekit.evaluation.swap import Certificate, Rate
from facekit.evaluation.verdict import Kind, Verdict, one_in, signed
from facekit.evaluation.verification import to_degrees, to_distance

HEADLINE: dict[Kind, str] = {
    "swap": "Swap",
    "swap_at": "Swap with a new threshold",
    "no": "Do not swap",
    "undecided": "Undecided",
}


@dataclass(frozen=True)
class Cost:
    """What running a model costs, and what its owner allows."""

    role: str
    model: DescribedModel
    width: int
    macs: int
    latency_ms: float


def render(
    certificate: Certificate,
    verdict: Verdict,
    costs: Sequence[Cost],
    benchmark: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
) -> str:
    """The page. Names and paths are escaped; figures are inlined; nothing is fetched."""
    return template("swap.html").render(
        c=certificate,
        verdict=verdict,
        headline=HEADLINE[verdict.kind],
        sentence=after_headline(verdict.sentence),
        costs=costs,
        benchmark=benchmark,
        environment=environment,
        command=command,
        created=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        colours=COLOURS,
        units=(certificate.threshold, to_distance(certificate.threshold), to_degrees(certificate.threshold)),
        roc=Markup(roc_svg(certificate.arms)),
        scores=Markup(scores_svg(certificate.arms, certificate.bins, certificate.threshold)),
        least_false=LEAST_FALSE,
        scored="cosine" if certificate.scorer.name == "raw" else f"aligned score ({label_of(certificate.scorer)})",
    )


def template(name: str) -> jinja2.Template:
    """A page of the folder templates/: what is put in is escaped, what is missing is an error."""
    loader = jinja2.Environment(
        loader=jinja2.PackageLoader("facekit.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader.filters.update(
        percent=percent, span=span, count=count, change=change, odds=one_in, megabytes=megabytes, millions=millions
    )
    return loader.get_template(name)


def after_headline(sentence: str) -> str:
    """The sentence without its first words, which stand above it in large type."""
    rest = sentence.partition(": ")[2]
    return rest[:1].upper() + rest[1:]


def percent(value: float | None, digits: int = 1) -> str:
    """``98.7 %``; a dash where nothing could be measured."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def span(rate: Rate, digits: int = 1) -> str:
    """``97.1 – 99.2``."""
    if rate.low is None or rate.high is None:
        return ""
    return f"{100 * rate.low:.{digits}f} – {100 * rate.high:.{digits}f}"


def change(value: float | None) -> str:
    """``−1.2``, in points, with a real minus sign."""
    return "–" if value is None else signed(value).replace("-", "−")


def count(value: int | None) -> str:
    """``2,384,380``."""
    return "unknown" if value is None else f"{value:,}"


def megabytes(value: int) -> str:
    """``4.8 MB``."""
    return f"{value / 1e6:.1f} MB"


def millions(value: int) -> str:
    """``1.2 M``, ``221 M``."""
    return f"{value / 1e6:.2f} M" if value < 1e7 else f"{value / 1e6:,.0f} M"
