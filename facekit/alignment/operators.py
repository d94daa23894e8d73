"""Aligned scores from cosines and the statistics of both images. Higher = more similar.

All formulas are ours, after the idea of the abstract of arXiv 2103.01559, and element by element: cosines [...] and the
terms of both sides, which broadcast against them, so that pairs [P] and matrices [P,G] go the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facekit.alignment.settings import Settings
from facekit.alignment.statistics import Reference, Stats

LEAST_DEVIATION = 1e-4
LEAST_MEAN = 0.05
LEAST_DISTANCE = 1e-3


class Terms(NamedTuple):
    """Statistics of the images of one side, of shapes that broadcast against the cosines."""

    d: np.ndarray
    m: np.ndarray
    v: np.ndarray

    @staticmethod
    def of(packed: np.ndarray, kind: np.dtype) -> Terms:
        """From [...,3] in the number type of the cosines: a float32 matrix stays one."""
        return Terms(*(packed[..., i].astype(kind, copy=False) for i in range(3)))


def pack(stats: Stats) -> np.ndarray:
    """float64 [N,3]: d, m, v."""
    return np.stack([stats.d, stats.m, stats.v], axis=1)


Operator = Callable[[np.ndarray, Terms, Terms, Settings, Reference], np.ndarray]
"""(cosine, enrolled, probe, settings, reference) -> aligned score."""


def pair_value(enrolled: np.ndarray, probe: np.ndarray, sides: str) -> np.ndarray:
    """What a pair has of a statistic of its images: the mean of both, that of one side, or the larger."""
    if sides == "enrol":
        return enrolled
    if sides == "probe":
        return probe
    return np.maximum(enrolled, probe) if sides == "max" else (enrolled + probe) / 2


def add(cosine: np.ndarray, enrolled: Terms, probe: Terms, settings: Settings, reference: Reference) -> np.ndarray:
    """s - alpha (d_pair - dbar).

    Cosine 0.5 of images with d = 0.3 and 0.1 where 0.1 is usual, at alpha = 0.5: 0.5 - 0.5 (0.2 - 0.1) = 0.45.
    """
    above = pair_value(enrolled.d - reference.dbar, probe.d - reference.dbar, settings.sides)
    return cosine - settings.alpha * above


def z(cosine: np.ndarray, enrolled: Terms, probe: Terms, settings: Settings, reference: Reference) -> np.ndarray:
    """(s - m)/v, the mean over the sides: deviations above what strangers of the image score."""
    v_enrolled, v_probe = (np.maximum(side.v, LEAST_DEVIATION) for side in (enrolled, probe))
    slope = pair_value(1 / v_enrolled, 1 / v_probe, settings.sides)
    return cosine * slope - pair_value(enrolled.m / v_enrolled, probe.m / v_probe, settings.sides)


def ratio(cosine: np.ndarray, enrolled: Terms, probe: Terms, settings: Settings, reference: Reference) -> np.ndarray:
    """s / m_pair; unsafe where strangers score about zero."""
    return cosine / np.maximum(pair_value(enrolled.m, probe.m, settings.sides), LEAST_MEAN)


def nicdm(cosine: np.ndarray, enrolled: Terms, probe: Terms, settings: Settings, reference: Reference) -> np.ndarray:
    """1 - rbar (1 - s)/sqrt(r_a r_b), r = 1 - m: distances in units of the distance to neighbours."""
    r_enrolled, r_probe = (np.maximum(1 - side.m, LEAST_DISTANCE) for side in (enrolled, probe))
    if settings.sides == "both":
        scale = np.sqrt(r_enrolled) * np.sqrt(r_probe)
    else:
        scale = pair_value(r_enrolled, r_probe, settings.sides)
    return 1 - reference.rbar * (1 - cosine) / scale


OPERATORS: dict[str, Operator] = {"add": add, "z": z, "ratio": ratio, "nicdm": nicdm}
