"""Figures: small SVG with text as text for pages, SVG or PNG files for run folders. Needs the ``report`` extra."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile, missing_extra
from facekit.core.files import write_atomic
from facekit.evaluation.swap import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"old": "#0b5fa5", "new": "#0f766e", "cross": "#c2410c"}
"""Also readable where red and green are not told apart."""
INK, IMPOSTOR, _RULE = "#334155", "#cbd5e1", "#e2e8f0"
CYCLE = ("#0b5fa5", "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#64748b")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "facekit",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def style() -> AbstractContextManager[None]:
    """The look of all figures. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("matplotlib", "report") from None
    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def new_figure(width: float, height: float) -> Figure:
    """A figure without pyplot: no global state, half the import time."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# --- the swap page -----------------------------------------------------------------------------------


def roc_svg(arms: Sequence[Arm]) -> str:
    """TAR over FAR of the three set-ups with 95 % bands; dots mark the threshold in use."""
    with style():
        figure = new_figure(7.4, 3.3)
        axes = figure.subplots()
        for arm in arms:
            colour, c = COLOURS[arm.name], arm.curve
            axes.fill_between(c.band_far, 100 * c.low, 100 * c.high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(c.far, 100 * c.tar, color=colour, linewidth=1.8, label=arm.title)
            far, tar = arm.far_at_threshold.value, arm.tar_at_threshold.value
            if far and tar is not None:
                axes.plot([far], [100 * tar], "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)
        axes.set_xscale("log")
        axes.set_xlim(min(a.curve.far[0] for a in arms), 0.1)
        axes.set_ylim(top=100.5)
        axes.set_xlabel("impostors that pass (FAR)")
        axes.set_ylabel("genuine users that pass (TAR), %")
        axes.legend(loc="lower right")
        return to_svg(figure, "roc")


def scores_svg(arms: Sequence[Arm], bins: np.ndarray, threshold: float) -> str:
    """Impostor and genuine similarities of each set-up, each filled to its own height, with the threshold in use."""
    with style():
        figure = new_figure(7.4, 3.9)
        rows: Sequence[Axes] = figure.subplots(len(arms), 1, sharex=True)
        for axes, arm in zip(rows, arms, strict=True):
            for density, colour in ((arm.impostor_density, IMPOSTOR), (arm.genuine_density, COLOURS[arm.name])):
                axes.stairs(density / density.max(), bins, fill=True, color=colour, alpha=0.75, linewidth=0)
            axes.axvline(threshold, color=INK, linewidth=1.1)
            axes.set_title(arm.title, loc="left", fontsize=9, fontweight="bold", pad=3)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_xlim(bins[0], bins[-1])
            axes.grid(False)
        rows[0].annotate(
            f"threshold in use {threshold:.3f}",
            (threshold, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=8,
        )
        rows[-1].set_xlabel("cosine similarity (grey: different people, colour: same person)")
        return to_svg(figure, "scores")


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element to put into a page: no outside references, ids that cannot clash."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # An inline element needs no namespaces, and a page without "http" is plainly self-contained.
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r'\sid="', f' id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\swidth="[^"]*pt"|\sheight="[^"]*pt"', "", svg, count=2)
    # Hundredths of a point are invisible, and digits are most of the size.
    svg = re.sub(r'\b(d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d{2})\d+", r"\1", m[0]), svg)
    return re.sub(r"\n\s*\n+", "\n", svg).strip()


# --- learning curves -----------------------------------------------------------------------------------


def learning_curves(
    runs: Mapping[str, Path], key: str, out: Path, *, x: str = "epoch", label: str | None = None, percent: bool = False
) -> Path:
    """One line per run of what its ``metrics.jsonl`` says about ``key``, written as .svg or .png.

    ``runs`` maps the text of the legend to run folders (or to the .jsonl itself); ``key`` may reach into a table
    by a slash, as in ``dev/tar@far=0.001``. Rows without it are passed over. ``x`` is ``step`` or ``epoch``.
    """
    with style():
        figure = new_figure(6.4, 3.4)
        axes = figure.subplots()
        for colour, (name, path) in zip(CYCLE * (1 + len(runs) // len(CYCLE)), runs.items(), strict=False):
            points = read_metric(path, key, x)
            axes.plot(points[:, 0], points[:, 1] * (100 if percent else 1), color=colour, linewidth=1.8, label=name)
            axes.plot(points[-1:, 0], points[-1:, 1] * (100 if percent else 1), "o", color=colour, markersize=4)
        axes.set_xlabel(x)
        axes.set_ylabel((label or key) + (", %" if percent else ""))
        axes.legend()
        stream = io.BytesIO()
        figure.savefig(
            stream, format=out.suffix.lstrip("."), dpi=160, metadata={"Date": None} if out.suffix == ".svg" else None
        )
        return write_atomic(out, stream.getvalue())


def read_metric(path: Path, key: str, x: str = "epoch") -> np.ndarray:
    """(x, value) of each row of a ``metrics.jsonl`` that holds ``key``, float64 [n,2]."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError:
        raise MissingFile(f"{file} cannot be read; give the folder of a training run") from None
    except json.JSONDecodeError as error:
        raise CorruptFile(f"{file} is not one JSON table per line: {error.msg}") from None
    points = [(row.get(x), reach(row, key)) for row in rows]
    kept = [(a, b) for a, b in points if isinstance(a, int | float) and isinstance(b, int | float)]
    if not kept:
        raise InputError(f"{file} says nothing about {key!r}")
    return np.array(kept, dtype=np.float64)


def reach(row: Any, key: str) -> Any:
    """The value under ``a/b`` in nested tables, None where there is none."""
    for part in key.split("/"):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row
