"""Similarity preserving (arXiv 1907.09682): match which samples of a batch look alike.

Two forms go by this name. ``sp.gram`` (RepDistiller, weight 3000 there, on a flattened feature map; here on the
embedding): the rows of the Gram matrix G = F F^T are made unit rows, and SP = 1/B^2 sum_ij (G_s - G_t)^2.
``sp.feature`` (TFace) makes the rows of F unit rows instead: that is correlation congruence with the bilinear kernel.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from facekit.losses.base import BatchRelation, check_pair, check_samples, in_relation_precision, unit_rows
from facekit.losses.cc import correlation_congruence


def similarity_of_gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised Gram matrices of [B,D_s] and [B,D_t], B >= 2: a scalar.

    >>> similarity_of_gram(torch.eye(2), torch.tensor([[3.0, 0.0], [4.0, 0.0]])).round(decimals=3)
    tensor(0.3000)
    """
    check_pair(student, teacher, "embeddings")
    check_samples(len(student), 2, "sp")
    s, t = [unit_rows(x @ x.t()) for x in map(in_relation_precision, (student, teacher.detach()))]
    return (s - t).square().mean()


class GramSimilarity(BatchRelation):
    """``sp.gram``: relational, over the global batch."""

    measure = staticmethod(similarity_of_gram)


class FeatureSimilarity(BatchRelation):
    """``sp.feature``: relational, over the global batch."""

    measure = staticmethod(partial(correlation_congruence, kernel="bilinear"))
