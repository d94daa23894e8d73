"""Anchors by the clock and their controls: cases worked out by hand, and what holds for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import MissingFile, UsageError
from facekit.training.anchors import check_saved, controlled, default_interval, eei, one_stage_bounds


@pytest.mark.parametrize(
    ("epochs", "interval", "anchors"),
    [
        (240, 60, (60, 120, 180, 240)),
        (240, 80, (80, 160, 240)),
        (20, 6, (6, 12, 18, 20)),
        (10, 20, (10,)),
        (1, 1, (1,)),
    ],
)
def test_equal_intervals_end_at_the_last_epoch(epochs: int, interval: int, anchors: tuple[int, ...]) -> None:
    assert eei(epochs, interval) == anchors


@pytest.mark.parametrize(("epochs", "interval"), [(0, 1), (-3, 1), (10, 0), (10, -5)])
def test_intervals_out_of_range_are_refused(epochs: int, interval: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        eei(epochs, interval)


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_default_interval_is_on_the_grid_and_near_a_quarter(epochs: int, grid: int) -> None:
    interval = default_interval(epochs, grid)
    assert interval % grid == 0 and interval >= grid
    assert interval == grid or abs(interval - epochs / 4) <= grid / 2


@pytest.mark.parametrize(
    ("total", "n", "bounds"),
    [(200, 3, (0, 66, 133, 200)), (240, 4, (0, 60, 120, 180, 240)), (26, 4, (0, 6, 13, 19, 26)), (3, 3, (0, 1, 2, 3))],
)
def test_one_stage_shares_the_epochs_out(total: int, n: int, bounds: tuple[int, ...]) -> None:
    assert one_stage_bounds(total, n) == bounds


@pytest.mark.parametrize(("total", "n"), [(3, 4), (0, 1), (5, 0)])
def test_an_anchor_without_an_epoch_is_refused_with_both_numbers(total: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"^{total} epochs cannot be shared among {n} anchors"):
        one_stage_bounds(total, n)


def test_missing_states_are_listed_beside_the_saved_ones() -> None:
    check_saved((10, 30), (10, 20, 30), Path("r"))
    with pytest.raises(MissingFile, match=r"no state of epoch 15, 25; saved are 10, 20, 30\."):
        check_saved((25, 10, 15, 25), (10, 20, 30), Path("r"))
    assert issubclass(MissingFile, FileNotFoundError)


def test_controls_change_one_thing() -> None:
    anchors = (60, 120, 180, 240)
    assert controlled("none", anchors, 240, 0) == anchors
    assert controlled("restart", anchors, 240, 0) == (240, 240, 240, 240)
    assert controlled("long", anchors, 240, 0) == (240,)
    assert controlled("reversed", anchors, 240, 0) == (180, 120, 60, 240)


@given(st.integers(3, 8), st.integers(0, 50))
def test_a_shuffle_is_another_order_of_the_same_with_the_last_one_last(n: int, seed: int) -> None:
    anchors = tuple(range(10, 10 * n + 1, 10))
    drawn = controlled("shuffled", anchors, anchors[-1], seed)
    assert sorted(drawn) == list(anchors) and drawn[-1] == anchors[-1] and drawn != anchors
    assert drawn == controlled("shuffled", anchors, anchors[-1], seed)


def test_two_orders_of_four_anchors_come_from_different_seeds() -> None:
    assert len({controlled("shuffled", (1, 2, 3, 4), 4, seed) for seed in range(20)}) > 1


@pytest.mark.parametrize("control", ["reversed", "shuffled"])
def test_an_order_that_cannot_change_is_refused(control: str) -> None:
    with pytest.raises(UsageError, match="at least 3 anchors"):
        controlled(control, (120, 240), 240, 0)


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'reversed'"):
        controlled("reverse", (1, 2, 3), 3, 0)
