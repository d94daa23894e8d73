"""Which part of a network runs in full precision although the rest is autocast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_full_precision(layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``layers`` in float32 outside autocast.

    The embedding layer sums up to 25,088 products into numbers whose small differences are the result.
    Without autocast nothing is changed, so that an exported graph holds no casts.
    """
    kind = x.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return layers(x)
    with torch.autocast(kind, enabled=False):
        return layers(x.float())
