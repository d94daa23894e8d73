"""Worse copies of training images: out of focus, of low resolution, or partly covered.

A face's discrepancy depends on how well it is seen, so the estimator also learns from faces that are seen badly.
"""

from __future__ import annotations

import hashlib

import numpy as np

from facekit.data.batches import mix
from facekit.data.conditions import VERSION, Pixels, blurred, low_resolution
from facekit.data.protocol import Source

COVER = 0.4
"""Side of the grey square that covers part of a face, as a share of the image's."""


def covered(pixels: Pixels, words: np.ndarray) -> Pixels:
    """A grey square over each face, where its word (uint64 [n]) says."""
    _, height, width, _ = pixels.shape
    side = max(1, round(COVER * min(height, width)))
    top = (words >> np.uint64(32)) % np.uint64(height - side + 1)
    left = (words & np.uint64(0xFFFFFFFF)) % np.uint64(width - side + 1)
    y, x = np.arange(height) - top[:, None].astype(int), np.arange(width) - left[:, None].astype(int)
    inside = ((y >= 0) & (y < side))[:, :, None] & ((x >= 0) & (x < side))[:, None, :]
    return np.where(inside[..., None], np.uint8(127), pixels)


WAYS = (blurred, low_resolution, covered)


class Degraded:
    """``parent`` with every image made worse in one of three ways; which is a function of (seed, row)."""

    def __init__(self, parent: Source, seed: int) -> None:
        self.parent, self.seed = parent, seed
        self.names, self.labels, self.identities = parent.names, parent.labels, parent.identities
        self.size, self.notes = parent.size, parent.notes

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def fingerprint(self) -> str:
        """Of the images as they were, and of what is done to them."""
        text = f"{self.parent.fingerprint} degraded, version {VERSION}, cover {COVER}, seed {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, index: np.ndarray) -> Pixels:
        """uint8 [n,H,W,3] RGB."""
        out = self.parent.read(index)
        words = mix(self.seed, np.asarray(index))
        way = words % np.uint64(len(WAYS))
        for k, worsen in enumerate(WAYS):
            rows = np.flatnonzero(way == k)
            if len(rows):
                out[rows] = worsen(out[rows], words[rows])
        return out
