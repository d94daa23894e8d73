"""asnorm with cross selection: how one image of a pair scores against the neighbours of the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from facekit.alignment.search import Search
from facekit.alignment.statistics import masked_moments

_CHUNK = 1 << 22  # similarities gathered at once


def cross_moments(
    search: Search,
    vectors: np.ndarray,
    own: np.ndarray,
    rows: np.ndarray,
    neighbours: np.ndarray,
    others: np.ndarray,
    ddof: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [P] of what image ``vectors[rows[p]]`` scores against the entries ``neighbours[others[p]]``.

    ``neighbours`` int64 [M,K] are bank entries, -1 where there are none; ``own`` int64 [N] is the entry of the image's
    own person, which is left out. Each image meets the bank once, in blocks; then its pairs pick their entries.
    """
    mean, deviation = np.empty(len(rows)), np.empty(len(rows))
    per_block = max(1, search.tile.images * search.tile.rows // len(search.entries))
    for start, pairs in blocks_of(rows, len(vectors), per_block):
        images = torch.from_numpy(np.array(vectors[start : start + per_block], np.float32)).to(search.place)
        similarity = search.similarities(images, 0, len(search.entries)).cpu().numpy()
        for part in np.array_split(pairs, 1 + len(pairs) * neighbours.shape[1] // _CHUNK):
            entries = neighbours[others[part]]
            counted = (entries >= 0) & (entries != own[rows[part], None])
            values = similarity[rows[part, None] - start, entries].astype(np.float64)
            mean[part], deviation[part] = masked_moments(values, counted, ddof)
    return mean, deviation


def blocks_of(rows: np.ndarray, images: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first image, pairs whose ``rows`` [P] lie in the block of ``size`` images from there), where there are any."""
    order = np.argsort(rows, kind="stable")
    starts = np.arange(0, images + size, size)
    bounds = np.searchsorted(rows[order], starts)
    for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
        if last > first:
            yield int(start), order[first:last]
