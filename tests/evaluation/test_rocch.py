"""The EER of the ROC's convex hull: against hulls made of all pairs of points, and by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.evaluation.verification import Scores, eer, eer_rocch

SCORES = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def by_all_pairs(genuine: list[int], impostor: list[int]) -> Fraction:
    """Lots may be drawn between any two thresholds: the least FAR = FRR over all of them, O(T^2)."""
    points = [
        (Fraction(sum(i >= t for i in impostor), len(impostor)), Fraction(sum(g < t for g in genuine), len(genuine)))
        for t in sorted({*genuine, *impostor, 10})
    ]
    best = Fraction(1)
    for far_a, frr_a in points:
        for far_b, frr_b in points:
            first, second = far_a - frr_a, far_b - frr_b
            if first == 0:
                best = min(best, far_a)
            elif first < 0 < second:
                share = first / (first - second)
                best = min(best, far_a + share * (far_b - far_a))
    return best


@settings(max_examples=300, deadline=None)
@given(SCORES, SCORES)
def test_equals_the_best_lottery_between_two_thresholds(genuine: list[int], impostor: list[int]) -> None:
    scores = Scores(np.sort(np.array(genuine, float)), np.sort(np.array(impostor, float)))
    assert eer_rocch(scores) == float(by_all_pairs(genuine, impostor))


def test_by_hand() -> None:
    scores = Scores(np.array([0.4, 0.8, 0.9]), np.array([0.1, 0.7]))
    assert eer_rocch(scores) == 0.2, "2/5 of the way from (FAR 0, FRR 1/3) to (1/2, 0)"
    assert eer(scores)[0] == pytest.approx(5 / 12), "the other EER takes the nearest threshold, 0.7: (1/2 + 1/3) / 2"


def test_limits() -> None:
    low, high = np.array([0.1, 0.2]), np.array([0.8, 0.9])
    assert eer_rocch(Scores(high, low)) == 0.0
    assert eer_rocch(Scores(low, high)) == 0.5, "a hull never lies below the diagonal of pure chance"
    assert eer_rocch(Scores(low, low)) == 0.5
    assert eer_rocch(Scores(np.array([0.5]), np.array([0.5]))) == 0.5


def test_a_map_of_all_scores_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    genuine, impostor = np.sort(rng.normal(1, 1, 300)), np.sort(rng.normal(0, 1, 5000))
    plain = eer_rocch(Scores(genuine, impostor))
    assert plain == eer_rocch(Scores(np.exp(genuine), np.exp(impostor)))
    assert plain == pytest.approx(0.3085, abs=0.02), "two unit Gaussians one deviation apart: Phi(-1/2)"
    assert plain == pytest.approx(eer(Scores(genuine, impostor))[0], abs=0.005)
