"""Orders of suspicion, against counts over all pairs and over all shuffles of what is tied."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.weighting.ranking import area, found_by, ordered, quality


def test_an_order_done_by_hand() -> None:
    # Suspicion 9, 7, 5, 3, 1; wrong, right, wrong, right, right.
    wrong = np.array([True, False, True, False, False])
    found = quality(ordered(np.array([9.0, 7, 5, 3, 1])), wrong, (1, 3, 50))
    assert (found.ranked, found.wrong, found.ranked_wrong, found.base_rate) == (5, 2, 2, 0.4)
    assert [(f.first, f.wrong, f.precision, f.recall) for f in found.at] == [
        (1, 1, 1, 0.5),
        (2, 1, 0.5, 0.5),
        (3, 2, 2 / 3, 1),
    ]
    assert found.auc == pytest.approx(5 / 6), "of 2 x 3 pairs one is the wrong way round"


def test_what_cannot_be_judged_is_left_out_and_counts_as_not_found() -> None:
    suspicion, wrong = np.array([math.nan, 2.0, 1.0, math.nan]), np.array([True, True, False, False])
    order = ordered(suspicion)
    found = quality(order, wrong, (1, 2))
    assert order.rows.tolist() == [1, 2]
    assert (found.ranked, found.ranked_wrong, found.wrong) == (2, 1, 2)
    assert [f.recall for f in found.at] == [0.5, 0.5] and found.auc == 1


def test_later_keys_break_ties_only() -> None:
    first, second = np.array([1.0, 2, 1, 1]), np.array([0.0, -9, 5, math.nan])
    order = ordered(first, second)
    assert order.rows.tolist() == [1, 2, 0, 3] and order.group.tolist() == [0, 1, 2, 3]
    assert ordered(first).group.tolist() == [0, 1, 1, 1]


def test_two_unknowns_are_a_tie() -> None:
    order = ordered(np.zeros(3), np.array([math.nan, 1.0, math.nan]))
    assert order.rows.tolist() == [1, 0, 2] and order.group.tolist() == [0, 1, 1]


def test_an_order_that_knows_nothing_finds_the_base_rate() -> None:
    wrong = np.arange(100) < 30  # where they lie in the data must not help
    found = quality(ordered(np.zeros(100)), wrong, (10, 50))
    assert [f.precision for f in found.at] == pytest.approx([0.3, 0.3, 0.3]) and found.auc == 0.5


def test_without_wrong_labels_there_is_nothing_to_find() -> None:
    found = quality(ordered(np.arange(4.0)), np.zeros(4, bool), (1, 2))
    assert (found.at, found.auc, found.base_rate) == ((), None, 0)
    assert quality(ordered(np.arange(4.0)), np.ones(4, bool), (2,)).auc is None
    assert quality(ordered(np.full(3, math.nan)), np.ones(3, bool), (2,)).ranked == 0


labelled = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=40)
@given(labelled)
def test_ties_are_the_mean_over_all_shuffles(images: list[tuple[int, bool]]) -> None:
    suspicion = np.array([float(s) for s, _ in images])
    wrong = np.array([w for _, w in images])
    curves, areas = [], []
    for shuffled in itertools.permutations(range(len(images))):
        rows = sorted(shuffled, key=lambda i: -suspicion[i])
        curves.append(np.cumsum([0, *wrong[rows]]))
        pairs = [(a, b) for a, b in itertools.combinations(rows, 2) if wrong[a] != wrong[b]]
        areas.append(np.mean([wrong[a] for a, _ in pairs]) if pairs else None)
    order = ordered(suspicion)
    np.testing.assert_allclose(found_by(order, wrong), np.mean(curves, axis=0), atol=1e-12)
    if areas[0] is None:
        assert area(order, wrong) is None
    else:
        assert area(order, wrong) == pytest.approx(np.mean(areas))
