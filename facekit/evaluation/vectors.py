"""From the outputs of a network to unit embeddings: flips fused, broken ones refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facekit.core.errors import InputError

VIEWS = {"none": (0,), "sum": (0, 1), "concat": (0, 1)}
"""Flip rule -> the views it needs: 0 plain, 1 mirrored."""


def unit_vectors(table: np.ndarray, flip: str, names: Sequence[str]) -> np.ndarray:
    """Un-normalised views [N,V,D] -> unit rows float64 [N,D] ([N,2D] for concat), flips fused before normalisation.

    Raises InputError naming the image where a model returns zeros, NaN or infinity.
    """
    fused = fuse(table, flip)
    norms = np.linalg.norm(fused, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        name = names[int(np.argmax(bad))]
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
