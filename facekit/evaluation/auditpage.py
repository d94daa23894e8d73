"""The audit of labels as one self-contained HTML page: the pictures to look at, beside those they should resemble."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from facekit.core.reporting import printable
from facekit.data.protocol import Source
from facekit.evaluation.auditreport import Audit, points_of
from facekit.evaluation.figures import CYCLE, IMPOSTOR, INK, new_figure, style, to_svg
from facekit.evaluation.hardest import data_uris
from facekit.evaluation.page import template

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

_POINTS = 400
"""Of a curve: more cannot be seen."""
_BINS = 60
_TYPICAL = 2
"""Pictures of either class beside a suspect."""


@dataclass(frozen=True)
class Suspect:
    """One image to look at."""

    row: Mapping[str, Any]
    """As in the list"""
    picture: str
    """JPEG as a data URI, as all pictures here"""
    like_label: tuple[str, ...]
    """Typical images under its label"""
    like_favoured: tuple[str, ...]


@dataclass(frozen=True)
class AuditPage:
    """What the page shows; the tables as in audit.json."""

    title: str
    summary: Sequence[str]
    how: Sequence[str]
    """How to read it, a sentence each"""
    rankings: Sequence[Mapping[str, Any]]
    """The first is the one listed; () where the truth is not known"""
    curves: Mapping[str, np.ndarray]
    """Ranking -> wrong labels found among the first 0, 1 ... images, float64 [M+1]"""
    loss: np.ndarray
    """float64 [N], NaN where nothing can be said"""
    wrong: np.ndarray | None
    """bool [N]; None where the truth is not known"""
    suspects: Sequence[Suspect]
    about: Mapping[str, str]
    command: str


def suspects(audit: Audit, source: Source, first: int) -> list[Suspect]:
    """The first images of the order, with pictures of them and of what they should resemble."""
    listed = audit.order[:first].tolist()
    beside = {i: (typical(audit, audit.label[i], i), typical(audit, audit.favoured[i], i)) for i in listed}
    wanted = sorted({*listed, *(k for pair in beside.values() for side in pair for k in side)})
    pictures = dict(zip(wanted, data_uris(source, np.array(wanted, np.int64)), strict=True))
    found = []
    for i, row in zip(listed, audit.rows(first), strict=True):
        like_label, like_favoured = (tuple(pictures[k] for k in side) for side in beside[i])
        shown = {key: printable(value) if isinstance(value, str) else value for key, value in row.items()}
        found.append(Suspect(shown, pictures[i], like_label, like_favoured))
    return found


def typical(audit: Audit, number: int, besides: int) -> list[int]:
    """Images labelled as a class that fit it best, without the one they stand beside."""
    rows = np.flatnonzero(audit.label == number)
    rows = rows[(rows != besides) & ~np.isnan(audit.loss[rows])]
    best: list[int] = rows[np.argsort(audit.loss[rows], kind="stable")[:_TYPICAL]].tolist()
    return best


def render_audit(page: AuditPage) -> str:
    """The page. Names are escaped, pictures and figures inlined, nothing is fetched. Raises MissingExtra."""
    with style():
        found = None if page.wrong is None or not page.wrong.any() else one_svg(partial(found_axes, page=page), "found")
        losses = one_svg(partial(loss_axes, page=page), "loss")
    return template("audit.html").render(
        page=page,
        points=points_of(page.rankings),
        found=found and Markup(found),
        losses=Markup(losses),
        created=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
    )


def one_svg(paint: Callable[[Axes], None], name: str) -> str:
    """A small figure of one pair of axes."""
    figure = new_figure(4.6, 3.1)
    paint(figure.subplots())
    return to_svg(figure, name)


def found_axes(axes: Axes, page: AuditPage) -> None:
    """Share of the wrong labels found over the images looked at, for each order, for none, and for the truth."""
    assert page.wrong is not None
    total, images = int(page.wrong.sum()), len(page.wrong)
    axes.plot([0, images], [0, 100], ":", color=INK, linewidth=0.9, label="any order")
    axes.plot([0, total, images], [0, 100, 100], "--", color=IMPOSTOR, linewidth=1.2, label="the truth")
    for (name, found), colour in zip(page.curves.items(), CYCLE * len(page.curves), strict=False):
        places = np.unique(np.linspace(0, len(found) - 1, min(_POINTS, len(found))).astype(np.int64))
        axes.plot(places, 100 * found[places] / total, color=colour, linewidth=1.7, label=name)
    axes.set_xlim(0, images)
    axes.set_ylim(0, 101)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("images looked at")
    axes.set_ylabel("wrong labels found, %")
    axes.legend(loc="lower right", fontsize=8)


def loss_axes(axes: Axes, page: AuditPage) -> None:
    """How many images have which loss; right and wrong labels apart where the truth is known."""
    known = ~np.isnan(page.loss)
    loss = np.log10(np.maximum(page.loss[known], 1e-6))
    bins = np.linspace(-6, max(2.0, float(loss.max(initial=0))), _BINS + 1)
    if page.wrong is None:
        axes.hist(loss, bins, color=CYCLE[0], alpha=0.75, linewidth=0)  # type: ignore[arg-type]
    else:
        wrong = page.wrong[known]
        for part, colour, name in ((~wrong, IMPOSTOR, "right labels"), (wrong, CYCLE[1], "wrong labels")):
            axes.hist(loss[part], bins, color=colour, alpha=0.75, linewidth=0, label=name)  # type: ignore[arg-type]
        axes.legend(loc="upper left", bbox_to_anchor=(0.1, 1), fontsize=8)
    ticks = [-6, -4, -2, 0, *([2] if bins[-1] >= 2 else [])]
    axes.set_xticks(ticks, ["≤ 10⁻⁶", "10⁻⁴", "0.01", "1", "100"][: len(ticks)])
    axes.set_xlim(bins[0], bins[-1])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("loss, nats")
    axes.set_ylabel("images")
