"""Distances among the rows of a batch, by one matrix product.

Only differences of rows count, so the rows are centred first: what is far from the origin would lose its digits in the
product. A squared distance within rounding of 0 is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 16.0
"""Squared distances below this many units in the last place of the rows' own squares are rounding."""


class Distances(NamedTuple):
    """What the rows of a batch [B,D] are to each other."""

    gram: Tensor  # [B,B] dot products of the centred rows
    squared: Tensor  # [B,B] squared distances, >= 0
    apart: Tensor  # bool [B,B], where rows differ; also where a value is NaN, so that nothing hides it


def distances(rows: Tensor) -> Distances:
    """Of rows [B,D]. Gradients reach ``gram`` and ``squared``, and are 0 where rows coincide."""
    rows = rows - rows.mean(dim=0)
    gram = rows @ rows.t()
    own = gram.diagonal()
    together = own.unsqueeze(0) + own.unsqueeze(1)
    squared = together - 2.0 * gram
    apart = ~(squared <= ROUNDING * torch.finfo(rows.dtype).eps * together)
    return Distances(gram, torch.where(apart, squared, 0.0), apart)
