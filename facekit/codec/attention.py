"""Channel attention: each channel is weighed by a number that depends on the means of all of them. Our placement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.codec.layers import full_precision

OPEN = 2.0
"""First bias of the gates: they start at sigmoid(2) = .88, and the codec near the one without attention."""


class ChannelAttention(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), C -> max(1, C // reduction) -> C: [B,C,H,W] -> same."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.constant_(self.excite.bias, OPEN)

    def gate(self, mean: Tensor) -> Tensor:
        """Means of the channels [B,C] -> what they are multiplied with, [B,C,1,1] in 0..1."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> same."""
        with full_precision(x.mean((2, 3))) as mean:
            return x * self.gate(mean).to(x.dtype)
