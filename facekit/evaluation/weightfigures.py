"""What a weighting policy does, drawn: a heat map of its weights for every stage, and its actions as lines."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facekit.core.files import write_atomic
from facekit.evaluation.figures import CYCLE, IMPOSTOR, INK, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

WEIGHTS = (0.0, 2.0)
"""Ends of the common colour scale: all weights of a policy lie between them."""
_LESS, _SAME, _MORE = "#b4420c", "#f8fafc", "#0b5fa5"
"""Also readable where red and green are not told apart; a weight of 1 is the colour of paper."""
_COLUMNS, _PANEL = 5, 1.55
"""Maps in a row, and inches of one."""


@dataclass(frozen=True)
class StageMap:
    """What a policy gives samples in one stage."""

    stage: int
    """From 0"""
    action: np.ndarray | None
    """float [A]; None in the warm-up, where every sample weighs 1"""
    weight: np.ndarray | None
    """float [G,G] over ``PolicyDrawing.grid``, rows the second feature, columns the first; None in the warm-up"""


@dataclass(frozen=True)
class PolicyDrawing:
    """All stages, and what their numbers are called."""

    stages: tuple[StageMap, ...]
    features: tuple[str, ...]
    """The first two are the axes of the maps; a policy of one feature has maps of one row"""
    parts: tuple[str, ...]
    """Of an action, [A]"""
    grid: np.ndarray
    """float [G], rising: values of the features along the axes"""


def write_policy_figures(drawing: PolicyDrawing, folder: Path) -> list[Path]:
    """Write ``weights`` and ``actions`` as .svg and .png, each whole or not there. Raises MissingExtra."""
    written = []
    with style():
        for name, figure in (("weights", heat_maps(drawing)), ("actions", action_lines(drawing))):
            for suffix in ("svg", "png"):
                stream = io.BytesIO()
                metadata = {"Date": None} if suffix == "svg" else None
                figure.savefig(stream, format=suffix, dpi=200, metadata=metadata)
                written.append(write_atomic(folder / f"{name}.{suffix}", stream.getvalue()))
    return written


def heat_maps(drawing: PolicyDrawing) -> Figure:
    """Weight against the first two features, a small map for every stage; lines where it is 0.5, 1 and 1.5."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = min(_COLUMNS, len(drawing.stages))
    rows = math.ceil(len(drawing.stages) / columns)
    figure = new_figure(1.1 + _PANEL * columns, 0.75 + (_PANEL + 0.2) * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, stage in zip(panels.flat, drawing.stages, strict=False):
        paint(axes, stage, drawing.grid)
    for axes in panels.flat[len(drawing.stages) :]:
        axes.set_visible(False)
    panels[0, 0].set(xticks=[-2, 0, 2], yticks=[-2, 0, 2] if len(drawing.features) > 1 else [])  # shared by all
    figure.supxlabel(axis_name(drawing.features[0]), fontsize=9)
    if len(drawing.features) > 1:
        figure.supylabel(axis_name(drawing.features[1]), fontsize=9)
    scale = ScalarMappable(Normalize(*WEIGHTS), colours())
    bar = figure.colorbar(scale, ax=panels, ticks=[0, 0.5, 1, 1.5, 2], aspect=14 * rows, pad=0.02)
    bar.set_label("weight")
    bar.outline.set_visible(False)
    return figure


def paint(axes: Axes, stage: StageMap, grid: np.ndarray) -> None:
    """One map."""
    flat = np.ones((len(grid), len(grid)))
    weight = flat if stage.weight is None else np.broadcast_to(stage.weight, flat.shape)
    ends = (grid[0], grid[-1])
    axes.imshow(
        weight, origin="lower", extent=(*ends, *ends), cmap=colours(), vmin=WEIGHTS[0], vmax=WEIGHTS[1],
        interpolation="bilinear", aspect="equal",
    )  # fmt: skip
    levels = [level for level in (0.5, 1.0, 1.5) if weight.min() < level < weight.max()]
    if levels:
        lines = axes.contour(grid, grid, weight, levels=levels, colors=INK, linewidths=0.7)
        axes.clabel(lines, fmt="%g", fontsize=6.5)
    axes.set_title(f"stage {stage.stage + 1}", fontsize=9, fontweight="bold", pad=3)
    if stage.weight is None:
        axes.text(0.5, 0.5, "warm-up: 1", transform=axes.transAxes, ha="center", va="center", fontsize=8)
    axes.grid(False)


def action_lines(drawing: PolicyDrawing) -> Figure:
    """The numbers of the action, stage by stage; warm-up stages have none."""
    figure = new_figure(5.6, 3.2)
    axes = figure.subplots()
    acting = [stage for stage in drawing.stages if stage.action is not None]
    places = [stage.stage + 1 for stage in acting]
    table = np.array([stage.action for stage in acting])
    axes.axhline(0, color=IMPOSTOR, linewidth=1)
    many = len(drawing.parts) > len(CYCLE)
    for i, part in enumerate(drawing.parts):
        colour = IMPOSTOR if many else CYCLE[i]
        axes.plot(places, table[:, i], "o-", color=colour, linewidth=1.6, markersize=4, label=None if many else part)
    axes.set_xlim(0.7, len(drawing.stages) + 0.3)
    axes.set_xticks(range(1, len(drawing.stages) + 1, max(1, len(drawing.stages) // 10)))
    axes.set_xlabel("stage")
    axes.set_ylabel("action")
    if not many:
        figure.legend(loc="outside lower center", ncols=len(drawing.parts))
    return figure


def axis_name(feature: str) -> str:
    """In words, where it has an unit."""
    return {
        "loss_norm": "loss, standard deviations from the batch's mean",
        "entropy_norm": "entropy, standard deviations from the batch's mean",
    }.get(feature, feature)


def colours() -> Colormap:
    """From less to more through the colour of paper at 1."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("weights", [_LESS, _SAME, _MORE])
