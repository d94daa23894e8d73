"""Two scores of the same pairs: the difference and its interval, the three answers, and what a person reads."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.pairwise import benchmark_row, bootstrap
from facekit.evaluation.results import Row, find
from facekit.evaluation.statistics import Difference, IdentityBootstrap, bootstrap_p, holm, mcnemar
from facekit.evaluation.versus import (
    Change,
    Versus,
    decide,
    delta_rows,
    rows,
    same_order,
    sentence,
    sentences,
    versus,
)

FARS = (0.1, 0.01, 1e-5)


def boot_of(pairs: PairSet, draws: int = 300) -> IdentityBootstrap:
    return bootstrap(pairs, pairs.left, pairs.right, pairs.same, draws, 0)


def planted(pairs: PairSet, distance: float, seed: int) -> np.ndarray:
    """Genuine scores so many deviations above impostor scores; half of the noise is common to all seeds."""
    common, own = (np.random.default_rng(s).normal(size=len(pairs.same)) for s in (99, seed))
    return np.where(pairs.same, distance, 0.0) + (common + own) / np.sqrt(2)


def compared(pairs: PairSet, better: float, draws: int = 300) -> Versus:
    boot = boot_of(pairs, draws) if draws else None
    return versus(pairs, planted(pairs, 2, 1), planted(pairs, 2 + better, 2), ("teacher", "student"), FARS, boot)


# --- identical scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda s: s, lambda s: 2 * s - 7, np.exp])
def test_scores_in_the_same_order_differ_by_exactly_nothing(
    change: Callable[[np.ndarray], np.ndarray], make_all_pairs: Callable[..., PairSet]
) -> None:
    pairs = make_all_pairs()
    scores = planted(pairs, 2, 1)
    found = versus(pairs, scores, change(scores), ("raw", "dao"), FARS, boot_of(pairs))
    for measured in found.changes[:2]:
        d = measured.difference
        assert d is not None and (d.value, d.low, d.high, d.opposite, d.decided) == (0.0, 0.0, 0.0, 0.0, False)
        assert measured.word == "identical" and measured.p_holm == 1.0
    assert sentences(found) == ["IDENTICAL: dao and raw order all pairs alike; every rate is the same."]
    row = find(
        list(delta_rows(scores, change(scores), pairs, Row(score="dao"), boot_of(pairs), FARS)), "delta.tar@far", 0.1
    )
    assert row is not None and (row.value, row.low, row.high) == (0.0, 0.0, 0.0)
    assert row.note == "identical: both order all pairs alike"


def test_the_same_order_includes_ties() -> None:
    first = np.array([0.1, 0.5, 0.5, 0.9, 0.2])
    assert same_order(first, first**3)
    assert not same_order(first, np.array([0.1, 0.5, 0.6, 0.9, 0.2])), "a tie was broken"
    assert not same_order(np.array([0.1, 0.5, 0.6, 0.9, 0.2]), first), "a tie was made"
    assert not same_order(first, -first)


def test_other_scores_with_the_same_rates_are_not_called_identical(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    scores = np.where(pairs.same, 5.0, 0.0) + np.random.default_rng(0).uniform(0, 1, len(pairs.same))
    other = np.where(pairs.same, 5.0, 0.0) + np.random.default_rng(1).uniform(0, 1, len(pairs.same))
    change = versus(pairs, scores, other, ("a", "b"), (0.1,), boot_of(pairs)).changes[0]
    assert change.word == "undecided" and change.difference is not None
    assert (change.difference.value, change.difference.low, change.difference.high) == (0.0, -3 / 30, 3 / 30)


# --- differences ----------------------------------------------------------------------------------------------


def test_difference_interval_and_p_written_out(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    first, second = planted(pairs, 2, 1), planted(pairs, 2.2, 2)
    boot = boot_of(pairs)
    found = versus(pairs, first, second, ("a", "b"), FARS, boot)
    replicates = boot.tar_at_far(second, FARS[:2]) - boot.tar_at_far(first, FARS[:2])
    p = holm([bootstrap_p(replicates[0]), bootstrap_p(replicates[1])])
    for i, far in enumerate(FARS[:2]):
        tar = [v.tar_at_far(v.Scores.of(scores, pairs.same), far).value for scores in (first, second)]
        d = found.changes[i].difference
        assert d is not None and tar[0] is not None and tar[1] is not None
        assert d.value == tar[1] - tar[0]
        assert (d.low, d.high) == pytest.approx(tuple(np.percentile(replicates[i], [2.5, 97.5])), abs=1e-12)
        assert found.changes[i].p_holm == p[i]
    assert found.changes[2].difference is None and found.changes[2].support.status == "not_measurable"


def test_swapping_the_two_turns_the_sign_and_the_word(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    a, b = planted(pairs, 2, 1), planted(pairs, 3, 2)
    there = versus(pairs, a, b, ("a", "b"), (0.1,), boot_of(pairs)).changes[0]
    back = versus(pairs, b, a, ("b", "a"), (0.1,), boot_of(pairs)).changes[0]
    assert there.difference is not None and back.difference is not None
    assert there.difference.value == -back.difference.value and there.difference.decided
    assert (there.word, back.word) == ("better", "worse")
    assert there.difference.low == pytest.approx(-(back.difference.high or 0))


def test_equal_scores_are_undecided_and_told_what_was_seen(make_all_pairs: Callable[..., PairSet]) -> None:
    found = compared(make_all_pairs(), 0.0)
    assert [change.word for change in found.changes] == ["undecided"] * 3
    d = found.changes[0].difference
    assert d is not None and d.smallest is not None
    said = sentences(found)
    assert len(said) == 2 and said[0].startswith("UNDECIDED at FAR 0.1: student accepts ")
    assert said[0].endswith(f"a true difference below {100 * d.smallest:.1f} points would mostly go unnoticed here.")


def test_a_planted_gain_is_told(make_all_pairs: Callable[..., PairSet]) -> None:
    found = compared(make_all_pairs(), 1.0)
    d = found.changes[0].difference
    assert d is not None and d.low is not None and d.high is not None
    assert sentences(found)[0] == (
        f"BETTER at FAR 0.1: student accepts {100 * d.value:.1f} points more genuine pairs than teacher "
        f"({100 * d.low:.1f} more to {100 * d.high:.1f} more); more than chance (p {found.changes[0].p_holm:.2g})."
    )


def test_a_loss_is_told_in_words_of_loss(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    text = sentences(versus(pairs, planted(pairs, 3, 1), planted(pairs, 2, 2), ("a", "b"), (0.1,), boot_of(pairs)))[0]
    assert text.startswith("WORSE at FAR 0.1: b accepts ") and " points fewer genuine pairs than a (" in text


def test_too_few_false_accepts_decide_nothing(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs(people=12)
    assert int((~pairs.same).sum()) == 1056
    found = versus(pairs, planted(pairs, 0, 1), planted(pairs, 6, 2), ("a", "b"), (0.009, 0.01), boot_of(pairs))
    few, enough = found.changes
    assert few.difference is not None and few.difference.decided and few.word == "undecided"
    assert enough.word == "better"
    assert "fewer than 10 false accepts are expected" in sentences(found)[0]


def test_all_three_conditions_are_needed() -> None:
    up, open_ = Difference(0.02, 0.01, 0.03, 0.0, 0.01), Difference(0.02, -0.01, 0.05, 0.1, 0.04)
    assert decide(up, 0.05, Fraction(10)) == "better"
    assert decide(Difference(-0.02, -0.03, -0.01, 0.0, 0.01), 0.05, Fraction(10)) == "worse"
    assert decide(up, 0.06, Fraction(10)) == "undecided", "each p may be below 0.05, but both rates were tried"
    assert decide(up, 0.05, Fraction(99, 10)) == "undecided"
    assert decide(open_, 0.01, Fraction(10)) == "undecided"
    assert decide(None, 0.01, Fraction(10)) == "undecided"


def test_an_interval_that_does_not_stand_after_holm_is_explained() -> None:
    point = v.OperatingPoint(0.5, 0.1, 0.1, 10, "ok", "")
    change = Change(0.1, point, Fraction(30), Difference(0.02, 0.001, 0.04, 0.02, 0.03), 0.08, "undecided")
    assert sentence(change, "a", "b").endswith("asked at several rates, it may still be chance (p 0.08 after Holm).")


def test_without_a_bootstrap_nothing_is_claimed(make_all_pairs: Callable[..., PairSet]) -> None:
    found = compared(make_all_pairs(), 2.0, draws=0)
    assert found.changes[0].word == "undecided" and found.method is None
    assert "without a bootstrap nothing can be told" in sentences(found)[0]


def test_unknown_people_are_said(make_pair_list: Callable[..., PairSet]) -> None:
    found = compared(make_pair_list(1000, known=False), 1.0)
    assert not found.knows_people and "too narrow" in sentences(found)[-1]
    assert "too narrow" not in " ".join(sentences(compared(make_pair_list(1000), 1.0)))


# --- accuracy ------------------------------------------------------------------------------------------------


def test_mcnemar_counts_by_hand(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(200)
    first = np.where(pairs.same, 1.0, 0.0)
    second = first.copy()
    second[[0, 20, 40, 60, 80, 100]] = 0.0  # genuine ones, one in each of six folds, that only the first has right
    found = versus(pairs, first, second, ("a", "b"), (0.1,), None).accuracies
    assert found is not None
    assert (found.only_first_right, found.only_second_right) == (6, 0)
    assert (found.first, found.second, found.p, found.word) == (1.0, pytest.approx(0.97), mcnemar(6, 0), "worse")
    fewer = second.copy()
    fewer[0] = 1.0
    five = versus(pairs, first, fewer, ("a", "b"), (0.1,), None).accuracies
    assert five is not None and five.p > 0.05 and five.word == "undecided"


def test_each_has_its_own_threshold(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(200)
    first = np.where(pairs.same, 1.0, 0.0) + np.linspace(0, 0.5, 200)
    found = versus(pairs, first, 100 * first - 3, ("a", "b"), (0.1,), None).accuracies
    assert found is not None and (found.first, found.second, found.p) == (1.0, 1.0, 1.0)


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_of_an_aligned_score(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(1000)
    raw, aligned = planted(pairs, 2, 1), planted(pairs, 3, 2)
    boot = boot_of(pairs)
    base = benchmark_row(pairs, "none", Row(model="toy@1", score="dao", support="cohort", alpha=0.5))
    made = list(delta_rows(raw, aligned, pairs, base, boot, FARS))
    found = versus(pairs, raw, aligned, ("raw", "dao"), FARS, boot)
    for change, far in zip(found.changes, FARS, strict=True):
        row, smallest = find(made, "delta.tar@far", far), find(made, "smallest_effect.delta.tar@far", far)
        assert row is not None and (row.score, row.support, row.alpha, row.model) == ("dao", "cohort", 0.5, "toy@1")
        assert (row.protocol, row.ci_method, row.status) == ("paired", "identity_bootstrap", change.support.status)
        assert row.note.partition(":")[0] == change.word
        if (d := change.difference) is None:
            assert smallest is None and row.value is None and "at least 100,000 impostor pairs" in row.note
        else:
            assert smallest is not None and smallest.value == d.smallest
            assert (row.value, row.low, row.high, row.level) == (d.value, d.low, d.high, 0.95)
    test = find(made, "mcnemar")
    assert test is not None and found.accuracies is not None and test.value == found.accuracies.p
    assert f"dao alone on {found.accuracies.only_second_right}; accuracy" in test.note


def test_rows_of_two_models_name_both(make_all_pairs: Callable[..., PairSet]) -> None:
    made = list(rows(compared(make_all_pairs(), 1.0), Row(model="student@1", score="raw")))
    assert {row.model for row in made} == {"student against teacher"}
    assert find(made, "mcnemar") is None, "no folds, no accuracy"
