"""Thresholds chosen on some people and judged on others: rows equal the definitions, sentences say what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.operating import advice, frozen_rows, thresholds_of
from facekit.evaluation.pairwise import benchmark_row, bootstrap, tar_rows
from facekit.evaluation.results import Row, find

FARS = (0.1, 0.01, 1e-5)


def planted(pairs: PairSet, seed: int, shift: float = 0.0) -> np.ndarray:
    """Genuine at 2 + shift, impostors at shift, both with deviation 1."""
    return np.where(pairs.same, 2.0, 0.0) + shift + np.random.default_rng(seed).normal(size=len(pairs.same))


def frozen(pairs: PairSet, scores: np.ndarray, draws: int = 200) -> tuple[list[Row], dict[float, v.OperatingPoint]]:
    dev = v.Scores.of(planted(pairs, 1), pairs.same)
    chosen = thresholds_of(dev, FARS)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, draws, 0) if draws else None
    return frozen_rows(scores, pairs, benchmark_row(pairs, "none"), boot, chosen, "dev"), chosen


def test_rates_are_those_of_the_definition(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    scores = planted(pairs, 2)
    rows, chosen = frozen(pairs, scores)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, 200, 0)
    for far in FARS[:2]:
        threshold = chosen[far].threshold
        assert threshold is not None
        tar, held = find(rows, "tar@threshold", far), find(rows, "far@threshold", far)
        assert tar is not None and held is not None
        assert tar.value == np.mean(scores[pairs.same] >= threshold)
        assert held.value == tar.achieved == np.mean(scores[~pairs.same] >= threshold)
        assert held.n_false == np.sum(scores[~pairs.same] >= threshold)
        assert (held.low, held.high) == tuple(np.percentile(boot.far(scores, threshold), [2.5, 97.5]))
        assert (tar.low, tar.high) == tuple(np.percentile(boot.tar(scores, threshold), [2.5, 97.5]))
        assert tar.threshold == threshold and tar.ci_method == held.ci_method == "identity_bootstrap"
        assert tar.status == "ok" and tar.note == "threshold from dev"


def test_what_dev_cannot_measure_has_no_threshold_here(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    rows, _ = frozen(pairs, planted(pairs, 2))
    missing = find(rows, "far@threshold", 1e-5)
    assert missing is not None and (missing.value, missing.threshold, missing.status) == (None, None, "not_measurable")
    assert "threshold from dev; there, FAR 1e-05 needs at least 100,000 impostor pairs" in missing.note


def test_few_false_accepts_on_dev_are_marked_here(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(1000)
    rows, _ = frozen(pairs, planted(pairs, 2))
    assert {row.at: row.status for row in rows if row.metric == "far@threshold"} == {
        0.1: "ok",
        0.01: "low_support",
        1e-5: "not_measurable",
    }


def test_no_false_accept_still_has_room_above_it(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    row = find(frozen(pairs, planted(pairs, 2, shift=-50))[0], "far@threshold", 0.01)
    assert row is not None and (row.value, row.n_false, row.low, row.ci_method) == (0.0, 0, 0.0, "wilson_pairs")
    assert row.high is not None and row.high > 0


@pytest.mark.parametrize("known", [True, False])
def test_unknown_people_get_wilson_and_no_draws_no_interval(
    known: bool, make_pair_list: Callable[..., PairSet]
) -> None:
    pairs = make_pair_list(1000, known=known)
    row = find(frozen(pairs, planted(pairs, 2))[0], "far@threshold", 0.1)
    assert row is not None and row.ci_method == ("identity_bootstrap" if known else "wilson_pairs")
    rows, _ = frozen(pairs, planted(pairs, 2), draws=0)
    assert all(row.low is None and not row.metric.startswith("smallest_effect") for row in rows)


# --- sentences ---------------------------------------------------------------------------------------------


def test_advice_without_dev_calls_itself_optimistic(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    base = benchmark_row(pairs, "none")
    scores = planted(pairs, 2) / 8
    rows = list(tar_rows(scores, v.Scores.of(scores, pairs.same), base, None, FARS))
    first, wide, narrow, missing, last = advice(rows, pairs.name)
    assert first == (
        "allpairs:toy has 6,960 impostor pairs: the lowest FAR it can measure is 0.00014; 0.0043 is the lowest with 30 "
        "false accepts behind it, which is what a number needs to be trusted."
    )
    row = find(rows, "tar@far", 0.01)
    assert row is not None and row.threshold is not None and row.value is not None
    assert "For FAR 0.01 (1 in 100) take cosine 0." in narrow and f"{100 * row.value:.1f} % of genuine" in narrow
    told = float(narrow.partition("cosine ")[2].split()[0])
    assert 0 <= told - row.threshold < 1e-4, "rounded to the strict side"
    assert f"squared L2 distance {2 - 2 * told:.4f}, {np.degrees(np.arccos(told)):.1f} degrees" in narrow
    assert wide.startswith("For FAR 0.1 (1 in 10)") and missing.startswith("FAR 1e-05: no threshold; FAR 1e-05 needs")
    assert "optimistic" in last and "--dev" in last


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, "which agrees with what was asked for"), (0.5, "MORE than asked for"), (-0.5, ", less than asked for")],
)
def test_advice_with_dev_says_what_the_threshold_holds(
    shift: float, verdict: str, make_all_pairs: Callable[..., PairSet]
) -> None:
    pairs = make_all_pairs()
    rows, chosen = frozen(pairs, planted(pairs, 2, shift))
    own = Row(benchmark=pairs.name, metric="tar@far", at=0.1, n_impostor=6960)
    worse = [dataclasses.replace(row, variant="flip-none,mask", value=0.0) for row in rows]
    said = advice([own, *worse, *rows], pairs.name, "allpairs:dev")
    line = next(s for s in said if s.startswith("For FAR 0.1 "))
    assert f"chosen on allpairs:dev: on allpairs:toy it holds FAR 0.{'1' if not shift else ''}" in line
    assert verdict in line and "optimistic" not in " ".join(said)
    assert chosen[0.1].threshold is not None and f"cosine {np.ceil(chosen[0.1].threshold * 1e4) / 1e4:.4f}" in line


def test_advice_of_a_benchmark_without_thresholds_is_silence() -> None:
    assert advice([Row(benchmark="gallery", metric="cmc", at=1, value=0.5)], "gallery") == []


def test_a_set_too_small_to_trust_is_told() -> None:
    row = Row(benchmark="tiny", metric="tar@far", at=0.1, value=0.5, threshold=0.5, n_impostor=12, status="low_support",
              note="FAR 0.1 of 12 impostor pairs is 1.2 false accepts (< 30)")  # fmt: skip
    first, second, _ = advice([row], "tiny")
    assert "none comes with 30 false accepts" in first and "Uncertain: FAR 0.1 of 12" in second
