"""Superclasses: clusters of the teacher's features, in place of classes where a batch takes several images of each.

Spherical k-means: a cluster's centre is the unit mean of its unit rows, a row belongs to the centre of highest cosine.
Superclass-aware batches are second-hand after CCKD (arXiv 1904.01802), the number of superclasses is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import InputError, UsageError
from facekit.data.batches import mix
from facekit.training.artefacts import Files

FILE = "superclasses.safetensors"
_BLOCK = 2**24  # numbers held at once, of features or of cosines: 64 MB
_START_ROWS = 65536  # the first centres are chosen among so many rows, or four for each cluster if that is more


class Superclasses(NamedTuple):
    """The cluster of each image; none is empty."""

    cluster: Tensor
    """int32 [N]."""
    centres: Tensor
    """float32 [n_super,D], unit rows; zero where a cluster's rows cancel out."""

    def files(self) -> Files:
        """As an artefact folder keeps them."""
        return {FILE: {"cluster": self.cluster, "centres": self.centres}}


def default_count(batch: int, per_group: int, classes: int) -> int:
    """max(2B/k, C//4): twice the superclasses of a batch, or one for every four classes."""
    return max(2 * batch // per_group, classes // 4)


def superclasses(features: np.ndarray, n_super: int, seed: int, max_iter: int = 100) -> Superclasses:
    """Cluster features, float32 [N,D] in memory or mapped; rows are taken at unit length.

    Starts from k-means++ (Arthur, Vassilvitskii 2007), ends when no row moves or after ``max_iter`` rounds. A cluster
    that loses all rows takes the row farthest from its own centre. The same for a seed and number of threads; memory
    beside the features is bounded by blocks of 64 MB and the rows that the start is chosen from. Raises UsageError for
    fewer than one superclass, InputError for more than rows or for features that are not finite.
    """
    check(features, n_super)
    centres = first_centres(features, n_super, seed)
    cluster = torch.full((len(features),), -1)
    for _ in range(max_iter):
        earlier = cluster
        cluster = filled(*nearest(features, centres), n_super)
        if torch.equal(cluster, earlier):
            break
        centres = means(features, cluster, n_super)
    return Superclasses(cluster.int(), centres)


def check(features: np.ndarray, n_super: int) -> None:
    """Refuse what cannot be clustered."""
    if n_super < 1:
        raise UsageError(f"--superclasses {n_super} is less than 1")
    if n_super > len(features):
        raise InputError(f"{n_super} superclasses of {len(features)} images were asked for; lower --superclasses")
    for rows in blocks(len(features), features.shape[1]):
        if not np.isfinite(features[rows]).all():
            raise InputError(f"the features of images {rows.start} to {rows.stop - 1} are not all finite")


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Cut ``rows`` so that a block of ``width`` numbers a row is not too large."""
    step = max(1, _BLOCK // width)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def unit(features: np.ndarray) -> Tensor:
    """Rows at unit length, float32."""
    return normalize(torch.from_numpy(np.array(features, np.float32)))


def first_centres(features: np.ndarray, n_super: int, seed: int) -> Tensor:
    """k-means++: one row after the other, each drawn with a chance proportional to 1 - its cosine to the nearest.

    That is half its squared distance. float32 [n_super,D], copies of rows.
    """
    most = max(_START_ROWS, 4 * n_super)
    rows = unit(features[np.sort(np.argsort(mix(seed, np.arange(len(features))), kind="stable")[:most])])
    words = mix(seed, len(features), np.arange(n_super))
    shares = torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    chosen = torch.empty(n_super, dtype=torch.int64)
    distance = torch.ones(len(rows), dtype=torch.float64)  # of the first all are equally likely
    for k, share in enumerate(shares):
        reach = distance.cumsum(0)
        chosen[k] = torch.searchsorted(reach, share * reach[-1], right=True).clamp(max=len(rows) - 1)
        distance = distance.minimum((1 - rows @ rows[chosen[k]]).double().clamp(min=0))
    return rows[chosen]


def nearest(features: np.ndarray, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the centre of highest cosine, the first of equals: int64 [N], and that cosine, float32 [N]."""
    cluster = torch.empty(len(features), dtype=torch.int64)
    cosine = torch.empty(len(features))
    for rows in blocks(len(features), max(centres.shape)):
        cosine[rows], cluster[rows] = (unit(features[rows]) @ centres.t()).max(dim=1)
    return cluster, cosine


def filled(cluster: Tensor, cosine: Tensor, n_super: int) -> Tensor:
    """Give every empty cluster the row farthest from its own centre that does not leave another one empty."""
    count = torch.bincount(cluster, minlength=n_super)
    empty = torch.nonzero(count == 0).flatten().tolist()
    if not empty:
        return cluster
    cluster = cluster.clone()
    for row in cosine.argsort(stable=True).tolist():
        if count[cluster[row]] > 1:
            count[cluster[row]] -= 1
            cluster[row] = empty.pop()
        if not empty:
            break
    return cluster


def means(features: np.ndarray, cluster: Tensor, n_super: int) -> Tensor:
    """The unit mean of each cluster's unit rows, float32 [n_super,D]. Sums in float64."""
    sums = torch.zeros(n_super, features.shape[1], dtype=torch.float64)
    for rows in blocks(len(features), features.shape[1]):
        sums.index_add_(0, cluster[rows], unit(features[rows]).double())
    return normalize(sums).float()
