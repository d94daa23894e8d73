"""1:1 verification on listed pairs: every number of every score, with its interval.

All scores of one benchmark see the same draws of people, so each aligned one is compared with the raw one in pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from facekit.data.pairs import PairSet
from facekit.data.scorefiles import ScoredSet
from facekit.evaluation import verification as v
from facekit.evaluation.curves import roc_curve
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import Asked, Measured, Scorer, Side, Table, label_of, marked, people_on
from facekit.evaluation.statistics import LEVEL, IdentityBootstrap, Interval, smallest_effect, wilson
from facekit.evaluation.terciles import tercile_rows
from facekit.evaluation.vectors import unit_vectors
from facekit.evaluation.versus import delta_rows

FARS = (1e-2, 1e-3, 1e-4)


def measure_pairs(pairs: PairSet, table: Table, asked: Asked) -> Measured:
    """Embed once, score by every scorer, and hold each aligned score against the first one."""
    vectors = unit_vectors(table(pairs.source), asked.flip, pairs.source.names)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, asked.draws, asked.seed) if asked.draws else None
    base = benchmark_row(pairs, asked.flip, asked.stamp)
    found, first = Measured([], []), None
    for scorer in asked.scorers:
        row = marked(base, scorer)
        scores, side = score_pairs(scorer, vectors, pairs)
        exact = v.pair_distances(vectors, pairs.left, pairs.right) if needs_distances(scorer.name, pairs) else None
        split = v.Scores.of(scores, pairs.same)
        found.rows.extend(score_rows(scores, split, pairs, row, boot, fars=asked.fars, distance=exact))
        if first is None:
            first = scores
        else:
            found.rows.extend(delta_rows(first, scores, pairs, row, boot, asked.fars))
        if side.terms.shape[1]:
            found.rows.extend(tercile_rows(first, scores, side.terms[:, 0], pairs, row, asked.fars))
        if asked.curves:
            found.curves.append(roc_curve(pairs.name, label_of(scorer), split, boot, scores))
    return found


def measure_scored(bench: ScoredSet, table: Table, asked: Asked) -> Measured:
    """What can be said of scores that somebody else computed: no embedding is asked for."""
    pairs, scores = bench.pairs, bench.score
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, asked.draws, asked.seed) if asked.draws else None
    split = v.Scores.of(scores, pairs.same)
    base = dataclasses.replace(benchmark_row(pairs, "none"), variant="as given", score="given", n_images=None)
    found = Measured(score_rows(scores, split, pairs, base, boot, fars=asked.fars), [])
    if asked.curves:
        found.curves.append(roc_curve(pairs.name, "given", split, boot, scores))
    return found


def score_pairs(scorer: Scorer, vectors: np.ndarray, pairs: PairSet) -> tuple[np.ndarray, Side]:
    """(scores [P], the images with their terms)."""
    side = Side(vectors, scorer.terms(vectors, people_on(pairs.source)))
    return scorer.pairs(side, side, pairs.left, pairs.right), side


def needs_distances(score: str, pairs: PairSet) -> bool:
    """Raw scores with folds: published 10-fold tables depend on the last bit of the difference form."""
    return score == "raw" and pairs.fold is not None


def benchmark_row(pairs: PairSet, flip: str, stamp: Row | None = None) -> Row:
    """The columns that all numbers of one benchmark share."""
    return dataclasses.replace(
        stamp or Row(),
        benchmark=pairs.name,
        variant=f"flip-{flip}",
        n_genuine=int(np.sum(pairs.same)),
        n_impostor=int(np.sum(~pairs.same)),
        n_images=len(pairs.source),
        n_identities=None if pairs.identity is None else len(np.unique(pairs.identity)),
        n_failed=pairs.failed,
    )


def bootstrap(
    pairs: PairSet, left: np.ndarray, right: np.ndarray, same: np.ndarray, draws: int, seed: int
) -> IdentityBootstrap:
    """Draws of the benchmark's people for trials (left, right), or of the trials where the people are unknown."""
    if pairs.identity is None:
        return IdentityBootstrap(left, None, same, draws=draws, seed=seed)
    return IdentityBootstrap(pairs.identity[left], pairs.identity[right], same, draws=draws, seed=seed)


def score_rows(
    scores: np.ndarray,
    split: v.Scores,
    pairs: PairSet,
    base: Row,
    boot: IdentityBootstrap | None,
    *,
    fars: Sequence[float] = FARS,
    distance: np.ndarray | None = None,
) -> list[Row]:
    """All rows of one score on one benchmark. ``distance`` [P], squared, where the score is a cosine with folds."""
    rows: list[Row] = []
    if pairs.fold is not None:
        if distance is not None:
            rows += published_rows(distance, pairs, base, boot)
        rows += official_rows(scores, distance, pairs, base, boot)
    rows += tar_rows(scores, split, base, boot, fars)
    rows += curve_rows(scores, split, base, boot)
    if pairs.fold is not None:
        rows += compat_rows(split, base, fars)
    return rows


def official_rows(
    scores: np.ndarray, distance: np.ndarray | None, pairs: PairSet, base: Row, boot: IdentityBootstrap | None
) -> Iterator[Row]:
    """10-fold accuracy in the official LFW form: exact thresholds, so that any score will do."""
    apart = -scores if distance is None else distance
    form = v.accuracy_10fold(apart, pairs.same, pairs.fold, exact=True)
    mean = float(np.mean(form.thresholds))
    row = dataclasses.replace(
        base,
        metric="accuracy_lfw",
        std=form.standard_error,
        std_kind="standard_error",
        threshold=-mean if distance is None else v.to_cosine(mean),
    )
    yield from accuracy_rows(form, apart, pairs, row, boot)


def published_rows(distance: np.ndarray, pairs: PairSet, base: Row, boot: IdentityBootstrap | None) -> Iterator[Row]:
    """10-fold accuracy and VAL at FAR in the published form, on a grid of distances: for cosines alone."""
    form = v.accuracy_10fold(distance, pairs.same, pairs.fold)
    threshold = v.to_cosine(float(np.mean(form.thresholds)))
    row = dataclasses.replace(base, metric="accuracy_10fold", std=form.std, std_kind="population", threshold=threshold)
    yield from accuracy_rows(form, distance, pairs, row, boot)
    value, std, achieved = v.val_at_far(distance, pairs.same, pairs.fold)
    low, high = wilson(value * (base.n_genuine or 1), base.n_genuine or 1)
    yield dataclasses.replace(
        base,
        protocol="10fold",
        metric="val@far",
        at=1e-3,
        value=value,
        std=std,
        std_kind="population",
        low=low,
        high=high,
        level=LEVEL,
        ci_method="wilson_pairs",
        achieved=achieved,
        status="compat",
        note="for comparison with published tables only; the threshold rests on a handful of impostor pairs",
    )


def accuracy_rows(
    form: v.FoldAccuracy, apart: np.ndarray, pairs: PairSet, base: Row, boot: IdentityBootstrap | None
) -> Iterator[Row]:
    """The mean accuracy over the folds, with its interval."""
    assert pairs.fold is not None
    correct = (apart < form.thresholds[pairs.fold]) == pairs.same
    row = dataclasses.replace(base, protocol="10fold", value=form.mean, note=f"folds: {pairs.fold_rule}")
    drawn = boot.accuracy(correct) if boot is not None and boot.knows_people else None
    yield from with_interval(row, boot, drawn, (int(np.sum(correct)), len(correct)))


def tar_rows(
    scores: np.ndarray,
    split: v.Scores,
    base: Row,
    boot: IdentityBootstrap | None,
    fars: Sequence[float],
) -> Iterator[Row]:
    """Strict TAR at each FAR, with its threshold as cosine, squared L2 distance and angle."""
    points = [v.tar_at_far(split, far) for far in fars]
    measured = [far for far, point in zip(fars, points, strict=True) if point.value is not None]
    drawn = boot.tar_at_far(scores, measured) if boot is not None and boot.knows_people and measured else None
    for far, point in zip(fars, points, strict=True):
        row = dataclasses.replace(
            base,
            protocol="1:1",
            metric="tar@far",
            at=far,
            value=point.value,
            threshold=point.threshold,
            achieved=point.achieved,
            n_false=point.n_false,
            status=point.status,
            note=point.note,
        )
        if point.value is None or point.threshold is None:
            yield row
            continue
        replicates = None if drawn is None else drawn[measured.index(far)]
        accepted = round(point.value * len(split.genuine))
        yield from with_interval(row, boot, replicates, (accepted, len(split.genuine)))
        if base.score != "raw":
            continue  # only a cosine is a distance and an angle
        units = {
            "threshold.cosine": point.threshold,
            "threshold.squared_l2": v.to_distance(point.threshold),
            "threshold.degrees": v.to_degrees(point.threshold),
        }
        for metric, value in units.items():
            yield dataclasses.replace(row, metric=metric, value=value)


def curve_rows(scores: np.ndarray, split: v.Scores, base: Row, boot: IdentityBootstrap | None) -> Iterator[Row]:
    """AUC, the part of it below FAR 1e-3, and the equal error rate."""
    curve = dataclasses.replace(base, protocol="1:1")
    area = dataclasses.replace(curve, metric="auc", value=v.auc(split))
    yield from with_interval(area, boot, None if boot is None else boot.auc(scores), None)
    partial = dataclasses.replace(curve, metric="partial_auc", at=1e-3)
    status, note = v.support(1e-3, len(split.impostor))
    if status == "not_measurable":
        yield dataclasses.replace(partial, status=status, note=note)
    else:
        text = "mean TAR over FAR 0..1e-3; no interval"
        yield dataclasses.replace(
            partial, value=v.partial_auc(split), status=status, note=f"{text}; {note}" if note else text
        )
    rate, threshold = v.eer(split)
    crossing = dataclasses.replace(
        curve, metric="eer", value=rate, threshold=threshold if math.isfinite(threshold) else None
    )
    # As many independent trials as give (FAR + FRR)/2 its variance.
    trials = 4 / (1 / len(split.genuine) + 1 / len(split.impostor))
    drawn = boot.eer(scores) if boot is not None and boot.knows_people else None
    yield from with_interval(crossing, boot, drawn, (rate * trials, trials))
    yield dataclasses.replace(curve, metric="eer_rocch", value=v.eer_rocch(split), note="of the ROC's convex hull")


def compat_rows(split: v.Scores, base: Row, fars: Sequence[float]) -> Iterator[Row]:
    """TAR at the nearest FAR, as published tables read it."""
    for far in fars:
        if v.support(far, len(split.impostor))[0] != "not_measurable":
            yield compat_row(base, far, *v.tar_at_far_nearest(split, far), len(split.genuine))


def compat_row(base: Row, far: float, value: float, achieved: float, n_genuine: int) -> Row:
    """One of them."""
    low, high = wilson(value * n_genuine, n_genuine)
    return dataclasses.replace(
        base,
        protocol="1:1",
        metric="tar@far_nearest",
        at=far,
        value=value,
        low=low,
        high=high,
        level=LEVEL,
        ci_method="wilson_pairs",
        achieved=achieved,
        status="compat",
        note="for comparison with published tables only; the achieved FAR may exceed the target",
    )


def with_interval(
    row: Row, boot: IdentityBootstrap | None, replicates: np.ndarray | None, trials: tuple[float, float] | None
) -> Iterator[Row]:
    """The row with its interval, and a row that says which effect this benchmark could have seen.

    From the bootstrap's ``replicates`` where there are any, else Wilson on (successes, ``trials``); without a
    bootstrap nobody asked for intervals.
    """
    if boot is not None and row.value is not None and replicates is not None:
        interval = boot.interval(row.value, replicates)
    elif boot is not None and trials is not None:
        interval = Interval.wilson(*trials, "wilson_pairs")
    else:
        yield row
        return
    yield dataclasses.replace(row, low=interval.low, high=interval.high, level=LEVEL, ci_method=interval.method)
    yield dataclasses.replace(
        row,
        metric=f"smallest_effect.{row.metric}",
        value=smallest_effect(interval.sd),
        std=None,
        std_kind=None,
        ci_method=interval.method,
        note="smallest difference from another model that a comparison on other draws would find four times in five",
    )
