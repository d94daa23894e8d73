"""Transforms of image batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def mirror(images: Tensor, view: Tensor) -> Tensor:
    """Mirror the images whose view is 1. uint8 [B,3,H,W] and int64 [B] -> uint8 [B,3,H,W].

    The memory format is kept: mirroring runs along the width and nothing is re-ordered.
    """
    return torch.where(view.bool()[:, None, None, None], images.flip(-1), images)
