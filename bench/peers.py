"""What peers compute, written out literally in NumPy: the oracles of our tests and the baselines of our benchmarks.

Nothing here is copied; each function follows the published algorithm step by step, loops included, so
that a speed-up is measured against what users of the peer really run.
"""

from __future__ import annotations

import numpy as np


def insightface_evaluate(
    embeddings: np.ndarray, same: np.ndarray, far_target: float = 1e-3, folds: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float, float]:
    """InsightFace's 10-fold evaluation of ``embeddings`` [2P,D] (pair i = rows 2i, 2i+1; unit norm, float64).

    Returns its six outputs: tpr [400], fpr [400], accuracy [folds], val, val_std, far. The one departure:
    its interpolation through scipy fails on repeated FAR values, so ``interpolate`` stands in for it.
    """
    first, second = embeddings[0::2], embeddings[1::2]
    tpr, fpr, accuracy = calculate_roc(np.arange(0, 4, 0.01), first, second, same, folds)
    val, val_std, far = calculate_val(np.arange(0, 4, 0.001), first, second, same, far_target, folds)
    return tpr, fpr, accuracy, val, val_std, far


def k_fold(count: int, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Contiguous parts without shuffling; the first ``count % folds`` parts hold one more."""
    indices = np.arange(count)
    parts = np.array_split(indices, folds)
    return [(np.concatenate([q for q in parts if q is not p]), p) for p in parts]


def calculate_roc(
    thresholds: np.ndarray, first: np.ndarray, second: np.ndarray, same: np.ndarray, folds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per fold: the best threshold on the other folds, then the rates on this one."""
    dist = np.sum(np.square(np.subtract(first, second)), 1)
    tprs = np.zeros((folds, len(thresholds)))
    fprs = np.zeros((folds, len(thresholds)))
    accuracy = np.zeros(folds)
    for fold, (train, test) in enumerate(k_fold(len(same), folds)):
        acc_train = np.zeros(len(thresholds))
        for i, threshold in enumerate(thresholds):
            _, _, acc_train[i] = calculate_accuracy(threshold, dist[train], same[train])
        best = np.argmax(acc_train)
        for i, threshold in enumerate(thresholds):
            tprs[fold, i], fprs[fold, i], _ = calculate_accuracy(threshold, dist[test], same[test])
        _, _, accuracy[fold] = calculate_accuracy(thresholds[best], dist[test], same[test])
    return np.mean(tprs, 0), np.mean(fprs, 0), accuracy


def calculate_accuracy(threshold: float, dist: np.ndarray, same: np.ndarray) -> tuple[float, float, float]:
    """TPR, FPR and accuracy where a pair is called the same iff its distance is below the threshold."""
    predicted = np.less(dist, threshold)
    tp = np.sum(np.logical_and(predicted, same))
    fp = np.sum(np.logical_and(predicted, np.logical_not(same)))
    tn = np.sum(np.logical_and(np.logical_not(predicted), np.logical_not(same)))
    fn = np.sum(np.logical_and(np.logical_not(predicted), same))
    tpr = 0.0 if tp + fn == 0 else float(tp) / float(tp + fn)
    fpr = 0.0 if fp + tn == 0 else float(fp) / float(fp + tn)
    return tpr, fpr, float(tp + tn) / dist.size


def calculate_val(
    thresholds: np.ndarray, first: np.ndarray, second: np.ndarray, same: np.ndarray, far_target: float, folds: int
) -> tuple[float, float, float]:
    """Per fold: the threshold that gives ``far_target`` on the other folds, then VAL and FAR on this one."""
    dist = np.sum(np.square(np.subtract(first, second)), 1)
    val, far = np.zeros(folds), np.zeros(folds)
    for fold, (train, test) in enumerate(k_fold(len(same), folds)):
        far_train = np.zeros(len(thresholds))
        for i, threshold in enumerate(thresholds):
            _, far_train[i] = calculate_val_far(threshold, dist[train], same[train])
        if np.max(far_train) >= far_target:
            threshold = interpolate(far_train, thresholds, far_target)
        else:
            threshold = 0.0
        val[fold], far[fold] = calculate_val_far(threshold, dist[test], same[test])
    return float(np.mean(val)), float(np.std(val)), float(np.mean(far))


def calculate_val_far(threshold: float, dist: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """Share of same pairs and of different pairs below the threshold."""
    predicted = np.less(dist, threshold)
    true_accept = np.sum(np.logical_and(predicted, same))
    false_accept = np.sum(np.logical_and(predicted, np.logical_not(same)))
    return float(true_accept) / float(np.sum(same)), float(false_accept) / float(np.sum(np.logical_not(same)))


def interpolate(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Linear interpolation of y over non-decreasing x with repeats: between the first x >= ``at`` and the x before."""
    high = min(max(int(np.searchsorted(x, at)), 1), len(x) - 1)
    low = high - 1
    return float(y[low] + (at - x[low]) / (x[high] - x[low]) * (y[high] - y[low]))
