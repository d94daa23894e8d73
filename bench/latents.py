"""Mixtures as a network may give them and values drawn from them, for the benches and tests of entropy coding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEAST, GREATEST = np.log(0.11), np.log(64)


class Floats(NamedTuple):
    """Parameters float64 [K,n]."""

    mean: np.ndarray
    log_scale: np.ndarray
    logit: np.ndarray


def draw(components: int, count: int, seed: int = 0, log_scale: float = -1.0) -> tuple[Floats, np.ndarray]:
    """Parameters whose scales and means change from value to value, and one value int16 [n] from each mixture.

    More adverse than an image, whose neighbouring values have like scales: tables and branches are harder to foresee.
    """
    rng = np.random.default_rng(seed)
    shape = (components, count)
    scale = np.clip(rng.normal(log_scale, 1, (1, count)) + rng.normal(0, 0.3, shape), LEAST, GREATEST)
    mean = rng.normal(0, 2, (1, count)) + rng.normal(0, 0.7, shape) * np.exp(scale)
    logit = rng.normal(0, 1, shape)
    chance = np.exp(logit) / np.exp(logit).sum(axis=0)
    chosen = (rng.random(count) > chance.cumsum(axis=0)).sum(axis=0).clip(0, components - 1)
    at = (chosen, np.arange(count))
    values = rng.normal(mean[at], np.exp(scale[at]))
    return Floats(mean, scale, logit), np.clip(np.rint(values), -511, 510).astype(np.int16)
