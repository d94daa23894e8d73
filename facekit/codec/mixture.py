"""A Gaussian mixture for every latent value, in integers: the distribution that both coders read.

Our design. Parameters are rounded to a grid once; from there on encoder and decoder only add, multiply and shift
integers, so their distributions are equal on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from facekit.codec.tables import (
    CENTRE,
    LEAST_LOG_SCALE,
    LEVELS,
    LEVELS_PER_LOG,
    LUT,
    PRECISION,
    REACH,
    SYMBOLS,
    WEIGHT_BITS,
    T,
)

STEPS = 16
"""Means and logits are multiples of 1/STEPS."""
FARTHEST_LOGIT = 2.0**40
"""Logits are cut here before they are subtracted, so that the difference of two huge ones is a number."""


BLOCK = 1 << 14
"""Values rounded at a time: their arrays stay in the processor's cache, which halves the time."""


class FiniteError(ValueError):
    """A parameter is NaN or infinite. The encoder's caller and the decoder's have different sentences for it."""


class Mixture(NamedTuple):
    """K components for each of n values, contiguous arrays [K,n]."""

    mean: np.ndarray
    """int16, in sixteenths of a symbol."""
    level: np.ndarray
    """uint8, 0..63: which scale of the table."""
    weight: np.ndarray
    """uint16, in 1/4096; they add up to 4096 over the components."""


def quantised(mean: np.ndarray, log_scale: np.ndarray, logit: np.ndarray) -> Mixture:
    """Round float parameters [K,n] to the grid; halves go to the even neighbour. Raises FiniteError.

    Mean 1.5, scale .11 and the logits (0, 0) give mean 24, level 0 and the weights (2048, 2048).
    """
    whole = Mixture(*(np.empty(mean.shape, kind) for kind in (np.int16, np.uint8, np.uint16)))
    for start in range(0, mean.shape[1], BLOCK):
        part = np.s_[:, start : start + BLOCK]
        parameters = [np.asarray(x[part], np.float64) for x in (mean, log_scale, logit)]
        if not all(np.isfinite(x).all() for x in parameters):
            raise FiniteError("a parameter of the mixture is not finite")
        for target, rounding, x in zip(whole, (means, levels, weights), parameters, strict=True):
            target[part] = rounding(x)
    return whole


def means(mean: np.ndarray) -> np.ndarray:
    """In sixteenths, within int16."""
    return np.rint(np.clip(mean, -(1 << 15) / STEPS, ((1 << 15) - 1) / STEPS) * STEPS)


def levels(log_scale: np.ndarray) -> np.ndarray:
    """The nearest of the 64 scales of the table."""
    widest = (LEVELS - 1) / LEVELS_PER_LOG
    return np.rint(np.clip(log_scale - LEAST_LOG_SCALE, 0, widest) * LEVELS_PER_LOG)


def weights(logit: np.ndarray) -> np.ndarray:
    """Softmax over the first axis in 1/4096; what rounding down leaves over goes to the first component."""
    rounded = np.rint(np.clip(logit, -FARTHEST_LOGIT, FARTHEST_LOGIT) * STEPS)
    below = np.minimum(rounded.max(axis=0) - rounded, len(LUT) - 1).astype(np.uint8)
    share = LUT.take(below)
    weight = (share << WEIGHT_BITS) // share.sum(axis=0, dtype=np.uint32)
    weight[0] += (1 << WEIGHT_BITS) - weight.sum(axis=0, dtype=np.uint32)
    return weight


def heaviest(mixture: Mixture) -> np.ndarray:
    """The symbol 0..1023, int64 [n], at the mean of the component with the largest weight, the first of equal ones."""
    best = mixture.weight.argmax(axis=0)
    mean = np.take_along_axis(mixture.mean, best[None], axis=0)[0].astype(np.int64)
    return np.clip((mean + STEPS // 2) // STEPS + SYMBOLS // 2, 0, SYMBOLS - 1)


def cdf(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """F(x) in 1/2^24, uint32: how likely a symbol below x is, for x = 0..1024 of a shape that broadcasts against [n].

    F(0) = 0 and F(1024) = 2^24; every symbol gets at least one count.
    """
    x = np.asarray(x, np.int64)
    edge = (x - SYMBOLS // 2) * STEPS - STEPS // 2
    total: np.ndarray = np.zeros((), np.uint64)
    for mean, level, weight in zip(*mixture, strict=True):
        reach = REACH[level]
        place = CENTRE[level] + np.clip(edge - mean, -reach, reach)
        total = total + weight.astype(np.uint64) * T[place]
    scaled = (total >> np.uint64(WEIGHT_BITS)) * np.uint64((1 << PRECISION) - SYMBOLS) >> np.uint64(PRECISION)
    inside = scaled + x.astype(np.uint64)
    return np.where(x <= 0, 0, np.where(x >= SYMBOLS, 1 << PRECISION, inside)).astype(np.uint32)


def intervals(mixture: Mixture, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start, width) of each symbol's share of 2^24, uint32 [n], for latent values -512..511 [n]."""
    x = symbols.astype(np.int64) + SYMBOLS // 2
    low = cdf(mixture, x)
    return low, cdf(mixture, x + 1) - low


def bits(mixture: Mixture, symbols: np.ndarray) -> float:
    """What the integer model charges for the values [n]: the sum of -log2 of their shares."""
    _, width = intervals(mixture, symbols)
    return float(PRECISION * width.size - np.log2(width).sum())
