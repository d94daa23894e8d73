"""Recognition against bytes a face, drawn: a panel for every rate, a figure for every benchmark and case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facekit.evaluation.bytebudget import ALLOWED, METRICS
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.codedfaces import UNCOMPRESSED
from facekit.evaluation.facerows import SIDES, FaceRow
from facekit.evaluation.figures import CYCLE, IMPOSTOR, INK, new_figure, style
from facekit.evaluation.rdfigures import write_figure
from facekit.evaluation.reportfigures import file_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORST = 0.25
"""So far below the uncompressed rate the panels reach; what lies lower is of no use to anybody."""
_TICKS = (50, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000, 20000)
TITLES = {"both": "both images coded", "probe": "probe coded, gallery uncompressed"}


def write_face_figures(rows: Sequence[FaceRow], folder: Path) -> list[Path]:
    """Write ``faces-<benchmark>-<both|probe>`` as .svg and .png. Raises MissingExtra without matplotlib."""
    written = []
    with style():
        for benchmark, name in file_names([row.benchmark for row in rows]).items():
            for side in SIDES:
                mine = [row for row in rows if row.benchmark == benchmark and row.sides in (side, "")]
                if any(row.sides for row in mine):
                    written += write_figure(face_figure(mine, TITLES[side]), folder, f"faces-{name}-{side}")
    return written


def face_figure(rows: Sequence[FaceRow], title: str) -> Figure:
    """One benchmark in one case."""
    drawn = [row for row in rows if row.metric in METRICS and row.value is not None]
    rates = list(dict.fromkeys((row.metric, row.at) for row in drawn))
    figure = new_figure(1 + 3.1 * max(len(rates), 1), 3.9)
    colours = dict(zip(dict.fromkeys(row.codec for row in drawn if row.sides), cycle(CYCLE), strict=False))
    panels = figure.subplots(1, max(len(rates), 1), squeeze=False)[0]
    for axes, (metric, at) in zip(panels, rates, strict=False):
        rate_axes(axes, [row for row in drawn if (row.metric, row.at) == (metric, at)], colours)
        axes.set_xlabel("mean bytes a face, whole files")
        axes.set_title("10-fold accuracy, %" if at is None else f"TAR at FAR {at:g}, %", loc="left", fontsize=9)
    hollow = "; hollow: near the size of the files the faces come from" if any(row.near_source for row in drawn) else ""
    figure.suptitle(title + hollow, fontsize=9.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def rate_axes(axes: Axes, rows: Sequence[FaceRow], colours: dict[str, str]) -> None:
    """One rate of all codecs over bytes; the band and the dotted line are the uncompressed and half a point below."""
    plain = next(row for row in rows if row.codec == UNCOMPRESSED)
    assert plain.value is not None
    if plain.low is not None and plain.high is not None:
        axes.axhspan(100 * plain.low, 100 * plain.high, color=IMPOSTOR, alpha=0.35, linewidth=0)
    axes.axhline(100 * plain.value, color=INK, linewidth=1, label=UNCOMPRESSED)
    axes.axhline(100 * (plain.value - ALLOWED), color=INK, linewidth=0.8, linestyle=":")
    for codec, colour in colours.items():
        draw_curve(axes, sorted((row for row in rows if row.codec == codec), key=lambda row: row.bytes), colour)
    values = [row.value for row in rows if row.value is not None]
    bottom = max(min(values), plain.value - _WORST)
    margin = 0.05 * (max(values) - bottom) or 0.01
    axes.set_ylim(100 * (bottom - margin), 100 * (max(values) + margin))
    axes.set_xscale("log")
    sizes = [row.bytes for row in rows if row.sides]
    ticks = byte_ticks(min(sizes), max(sizes))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def byte_ticks(least: float, most: float) -> list[int]:
    """Round numbers within the range: those of a wide one, and of a narrow one equal steps.

    >>> byte_ticks(480, 2100), byte_ticks(948, 1313)
    ([500, 700, 1000, 1500, 2000], [1000, 1100, 1200, 1300])
    """
    ticks = [tick for tick in _TICKS if least <= tick <= most]
    if len(ticks) > 2 or most - least < 1:
        return ticks
    step = 10 ** math.floor(math.log10(most - least))
    return list(range(math.ceil(least / step) * step, math.floor(most) + 1, step))


def draw_curve(axes: Axes, rows: Sequence[FaceRow], colour: str) -> None:
    """One codec, a dot for every setting; only codecs of ours are drawn with the band of their interval."""
    classical = rows[0].codec in CLASSICAL
    size = np.array([row.bytes for row in rows])
    value, low, high = (
        100 * np.array([getattr(row, name) for row in rows], np.float64) for name in ("value", "low", "high")
    )
    axes.plot(
        size, value, color=colour, label=rows[0].codec, linewidth=1.1 if classical else 2,
        linestyle="--" if classical else "-",
    )  # fmt: skip
    faces = ["white" if row.near_source else colour for row in rows]
    axes.scatter(size, value, s=12 if classical else 20, facecolors=faces, edgecolors=colour, linewidths=0.8, zorder=3)
    if not classical:
        axes.fill_between(size, low, high, color=colour, alpha=0.13, linewidth=0)
