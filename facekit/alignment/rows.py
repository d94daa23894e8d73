"""Unit rows: what every alignment computes with, checked."""

from __future__ import annotations

import numpy as np

from facekit.alignment.errors import BadEmbedding

LEAST_NORM = 1e-8
TOLERANCE = 1e-3
"""How far from 1 the norm of a row may be before it is renormalised."""


def unit_rows(vectors: np.ndarray, what: str, width: int | None = None) -> tuple[np.ndarray, int]:
    """(the rows [N,D], of unit length; how many were renormalised). Rows within 1e-3 of unit length stay as they are.

    Raises ALIGN-EMB, naming the row of ``what``, for NaN, infinity, zeros, and for another width than asked for.
    """
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        wanted = "[rows, numbers]" if width is None else f"[rows, {width}]: that is the width of the support set"
        raise BadEmbedding(f"{what} have shape {vectors.shape}, but must be {wanted}")
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    broken = ~(np.isfinite(norms) & (norms >= LEAST_NORM))
    if broken.any():
        raise BadEmbedding(
            f"{what}: row {int(np.argmax(broken))} is zero or not finite ({int(broken.sum())} of {len(norms)} rows); "
            "embed the images again, or leave these out"
        )
    off = np.abs(norms - 1) > TOLERANCE
    if off.any():
        vectors = np.where(off[:, None], vectors / norms[:, None], vectors)
    return vectors, int(off.sum())


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length float64 [N,D] from rows that are not zero."""
    rows = vectors.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
