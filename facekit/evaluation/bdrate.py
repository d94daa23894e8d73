"""The Bjontegaard rate difference: how many more or fewer bits one codec needs than another at equal quality."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from facekit.core.errors import InputError

LEAST_POINTS = 4
SAMPLES = 400
"""Qualities at which two curves are compared."""


class BdRate(NamedTuple):
    """One codec against another."""

    percent: float
    """Bits more (below 0: fewer) than the anchor needs, over the common interval"""
    low: float
    """Of the common interval, in the unit of the quality (dB)"""
    high: float


def bd_rate(anchor: np.ndarray, curve: np.ndarray) -> BdRate:
    """``curve`` against ``anchor``, each float [n,2]: bits per pixel, quality in dB.

    ln(bits) is interpolated over quality by ``pchip``; the mean difference over 400 equally spaced qualities of the
    common interval, as a factor. Half the bits at every quality give -50 %. Raises InputError where a curve has fewer
    than four points of different quality, or where the two share no quality.
    """
    known = [by_quality(points) for points in (anchor, curve)]
    (anchor_quality, anchor_log), (quality, log_rate) = known
    low, high = max(anchor_quality[0], quality[0]), min(anchor_quality[-1], quality[-1])
    if low >= high:
        raise InputError(
            f"the curves share no quality: {anchor_quality[0]:.2f} to {anchor_quality[-1]:.2f} dB and {quality[0]:.2f} "
            f"to {quality[-1]:.2f} dB"
        )
    at = np.linspace(low, high, SAMPLES)
    change = np.mean(pchip(quality, log_rate, at) - pchip(anchor_quality, anchor_log, at))
    return BdRate(100 * float(np.expm1(change)), float(low), float(high))


def by_quality(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(quality, ln bits), float64 [m] each, by rising quality; of points with equal quality the cheapest stays."""
    order = np.lexsort((points[:, 0], points[:, 1]))
    rate, quality = np.asarray(points, np.float64)[order].T
    first = np.flatnonzero(np.diff(quality, prepend=-np.inf) > 0)
    usable = first[np.isfinite(quality[first])]  # lossless is infinitely good, and on no curve
    if len(usable) < LEAST_POINTS:
        raise InputError(f"a BD-rate needs {LEAST_POINTS} points of different quality, there are {len(usable)}")
    return quality[usable], np.log(rate[usable])


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Piecewise cubic Hermite interpolation of rising x [n] (n > 2), that never leaves the range of its neighbours.

    Fritsch and Butland, SIAM J. Sci. Stat. Comput. 1984: inside, the slope is a weighted harmonic mean of the slopes to
    both sides, 0 where they differ in sign; the ends take three points. Values outside x are extrapolated.
    """
    step = np.diff(x)
    slope = np.diff(y) / step
    first, last = end_tangent(step, slope), end_tangent(step[::-1], slope[::-1])
    tangent = np.concatenate([[first], inner_tangents(step, slope), [last]])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    t = (at - x[i]) / step[i]
    from_left = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t * (1 - t) ** 2 * step[i] * tangent[i]
    from_right = t**2 * (3 - 2 * t) * y[i + 1] + t**2 * (t - 1) * step[i] * tangent[i + 1]
    return from_left + from_right


def inner_tangents(step: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Slopes [n-2] at the points that have two neighbours."""
    before, after = slope[:-1], slope[1:]
    weight_before, weight_after = step[:-1] + 2 * step[1:], 2 * step[:-1] + step[1:]
    monotone = before * after > 0
    whole = np.where(monotone, weight_before * after + weight_after * before, 1.0)
    return np.where(monotone, (weight_before + weight_after) * before * after / whole, 0.0)


def end_tangent(step: np.ndarray, slope: np.ndarray) -> float:
    """The slope at the first point from the first three, kept from overshooting."""
    found = ((2 * step[0] + step[1]) * slope[0] - step[0] * slope[1]) / (step[0] + step[1])
    if found * slope[0] <= 0:
        return 0.0
    if slope[0] * slope[1] <= 0 and abs(found) > 3 * abs(slope[0]):
        return float(3 * slope[0])
    return float(found)
