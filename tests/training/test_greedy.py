"""The greedy search against anchors worked out by hand, with hardness given as a formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import UsageError
from facekit.training.greedy import Greedy, next_anchor

Hardness = Callable[[int, int], float]


def linear(i: int, j: int) -> float:
    return 0.1 + 0.05 * (j - i)


def quadratic(i: int, j: int) -> float:
    return 0.1 + 0.02 * (j * j - i * i)


def search(greedy: Greedy, hardness: Hardness) -> list[int]:
    """All anchors as epochs 10, 20, ..., asked for one by one as a training would."""
    used = [greedy.start()]
    while (found := greedy.following(used, [hardness(used[-1], j) for j in range(greedy.states)])) is not None:
        used.append(found)
    return [10 * (position + 1) for position in used]


ALL = [10, 20, 30, 40, 50, 60, 70, 80]


@pytest.mark.parametrize(
    ("hardness", "delta", "most", "anchors"),
    [
        (linear, 1.01, None, ALL),
        (linear, 2.01, None, [10, 30, 50, 70, 80]),
        (linear, 3.01, None, [10, 50, 80]),
        (linear, 99, None, [10, 80]),
        (linear, 1.01, 3, [10, 20, 80]),
        (linear, 2.01, 3, [10, 30, 80]),
        (linear, 1.01, 2, [10, 80]),
        (linear, 1.01, 1, [80]),
        (quadratic, 1.5, None, ALL),
        (quadratic, 2.1, None, [10, 30, 40, 50, 60, 70, 80]),
        (quadratic, 4.0, None, [10, 40, 50, 60, 70, 80]),
    ],
)
def test_anchors_by_hand(hardness: Hardness, delta: float, most: int | None, anchors: list[int]) -> None:
    assert search(Greedy(8, delta, most=most), hardness) == anchors


def test_the_first_failure_ends_the_scan() -> None:
    """Whoever takes i+1 untested and goes on scanning finds [10, 20, 50, 60]."""
    h = [0.1, 0.12, 0.5, 0.13, 0.14, 0.3]
    assert search(Greedy(6, 1.6), lambda i, j: h[j]) == [10, 20, 30, 60]


def test_the_first_anchor_can_be_chosen() -> None:
    assert search(Greedy(8, 2.01, first=3), linear) == [40, 60, 80]
    assert search(Greedy(8, 2.01, first=7), linear) == [80]
    assert search(Greedy(1, 2.01), linear) == [10]


def test_a_student_that_fits_perfectly_takes_the_next_state() -> None:
    assert next_anchor([0.0, 0.3, 0.1], 0, 1.5) == 1
    assert next_anchor([0.0, 0.0, 0.1], 0, 1.5) == 1
    assert next_anchor([0.0, 0.0, 0.0], 0, 1.5) == 2


def test_states_before_the_anchor_are_not_read() -> None:
    assert next_anchor([float("nan"), 0.1, 0.1, 0.9], 1, 1.5) == 2


@given(st.sampled_from([linear, quadratic]), st.floats(1.0, 50.0), st.floats(1.0, 50.0))
def test_a_larger_delta_never_needs_more_anchors(hardness: Hardness, one: float, other: float) -> None:
    few, many = (search(Greedy(8, delta), hardness) for delta in (max(one, other), min(one, other)))
    assert len(few) <= len(many) and few[-1] == many[-1] == 80


@given(st.lists(st.floats(0.0, 10.0), min_size=2, max_size=12), st.floats(1.0, 4.0), st.integers(1, 6))
def test_any_hardness_gives_rising_anchors_that_end_at_the_last(h: list[float], delta: float, most: int) -> None:
    anchors = search(Greedy(len(h), delta, most=most), lambda i, j: h[j])
    assert anchors == sorted(set(anchors)) and anchors[-1] == 10 * len(h) and len(anchors) <= most


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"states": 8, "delta": 0.9}, "--delta is 0.9"),
        ({"states": 8, "delta": 2.0, "most": 0}, "--max-anchors is 0"),
        ({"states": 8, "delta": 2.0, "first": 8}, "first anchor is state 8"),
        ({"states": 0, "delta": 2.0}, "at least one state"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Greedy(**options)  # type: ignore[arg-type]
