"""What the report draws of a score: every point is a strict TAR, bands and histograms are those of the numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.curves import LAST_FAR, density, first_far, roc_curve
from facekit.evaluation.pairwise import bootstrap


@pytest.mark.parametrize("known", [True, False])
def test_line_and_band_are_the_rates_of_the_table(known: bool, make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(1000, known=known)
    scores = np.where(pairs.same, 0.3, 0.0) + np.random.default_rng(0).normal(0, 0.2, 1000)
    split = v.Scores.of(scores, pairs.same)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, 100, 0)
    curve = roc_curve(pairs.name, "raw", split, boot, scores)
    assert (curve.benchmark, curve.label, curve.far[0], curve.far[-1]) == ("toy", "raw", 0.02, LAST_FAR)
    assert curve.tar.tolist() == [v.tar_at_far(split, far).value for far in curve.far.tolist()]
    assert curve.low is not None and curve.high is not None
    for i in (0, 10, -1):
        drawn = boot.tar_at_far(scores, [float(curve.band_far[i])])[0]
        assert [curve.low[i], curve.high[i]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=1e-12)


def test_without_a_bootstrap_there_is_no_band(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs(people=10)
    scores = np.random.default_rng(0).normal(size=len(pairs.same))
    curve = roc_curve(pairs.name, "raw", v.Scores.of(scores, pairs.same), None, scores)
    assert curve.low is None and curve.high is None and len(curve.tar) == len(curve.far)


def test_where_curves_begin() -> None:
    assert first_far(1000) == 0.01, "ten of a thousand"
    assert first_far(30) == 0.05


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(1, 12))
def test_density_is_the_histogram(values: list[int], bins: int) -> None:
    ascending = np.sort(np.array(values, float))
    edges = np.linspace(-10, 10, bins + 1)
    assert density(ascending, edges).tolist() == (np.histogram(ascending, edges)[0] / len(values)).tolist()


def test_histograms_cover_all_scores(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs(people=10)
    scores = np.random.default_rng(0).normal(3, 7, size=len(pairs.same))
    curve = roc_curve(pairs.name, "asnorm", v.Scores.of(scores, pairs.same), None, scores)
    assert (curve.bins[0], curve.bins[-1]) == (scores.min(), scores.max())
    assert curve.genuine_density.sum() == pytest.approx(1) and curve.impostor_density.sum() == pytest.approx(1)
