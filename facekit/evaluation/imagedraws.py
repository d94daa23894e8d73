"""The bootstrap over images that are judged one by one, as a classifier's are."""

from __future__ import annotations

import numpy as np

from facekit.evaluation.rates import SearchBootstrap
from facekit.evaluation.statistics import DRAWS, draw_identities

_ROWS = 4096
"""Images weighed at once."""


class ImageBootstrap(SearchBootstrap):
    """Draws of N images with replacement: they share nothing, so each is a trial of its own."""

    def __init__(self, images: int, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.multiplicity = draw_identities(images, draws, seed)
        self.same = np.ones(images, bool)
        self.genuine, self.impostor = np.arange(images), (np.empty(0, np.int64), None)
        self.genuine_total, self.impostor_total = np.full(draws, images), np.zeros(draws, np.int64)

    @property
    def method(self) -> str:
        """For the ``ci_method`` column."""
        return "image_bootstrap"

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the images in each draw [R]; ``values`` [N]. A part at a time: 50,000 images x 1,000 draws fit."""
        total = np.zeros(self.multiplicity.shape[1])
        for start in range(0, len(values), _ROWS):
            part = slice(start, start + _ROWS)
            total += values[part] @ self.multiplicity[part]
        return total / len(values)
