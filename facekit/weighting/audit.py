"""What class scores say of every image's label, over a whole set and in bounded memory.

A face embedder has no classes of its own. Its scores of an image are the cosines to the centres of all classes times
SCALE, as a margin head scales them; the centre of the image's own class is taken without the image, which would vouch
for itself otherwise. Nothing can be said of the only image of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

SCALE = 64.0
"""Of cosines, as arcface_torch scales them."""
_CELLS = 1 << 21
"""Scores held at once: 16 MiB of float64."""

Rows = Callable[[slice], np.ndarray]
"""A range of images -> their unit embeddings, float64 [n,D]."""


class Verdicts(NamedTuple):
    """Of N images, what the class scores say of each."""

    loss: np.ndarray
    """float64 [N], cross-entropy of the given label in nats; NaN where nothing can be said"""
    entropy: np.ndarray
    """float64 [N], of the class probabilities in nats; NaN where nothing can be said"""
    favoured: np.ndarray
    """int64 [N], the class with the largest score, the lowest of equals; -1 where nothing can be said"""

    @property
    def judged(self) -> np.ndarray:
        """bool [N], where something can be said."""
        return self.favoured >= 0


def by_scores(scores: np.ndarray, labels: np.ndarray) -> Verdicts:
    """Of a network's own class scores [N,C]; ``labels`` [N] are columns. Scores (0, 0) of label 1: loss ln 2."""
    return joined([judged(scores[at].astype(np.float64), labels[at]) for at in pieces(*scores.shape)])


def by_centres(rows: Rows, labels: np.ndarray) -> Verdicts:
    """Of embeddings; ``labels`` int64 [N] >= 0. ``rows`` is asked twice for every image.

    Two images of class 0 at (1,0) and (0,1), two of class 1 at (0,1): the first image's own centre is (0,1), as is
    that of class 1, so its loss is ln 2. Classes without images are no candidates.
    """
    present, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = class_sums(rows, column, len(present))
    centres = unit(sums)
    found = []
    for at in pieces(len(labels), len(present)):
        vectors, own = rows(at), column[at]
        scores = vectors @ centres.T
        others = unit(sums[own] - vectors)
        scores[np.arange(len(own)), own] = np.einsum("nd,nd->n", vectors, others)
        found.append(unsaid(judged(SCALE * scores, own), counts[own] < 2))
    loss, entropy, favoured = joined(found)
    return Verdicts(loss, entropy, np.where(favoured >= 0, present[favoured], -1))


def pieces(rows: int, classes: int) -> Iterator[slice]:
    """Ranges over all images, as many at once as their scores, or embeddings, may take memory."""
    step = max(1, _CELLS // max(classes, 512))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def class_sums(rows: Rows, column: np.ndarray, classes: int) -> np.ndarray:
    """Sum of the unit embeddings of each class, float64 [C,D]."""
    sums = np.empty((0, 0))
    for at in pieces(len(column), 0):
        vectors, order = rows(at), np.argsort(column[at], kind="stable")
        if not len(sums):
            sums = np.zeros((classes, vectors.shape[1]))
        there, starts = np.unique(column[at][order], return_index=True)
        sums[there] += np.add.reduceat(vectors[order], starts)
    return sums


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; what cancelled out stays next to zero and is like nothing."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def judged(scores: np.ndarray, labels: np.ndarray) -> Verdicts:
    """Of a few images: scores float64 [n,C], their columns [n]."""
    favoured = scores.argmax(axis=1)
    below = scores - np.take_along_axis(scores, favoured[:, None], axis=1)
    weight = np.exp(below)
    total = weight.sum(axis=1)
    spread = np.log(total)
    own = np.take_along_axis(below, labels[:, None], axis=1)[:, 0]
    return Verdicts(spread - own, spread - (weight * below).sum(axis=1) / total, favoured)


def unsaid(verdicts: Verdicts, where: np.ndarray) -> Verdicts:
    """The verdicts without those ``where`` (bool [n]) nothing can be said."""
    loss, entropy, favoured = verdicts
    return Verdicts(np.where(where, np.nan, loss), np.where(where, np.nan, entropy), np.where(where, -1, favoured))


def joined(parts: list[Verdicts]) -> Verdicts:
    """One after the other."""
    loss, entropy, favoured = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Verdicts(loss, entropy, favoured)
