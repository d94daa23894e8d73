"""A moving average on the device that a broken batch cannot spoil."""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = 0.8
"""Share of the average that stays at every batch, as in the authors' code of arXiv 1905.11058."""


def moving_average(before: Tensor, value: Tensor) -> Tensor:
    """0.8 before + 0.2 value; ``before`` where the value is not finite, since such a step is skipped. Never waits.

    >>> moving_average(torch.tensor(2.0), torch.tensor(1.0))
    tensor(1.8000)
    """
    return torch.where(value.isfinite(), KEPT * before + (1 - KEPT) * value, before)
