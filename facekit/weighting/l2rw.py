"""Learning to reweight examples (arXiv 1803.09050): a sample counts as far as a step on it helps clean images.

With eps = 0 one virtual step theta' = theta - eta grad sum eps_i l_i gives w_i = max(-d L_clean(theta') / d eps_i, 0),
scaled to sum 1. At eps = 0 that derivative is -eta <grad L_clean, grad l_i>: no second-order graph is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facekit.weighting.base import View
from facekit.weighting.meta import MetaWeighter, replay_of
from facekit.weighting.slopes import gradient


class L2RW(MetaWeighter):
    """Weights in proportion to the positive part of <grad L_clean, grad l_i>; they sum to 1 over the global batch.

    Where no sample helps all are 0, and so is the loss of the batch.
    """

    def weights(self, view: View) -> Tensor:
        """[B]. Raises NeedsClean."""
        replay = replay_of(view)
        uphill = gradient(replay.clean_loss, replay.parameters, view.gather)
        return shares(self.slopes(view, uphill))[view.own]


def shares(gains: Tensor) -> Tensor:
    """max(gain, 0) in units of their sum, [B]; zeros where none is positive.

    >>> shares(torch.tensor([3.0, -2.0, 1.0]))
    tensor([0.7500, 0.0000, 0.2500])
    """
    useful = gains.clamp(min=0)
    return useful / useful.sum().clamp(min=torch.finfo(useful.dtype).tiny)
