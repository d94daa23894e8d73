"""The swap: what is measured against brute force, the rules one by one, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import ArtefactMismatch, InputError
from facekit.core.preprocess import Preprocess
from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.statistics import Difference, Interval
from facekit.evaluation.swap import FAR_GROWTH, Certificate, certify, shared_flip, swap_rows
from facekit.evaluation.verdict import decide, judge, lose, one_in, points, signed, summary

MakePairs = Callable[..., PairSet]


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def two_models(pairs: PairSet, blur: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = pairs.source.read(np.arange(len(pairs.source))).reshape(len(pairs.source), -1) - 127.5
    return unit(x), unit(x + blur * rng.normal(0, x.std(), x.shape))


def swap(pairs: PairSet, blur: float, **changes: Any) -> Certificate:
    options: dict[str, Any] = {"threshold": None, "at_far": 0.01, "tolerance": 0.02, "draws": 200, "seed": 0}
    return certify(*two_models(pairs, blur), pairs, **{**options, **changes})


def test_all_pairs_are_tried_both_ways_round(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    old, new = two_models(pairs, 0.5)
    c = swap(pairs, 0.5)
    forward = np.sum(old[pairs.left] * new[pairs.right], axis=1)
    back = np.sum(new[pairs.left] * old[pairs.right], axis=1)
    scores, same = np.concatenate([forward, back]), np.tile(pairs.same, 2)
    own = np.sum(old[pairs.left] * old[pairs.right], axis=1)
    threshold = v.tar_at_far(v.Scores.of(own, pairs.same), 0.01).threshold
    assert c.threshold == pytest.approx(threshold, abs=1e-12)
    cross = c.arms[2]
    assert cross.tar_at_threshold.value == np.mean(scores[same] >= c.threshold)
    assert cross.far_at_threshold.value == np.mean(scores[~same] >= c.threshold)
    assert (cross.n_genuine, cross.n_impostor) == (2 * c.arms[0].n_genuine, 2 * c.arms[0].n_impostor)
    assert cross.tar_at_far.value == v.tar_at_far(v.Scores.of(scores, same), 0.01).value
    assert c.change_at_threshold.value == pytest.approx(
        np.mean(scores[same] >= c.threshold) - np.mean(own[pairs.same] >= c.threshold)
    )
    assert c.change_at_threshold.low is not None and c.change_at_threshold.low <= c.change_at_threshold.value


def test_a_list_enrols_the_left_image(make_pair_list: MakePairs) -> None:
    pairs = make_pair_list()
    old, new = two_models(pairs, 0.5)
    c = swap(pairs, 0.5, at_far=0.1)
    scores = np.sum(old[pairs.left] * new[pairs.right], axis=1)
    assert c.arms[2].n_genuine == c.arms[0].n_genuine == 100
    assert c.arms[2].tar_at_threshold.value == np.mean(scores[pairs.same] >= c.threshold)
    assert c.trials.startswith("left image of each pair enrolled")


def test_a_model_swapped_for_itself_changes_nothing(make_all_pairs: MakePairs) -> None:
    c = swap(make_all_pairs(people=60), 0.0, tolerance=0.06)
    old, _, cross = c.arms
    assert cross.tar_at_threshold.value == old.tar_at_threshold.value
    assert cross.tar_at_far == old.tar_at_far and cross.far_at_threshold.value == old.far_at_threshold.value
    assert c.change_at_threshold == Difference(0.0, -3 / 60, 3 / 60, 0.0, 3 / 60)
    assert judge(c).kind == "swap"
    # On 60 people even that is no proof of a loss below 2 points, and it is not sold as one.
    assert judge(dataclasses.replace(c, tolerance=0.02)).kind == "undecided"


def test_a_bad_student_is_refused(make_all_pairs: MakePairs) -> None:
    bad = judge(swap(make_all_pairs(people=60), 3.0))
    assert bad.kind == "no" and bad.sentence.startswith("Do not swap: ")


def test_a_student_whose_scores_are_shifted_gets_a_threshold(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs(people=60)
    x, _ = two_models(pairs, 0.0)
    constant = np.ones((len(x), 1))
    old, new = unit(np.hstack([x, 0.3 * constant])), unit(np.hstack([x, 0.6 * constant]))
    c = certify(old, new, pairs, threshold=None, at_far=0.01, tolerance=0.1, draws=200, seed=0)
    # The constant lifts every cross similarity alike: no order changes, but everybody passes the old threshold.
    assert c.change_at_threshold.value > 0 and c.far_excess.low is not None and c.far_excess.low > 0
    verdict = judge(c)
    assert verdict.kind == "swap_at"
    printed = float(verdict.sentence.removeprefix("Swap with threshold ").partition(":")[0])
    assert c.arms[2].own.threshold is not None and 0 <= printed - c.arms[2].own.threshold < 1e-4
    assert c.arms[2].own.threshold is not None and c.arms[2].own.threshold > c.threshold
    assert "lose no TAR" in verdict.sentence and "impostors would pass" in verdict.sentence


def test_a_given_threshold_is_used_as_it_is(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    c = swap(pairs, 0.3, threshold=0.11, at_far=1e-9)
    old, _ = two_models(pairs, 0.3)
    own = np.sum(old[pairs.left] * old[pairs.right], axis=1)
    n_false = int(np.sum(own[~pairs.same] >= 0.11))
    assert (c.threshold, c.threshold_source) == (0.11, "given")
    assert c.far == n_false / np.sum(~pairs.same)
    assert c.arms[0].n_false == n_false
    # Exactly as many false accepts are allowed as the old model makes: never one fewer by rounding.
    assert c.arms[0].own.n_false == n_false


def test_a_threshold_that_no_impostor_passes_is_undecided(make_all_pairs: MakePairs) -> None:
    c = swap(make_all_pairs(), 0.1, threshold=0.99)
    verdict = judge(c)
    assert c.far is None and c.change_at_far is None and c.arms[2].tar_at_far.value is None
    assert verdict.kind == "undecided" and "no impostor pair of 7,080 passes" not in verdict.sentence
    assert "no impostor pair of" in verdict.sentence
    assert c.arms[0].far_at_threshold.value == 0 and c.arms[0].far_at_threshold.high is not None
    assert c.arms[0].far_at_threshold.high > 0


def test_an_unmeasurable_operating_point_is_refused(make_all_pairs: MakePairs) -> None:
    with pytest.raises(InputError, match=r"allpairs:toy: FAR 1e-06 needs at least 1,000,000 impostor pairs"):
        swap(make_all_pairs(), 0.1, at_far=1e-6)


def test_embeddings_of_other_width_are_refused(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    old, new = two_models(pairs, 0.1)
    with pytest.raises(ArtefactMismatch, match=r"192 numbers, new ones 100: .*--embedding 192"):
        certify(old, new[:, :100], pairs, threshold=None, at_far=0.01, tolerance=0.02, draws=100, seed=0)


def test_only_crop_size_and_flip_must_agree() -> None:
    base = Preprocess()
    assert shared_flip(base, dataclasses.replace(base, channels="bgr", scale=1.0, shift=0.0), "model") == "sum"
    with pytest.raises(ArtefactMismatch, match="112x112 images, the new one 96x112"):
        shared_flip(base, dataclasses.replace(base, size=(96, 112)), "model")
    with pytest.raises(ArtefactMismatch, match="train the new model on the old crop"):
        shared_flip(base, dataclasses.replace(base, crop="mtcnn-160"), "none")
    other = dataclasses.replace(base, flip="none")
    with pytest.raises(ArtefactMismatch, match="--flip sum"):
        shared_flip(base, other, "model")
    assert shared_flip(base, other, "concat") == "concat"


def change(low: float, high: float) -> Difference:
    return Difference((low + high) / 2, low, high, 0.0, 0.01)


SAFE, UNSAFE, UNSURE = Interval(-2e-3, -1e-4, 1e-3), Interval(1e-4, 2e-3, 1e-3), Interval(-1e-3, 1e-3, 1e-3)
KEPT, LOST, OPEN = change(-0.015, 0.0), change(-0.5, -0.3), change(-0.03, 0.01)


@pytest.mark.parametrize(
    ("expected_false", "at_threshold", "excess", "at_far", "verdict"),
    [
        (1000, KEPT, SAFE, KEPT, "swap"),
        (1000, KEPT, SAFE, LOST, "swap"),  # rule 1 comes first
        (9.99, KEPT, SAFE, KEPT, "undecided"),  # rule 0 before all
        (10, KEPT, SAFE, KEPT, "swap"),
        (1000, KEPT, UNSAFE, KEPT, "swap_at"),
        (1000, KEPT, UNSURE, KEPT, "swap_at"),
        (1000, LOST, SAFE, KEPT, "swap_at"),
        (1000, LOST, SAFE, LOST, "no"),
        (1000, KEPT, UNSAFE, LOST, "no"),
        (1000, KEPT, UNSURE, LOST, "undecided"),  # the threshold in use is not refuted
        (1000, OPEN, SAFE, OPEN, "undecided"),
        (1000, LOST, SAFE, OPEN, "undecided"),
        (1000, change(-0.02, 0.0), SAFE, LOST, "swap"),  # exactly the tolerance is within it
        (1000, KEPT, Interval(None, None, None), None, "undecided"),
        (1000, Difference(0.0, None, None, None, None), SAFE, None, "undecided"),
    ],
)
def test_rules(
    expected_false: float, at_threshold: Difference, excess: Interval, at_far: Difference, verdict: str
) -> None:
    assert decide(expected_false, at_threshold, excess, at_far, 0.02) == verdict


def test_the_tolerance_decides(make_all_pairs: MakePairs) -> None:
    c = swap(make_all_pairs(people=60), 0.6)
    loss, fixed = c.change_at_far, c.change_at_threshold
    assert loss is not None and loss.low is not None and loss.high is not None and fixed.high is not None
    assert max(loss.high, fixed.high) < 0
    assert judge(dataclasses.replace(c, tolerance=-max(loss.high, fixed.high) - 1e-6)).kind == "no"
    assert judge(dataclasses.replace(c, tolerance=-loss.low)).kind in ("swap", "swap_at")
    middle = judge(dataclasses.replace(c, tolerance=-(loss.low + loss.high) / 2))
    assert middle.kind == "undecided" and "too small to tell" in middle.sentence


def test_false_accepts_are_judged_with_their_interval(make_all_pairs: MakePairs) -> None:
    c = swap(make_all_pairs(people=60), 0.3)
    old, _, cross = c.arms
    assert old.far_at_threshold.value is not None and cross.far_at_threshold.value is not None
    assert c.far_excess.low is not None and c.far_excess.high is not None
    excess = cross.far_at_threshold.value - FAR_GROWTH * old.far_at_threshold.value
    assert c.far_excess.low < excess < c.far_excess.high


def test_rows_carry_every_number(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    c = swap(pairs, 0.4)
    rows = list(swap_rows(c, pairs, "none", ("a@1", "b@2")))
    by = {(r.variant, r.metric): r for r in rows}
    assert set(by) == {
        *((f"flip-none-{arm}", f"{m}@threshold") for arm in ("old", "new", "cross") for m in ("tar", "far")),
        *((f"flip-none-{arm}", "tar@far") for arm in ("old", "new", "cross")),
        *(("flip-none-cross-old", f"tar_change@{at}") for at in ("threshold", "far")),
        *(("flip-none-cross-old", f"smallest_effect.tar_change@{at}") for at in ("threshold", "far")),
    }
    cross = by["flip-none-cross", "tar@threshold"]
    assert (cross.model, cross.threshold, cross.n_false) == ("b@2 against a@1", c.threshold, c.arms[2].n_false)
    assert cross.low is not None and cross.high is not None and cross.ci_method == "identity_bootstrap"
    assert by["flip-none-cross-old", "tar_change@far"].protocol == "paired"
    assert summary(c, judge(c))["new_threshold"] == c.arms[2].own.threshold


def test_words() -> None:
    assert one_in(0.00101) == "1 in 990" and one_in(0.0) == one_in(None) == "none"
    assert signed(-0.0001) == "0.0" and signed(0.0123) == "+1.2" and signed(-0.0123) == "-1.2"
    assert lose(change(-0.03, -0.01)) == "lose 2.0 points of TAR" and lose(change(0.0, 0.0)) == "lose no TAR"
    assert points(change(-0.03, -0.01)) == "-2.0 points (95 %: -3.0 to -1.0)"
