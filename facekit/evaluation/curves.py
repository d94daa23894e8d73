"""The ROC of one 1:1 score with its band, and its histograms: all that the report draws of it, DET included."""

from __future__ import annotations

import numpy as np

from facekit.evaluation import verification as v
from facekit.evaluation.scoring import RocCurve
from facekit.evaluation.statistics import LEVEL, IdentityBootstrap

LAST_FAR = 0.5
_LINE, _BAND, _BINS = 160, 28, 80


def roc_curve(
    benchmark: str, label: str, split: v.Scores, boot: IdentityBootstrap | None, scores: np.ndarray
) -> RocCurve:
    """The curve of pair scores [P] and their ``split``, from where ten impostors pass to FAR 1/2.

    The cost is that of one TAR at FAR 1/2 in every draw, however many points are drawn.
    """
    start = first_far(len(split.impostor))
    far, band_far = np.geomspace(start, LAST_FAR, _LINE), np.geomspace(start, LAST_FAR, _BAND)
    low, high = (None, None) if boot is None else band(boot, scores, band_far)
    edges = np.linspace(min(split.genuine[0], split.impostor[0]), max(split.genuine[-1], split.impostor[-1]), _BINS + 1)
    return RocCurve(
        benchmark=benchmark,
        label=label,
        far=far,
        tar=v.roc(split, far),
        band_far=band_far,
        low=low,
        high=high,
        bins=edges,
        genuine_density=density(split.genuine, edges),
        impostor_density=density(split.impostor, edges),
    )


def first_far(n_impostor: int) -> float:
    """Where curves begin: ten impostors pass. 0.05 on fewer than 200 impostor pairs."""
    return min(10.0 / n_impostor, 0.05)


def band(boot: IdentityBootstrap, scores: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % band of the strict TAR of pair scores [P] at each FAR [m]."""
    drawn = boot.tar_at_far(scores, far.tolist())
    low, high = np.nanpercentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=1)
    return low, high


def density(ascending: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of sorted scores in each bin [b] of edges [b+1], the last edge included; what lies outside is left out."""
    below = np.searchsorted(ascending, edges)
    below[-1] = np.searchsorted(ascending, edges[-1], side="right")
    return np.diff(below) / len(ascending)
