"""A feature bank: one or several unit features of every identity, refreshed as training sees them.

A buffer, never a parameter: gradients do not reach it. Writing is a function of the global batch alone, so that
every process of a run, and every number of processes, holds the same bank bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class FeatureBank(nn.Module):
    """``rows`` [C M, D]: slot m of identity c lies at c M + m. All slots start as the identity's prototype.

    One slot keeps ``n(momentum old + (1 - momentum) new)`` of the batch's last sample of an identity. Several slots
    are a ring: every sample is written, in order, over the oldest. "Last" and "in order" mean the place in the global
    batch; duplicate writes to one row are undefined on CUDA, so all of them are made to write the same value.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, prototypes: Tensor, slots: int, momentum: float) -> None:
        super().__init__()
        self.slots, self.momentum = slots, momentum
        self.register_buffer("rows", prototypes.detach().repeat_interleave(slots, dim=0))
        self.register_buffer("pointer", torch.zeros(len(prototypes), dtype=torch.int64, device=prototypes.device))

    @torch.no_grad()
    def refresh(self, features: Tensor, labels: Tensor, position: Tensor) -> None:
        """Write the features [B,D] of identities ``labels`` [B]; ``position`` [B] orders them. Never waits."""
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        earlier = same & (position.unsqueeze(0) < position.unsqueeze(1))
        slot = (self.pointer[labels] + earlier.sum(dim=1)) % self.slots
        target = labels * self.slots + slot
        new = normalize(features.detach().to(self.rows.dtype))[last_of_each(target, position)]
        if self.momentum > 0:
            new = normalize(self.momentum * self.rows[target] + (1.0 - self.momentum) * new)
        self.rows[target] = new
        self.pointer[labels] = (self.pointer[labels] + same.sum(dim=1)) % self.slots


def last_of_each(key: Tensor, position: Tensor) -> Tensor:
    """For every element, the place in the batch of the element with its key and the largest position. int64 [B].

    >>> last_of_each(torch.tensor([7, 7, 3]), torch.tensor([0, 1, 2])).tolist()
    [1, 1, 2]
    """
    same = key.unsqueeze(0) == key.unsqueeze(1)
    return torch.where(same, position.unsqueeze(0), -1).argmax(dim=1)
