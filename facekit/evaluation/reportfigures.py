"""The figures of the report: ROC and DET with bands, scores, CMC, classes; SVG for the page, files beside it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from facekit.core.files import write_atomic
from facekit.core.reporting import printable
from facekit.evaluation.figures import CYCLE, IMPOSTOR, INK, new_figure, style, to_svg
from facekit.evaluation.scoring import ClassRates, CmcCurve, Curve, RocCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _PANEL = 4.6, 3.3, 1.75
"""Inches. Two figures stand side by side on a screen and on paper; alone, one fits a phone with its text readable."""
_BANDS = 4
"""So many bands can be told apart; with more curves only the first two have theirs."""
_COLOURS, _GREYS = CYCLE[:5], ("#64748b", "#a3aebd", "#3f4a5a")
"""Of aligned scores and of controls."""
_CLASSES = 40
"""So many classes fit into one figure."""
_PROBITS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Pen:
    """How one score is drawn, in every figure and in the legend."""

    colour: str
    dashed: bool


@dataclass(frozen=True)
class Drawn:
    """The figures of one benchmark as ``<svg>`` elements, and the pens for a common legend."""

    pens: dict[str, Pen]
    banded: tuple[str, ...]
    """Labels of the curves that show a band"""
    roc: str | None
    det: str | None
    scores: tuple[tuple[str, str], ...]
    """(label, figure)"""
    cmc: str | None
    classes: str | None


def pens_of(labels: Sequence[str]) -> dict[str, Pen]:
    """Raw in ink, controls in grey, the others in colours that are told apart without red and green."""
    pens: dict[str, Pen] = {}
    coloured = controls = 0
    for label in dict.fromkeys(labels):
        if label == "raw":
            pens[label] = Pen(INK, False)
        elif label.endswith(", noise"):
            pens[label] = Pen(_GREYS[controls % len(_GREYS)], True)
            controls += 1
        else:
            pens[label] = Pen(_COLOURS[coloured % len(_COLOURS)], coloured >= len(_COLOURS))
            coloured += 1
    return pens


def draw(curves: Sequence[Curve], name: str) -> Drawn:
    """The figures of one benchmark; ``name`` keeps their ids apart from other benchmarks' on the same page."""
    pens = pens_of([curve.label for curve in curves])
    rocs, cmcs, classes = split(curves)
    with style():
        return Drawn(
            pens=pens,
            banded=tuple(curve.label for i, curve in enumerate(rocs) if band_of(curve, i, len(rocs)) is not None),
            roc=to_svg(one_axes(partial(roc_axes, curves=rocs, pens=pens)), f"{name}-roc") if rocs else None,
            det=to_svg(one_axes(partial(det_axes, curves=rocs, pens=pens)), f"{name}-det") if rocs else None,
            scores=tuple(
                (curve.label, to_svg(histograms([curve], pens, titles=False), f"{name}-scores{i}"))
                for i, curve in enumerate(rocs)
            ),
            cmc=to_svg(one_axes(partial(cmc_axes, curves=cmcs, pens=pens)), f"{name}-cmc") if cmcs else None,
            classes=to_svg(class_figure(classes[0]), f"{name}-classes") if classes else None,
        )


def split(curves: Sequence[Curve]) -> tuple[list[RocCurve], list[CmcCurve], list[ClassRates]]:
    """The three kinds apart."""
    rocs = [curve for curve in curves if isinstance(curve, RocCurve)]
    cmcs = [curve for curve in curves if isinstance(curve, CmcCurve)]
    return rocs, cmcs, [curve for curve in curves if isinstance(curve, ClassRates)]


# --- files -------------------------------------------------------------------------------------------------


def write_figures(curves: Sequence[Curve], folder: Path, stem: str) -> list[Path]:
    """Write all figures of every benchmark as ``<stem>-<benchmark>-roc.svg``, ``.png`` and so on.

    Each file is whole or not there. Raises MissingExtra without matplotlib.
    """
    written = []
    names = file_names([curve.benchmark for curve in curves])
    with style():
        for benchmark, name in names.items():
            mine = [curve for curve in curves if curve.benchmark == benchmark]
            for kind, figure in figures_with_legend(mine):
                for suffix in ("svg", "png"):
                    stream = io.BytesIO()
                    metadata = {"Date": None} if suffix == "svg" else None
                    figure.savefig(stream, format=suffix, dpi=200, metadata=metadata)
                    written.append(write_atomic(folder / f"{stem}-{name}-{kind}.{suffix}", stream.getvalue()))
    return written


def file_names(benchmarks: Sequence[str]) -> dict[str, str]:
    """Benchmark -> part of a file name, all different: ``allpairs:lfw`` is ``allpairs-lfw``."""
    names: dict[str, str] = {}
    for benchmark in dict.fromkeys(benchmarks):
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", benchmark).strip("-") or "benchmark"
        candidates = chain([slug], (f"{slug}-{i}" for i in count(2)))
        names[benchmark] = next(name for name in candidates if name not in names.values())
    return names


def figures_with_legend(curves: Sequence[Curve]) -> Iterator[tuple[str, Figure]]:
    """(kind, figure) of one benchmark, each to be read alone."""
    pens = pens_of([curve.label for curve in curves])
    rocs, cmcs, classes = split(curves)
    if rocs:
        yield "roc", with_legend(one_axes(partial(roc_axes, curves=rocs, pens=pens)))
        yield "det", with_legend(one_axes(partial(det_axes, curves=rocs, pens=pens)))
        yield "scores", histograms(rocs, pens, titles=True)
    if cmcs:
        yield "cmc", with_legend(one_axes(partial(cmc_axes, curves=cmcs, pens=pens)))
    for curve in classes:
        yield "classes", class_figure(curve)


def with_legend(figure: Figure) -> Figure:
    """Below the axes, where it hides nothing."""
    axes = figure.axes[0]
    lines = axes.get_legend_handles_labels()
    columns = min(len(lines[0]), 2)
    figure.set_figheight(_HEIGHT + 0.2 * math.ceil(len(lines[0]) / columns))
    figure.legend(*lines, loc="outside lower center", ncols=columns)
    return figure


# --- drawing -----------------------------------------------------------------------------------------------


def one_axes(paint: Callable[[Axes], None]) -> Figure:
    """A figure of one pair of axes."""
    figure = new_figure(_WIDTH, _HEIGHT)
    paint(figure.subplots())
    return figure


def roc_axes(axes: Axes, curves: Sequence[RocCurve], pens: dict[str, Pen]) -> None:
    """TAR over log FAR."""
    for i, curve in enumerate(curves):
        pen = pens[curve.label]
        if (band := band_of(curve, i, len(curves))) is not None:
            low, high = 100 * band[0], 100 * band[1]
            axes.fill_between(curve.band_far, low, high, color=pen.colour, alpha=0.13, linewidth=0)
        axes.plot(curve.far, 100 * curve.tar, color=pen.colour, linestyle=dashes(pen), linewidth=1.6, label=curve.label)
    axes.set_xscale("log")
    axes.set_xlim(min(curve.far[0] for curve in curves), max(curve.far[-1] for curve in curves))
    axes.set_ylim(top=100.5)
    axes.set_xlabel("impostor pairs that pass (FAR)")
    axes.set_ylabel("genuine pairs that pass (TAR), %")


def det_axes(axes: Axes, curves: Sequence[RocCurve], pens: dict[str, Pen]) -> None:
    """FRR over FAR on probit axes, where Gaussian scores give straight lines; the dotted line is FAR = FRR."""
    seen_far, seen_frr = [], []
    for i, curve in enumerate(curves):
        pen = pens[curve.label]
        if (band := band_of(curve, i, len(curves))) is not None:
            low, high = probit(1 - band[1]), probit(1 - band[0])
            axes.fill_between(probit(curve.band_far), low, high, color=pen.colour, alpha=0.13, linewidth=0)
            seen_frr.append(1 - band[0][:1])
        rejected = 1 - curve.tar
        quantiles = probit(curve.far), probit(rejected)
        axes.plot(*quantiles, color=pen.colour, linestyle=dashes(pen), linewidth=1.6, label=curve.label)
        seen_far += [curve.far[:2], curve.far[rejected > 0]]
        seen_frr.append(rejected[rejected > 0])
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=":")
    for axis, name, seen in ((axes.xaxis, "x", seen_far), (axes.yaxis, "y", seen_frr)):
        shares = np.concatenate([*seen, [] if name == "x" else [0.01]])
        ends = np.array([shares.min(), shares.max()])
        axis.set_ticks(*probit_ticks(*ends.tolist()))
        bottom, top = probit(ends)
        axes.set(**{f"{name}lim": (bottom - 0.05, top + 0.05)})
    axes.set_xlabel("impostor pairs that pass (FAR), %")
    axes.set_ylabel("genuine pairs turned away (FRR), %")


def probit_ticks(low: float, high: float) -> tuple[np.ndarray, list[str]]:
    """(places, texts in percent) between two shares: few where they span decades, more where they do not."""
    coarse = [p for p in _PROBITS if low <= p <= high]
    fine = sorted({q for p in _PROBITS if p < 0.5 for q in (p, 2 * p, 4 * p) if low <= q <= high})
    ticks = coarse if len(coarse) > 2 else fine
    return probit(np.array(ticks)), [f"{100 * p:.4g}" for p in ticks]


def cmc_axes(axes: Axes, curves: Sequence[CmcCurve], pens: dict[str, Pen]) -> None:
    """Identification rate over rank."""
    for curve in curves:
        pen = pens[curve.label]
        axes.step(
            curve.rank, 100 * curve.rate, color=pen.colour, linestyle=dashes(pen), linewidth=1.6, label=curve.label,
            where="post",
        )  # fmt: skip
    last = max(int(curve.rank[-1]) for curve in curves)
    if last > 20:
        axes.set_xscale("log")
        ticks = [r for r in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if r <= last]
        axes.set_xticks(ticks, [str(r) for r in ticks])
        axes.minorticks_off()
    axes.set_xlim(1, max(last, 2))
    axes.set_ylim(top=100.5)
    axes.set_xlabel("rank")
    axes.set_ylabel("probes found within it, %")


def class_figure(found: ClassRates) -> Figure:
    """Accuracy of each class with its interval, the best on top; of many classes those with the lowest."""
    worst = np.argsort(found.rate, kind="stable")[:_CLASSES]
    figure = new_figure(_WIDTH, 0.6 + 0.17 * len(worst))
    axes = figure.subplots()
    rate, low, high = (100 * values[worst] for values in (found.rate, found.low, found.high))
    place = np.arange(len(worst))
    axes.hlines(place, low, high, color=_COLOURS[0], alpha=0.45, linewidth=3)
    axes.plot(rate, place, "o", color=_COLOURS[0], markersize=4)
    axes.set_yticks(place, [plain_name(found.names[k]) for k in worst.tolist()])
    axes.set_ylim(-0.7, len(worst) - 0.3)
    more = len(found.names) > len(worst)
    axes.set_xlabel(f"top-1 accuracy, %{f' (the {len(worst)} lowest of {len(found.names)})' if more else ''}")
    return figure


def plain_name(text: str) -> str:
    """A class's name as a label: not too long, and no mathematics in it."""
    short = text if len(text) <= 28 else f"{text[:27]}…"
    return printable(short).replace("$", r"\$")


def histograms(curves: Sequence[RocCurve], pens: dict[str, Pen], *, titles: bool) -> Figure:
    """Impostor (grey) and genuine scores, one panel a score, each hill drawn to its own height."""
    figure = new_figure(_WIDTH, 0.35 + (_PANEL + 0.2 * titles) * len(curves))
    panels: list[Axes] = figure.subplots(len(curves), 1, squeeze=False)[:, 0].tolist()
    for axes, curve in zip(panels, curves, strict=True):
        for density, colour in ((curve.impostor_density, IMPOSTOR), (curve.genuine_density, pens[curve.label].colour)):
            axes.stairs(density / density.max(), curve.bins, fill=True, color=colour, alpha=0.75, linewidth=0)
        axes.set_xlim(curve.bins[0], curve.bins[-1])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(False)
        if titles:
            axes.set_title(curve.label, loc="left", fontsize=9, fontweight="bold", pad=3)
    panels[-1].set_xlabel("score (grey: different people, colour: same person)")
    return figure


def band_of(curve: RocCurve, i: int, curves: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(low, high) of the i-th of so many curves, where it has a band and shows it."""
    if curve.low is None or curve.high is None or (curves > _BANDS and i > 1):
        return None
    return curve.low, curve.high


def dashes(pen: Pen) -> str:
    """For matplotlib."""
    return "--" if pen.dashed else "-"


def probit(share: np.ndarray) -> np.ndarray:
    """Standard-normal quantiles; 0 and 1 lie far outside of any figure, so that lines leave it there."""
    quantile = NormalDist().inv_cdf
    return np.array([quantile(p) for p in np.clip(share, 1e-12, 1 - 1e-12).tolist()])
