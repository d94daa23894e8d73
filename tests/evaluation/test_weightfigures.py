"""Figures of a policy: one map for every stage on one scale of colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekit.evaluation.figures import style
from facekit.evaluation.weightfigures import PolicyDrawing, StageMap, action_lines, heat_maps, write_policy_figures

pytest.importorskip("matplotlib")

GRID = np.linspace(-3, 3, 13)


def drawing(stages: int, warm_up: int, features: tuple[str, ...] = ("loss_norm", "entropy_norm")) -> PolicyDrawing:
    maps = []
    for k in range(stages):
        action = None if k < warm_up else np.array([-0.5 * k, 0.3, *([0.1] if len(features) > 1 else [])])
        second = GRID[:, None] if len(features) > 1 else np.zeros((1, 1))
        weight = None if action is None else 1 + np.tanh(action[0] * GRID[None] + 0.3 * second)
        maps.append(StageMap(k, action, weight))
    return PolicyDrawing(tuple(maps), features, (*features, "bias"), GRID)


def test_every_stage_has_its_map_on_the_scale_from_0_to_2() -> None:
    with style():
        figure = heat_maps(drawing(7, 2))
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"stage {k}" for k in range(1, 8)]
    images = [axes.get_images()[0] for axes in panels]
    assert {image.get_clim() for image in images} == {(0.0, 2.0)}
    assert all((image.get_array() == 1).all() for image in images[:2]), "the warm-up weighs 1"
    np.testing.assert_allclose(images[4].get_array(), 1 + np.tanh(-2.0 * GRID[None] + 0.3 * GRID[:, None]))
    assert all(image.origin == "lower" and image.get_extent() == [-3, 3, -3, 3] for image in images)
    assert [len(axes.collections) > 0 for axes in panels] == [False, False, *[True] * 5], "lines of equal weight"


def test_a_policy_of_one_feature_has_one_axis() -> None:
    with style():
        figure = heat_maps(drawing(3, 0, ("loss_norm",)))
    rows = figure.axes[2].get_images()[0].get_array()
    assert (rows == rows[0]).all() and np.ptp(rows[0]) > 1 and len(figure.axes[0].get_yticks()) == 0


def test_actions_are_drawn_where_there_are_any() -> None:
    with style():
        axes = action_lines(drawing(6, 2)).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines() if len(line.get_xdata()) > 2}
    assert set(lines) == {"loss_norm", "entropy_norm", "bias"}
    assert np.asarray(lines["loss_norm"]).tolist() == [[3, -1], [4, -1.5], [5, -2], [6, -2.5]]


def test_files(tmp_path: Path) -> None:
    written = write_policy_figures(drawing(3, 1), tmp_path / "show")
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == sorted(path.name for path in written)
    assert sorted(path.name for path in written) == ["actions.png", "actions.svg", "weights.png", "weights.svg"]
    assert "warm-up: 1" in (tmp_path / "show" / "weights.svg").read_text()
