"""Intervals against textbook values, and the identity bootstrap against writing every pair down."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from facekit.evaluation import statistics as s
from facekit.evaluation.verification import Scores, auc, eer, strict_threshold


def toy_trials(seed: int, images: int, people: int, *, ties: bool = True) -> tuple[np.ndarray, ...]:
    """All pairs of images: (left person, right person, same, scores)."""
    rng = np.random.default_rng(seed)
    person = rng.integers(0, people, images) * 3 + 5  # labels need not be dense
    left, right = np.triu_indices(images, 1)
    same = person[left] == person[right]
    scores = rng.normal(size=len(left)) + 1.5 * same
    return person[left], person[right], same, np.round(scores, 1) if ties else scores


def weights_of(boot: s.IdentityBootstrap, draw: int) -> tuple[np.ndarray, np.ndarray]:
    m = boot.multiplicity[:, draw]
    return m[boot.genuine], m[boot.impostor[0]] * m[boot.impostor[1]]


def brute_tar(genuine: np.ndarray, impostor: np.ndarray, allowed: int) -> float:
    threshold = strict_threshold(np.sort(impostor), allowed)
    return 1.0 if threshold is None else float(np.mean(genuine >= threshold))


@pytest.mark.parametrize(("images", "people"), [(24, 6), (60, 15), (70, 40)])
def test_every_rate_equals_writing_each_pair_down(images: int, people: int) -> None:
    left, right, same, scores = toy_trials(images, images, people)
    boot = s.IdentityBootstrap(left, right, same, draws=150, seed=1)
    fars = (0.5, 0.1, 0.013, 1.0)
    tars, fixed, rate = boot.tar_at_far(scores, fars), boot.tar(scores, 0.7), boot.far(scores, 0.7)
    areas, crossings = boot.auc(scores), boot.eer(scores)
    correct = (scores >= 0.7) == same
    right_share = boot.accuracy(correct)
    for r in range(150):
        w_g, w_i = weights_of(boot, r)
        genuine, impostor = np.repeat(scores[same], w_g), np.repeat(scores[~same], w_i)
        assert (len(genuine), len(impostor)) == (boot.genuine_total[r], boot.impostor_total[r])
        if not len(genuine) or not len(impostor):
            continue
        for i, allowed in enumerate(
            (len(impostor) // 2, len(impostor) // 10, len(impostor) * 13 // 1000, len(impostor))
        ):
            assert tars[i, r] == brute_tar(genuine, impostor, allowed), (fars[i], r)
        assert fixed[r] == np.mean(genuine >= 0.7)
        assert rate[r] == np.mean(impostor >= 0.7)
        split = Scores(np.sort(genuine), np.sort(impostor))
        assert areas[r] == auc(split)
        assert crossings[r] == pytest.approx(eer(split)[0], abs=0.5 / min(len(genuine), len(impostor)))
        p = np.mean(same)
        by_hand = p * np.mean(genuine >= 0.7) + (1 - p) * np.mean(impostor < 0.7)
        assert right_share[r] == pytest.approx(by_hand)


def test_eer_replicates_minimise_the_gap() -> None:
    left, right, same, scores = toy_trials(3, 50, 12, ties=False)
    boot = s.IdentityBootstrap(left, right, same, draws=60, seed=2)
    rates = boot.eer(scores)
    for r in range(60):
        w_g, w_i = weights_of(boot, r)
        levels = [*np.unique(scores), math.inf]
        far = np.array([np.sum(w_i * (scores[~same] >= t)) / w_i.sum() for t in levels])
        frr = np.array([1 - np.sum(w_g * (scores[same] >= t)) / w_g.sum() for t in levels])
        gap = np.abs(far - frr)
        closest = ((far + frr) / 2)[gap <= gap.min() + 1e-12]
        assert np.min(np.abs(closest - rates[r])) < 1e-12


def test_long_lists_use_large_blocks_and_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, same, scores = toy_trials(9, 60, 15)
    expected = s.IdentityBootstrap(left, right, same, draws=40, seed=1).tar_at_far(scores, (0.3, 0.01))
    monkeypatch.setattr(s, "_BLOCK", 7)
    got = s.IdentityBootstrap(left, right, same, draws=40, seed=1).tar_at_far(scores, (0.3, 0.01))
    assert np.array_equal(expected, got)


def test_total_weights_agree_between_the_dense_and_the_sparse_way() -> None:
    m = s.draw_identities(12, 200, 0)
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 12, (2, 5000))
    direct = (m[left].astype(np.int64) * m[right]).sum(axis=0)
    assert np.array_equal(s.total_weight(m, left, right), direct)  # dense: 144 cells
    assert np.array_equal(s.total_weight(m, left[:20], right[:20]), (m[left[:20]] * m[right[:20]]).sum(axis=0))


def test_draws_are_seeded_and_draw_everybody_once_on_average() -> None:
    m = s.draw_identities(50, 400, 3)
    assert np.array_equal(m, s.draw_identities(50, 400, 3))
    assert not np.array_equal(m, s.draw_identities(50, 400, 4))
    assert np.all(m.sum(axis=0) == 50)


@pytest.mark.parametrize(("people", "draws"), [(1, 9), (7, 1000), (333, 50), (2001, 9)])
def test_draws_do_not_depend_on_how_many_are_made_at_once(
    people: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = np.random.default_rng(3).integers(0, people, (draws, people))
    written_out = np.stack([np.bincount(draw, minlength=people) for draw in chosen], axis=1)
    for cells in (1 << 20, 1000, 1):
        monkeypatch.setattr(s, "_CELLS", cells)
        assert np.array_equal(s.draw_identities(people, draws, 3), written_out)


def test_draws_without_any_genuine_pair_are_left_out() -> None:
    # Two people, only the first has a genuine pair: a quarter of the draws hold the second person alone.
    left, right = np.array([0, 0]), np.array([0, 1])
    boot = s.IdentityBootstrap(left, right, np.array([True, False]), draws=400, seed=0)
    tar = boot.tar_at_far(np.array([0.9, 0.1]), (1.0,))[0]
    assert 0.3 < np.mean(np.isnan(tar)) < 0.7
    assert s.Interval.of(tar).low == 1.0
    assert s.Interval.of(np.full(10, np.nan)) == s.Interval(None, None, None)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Scores with a strong effect of the person: the identity bootstrap covers, Wilson on pairs does not."""
    covered_identity = covered_pairs = 0
    rounds = 120
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        person = np.repeat(np.arange(40), 5)
        left, right = np.triu_indices(200, 1)
        same = person[left] == person[right]
        left, right, same = left[same], right[same], same[same]
        easy = rng.random(40) < 0.7  # all pairs of an easy person score above 0.5: the true TAR is 0.7
        scores = np.where(easy[person[left]], 0.9, 0.1)
        left_p, right_p = np.append(person[left], 0), np.append(person[right], 1)
        boot = s.IdentityBootstrap(left_p, right_p, np.append(same, False), draws=200, seed=seed)
        interval = s.Interval.of(boot.tar(np.append(scores, 0.0), 0.5))
        assert interval.low is not None and interval.high is not None
        covered_identity += interval.low <= 0.7 <= interval.high
        low, high = s.wilson(float(np.sum(scores > 0.5)), len(scores))
        covered_pairs += low <= 0.7 <= high
    assert covered_identity / rounds > 0.88
    assert covered_pairs / rounds < 0.6


def test_paired_difference_is_tighter_than_its_arms() -> None:
    left, right, same, scores = toy_trials(11, 120, 30, ties=False)
    rng = np.random.default_rng(0)
    better = scores + 0.2 * same + rng.normal(0, 0.05, len(scores))
    boot = s.IdentityBootstrap(left, right, same, draws=300, seed=0)
    a, b = boot.tar(scores, 1.5), boot.tar(better, 1.5)
    value = float(np.mean(better[same] >= 1.5) - np.mean(scores[same] >= 1.5))
    difference = s.paired_difference(value, a, b, 30)
    assert difference.low is not None and difference.high is not None and difference.smallest is not None
    assert difference.low <= value <= difference.high
    assert difference.decided and difference.opposite == 0.0
    arm = s.Interval.of(a).sd
    assert arm is not None and difference.smallest < s.DETECTABLE * arm
    backwards = s.paired_difference(-value, b, a, 30)
    assert (backwards.low, backwards.high) == pytest.approx((-difference.high, -difference.low))


def test_no_difference_in_any_draw_is_not_certainty() -> None:
    same = np.full(1000, 0.98)
    difference = s.paired_difference(0.0, same, same, 60)
    assert (difference.low, difference.high, difference.smallest) == (-0.05, 0.05, 0.05)
    assert not difference.decided


def test_all_right_in_every_draw_leaves_room() -> None:
    person = np.repeat(np.arange(30), 2)
    left, right = np.append(person, 0), np.append(person, 1)
    same = np.arange(61) < 60
    boot = s.IdentityBootstrap(left, right, same, draws=100)
    interval = boot.interval(1.0, boot.tar(same.astype(float), 0.5))
    assert (interval.low, interval.high) == s.wilson(30, 30)
    assert interval.method == "wilson" and interval.sd is not None and interval.sd > 0
    assert interval.low == pytest.approx(0.886, abs=1e-3)


def test_unknown_people_draw_pairs() -> None:
    left, _, same, scores = toy_trials(5, 40, 10)
    boot = s.IdentityBootstrap(left, None, same, draws=50, seed=1)
    assert (boot.method, boot.knows_people) == ("pair_bootstrap", False)
    rates = boot.tar_at_far(scores, (0.1,))[0]
    for r in range(50):
        m = boot.multiplicity[:, r]
        genuine, impostor = np.repeat(scores[same], m[same]), np.repeat(scores[~same], m[~same])
        assert rates[r] == brute_tar(genuine, impostor, len(impostor) // 10)


def test_undecided_when_the_interval_holds_zero() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, (2, 1000))
    difference = s.paired_difference(0.0005, a, b, 500)
    assert not difference.decided
    assert difference.opposite is not None and 0.3 < difference.opposite < 0.7


def test_smallest_effects_have_the_power_they_state() -> None:
    """A true difference of 2.8 sd is significant at 5 % in 80 % of repetitions."""
    rng = np.random.default_rng(0)
    observed = rng.normal(s.DETECTABLE, 1.0, 100_000)
    assert np.mean(np.abs(observed) > 1.96) == pytest.approx(0.80, abs=0.005)
    assert s.smallest_effect(0.01) == pytest.approx(0.028 * math.sqrt(2))
    assert s.smallest_effect(None) is None


def test_wilson_textbook_values() -> None:
    assert s.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert s.wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-4)
    assert s.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I


def test_mcnemar_exact_values() -> None:
    assert s.mcnemar(6, 0) == pytest.approx(0.03125)
    assert s.mcnemar(5, 0) == pytest.approx(0.0625)
    assert s.mcnemar(0, 0) == 1.0
    assert s.mcnemar(7, 7) == 1.0
    assert s.mcnemar(3, 12) == s.mcnemar(12, 3) == pytest.approx(0.03515625)
    assert 0 <= s.mcnemar(2000, 4000) < 1e-100


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_t_quantiles(freedom: int, value: float) -> None:
    assert s.t_quantile(freedom) == pytest.approx(value, abs=1e-4)


def test_t_interval_over_seeds() -> None:
    mean, sd, low, high = s.t_interval([0.70, 0.72, 0.71])
    assert (mean, sd) == pytest.approx((0.71, 0.01))
    assert (low, high) == pytest.approx(
        (0.71 - 4.30265 * 0.01 / math.sqrt(3), 0.71 + 4.30265 * 0.01 / math.sqrt(3)), abs=1e-6
    )
    with pytest.raises(ValueError, match="two seeds"):
        s.t_interval([0.7])


def test_spearman_uses_mean_ranks_for_ties() -> None:
    assert s.ranks(np.array([10.0, 20.0, 20.0, 30.0])).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert s.spearman(np.arange(9.0), np.exp(np.arange(9.0))) == pytest.approx(1.0)
    assert s.spearman(np.arange(9.0), -np.arange(9.0)) == pytest.approx(-1.0)


def test_a_thousand_draws_over_millions_of_pairs_stay_fast() -> None:
    rng = np.random.default_rng(0)
    person = np.sort(rng.integers(0, 963, 2186))
    left, right = np.triu_indices(2186, 1)
    same = person[left] == person[right]
    scores = rng.normal(size=len(left)) + 4 * same
    start = time.process_time()
    boot = s.IdentityBootstrap(person[left], person[right], same)
    boot.tar_at_far(scores, (1e-2, 1e-3, 1e-4))
    assert time.process_time() - start < 5.0
