"""Rate-distortion curves drawn: what was measured in colour, what others published in grey. SVG and PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facekit.core.files import write_atomic
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.figures import CYCLE, new_figure, style
from facekit.evaluation.published import PublishedCurve
from facekit.evaluation.ratedistortion import QUALITIES, Quality, RdPoint, measured_curve, published_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("bmshj2018-hyperprior", "mbt2018", "cheng2020-anchor", "bpg444", "vtm")
"""Published curves that are drawn; all thirty would hide each other."""
AXES = {"psnr": "PSNR, dB", "ms_ssim_db": "MS-SSIM, dB: -10 log10(1 - x)"}
_GREYS = ("#334155", "#64748b", "#94a3b8")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
_WIDEST = 2.0
"""Bits a pixel to the right end, where no codec of ours goes farther."""


def write_rd_figures(points: Sequence[RdPoint], published: Sequence[PublishedCurve], folder: Path) -> list[Path]:
    """Write ``rd-psnr`` and ``rd-ms_ssim_db`` as .svg and .png, those of which anything is known.

    Each file is whole or not there. Raises MissingExtra without matplotlib.
    """
    with style():
        return [
            path
            for quality in QUALITIES
            if np.isfinite([getattr(point, quality) for point in points]).any()
            for path in write_figure(rd_figure(points, published, quality), folder, f"rd-{quality}")
        ]


def write_figure(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write ``stem``.svg and ``stem``.png."""
    written = []
    for suffix in ("svg", "png"):
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix, dpi=200, metadata={"Date": None} if suffix == "svg" else None)
        written.append(write_atomic(folder / f"{stem}.{suffix}", stream.getvalue()))
    return written


def rd_figure(points: Sequence[RdPoint], published: Sequence[PublishedCurve], quality: Quality) -> Figure:
    """Quality over bits a pixel."""
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    names = list(dict.fromkeys(point.codec for point in points))
    for name, colour in zip(names, cycle(CYCLE)):
        draw_codec(axes, measured_curve(points, name, quality), name, colour)
    shown = [curve for curve in published if curve.name in SHOWN]
    for i, curve in enumerate(shown):
        rate, value = published_curve(curve, quality).T
        axes.plot(
            rate, value, color=_GREYS[i % len(_GREYS)], linestyle=_DASHES[i // len(_GREYS) % len(_DASHES)], linewidth=1,
            label=f"{curve.name} (published)", zorder=1,
        )  # fmt: skip
    frame(axes, max([_WIDEST, *(1.1 * point.bpp for point in points if point.codec not in CLASSICAL)]))
    axes.set_xlabel("bits per pixel of whole files (published learned codecs: of streams alone)")
    axes.set_ylabel(AXES[quality])
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def frame(axes: Axes, widest: float) -> None:
    """Rates up to ``widest``, and the qualities that are found there."""
    drawn = np.concatenate([np.asarray(line.get_xydata(), np.float64) for line in axes.lines])
    inside = drawn[np.isfinite(drawn).all(axis=1) & (drawn[:, 0] <= widest), 1]
    axes.set_xlim(0, widest)
    if len(inside):
        axes.set_ylim(inside.min() - 1, inside.max() + 1)


def draw_codec(axes: Axes, curve: np.ndarray, name: str, colour: str) -> None:
    """Ours thick with a dot for every setting, classical ones thin; ``curve`` [n,2] is bits and dB."""
    classical = name in CLASSICAL
    axes.plot(
        *curve.T, color=colour, label=name, zorder=2 if classical else 3, linewidth=1.1 if classical else 2,
        linestyle="--" if classical else "-", marker=None if classical else "o", markersize=4,
    )  # fmt: skip
