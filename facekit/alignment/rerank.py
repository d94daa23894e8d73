"""k-reciprocal re-ranking (arXiv 1701.08398): images are alike if they have the same neighbours in the list.

Transductive: a score depends on all images of the list. Written from the description; the constants are the published
ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facekit.alignment.errors import RerankTooLarge
from facekit.alignment.search import exact_products

K1 = 20
"""Neighbours, besides itself, among which an image looks for those that see it too."""
K2 = 6
"""Images, itself included, over which neighbourhoods are averaged."""
DISTANCE_SHARE = 0.3
"""Weight of the plain distance."""
MOST_IMAGES = 20_000
_BLOCK = 256


def rerank(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores float64 [P] of ``vectors[left]`` against the probes ``vectors[right]``, for unit rows [N,D]: -d*.

    d* = 0.7 (1 - sum min(V_p, V_g) / sum max(V_p, V_g)) + 0.3 d; d is the squared distance over the largest that the
    probe has to any image. Memory: 4 N^2 bytes. Raises ALIGN-RERANK-SIZE above 20,000 images.
    """
    if len(vectors) > MOST_IMAGES:
        raise RerankTooLarge(
            f"rerank compares all images of a list with each other, and this list has {len(vectors):,}; "
            f"at most {MOST_IMAGES:,}, so leave rerank out of --scores"
        )
    rows = torch.from_numpy(np.array(vectors, np.float32))
    ranking, largest = nearest_of_all(rows)
    near = neighbourhoods(rows, ranking, largest)
    average_rows(near, ranking[:, :K2])
    return score_pairs(vectors, near.numpy(), largest.numpy(), left, right)


def nearest_of_all(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(int64 [N,K1+1]: every image's nearest, itself among them; [N]: its largest squared distance)."""
    ranking, largest = [], []
    for block in rows.split(_BLOCK):
        apart = squared_distances(block, rows)
        ranking.append(apart.topk(min(K1 + 1, len(rows)), dim=1, largest=False).indices)
        largest.append(apart.amax(dim=1))
    return torch.cat(ranking), torch.cat(largest).clamp(min=torch.finfo(rows.dtype).tiny)


def squared_distances(block: Tensor, rows: Tensor) -> Tensor:
    """[B,N] of unit rows."""
    with exact_products():
        return (2 - 2 * (block @ rows.T)).clamp_(min=0)


def mutual(ranking: Tensor) -> Tensor:
    """bool [N,k]: does the neighbour ``ranking[p, i]`` have p among its own?"""
    parts = []
    for start in range(0, len(ranking), _BLOCK):
        block = ranking[start : start + _BLOCK]
        image = torch.arange(start, start + len(block))
        parts.append((ranking[block] == image[:, None, None]).any(dim=2))
    return torch.cat(parts)


def neighbourhoods(rows: Tensor, ranking: Tensor, largest: Tensor) -> Tensor:
    """V [N,N]: exp(-d) on the expanded mutual neighbours R* of each image, rows of sum 1.

    R(p,k) are the mutual ones among the k nearest; for every c in R(p,20), R(c,10) joins where more than two thirds of
    it are in R(p,20) already.
    """
    half = ranking[:, : K1 // 2 + 1]
    friends, close_friends = mutual(ranking), mutual(half)
    near = torch.zeros(len(rows), len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        known, seen = ranking[part], friends[part]
        theirs, valid = half[known], close_friends[known]
        shared = (theirs[..., None] == known[:, None, None, :]).logical_and_(seen[:, None, None, :]).any(dim=3)
        joins = seen & (3 * (shared & valid).sum(dim=2) > 2 * valid.sum(dim=2))
        members = torch.cat([known, theirs.flatten(1)], dim=1)
        kept = torch.cat([seen, (joins[..., None] & valid).flatten(1)], dim=1)
        # Whoever is left out is replaced by the image itself, which always belongs.
        itself = torch.arange(start, start + len(known))[:, None]
        members = torch.where(kept, members, itself)
        apart = squared_distances(rows[part], rows) / largest[part, None]
        near[part].scatter_(1, members, torch.exp(-apart.gather(1, members)))
    return near.div_(near.sum(dim=1, keepdim=True))


def average_rows(near: Tensor, ranking: Tensor) -> None:
    """Replace every row of ``near`` [N,N] by the mean of the rows ``ranking`` [N,k], some columns at a time."""
    columns = max(1, (1 << 24) // ranking.numel())
    for start in range(0, near.shape[1], columns):
        part = near[:, start : start + columns]
        part.copy_(part.contiguous()[ranking].mean(dim=1))


def score_pairs(
    vectors: np.ndarray, near: np.ndarray, largest: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """-d* of the pairs, one probe with all its pairs at a time, over the columns in which the probe has weight."""
    scores = np.empty(len(right))
    order = np.argsort(right, kind="stable")
    probes, first = np.unique(right[order], return_index=True)
    for probe, pairs in zip(probes, np.split(order, first[1:]), strict=True):
        shared = np.flatnonzero(near[probe])
        smaller = np.minimum(near[np.ix_(left[pairs], shared)], near[probe, shared]).sum(axis=1, dtype=np.float64)
        jaccard = 1 - smaller / (2 - smaller)  # rows sum to 1, so sum max = 2 - sum min
        apart = np.maximum(2 - 2 * (vectors[left[pairs]] @ vectors[probe]), 0) / largest[probe]
        scores[pairs] = -((1 - DISTANCE_SHARE) * jaccard + DISTANCE_SHARE * apart)
    return scores
