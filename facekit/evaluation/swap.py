"""Can a new model embed the probes while gallery and threshold stay those of the old one?

Three set-ups over the same people: *old* (old gallery, old probe), *new* (everybody enrolled again) and *cross*
(old gallery, new probe). In a list's pair the left image is enrolled and the right one is the probe; where a
benchmark holds all pairs of its images, each pair is tried both ways round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from facekit.core.errors import ArtefactMismatch, InputError
from facekit.core.preprocess import Preprocess
from facekit.data.pairs import ALL, PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.curves import band, density, first_far
from facekit.evaluation.pairwise import benchmark_row, bootstrap
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import RAW, Scorer, Side, marked, people_on
from facekit.evaluation.statistics import (
    LEVEL,
    Difference,
    IdentityBootstrap,
    Interval,
    paired_difference,
)

FAR_GROWTH = 2.0
"""False accepts may at most double at the unchanged threshold."""


# --- what is measured ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A rate with its 95 % interval; None where it cannot be measured."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trials:
    """Who is compared with whom."""

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Strict TAR over FAR, for drawing: the line, and a band on a coarser grid."""

    far: np.ndarray
    tar: np.ndarray
    band_far: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Arm:
    """One set-up, measured at the threshold in use and at its own threshold for the target FAR."""

    name: str
    title: str
    n_genuine: int
    n_impostor: int
    tar_at_threshold: Rate
    far_at_threshold: Rate
    n_false: int
    tar_at_far: Rate
    own: v.OperatingPoint
    curve: Curve
    genuine_density: np.ndarray
    impostor_density: np.ndarray


@dataclass(frozen=True)
class Certificate:
    """Everything the page and the document show."""

    threshold: float
    threshold_source: str
    far: float | None
    """Target: what the threshold was set for, or the old model's own FAR at a given threshold."""
    tolerance: float
    arms: tuple[Arm, Arm, Arm]
    """old, new, cross"""
    change_at_threshold: Difference
    """TAR of cross - TAR of old, both at the threshold in use"""
    change_at_far: Difference | None
    """The same with cross at its own threshold for the target FAR"""
    far_excess: Interval
    """FAR of cross - FAR_GROWTH * FAR of old, at the threshold in use"""
    bins: np.ndarray
    trials: str
    scorer: Scorer
    """How pairs are scored in the old gallery."""
    method: str
    draws: int
    status: str
    note: str


# --- may they be compared at all ----------------------------------------------------------------------


def shared_flip(old: Preprocess, new: Preprocess, asked: str) -> str:
    """The flip rule of both models. Raises ArtefactMismatch where their inputs or rules cannot be compared.

    Scale and channel order may differ: each model converts the same uint8 pixels for itself.
    """
    if old.size != new.size:
        raise ArtefactMismatch(
            f"the old model takes {old.size[0]}x{old.size[1]} images, the new one {new.size[0]}x{new.size[1]}: "
            "they cannot share a gallery; train the new model at the old size"
        )
    if old.crop != new.crop:
        raise ArtefactMismatch(
            f"the old model expects crop {old.crop}, the new one {new.crop}: they cannot share a gallery; "
            "train the new model on the old crop"
        )
    if asked != "model":
        return asked
    if old.flip != new.flip:
        raise ArtefactMismatch(
            f"the old model fuses flips by '{old.flip}', the new one by '{new.flip}'; "
            f"give the rule your gallery was made with, for example --flip {old.flip}"
        )
    return old.flip


def same_width(old: np.ndarray, new: np.ndarray) -> None:
    """Refuse a cross comparison of embeddings of different width."""
    if old.shape[1] != new.shape[1]:
        raise ArtefactMismatch(
            f"old embeddings have {old.shape[1]} numbers, new ones {new.shape[1]}: a probe of one cannot be compared "
            f"with a gallery of the other; distil the new model with --embedding {old.shape[1]}"
        )


def orient(pairs: PairSet) -> tuple[Trials, Trials, str]:
    """(trials of one model, trials of new probes against old gallery, how they were made)."""
    single = Trials(pairs.left, pairs.right, pairs.same)
    if not pairs.name.startswith(ALL):
        return single, single, "left image of each pair enrolled, right image as probe"
    both = Trials(
        np.concatenate([pairs.left, pairs.right]),
        np.concatenate([pairs.right, pairs.left]),
        np.concatenate([pairs.same, pairs.same]),
    )
    return single, both, "each pair tried both ways round: either image enrolled, the other as probe"


# --- measuring ---------------------------------------------------------------------------------------


def certify(
    old: np.ndarray,
    new: np.ndarray,
    pairs: PairSet,
    *,
    threshold: float | None,
    at_far: float,
    tolerance: float,
    draws: int,
    seed: int,
    scorers: tuple[Scorer, Scorer] = (RAW, RAW),
) -> Certificate:
    """Measure the three set-ups on unit embeddings [N,D] of the same images.

    ``scorers`` are that of the old model's gallery, which new probes are searched in too, and that of the new one's.
    ``threshold`` None takes the old model's strict threshold at ``at_far`` on this benchmark.
    """
    same_width(old, new)
    single, cross, how = orient(pairs)
    boot = bootstrap(pairs, single.left, single.right, single.same, draws, seed)
    # The same people and seed: the draws are the same, whichever way round the pairs are tried.
    boot_cross = boot if cross is single else bootstrap(pairs, cross.left, cross.right, cross.same, draws, seed)
    people = people_on(pairs.source)
    in_old, new_in_old = (Side(x, scorers[0].terms(x, people)) for x in (old, new))
    in_new = Side(new, scorers[1].terms(new, people))
    set_ups = (
        SetUp.of("old", "Old gallery, old probe", scorers[0], in_old, in_old, single, boot),
        SetUp.of("new", "New gallery, new probe", scorers[1], in_new, in_new, single, boot),
        SetUp.of("cross", "Old gallery, new probe", scorers[0], in_old, new_in_old, cross, boot_cross),
    )
    target = choose_target(set_ups[0].split, threshold, at_far, pairs.name)
    drawn = [Replicates.draw(set_up, target) for set_up in set_ups]
    bins = np.linspace(min(u.scores.min() for u in set_ups), max(1.0, *(u.scores.max() for u in set_ups)), 81)
    start = first_far(len(boot.impostor[0]))
    arms = [measure(*each, target, bins, start) for each in zip(set_ups, drawn, strict=True)]
    return Certificate(
        threshold=target.threshold,
        threshold_source=target.source,
        far=None if target.far is None else float(target.far),
        tolerance=tolerance,
        arms=(arms[0], arms[1], arms[2]),
        change_at_threshold=changed(
            arms[0].tar_at_threshold, arms[2].tar_at_threshold, drawn[0].tar, drawn[2].tar, boot
        ),
        change_at_far=None
        if drawn[0].tar_at_far is None or drawn[2].tar_at_far is None
        else changed(arms[0].tar_at_far, arms[2].tar_at_far, drawn[0].tar_at_far, drawn[2].tar_at_far, boot),
        far_excess=Interval.of(drawn[2].far - FAR_GROWTH * drawn[0].far),
        bins=bins,
        trials=how,
        scorer=scorers[0],
        method=boot.method,
        draws=draws,
        status=target.status,
        note=target.note,
    )


@dataclass(frozen=True)
class SetUp:
    """One way to enrol and probe: its scores, split by class, and the draws of its people."""

    name: str
    title: str
    scores: np.ndarray
    split: v.Scores
    boot: IdentityBootstrap

    @staticmethod
    def of(
        name: str, title: str, scorer: Scorer, gallery: Side, probe: Side, trials: Trials, boot: IdentityBootstrap
    ) -> SetUp:
        """Score the trials."""
        scores = scorer.pairs(gallery, probe, trials.left, trials.right)
        return SetUp(name, title, scores, v.Scores.of(scores, trials.same), boot)


@dataclass(frozen=True)
class Target:
    """The threshold in use and the false-accept rate it stands for."""

    threshold: float
    source: str
    far: float | Fraction | None
    status: str
    note: str


def choose_target(old: v.Scores, threshold: float | None, at_far: float, benchmark: str) -> Target:
    """A given threshold with the old model's own FAR there, or the old model's threshold at ``at_far``."""
    n = len(old.impostor)
    if threshold is None:
        point = v.tar_at_far(old, at_far)
        if point.threshold is None:
            raise InputError(
                f"{benchmark}: {point.note}; give the --threshold in use, a higher --at-far, or a larger benchmark"
            )
        source = f"the old model's at FAR {at_far:g} on this benchmark"
        return Target(point.threshold, source, at_far, point.status, point.note)
    n_false = old.n_false(threshold)
    if n_false == 0:
        note = f"no impostor pair of {n:,} passes the given threshold"
        return Target(threshold, "given", None, "not_measurable", note)
    few = n_false < 30
    note = f"{n_false} of {n:,} impostor pairs pass the given threshold (< 30)" if few else ""
    # A fraction, so that "k of n" stays k false accepts: in floats it may come out as k - 1.
    return Target(threshold, "given", Fraction(n_false, n), "low_support" if few else "ok", note)


@dataclass(frozen=True)
class Replicates:
    """What the bootstrap draws say about one set-up, [R] each."""

    tar: np.ndarray
    far: np.ndarray
    tar_at_far: np.ndarray | None

    @staticmethod
    def draw(u: SetUp, target: Target) -> Replicates:
        """At the fixed threshold, and at the target FAR with the threshold found anew in every draw."""
        own = None if target.far is None else u.boot.tar_at_far(u.scores, (target.far,))[0]
        return Replicates(u.boot.tar(u.scores, target.threshold), u.boot.far(u.scores, target.threshold), own)


def measure(u: SetUp, drawn: Replicates, target: Target, bins: np.ndarray, start: float) -> Arm:
    """All numbers of one set-up."""
    n_false = u.split.n_false(target.threshold)
    own = (
        v.OperatingPoint(None, None, None, None, target.status, target.note)
        if target.far is None
        else v.tar_at_far(u.split, target.far)
    )
    return Arm(
        name=u.name,
        title=u.title,
        n_genuine=len(u.split.genuine),
        n_impostor=len(u.split.impostor),
        tar_at_threshold=rate(u.split.tar(target.threshold), drawn.tar, u.boot),
        far_at_threshold=false_rate(n_false, len(u.split.impostor), drawn.far),
        n_false=n_false,
        tar_at_far=rate(own.value, drawn.tar_at_far, u.boot),
        own=own,
        curve=curve(u, start),
        genuine_density=density(u.split.genuine, bins),
        impostor_density=density(u.split.impostor, bins),
    )


def rate(value: float | None, replicates: np.ndarray | None, boot: IdentityBootstrap) -> Rate:
    """A value with its interval."""
    if value is None or replicates is None:
        return Rate(value, None, None)
    interval = boot.interval(value, replicates)
    return Rate(value, interval.low, interval.high)


def false_rate(n_false: int, n_impostor: int, replicates: np.ndarray) -> Rate:
    """A FAR with its interval; Wilson on the pairs where no draw can hold a false accept."""
    interval = Interval.of(replicates) if n_false else Interval.wilson(0, n_impostor, "wilson_pairs")
    return Rate(n_false / n_impostor, interval.low, interval.high)


def changed(old: Rate, cross: Rate, first: np.ndarray, last: np.ndarray, boot: IdentityBootstrap) -> Difference:
    """The change of a measured rate from old to cross, over the same draws."""
    assert old.value is not None and cross.value is not None
    return paired_difference(cross.value - old.value, first, last, boot.trials)


def curve(u: SetUp, start: float) -> Curve:
    """The ROC from FAR ``start`` to 10 %, and its 95 % band."""
    far, band_far = np.geomspace(start, 0.1, 100), np.geomspace(start, 0.1, 24)
    return Curve(far, v.roc(u.split, far), band_far, *band(u.boot, u.scores, band_far))


# --- rows ------------------------------------------------------------------------------------------------


def swap_rows(c: Certificate, pairs: PairSet, flip: str, labels: tuple[str, str]) -> Iterator[Row]:
    """The certificate in the results schema; ``variant`` says which set-up."""
    base = marked(benchmark_row(pairs, flip), c.scorer)
    models = {"old": labels[0], "new": labels[1], "cross": f"{labels[1]} against {labels[0]}"}
    for arm in c.arms:
        row = dataclasses.replace(
            base,
            model=models[arm.name],
            variant=f"flip-{flip}-{arm.name}",
            protocol="1:1",
            n_genuine=arm.n_genuine,
            n_impostor=arm.n_impostor,
            level=LEVEL,
            ci_method=c.method,
        )
        fixed = dataclasses.replace(
            row, threshold=c.threshold, achieved=arm.far_at_threshold.value, n_false=arm.n_false
        )
        yield with_rate(dataclasses.replace(fixed, metric="tar@threshold"), arm.tar_at_threshold)
        yield with_rate(
            dataclasses.replace(fixed, metric="far@threshold", status=c.status, note=c.note), arm.far_at_threshold
        )
        own = dataclasses.replace(
            row,
            metric="tar@far",
            at=c.far,
            threshold=arm.own.threshold,
            achieved=arm.own.achieved,
            n_false=arm.own.n_false,
            status=arm.own.status,
            note=arm.own.note,
        )
        yield with_rate(own, arm.tar_at_far)
    paired = dataclasses.replace(
        base,
        model=models["cross"],
        variant=f"flip-{flip}-cross-old",
        protocol="paired",
        level=LEVEL,
        ci_method=c.method,
    )
    changes = (("tar_change@threshold", None, c.change_at_threshold), ("tar_change@far", c.far, c.change_at_far))
    for metric, at, change in changes:
        if change is not None:
            note = "" if change.opposite is None else f"{change.opposite:.3f} of the draws have the opposite sign"
            yield dataclasses.replace(
                paired, metric=metric, at=at, value=change.value, low=change.low, high=change.high, note=note
            )
            yield dataclasses.replace(paired, metric=f"smallest_effect.{metric}", at=at, value=change.smallest)


def with_rate(row: Row, r: Rate) -> Row:
    """The row with value and interval."""
    return dataclasses.replace(row, value=r.value, low=r.low, high=r.high)
