"""Vectors of D+2 numbers whose plain inner product is the score aligned by ``add``: for any inner-product store.

    [f, -alpha (d - dbar)/2, 1] . [f', 1, -alpha (d' - dbar)/2] = f.f' - alpha ((d + d')/2 - dbar)

The constant alpha dbar is shared out between the sides, so nothing is left to add. Where one side alone counts, the
other one's number is 0 and its own is not halved.
"""

from __future__ import annotations

import numpy as np

from facekit.alignment.errors import UndefinedSides
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import Reference

EXTENDED_SIDES = ("enrol", "probe")


def extend(vectors: np.ndarray, d: np.ndarray, settings: Settings, reference: Reference, side: str) -> np.ndarray:
    """Unit rows [N,D] and their discrepancies [N] -> [N,D+2], to be stored (``enrol``) or searched with (``probe``).

    Raises ALIGN-SIDES for another operator than ``add``, for sides ``max``, and for an unknown side: none of these is
    an inner product.
    """
    shift = -share(settings, side) * (d - reference.dbar)
    added = (shift, np.ones(len(d))) if side == "enrol" else (np.ones(len(d)), shift)
    return np.column_stack([vectors, *added]).astype(vectors.dtype, copy=False)


def share(settings: Settings, side: str) -> float:
    """How much of an image's own discrepancy is taken off on this side: alpha/2, alpha or 0."""
    if side not in EXTENDED_SIDES:
        raise UndefinedSides(f"aligned vectors are for side {' or '.join(EXTENDED_SIDES)}, not {side!r}")
    if settings.operator != "add" or settings.sides == "max":
        raise UndefinedSides(
            f"operator {settings.operator!r} with sides {settings.sides!r} is no inner product; "
            "aligned vectors need operator add, and sides both, enrol or probe"
        )
    if settings.sides == "both":
        return settings.alpha / 2
    return settings.alpha if settings.sides == side else 0.0
