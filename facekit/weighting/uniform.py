"""Every sample counts the same: the standard pipeline."""

from __future__ import annotations

import torch
from torch import Tensor

from facekit.weighting.base import View, Weighter


class Uniform(Weighter):
    """Weight 1."""

    def weights(self, view: View) -> Tensor:
        """[B], ones."""
        return torch.ones_like(view.loss)
