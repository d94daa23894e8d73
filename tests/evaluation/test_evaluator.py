"""The evaluator against the pure functions, and what it promises about embedding, flips and doors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekit.core.errors import FacekitError, InputError
from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.agreement import agreement
from facekit.evaluation.evaluator import Embed, embed_pairs, table_of, tar_by_far
from facekit.evaluation.evaluator import evaluate as evaluate_tables
from facekit.evaluation.results import Row, find
from facekit.evaluation.scoring import RAW, Asked, Raw, Side
from facekit.evaluation.statistics import IdentityBootstrap, Interval, wilson
from facekit.evaluation.vectors import fuse

MakePairs = Callable[..., PairSet]


def centred(images: torch.Tensor) -> torch.Tensor:
    return (images.float() - 127.5).flatten(1)


def evaluate(
    embed: Embed,
    benchmarks: list[PairSet],
    flip: str = "none",
    key: str = "",
    cache_dir: Path | None = None,
    batch: int = 64,
    **asked: Any,
) -> list[Row]:
    table = table_of(embed, flip, batch=batch, key=key, cache_dir=cache_dir)
    return evaluate_tables(table, benchmarks, Asked(flip=flip, **asked)).rows


def by_hand(pairs: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """(unit embeddings, cosines) computed without the evaluator; channel order of the flatten does not matter."""
    x = pairs.source.read(np.arange(len(pairs.source))).reshape(len(pairs.source), -1) - 127.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.sum(x[pairs.left] * x[pairs.right], axis=1)


def test_numbers_of_a_list_are_those_of_the_pure_functions(make_pair_list: MakePairs) -> None:
    pairs = make_pair_list()
    vectors, cosines = by_hand(pairs)
    rows = evaluate(centred, [pairs], fars=(0.1, 0.01, 1e-3), draws=200)
    split = v.Scores.of(cosines, pairs.same)
    tar = find(rows, "tar@far", 0.1)
    assert tar is not None and tar.value == v.tar_at_far(split, 0.1).value
    boot = IdentityBootstrap(
        pairs.source.labels[pairs.left], pairs.source.labels[pairs.right], pairs.same, draws=200, seed=0
    )
    expected = Interval.of(boot.tar_at_far(cosines, (0.1,))[0])
    assert (tar.low, tar.high, tar.ci_method, tar.level) == (expected.low, expected.high, "identity_bootstrap", 0.95)
    distance = v.pair_distances(vectors, pairs.left, pairs.right)
    accuracy, official = find(rows, "accuracy_10fold"), find(rows, "accuracy_lfw")
    assert accuracy is not None and official is not None
    form = v.accuracy_10fold(distance, pairs.same, pairs.fold)
    assert (accuracy.value, accuracy.std, accuracy.std_kind) == (form.mean, form.std, "population")
    exact = v.accuracy_lfw(distance, pairs.same, pairs.fold)
    assert (official.value, official.std, official.std_kind) == (exact.mean, exact.standard_error, "standard_error")
    assert accuracy.note == "folds: contiguous tenths"
    assert accuracy.low is not None and accuracy.low <= form.mean + 1e-9
    area, crossing = find(rows, "auc"), find(rows, "eer")
    assert area is not None and area.value == pytest.approx(v.auc(split), abs=1e-12)
    assert crossing is not None and crossing.value == pytest.approx(v.eer(split)[0], abs=1e-12)
    assert {row.metric for row in rows if row.status == "compat"} == {"val@far", "tar@far_nearest"}


def test_unmeasurable_far_has_no_value_and_says_why(make_pair_list: MakePairs) -> None:
    row = find(evaluate(centred, [make_pair_list()], fars=(1e-3,), draws=0), "tar@far", 1e-3)
    assert row is not None
    assert (row.status, row.value, row.threshold, row.achieved, row.n_false) == (
        "not_measurable",
        None,
        None,
        None,
        None,
    )
    assert (row.n_impostor, row.note) == (100, "FAR 0.001 needs at least 1,000 impostor pairs, this benchmark has 100")


def test_thresholds_come_in_three_units(make_all_pairs: MakePairs) -> None:
    rows = evaluate(centred, [make_all_pairs()], fars=(0.01,), draws=0)
    cosine, squared, degrees = (find(rows, f"threshold.{u}", 0.01) for u in ("cosine", "squared_l2", "degrees"))
    assert cosine is not None and squared is not None and degrees is not None
    assert cosine.value is not None and squared.value == pytest.approx(2 - 2 * cosine.value)
    assert degrees.value == pytest.approx(np.degrees(np.arccos(cosine.value)))


def test_unknown_people_get_wilson_and_pair_intervals(make_pair_list: MakePairs) -> None:
    rows = evaluate(centred, [make_pair_list(known=False)], fars=(0.1,), draws=200)
    tar, area = find(rows, "tar@far", 0.1), find(rows, "auc")
    assert tar is not None and tar.value is not None and tar.n_identities is None
    assert (tar.low, tar.high) == wilson(round(tar.value * 100), 100)
    assert tar.ci_method == "wilson_pairs"
    assert area is not None and area.ci_method == "pair_bootstrap" and area.low is not None


def test_every_measured_headline_has_an_interval_and_its_smallest_effect(make_pair_list: MakePairs) -> None:
    rows = evaluate(centred, [make_pair_list()], fars=(0.1,), draws=200)
    for metric, at in (
        ("accuracy_10fold", None),
        ("accuracy_lfw", None),
        ("tar@far", 0.1),
        ("auc", None),
        ("eer", None),
    ):
        row, effect = find(rows, metric, at), find(rows, f"smallest_effect.{metric}", at)
        assert row is not None and row.low is not None and row.high is not None and row.low <= row.high
        assert effect is not None and effect.value is not None and effect.value > 0
        assert (row.n_images, row.n_identities, row.n_failed) == (240, 60, 3)


def test_no_draws_no_intervals(make_all_pairs: MakePairs) -> None:
    assert all(row.low is None for row in evaluate(centred, [make_all_pairs()], draws=0) if row.status != "compat")


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
def test_flip_fusion(make_all_pairs: MakePairs, flip: str) -> None:
    pairs = make_all_pairs(people=6)
    got = embed_pairs(centred, pairs, flip=flip)
    x = pairs.source.read(np.arange(len(pairs.source))).transpose(0, 3, 1, 2).astype(np.float64) - 127.5
    plain, mirrored = x.reshape(len(x), -1), x[..., ::-1].reshape(len(x), -1)
    fused = {"none": plain, "sum": plain + mirrored, "concat": np.concatenate([plain, mirrored], axis=1)}[flip]
    assert np.allclose(got, fused / np.linalg.norm(fused, axis=1, keepdims=True), atol=1e-6)
    assert got.dtype == np.float64


def test_fusion_sums_before_it_normalises() -> None:
    table = np.array([[[3.0, 0.0], [0.0, 1.0]]], np.float32)
    assert fuse(table, "sum").tolist() == [[3.0, 1.0]]
    assert fuse(table, "concat").tolist() == [[3.0, 0.0, 0.0, 1.0]]


def test_each_image_is_embedded_once_and_then_never_again(make_pair_list: MakePairs, tmp_path: Path) -> None:
    pairs = make_pair_list()
    seen = []

    def embed(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return centred(images)

    first = evaluate(embed, [pairs], draws=0, key="k", cache_dir=tmp_path, batch=50)
    assert sum(seen) == len(pairs.source)
    again = evaluate(embed, [pairs], draws=0, key="k", cache_dir=tmp_path, fars=(0.5,), batch=50)
    assert sum(seen) == len(pairs.source)
    assert find(first, "auc") == find(again, "auc")
    evaluate(embed, [pairs], draws=0, key="other weights", cache_dir=tmp_path, batch=50)
    assert sum(seen) == 2 * len(pairs.source)


@dataclasses.dataclass(frozen=True)
class Cubed(Raw):
    name: str = "cubed"

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return super().pairs(enrolled, probe, left, right) ** 3


@dataclasses.dataclass(frozen=True)
class Shifted(Raw):
    """Minus a number per image: its brightness, say."""

    name: str = "shifted"
    support: str | None = "toy"

    def terms(self, vectors: np.ndarray, people: Any = None) -> np.ndarray:
        return vectors[:, :1] / 2

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return super().pairs(enrolled, probe, left, right) - enrolled.terms[left, 0] - probe.terms[right, 0]


def test_an_alignment_is_handed_in(make_pair_list: MakePairs) -> None:
    rows = evaluate(centred, [make_pair_list()], fars=(0.1,), draws=100, scorers=(RAW, Cubed()))
    raw, aligned = ([r for r in rows if r.score == name] for name in ("raw", "cubed"))
    assert {r.metric for r in aligned} - {r.metric for r in raw} >= {"delta.tar@far"}
    # A monotone map of all scores changes no rate.
    for metric, at in (("tar@far", 0.1), ("auc", None), ("eer", None), ("accuracy_lfw", None)):
        a, b = find(raw, metric, at), find(aligned, metric, at)
        assert a is not None and b is not None and a.value == pytest.approx(b.value)
    delta = find(aligned, "delta.tar@far", 0.1)
    assert delta is not None and delta.value == 0


def test_terms_of_an_image_reach_its_pairs_and_the_terciles(make_pair_list: MakePairs) -> None:
    pairs = make_pair_list()
    vectors, cosines = by_hand(pairs)
    rows = evaluate(centred, [pairs], fars=(0.1,), draws=0, scorers=(RAW, Shifted()))
    shifted = cosines - vectors[pairs.left, 0] / 2 - vectors[pairs.right, 0] / 2
    row = next(r for r in rows if (r.score, r.metric, r.at) == ("shifted", "tar@far", 0.1))
    point = v.tar_at_far(v.Scores.of(shifted, pairs.same), 0.1)
    assert (row.value, row.n_false, row.support) == (point.value, point.n_false, "toy")
    for name, scores in (("raw", cosines), ("shifted", shifted)):
        thirds = [r for r in rows if r.metric.startswith("far@tercile") and r.metric.endswith(name)]
        threshold = v.tar_at_far(v.Scores.of(scores, pairs.same), 0.1).threshold
        assert sum(r.n_impostor or 0 for r in thirds) == int((~pairs.same).sum())
        assert sum(r.n_false or 0 for r in thirds) == int(np.sum(scores[~pairs.same] >= threshold))


def test_the_stamp_reaches_every_row(make_all_pairs: MakePairs) -> None:
    stamp = Row(run="r", model="m@1", seed=3, checkpoint="last")
    rows = evaluate(centred, [make_all_pairs()], flip="sum", draws=0, stamp=stamp)
    assert {(r.run, r.model, r.seed, r.checkpoint, r.benchmark, r.variant) for r in rows} == {
        ("r", "m@1", 3, "last", "allpairs:toy", "flip-sum")
    }


def test_broken_embeddings_are_refused_by_name(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs(people=4)
    with pytest.raises(InputError, match=r"embedding of 0\.png is zero or not finite \(16 of 16 images\)"):
        evaluate(lambda images: torch.zeros(len(images), 8), [pairs])
    with pytest.raises(FacekitError, match=r"0\.png is not finite"):
        evaluate(lambda images: torch.full((len(images), 8), torch.nan), [pairs])


def test_choosing_an_epoch_reads_the_same_tar(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    rows = evaluate(centred, [pairs], fars=(0.01, 1e-9), draws=0)
    row = find(rows, "tar@far", 0.01)
    assert row is not None
    assert tar_by_far(centred, pairs, (0.01, 1e-9)) == {"tar@far=0.01": row.value}


def test_agreement_of_a_model_with_itself_is_perfect(make_all_pairs: MakePairs) -> None:
    pairs = make_all_pairs()
    vectors, _ = by_hand(pairs)
    same = agreement(vectors, vectors, pairs.left, pairs.right, pairs.same, far=0.01)
    assert same.mean_cosine == pytest.approx(1.0) and same.spearman == pytest.approx(1.0)
    assert same.threshold_transfer is not None and same.threshold_transfer < 1 / np.sum(~pairs.same) + 1e-12
    turned = agreement(vectors[:, :100], vectors, pairs.left, pairs.right, pairs.same, far=1e-9)
    assert turned.mean_cosine is None and turned.threshold_transfer is None
    assert -1 <= turned.spearman < 1


def test_a_row_knows_only_the_columns_of_the_schema() -> None:
    with pytest.raises(TypeError):
        dataclasses.replace(Row(), smallest=1.0)
