"""Small losses are trusted: the share of a batch that is kept falls from all to 1 - tau.

R(epoch) = 1 - min(tau epoch / ramp, tau), as in Co-teaching (arXiv 1804.06872), here with one network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facekit.weighting.base import Facts, View, Weighter
from facekit.weighting.errors import OutOfRange


def keep_rate(epoch: float, tau: float = 0.4, ramp: int = 10) -> float:
    """The share R of a batch that is kept in a 0-based epoch.

    >>> [keep_rate(epoch, tau=0.5, ramp=10) for epoch in (0, 5, 10, 50)]
    [1.0, 0.75, 0.5, 0.5]
    """
    return 1 - tau * min(epoch / ramp, 1.0)


def kept(rate: float, size: int) -> int:
    """floor(rate size) of decimal numbers: 0.29 of 100 is 29, although their binary product is below.

    >>> kept(0.29, 100)
    29
    """
    return math.floor(rate * size + 1e-9)


def smallest(losses: Tensor, count: int) -> Tensor:
    """[B] -> 1 for the ``count`` smallest losses, 0 for the others, [B]. Of equal losses the first are taken.

    >>> smallest(torch.tensor([0.3, 0.1, 0.2, 0.2]), 2)
    tensor([0., 1., 1., 0.])
    """
    order = torch.sort(losses, stable=True).indices
    return torch.zeros_like(losses).index_fill(0, order[:count], 1.0)


def check_rates(tau: float, ramp: int) -> None:
    """Raise OutOfRange unless tau is in [0, 1) and the ramp takes an epoch or more."""
    if not 0 <= tau < 1:
        raise OutOfRange(f"tau is {tau}, but must be from 0 to below 1: the share of labels expected to be wrong")
    if ramp < 1:
        raise OutOfRange(f"ramp is {ramp}, but must be 1 or more: the epochs in which the share kept falls to 1 - tau")


class SmallLoss(Weighter):
    """Weight 1 for the floor(R B) smallest losses of the global batch, 0 for the others.

    ``tau`` is the share of labels expected to be wrong, ``ramp`` the epochs in which R falls.
    """

    def __init__(self, tau: float = 0.4, ramp: int = 10) -> None:
        check_rates(tau, ramp)
        self.tau, self.ramp = tau, ramp

    def begin(self, facts: Facts) -> None:
        """Told how long an epoch is."""
        self.steps_per_epoch = facts.steps_per_epoch

    def weights(self, view: View) -> Tensor:
        """[B], zeros and ones. Raises OutOfRange, at the first batch, where a batch would come to lose every sample."""
        losses = view.gather(view.loss)
        if kept(1 - self.tau, len(losses)) == 0:
            raise OutOfRange(
                f"tau {self.tau} keeps nothing of a batch of {len(losses)}; lower it, or take more a batch"
            )
        rate = keep_rate(view.step // self.steps_per_epoch, self.tau, self.ramp)
        return smallest(losses, kept(rate, len(losses)))[view.own]
