"""One threshold for two models: a score becomes the rate at which strangers reach it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facekit.alignment.errors import BadEmbedding


def fmr_scale(impostors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scores -> -log10 FMR, from the scores [n] of a calibration set of impostor pairs.

    FMR(s) is the share of them at or above s, at least 1/n: what was seen says nothing beyond. Impostors at 0.1, 0.2,
    0.3 and 0.4: a score of 0.35 becomes -log10(1/4) = 0.6, a score of 0 becomes 0. Monotone and the same for all
    pairs, so it leaves the ROC as it is. Raises ALIGN-EMB without finite scores.
    """
    if not len(impostors) or not np.isfinite(impostors).all():
        raise BadEmbedding(f"fmr needs finite scores of impostor pairs to be calibrated with, got {len(impostors)}")
    rising = np.sort(impostors)
    # Level k: k of the n impostors lie below the score; all below counts as all but one.
    below = np.minimum(np.arange(len(rising) + 1), len(rising) - 1)
    level = -np.log10(1 - below / len(rising))

    def scale(scores: np.ndarray) -> np.ndarray:
        return np.asarray(level[np.searchsorted(rising, scores, side="left")])

    return scale
