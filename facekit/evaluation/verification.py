"""Verification metrics: pure functions over scores. Higher score = more similar; accept when s >= t.

Genuine scores G (n_g), impostor scores I (n_i). FAR(t) = #{I >= t}/n_i, TAR(t) = #{G >= t}/n_g.
Squared distances d of unit vectors go the other way: same iff d < t.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from facekit.data.folds import contiguous_tenths

GRID = np.arange(0, 4, 0.01)
"""The 400 squared-distance thresholds of published 10-fold tables."""
FINE_GRID = np.arange(0, 4, 0.001)
"""The 4,000 thresholds of the published VAL at FAR."""


# --- scores of pairs -------------------------------------------------------------------------------


def pair_cosines(
    gallery: np.ndarray, probe: np.ndarray, left: np.ndarray, right: np.ndarray, block: int = 512
) -> np.ndarray:
    """``gallery[left] . probe[right]`` for unit rows, float64 [P].

    Dense pair sets (all pairs among N images) go through blocks of the N x N product, sparse ones through
    gathered rows; memory beyond the result is one block in either case.
    """
    scores = np.empty(len(left))
    if len(gallery) * len(probe) > 8 * len(left):
        for start in range(0, len(left), 4096):
            part = slice(start, start + 4096)
            scores[part] = np.einsum("pd,pd->p", gallery[left[part]], probe[right[part]])
        return scores
    order = np.argsort(left, kind="stable")
    bounds = np.searchsorted(left[order], np.arange(0, len(gallery) + block, block))
    for i, start in enumerate(range(0, len(gallery), block)):
        mine = order[bounds[i] : bounds[i + 1]]
        scores[mine] = (gallery[start : start + block] @ probe.T)[left[mine] - start, right[mine]]
    return scores


def pair_distances(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared L2 distances of float64 rows, float64 [P], in the difference form.

    2 - 2cos is not the same number: the edges of a threshold grid depend on the last bit.
    """
    distance = np.empty(len(left))
    for start in range(0, len(left), 256):
        part = slice(start, start + 256)
        difference = vectors[left[part]]
        difference -= vectors[right[part]]
        np.sum(np.square(difference, out=difference), axis=1, out=distance[part])
    return distance


def to_distance(cosine: float) -> float:
    """Squared L2 distance of unit vectors with this cosine: 2 - 2cos."""
    return 2.0 - 2.0 * cosine


def to_cosine(distance: float) -> float:
    """Cosine of unit vectors at this squared L2 distance: InsightFace's 1.24 is a cosine of 0.38."""
    return 1.0 - distance / 2.0


def to_degrees(cosine: float) -> float:
    """Angle between unit vectors with this cosine."""
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


# --- 10-fold accuracy ------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold at the threshold that the other folds chose."""

    accuracy: np.ndarray  # [F]
    thresholds: np.ndarray  # [F], squared distances
    tpr: np.ndarray  # [T], mean over folds at each grid threshold; empty for exact thresholds
    fpr: np.ndarray  # [T]

    @property
    def mean(self) -> float:
        """Mean accuracy over folds."""
        return float(np.mean(self.accuracy))

    @property
    def std(self) -> float:
        """Population standard deviation over folds (ddof 0), as published tables print it."""
        return float(np.std(self.accuracy))

    @property
    def standard_error(self) -> float:
        """The official LFW S_E: sample standard deviation / sqrt(folds)."""
        return float(np.std(self.accuracy, ddof=1) / math.sqrt(len(self.accuracy)))


def accuracy_10fold(
    distance: np.ndarray, same: np.ndarray, fold: np.ndarray | None = None, *, exact: bool = False
) -> FoldAccuracy:
    """Fold accuracy at the lowest best threshold of the other folds: the InsightFace form.

    ``same iff d < t`` (strict) over the 400-step grid, bit-equal to the loops in ``bench/peers.py``; with
    ``exact`` the candidates are the midpoints between neighbouring distinct distances instead, which is
    what the official LFW form wants. Default folds: contiguous tenths. Cost: one searchsorted, one
    histogram and cumulative sums instead of folds x thresholds passes.
    """
    fold = contiguous_tenths(len(distance)) if fold is None else fold
    return exact_folds(distance, same, fold) if exact else grid_folds(distance, same, fold, GRID)


def accuracy_lfw(distance: np.ndarray, same: np.ndarray, fold: np.ndarray | None = None) -> FoldAccuracy:
    """The official LFW form: exact thresholds; report ``mean`` and ``standard_error``."""
    return accuracy_10fold(distance, same, fold, exact=True)


def below_threshold(distance: np.ndarray, same: np.ndarray, fold: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Counts [2,F,T] of (different, same) pairs of each fold with d < t."""
    folds = int(fold.max()) + 1
    # searchsorted "right" gives the first grid index j with t_j > d: the pair counts from there on.
    first = np.searchsorted(grid, distance, side="right")
    cell = (same.astype(np.int64) * folds + fold) * (len(grid) + 1) + first
    counts = np.bincount(cell, minlength=2 * folds * (len(grid) + 1)).reshape(2, folds, len(grid) + 1)
    return counts.cumsum(axis=2)[:, :, :-1]


def class_sizes(same: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Numbers [2,F] of different and same pairs in each fold."""
    folds = int(fold.max()) + 1
    return np.bincount(same.astype(np.int64) * folds + fold, minlength=2 * folds).reshape(2, folds)


def grid_folds(distance: np.ndarray, same: np.ndarray, fold: np.ndarray, grid: np.ndarray) -> FoldAccuracy:
    """Fold accuracies over a fixed ascending grid of thresholds."""
    below, sizes = below_threshold(distance, same, fold, grid), class_sizes(same, fold)
    correct = below[1] + sizes[0][:, None] - below[0]  # [F,T]: true accepts + true rejects
    train_size = sizes.sum() - sizes.sum(axis=0)
    best = np.argmax((correct.sum(axis=0) - correct) / train_size[:, None], axis=1)  # first maximum: lowest t
    rows = np.arange(len(best))
    rates = below / np.maximum(sizes, 1)[:, :, None]  # 0 where a fold lacks a class
    return FoldAccuracy(
        accuracy=correct[rows, best] / sizes.sum(axis=0),
        thresholds=grid[best],
        tpr=np.mean(rates[1], 0),
        fpr=np.mean(rates[0], 0),
    )


def exact_folds(distance: np.ndarray, same: np.ndarray, fold: np.ndarray) -> FoldAccuracy:
    """Fold accuracies where thresholds are midpoints between neighbouring distinct training distances."""
    folds = int(fold.max()) + 1
    accuracy, thresholds = np.empty(folds), np.empty(folds)
    for k in range(folds):
        test = fold == k
        thresholds[k] = best_threshold(distance[~test], same[~test])
        accuracy[k] = np.mean((distance[test] < thresholds[k]) == same[test])
    return FoldAccuracy(accuracy, thresholds, np.empty(0), np.empty(0))


def best_threshold(distance: np.ndarray, same: np.ndarray) -> float:
    """The lowest of the midpoints (and of "accept none", "accept all") with the most pairs right under d < t."""
    values, position = np.unique(distance, return_inverse=True)
    gain = np.bincount(position, weights=np.where(same, 1.0, -1.0))  # accepting this value: rights won
    step = int(np.argmax(np.concatenate([[0.0], np.cumsum(gain)])))  # accept the `step` lowest values
    if step == 0:
        return float(values[0])
    if step == len(values):
        return float(np.nextafter(values[-1], np.inf))
    low, high = float(values[step - 1]), float(values[step])
    middle = low + (high - low) / 2
    return middle if middle > low else high  # neighbours in floating point have no midpoint


def val_at_far(
    distance: np.ndarray, same: np.ndarray, fold: np.ndarray | None = None, far: float = 1e-3
) -> tuple[float, float, float]:
    """Published "VAL at FAR" (compat): per fold the threshold interpolated on the others; (val, val_std, far).

    Only for comparison with published tables: 1e-3 of 2,700 training impostors is 2.7 pairs.
    """
    fold = contiguous_tenths(len(distance)) if fold is None else fold
    below, sizes = below_threshold(distance, same, fold, FINE_GRID), class_sizes(same, fold)
    train_far = (below[0].sum(axis=0) - below[0]) / (sizes[0].sum() - sizes[0])[:, None]
    thresholds = np.array([crossing(row, FINE_GRID, far) for row in train_far])
    accepted = distance < thresholds[fold]
    counts = class_sizes(same[accepted], fold[accepted]) if accepted.any() else np.zeros((2, 1), np.int64)
    counts = np.pad(counts, ((0, 0), (0, sizes.shape[1] - counts.shape[1])))
    val, achieved = counts[1] / sizes[1], counts[0] / sizes[0]
    return float(np.mean(val)), float(np.std(val)), float(np.mean(achieved))


def crossing(rates: np.ndarray, thresholds: np.ndarray, target: float) -> float:
    """The threshold at which non-decreasing rates first reach the target, linearly interpolated; 0 if never."""
    if rates[-1] < target:
        return 0.0
    high = min(max(int(np.searchsorted(rates, target)), 1), len(rates) - 1)
    low = high - 1
    slope = (target - rates[low]) / (rates[high] - rates[low])
    return float(thresholds[low] + slope * (thresholds[high] - thresholds[low]))


# --- genuine and impostor scores -------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Genuine and impostor scores, each ascending: sorted once, read by every metric below."""

    genuine: np.ndarray
    impostor: np.ndarray

    @staticmethod
    def of(scores: np.ndarray, same: np.ndarray) -> Scores:
        """Split pair scores [P] by class and sort."""
        return Scores(np.sort(scores[same]), np.sort(scores[~same]))

    def tar(self, threshold: float) -> float:
        """Share of genuine pairs with s >= t."""
        return (len(self.genuine) - int(np.searchsorted(self.genuine, threshold))) / len(self.genuine)

    def n_false(self, threshold: float) -> int:
        """Number of impostor pairs with s >= t."""
        return len(self.impostor) - int(np.searchsorted(self.impostor, threshold))

    def far(self, threshold: float) -> float:
        """Share of impostor pairs with s >= t."""
        return self.n_false(threshold) / len(self.impostor)


@dataclass(frozen=True)
class OperatingPoint:
    """TAR (``value``) at a FAR, and what it was read from. Numbers are None where the FAR cannot be measured."""

    value: float | None
    threshold: float | None
    achieved: float | None
    n_false: int | None
    status: str  # ok | low_support | not_measurable
    note: str


def allowed_false(far: float | Fraction, n_impostor: int) -> int:
    """floor(far * n_i) in exact arithmetic: in floats int(0.29 * 100) is 28."""
    return int(Fraction(str(far)) * n_impostor)


def support(far: float | Fraction, n_impostor: int) -> tuple[str, str]:
    """Whether a FAR can be measured on n_i impostor pairs: (status, one sentence).

    Below one false accept it cannot; below 30 the rate is uncertain by more than 30 % (rule of 30).
    """
    expected = Fraction(str(far)) * n_impostor
    if expected < 1:
        need = math.ceil(1 / Fraction(str(far)))
        return (
            "not_measurable",
            f"FAR {float(far):g} needs at least {need:,} impostor pairs, this benchmark has {n_impostor:,}",
        )
    if expected < 30:
        return (
            "low_support",
            f"FAR {float(far):g} of {n_impostor:,} impostor pairs is {float(expected):.3g} false accepts (< 30)",
        )
    return "ok", ""


def tar_at_far(scores: Scores, far: float | Fraction) -> OperatingPoint:
    """Strict TAR at FAR: the lowest threshold whose FAR does not exceed the target; ties count against us.

    Genuine 0.9, 0.8, 0.4 and one impostor 0.7: at FAR 1 everything is accepted, TAR 1; with impostors
    0.7, 0.1, 0.1, 0.1 at FAR 0.25 one false accept is allowed, the threshold lies just above 0.1, TAR 1.
    """
    genuine, impostor = scores.genuine, scores.impostor
    status, note = support(far, len(impostor))
    if status == "not_measurable":
        return OperatingPoint(None, None, None, None, status, note)
    threshold = strict_threshold(impostor, allowed_false(far, len(impostor)))
    if threshold is None:
        threshold = float(min(genuine[0], impostor[0]))
    n_false = scores.n_false(threshold)
    return OperatingPoint(scores.tar(threshold), threshold, n_false / len(impostor), n_false, status, note)


def strict_threshold(impostor: np.ndarray, allowed: int) -> float | None:
    """The lowest threshold with at most ``allowed`` of the ascending impostor scores at or above it; None: any."""
    if allowed >= len(impostor):
        return None
    return float(np.nextafter(impostor[len(impostor) - 1 - allowed], np.inf))


def tar_at_far_nearest(scores: Scores, far: float) -> tuple[float, float]:
    """Compat (tar, achieved far): the point of scikit-learn's ``roc_curve`` whose FPR is nearest to ``far``.

    Corner points only (its ``drop_intermediate``), the largest TPR among equal FPR. The achieved FAR may
    exceed the target: only for reproducing published tables.
    """
    false, true = roc_corners(scores)
    fpr, tpr = false / len(scores.impostor), true / len(scores.genuine)
    index = nearest(fpr, far)
    return float(tpr[index]), float(fpr[index])


def nearest(rates: np.ndarray, target: float) -> int:
    """The place of the ascending rate that is nearest to the target; the last one on ties."""
    return len(rates) - 1 - int(np.argmin(np.abs(rates - target)[::-1]))


def roc_corners(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """(false, true) accepts int64 [c] where the ROC turns, from none to all: the points scikit-learn keeps."""
    levels = np.unique(np.concatenate([scores.genuine, scores.impostor]))[::-1]
    fps = len(scores.impostor) - np.searchsorted(scores.impostor, levels)
    tps = len(scores.genuine) - np.searchsorted(scores.genuine, levels)
    if len(levels) > 2:
        corner = np.concatenate([[True], (np.diff(fps, 2) != 0) | (np.diff(tps, 2) != 0), [True]])
        fps, tps = fps[corner], tps[corner]
    return np.concatenate([[0], fps]), np.concatenate([[0], tps])


def roc(scores: Scores, far: np.ndarray) -> np.ndarray:
    """Strict TAR at each of many FARs, for drawing; 1/n_i is the smallest that means anything."""
    allowed = np.array([allowed_false(float(f), len(scores.impostor)) for f in far])
    position = np.clip(len(scores.impostor) - 1 - allowed, 0, None)
    accepted = len(scores.genuine) - np.searchsorted(scores.genuine, scores.impostor[position], side="right")
    return np.where(allowed >= len(scores.impostor), 1.0, accepted / len(scores.genuine))


def auc(scores: Scores) -> float:
    """P(G > I) + P(G = I)/2, in integers until the last division."""
    below = np.searchsorted(scores.impostor, scores.genuine).sum(dtype=np.int64)
    not_above = np.searchsorted(scores.impostor, scores.genuine, side="right").sum(dtype=np.int64)
    return int(below + not_above) / (2 * len(scores.genuine) * len(scores.impostor))


def partial_auc(scores: Scores, far: float = 1e-3) -> float:
    """Mean TAR over FAR in [0, far]: the AUC of the far * n_i highest impostors, the last one in part.

    At far = 1 it is the AUC; unlike that it does not saturate.
    """
    weight = Fraction(str(far)) * len(scores.impostor)
    top = scores.impostor[::-1][: math.ceil(weight)]
    above = 2 * len(scores.genuine) - np.searchsorted(scores.genuine, top)
    share = (above - np.searchsorted(scores.genuine, top, side="right")) / (2 * len(scores.genuine))
    whole = int(weight)
    return float((share[:whole].sum() + float(weight - whole) * share[whole:].sum()) / float(weight))


def eer(scores: Scores) -> tuple[float, float]:
    """(EER, threshold): (FAR + FRR)/2 at the score that minimises |FAR - FRR|; the lowest on ties.

    FAR - FRR falls as the threshold rises, so the crossing is found by bisection over either class.
    """

    def gap(threshold: float) -> float:
        return scores.far(threshold) + scores.tar(threshold) - 1.0

    candidates = [math.inf]
    for values in (scores.genuine, scores.impostor):
        cross = bisect.bisect_left(range(len(values)), 0.0, key=lambda i: -gap(float(values[i])))
        candidates += [float(values[i]) for i in (cross - 1, cross) if 0 <= i < len(values)]
    threshold = min(sorted(candidates), key=lambda t: abs(gap(t)))
    return (scores.far(threshold) + 1.0 - scores.tar(threshold)) / 2.0, threshold


def eer_rocch(scores: Scores) -> float:
    """EER of the ROC's convex hull: where the hull crosses FAR = FRR. Never above 1/2, and exact.

    Every hull point can be reached by drawing lots between two thresholds, so this EER does not depend on how scores
    happen to be spaced. Genuine 0.9, 0.8, 0.4 and impostors 0.7, 0.1: 0.2, on the edge between the thresholds 0.8
    (FAR 0, FRR 1/3) and 0.4 (1/2, 0). Corners of the hull lie at genuine scores. The edge that crosses is found by
    replacing, from the diagonal on, one end by the point farthest above the edge: a few passes in whole numbers.
    """
    n_genuine, n_impostor = len(scores.genuine), len(scores.impostor)
    levels = np.unique(scores.genuine)
    accepted = np.stack(
        [
            np.append(n_impostor - np.searchsorted(scores.impostor, levels), (0, n_impostor)),
            np.append(n_genuine - np.searchsorted(scores.genuine, levels), (0, n_genuine)),
        ]
    )  # [2, T] false and true accepts
    excess = n_genuine * accepted[0] + n_impostor * accepted[1] - n_genuine * n_impostor  # 0 where FAR = FRR
    first, last = accepted.shape[1] - 2, accepted.shape[1] - 1  # accept none, accept all
    while True:
        along, from_first = accepted[:, last] - accepted[:, first], accepted - accepted[:, [first]]
        above = along[0] * from_first[1] - along[1] * from_first[0]
        farthest = int(np.argmax(above))
        if above[farthest] <= 0:
            break
        first, last = (farthest, last) if excess[farthest] < 0 else (first, farthest)
    before, after = int(excess[first]), int(excess[last])
    crossing = Fraction(-before, after - before)
    false = int(accepted[0, first]) + crossing * int(accepted[0, last] - accepted[0, first])
    return float(false / n_impostor)
