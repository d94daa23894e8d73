"""The one evaluator: an ``embed`` function and pair sets in, result rows out.

Every image is embedded once, whatever is asked about it. A way to score pairs is a function from the unit
embeddings of a benchmark to one similarity per pair; ``raw`` is the cosine, alignments are handed in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from facekit.core.errors import InputError
from facekit.data.embeddings import embed_source
from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.results import Row
from facekit.evaluation.statistics import DRAWS, LEVEL, IdentityBootstrap, Interval, smallest_effect, wilson

Embed = Callable[[Tensor], Tensor]
"""uint8 RGB [n,3,H,W] -> float32 [n,D], not normalised."""
Score = Callable[[np.ndarray, PairSet], np.ndarray]
"""Unit embeddings float64 [N,D] of a benchmark's images -> one similarity per pair [P], higher = more similar."""

FARS = (1e-2, 1e-3, 1e-4)
_VIEWS = {"none": (0,), "sum": (0, 1), "concat": (0, 1)}


def cosine(vectors: np.ndarray, pairs: PairSet) -> np.ndarray:
    """The raw score."""
    return v.pair_cosines(vectors, vectors, pairs.left, pairs.right)


RAW: Mapping[str, Score] = {"raw": cosine}


def evaluate(
    embed: Embed,
    benchmarks: Sequence[PairSet],
    *,
    flip: str = "none",
    fars: Sequence[float] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    scores: Mapping[str, Score] = RAW,
    stamp: Row | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Measure ``embed`` on every benchmark.

    ``flip`` is the fusion with the mirrored image (none | sum | concat). ``key`` names the weights, the
    preprocessing and the precision in the embedding cache. ``draws`` 0 leaves the bootstrap out (choosing an
    epoch needs no interval). ``stamp`` carries run, model, seed and checkpoint into every row.
    """
    rows = []
    for pairs in benchmarks:
        vectors = embed_pairs(embed, pairs, flip=flip, batch=batch, key=key, cache_dir=cache_dir, progress=progress)
        base = benchmark_row(pairs, flip, stamp)
        for name, score in scores.items():
            exact = v.pair_distances(vectors, pairs.left, pairs.right) if needs_distances(name, pairs) else None
            marked = dataclasses.replace(base, score=name)
            rows += score_rows(score(vectors, pairs), pairs, marked, fars=fars, draws=draws, seed=seed, distance=exact)
    return rows


def needs_distances(score: str, pairs: PairSet) -> bool:
    """Raw scores with folds: published 10-fold tables depend on the last bit of the difference form."""
    return score == "raw" and pairs.fold is not None


def embed_pairs(
    embed: Embed,
    pairs: PairSet,
    *,
    flip: str,
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Unit embeddings float64 [N,D] of a benchmark's images, flips fused before normalisation.

    Raises InputError naming the image where a model returns zeros, NaN or infinity.
    """
    table = embed_source(
        embed, pairs.source, views=_VIEWS[flip], batch=batch, key=key, cache_dir=cache_dir, progress=progress
    )
    fused = fuse(table, flip)
    norms = np.linalg.norm(fused, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        name = pairs.source.names[int(np.argmax(bad))]
        raise InputError(
            f"the model's embedding of {name} is zero or not finite ({int(bad.sum())} of {len(bad)} images); "
            "check --channels and --scaling, and the weights"
        )
    fused /= norms
    return fused


def fuse(table: np.ndarray, flip: str) -> np.ndarray:
    """[N,V,D] un-normalised views -> [N,D] (sum, none) or [N,2D] (concat), float64."""
    if flip == "concat":
        return table.astype(np.float64).reshape(len(table), -1)
    return table[:, 0].astype(np.float64) + table[:, 1] if flip == "sum" else table[:, 0].astype(np.float64)


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
    pairs: PairSet,
    base: Row,
    *,
    fars: Sequence[float] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
    distance: np.ndarray | None = None,
) -> list[Row]:
    """All rows of one score on one benchmark. ``distance`` [P] defaults to 2 - 2 score."""
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, draws, seed) if draws else None
    split = v.Scores.of(scores, pairs.same)
    rows: list[Row] = []
    if pairs.fold is not None:
        apart = 2.0 - 2.0 * scores if distance is None else distance
        rows += accuracy_rows(apart, pairs, base, boot)
    rows += tar_rows(scores, split, base, boot, fars)
    rows += curve_rows(scores, split, base, boot)
    if pairs.fold is not None:
        rows += compat_rows(split, base, fars)
    return rows


def accuracy_rows(distance: np.ndarray, pairs: PairSet, base: Row, boot: IdentityBootstrap | None) -> Iterator[Row]:
    """10-fold accuracy in the published and in the official form, and the published VAL at FAR."""
    assert pairs.fold is not None
    forms = (("accuracy_10fold", False, "population"), ("accuracy_lfw", True, "standard_error"))
    for metric, exact, kind in forms:
        form = v.accuracy_10fold(distance, pairs.same, pairs.fold, exact=exact)
        correct = (distance < form.thresholds[pairs.fold]) == pairs.same
        row = dataclasses.replace(
            base,
            protocol="10fold",
            metric=metric,
            value=form.mean,
            std=form.standard_error if exact else form.std,
            std_kind=kind,
            threshold=v.to_cosine(float(np.mean(form.thresholds))),
            note=f"folds: {pairs.fold_rule}",
        )
        drawn = boot.accuracy(correct) if boot is not None and boot.knows_people else None
        yield from with_interval(row, boot, drawn, (int(np.sum(correct)), len(correct)))
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


def compat_rows(split: v.Scores, base: Row, fars: Sequence[float]) -> Iterator[Row]:
    """TAR at the nearest FAR, as published tables read it."""
    for far in fars:
        if v.support(far, len(split.impostor))[0] == "not_measurable":
            continue
        value, achieved = v.tar_at_far_nearest(split, far)
        low, high = wilson(value * len(split.genuine), len(split.genuine))
        yield dataclasses.replace(
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


def tar_by_far(embed: Embed, pairs: PairSet, fars: Sequence[float], batch: int = 64) -> dict[str, float]:
    """Only the measurable TARs, ``{"tar@far=0.001": 0.93}``, without flips, intervals or cache: to choose an epoch."""
    scores = v.Scores.of(cosine(embed_pairs(embed, pairs, flip="none", batch=batch), pairs), pairs.same)
    points = {far: v.tar_at_far(scores, far).value for far in fars}
    return {f"tar@far={far:g}": value for far, value in points.items() if value is not None}


def find(rows: Sequence[Row], metric: str, at: float | None = None, benchmark: str | None = None) -> Row | None:
    """The first row of a metric at an operating point."""
    for row in rows:
        if row.metric == metric and row.at == at and benchmark in (None, row.benchmark):
            return row
    return None
