"""Integer mixtures from everything that is allowed, for tests."""

from __future__ import annotations

import numpy as np

from facekit.codec.mixture import Mixture


def any_mixture(components: int, count: int, seed: int = 0) -> Mixture:
    """[K,n]: means far outside, the narrowest and the widest scale, weights of nothing and of all."""
    rng = np.random.default_rng(seed)
    mean = rng.choice([-32768, -32767, -8192, -8, 0, 7, 8, 100, 8191, 32767], (components, count))
    cuts = np.sort(rng.choice([0, 0, 1, 2048, 4095, 4096, 4096], (components - 1, count)), axis=0)
    edges = np.concatenate([np.zeros((1, count), int), cuts, np.full((1, count), 4096)])
    level = rng.choice([0, 1, 20, 40, 62, 63], (components, count))
    return Mixture(mean.astype(np.int16), level.astype(np.uint8), np.diff(edges, axis=0).astype(np.uint16))
