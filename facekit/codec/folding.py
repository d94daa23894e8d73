"""Layers of a codec in use: the same functions as the trained ones, up to rounding, in fewer passes over memory.

They change their input in place, which a convolution has just made for them. Inference only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.codec.attention import ChannelAttention
from facekit.codec.gdn import GDN
from facekit.codec.networks import Synthesis

TILE = 1024
"""Places that a CPU thread normalises at a time: square, product and root then stay in its cache."""
TAPS = torch.tensor([[4, 2, 0], [5, 3, 1]])
"""Which tap of a 5x5 transposed convolution meets the neighbours -1, 0, +1 of an even and of an odd row; 5 is none."""
MIDDLE = 0.5


class FoldedGDN(nn.Module):
    """GDN or its inverse with beta and gamma computed once; [B,C,H,W] -> same, in place where channels are last."""

    beta: Tensor
    gamma: Tensor

    def __init__(self, trained: GDN) -> None:
        super().__init__()
        self.inverse = trained.inverse
        self.register_buffer("beta", trained.beta().detach())
        self.register_buffer("gamma", trained.gamma().detach().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The norms of a tile need its squares once more and nothing else."""
        places = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        rows = places.view(-1, len(self.beta))
        for tile in rows.split(TILE * torch.get_num_threads() if x.device.type == "cpu" else len(rows)):
            norm = torch.addmm(self.beta, tile.square(), self.gamma)
            tile.mul_(norm.sqrt_() if self.inverse else norm.rsqrt_())
        return places.permute(0, 3, 1, 2)


class FoldedAttention(nn.Module):
    """Channel attention in place: [B,C,H,W] -> same."""

    def __init__(self, trained: ChannelAttention) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, x: Tensor) -> Tensor:
        """In place, since a new map costs ten times the product; a sum over rows, since a bfloat16 mean is as slow."""
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)
        mean = rows.sum(dim=1).float() / rows.shape[1]
        return x.mul_(self.trained.gate(mean).to(x.dtype))


class SubPixel(nn.Module):
    """A 5x5 transposed convolution of stride 2 as 3x3 convolution and pixel shuffle: [B,C,H,W] -> float32 [B,c,2H,2W].

    Less than half the time for three channels, more time for many. It computes the distance to .5 and adds that last,
    in float32: in bfloat16 values near 1 are as coarse as 8-bit levels, those near 0 are not.
    """

    def __init__(self, trained: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = sub_pixel_weight(trained.weight.detach())
        assert trained.bias is not None
        self.convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        self.convolution.weight.data = weight
        self.convolution.bias = nn.Parameter((trained.bias.detach() - MIDDLE).repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,c,2H,2W]."""
        return F.pixel_shuffle(self.convolution(x), 2).float() + MIDDLE


def sub_pixel_weight(weight: Tensor) -> Tensor:
    """[C,c,5,5] of the transposed convolution -> [4c,C,3,3]; output 4i + 2a + b: channel i, row parity a, column b."""
    padded = F.pad(weight, (0, 1, 0, 1))
    taps = padded[:, :, TAPS[:, :, None, None], TAPS]
    return taps.permute(1, 2, 4, 0, 3, 5).reshape(-1, len(weight), 3, 3).contiguous()


def folded(layer: nn.Module) -> nn.Module:
    """What takes a layer's place; a layer without a faster form stays."""
    if isinstance(layer, GDN):
        return FoldedGDN(layer)
    return FoldedAttention(layer) if isinstance(layer, ChannelAttention) else layer


def folded_analysis(trained: nn.Sequential) -> nn.Sequential:
    """Shares its convolutions with ``trained``."""
    return nn.Sequential(*(folded(layer) for layer in trained))


def folded_synthesis(trained: Synthesis) -> nn.Sequential:
    """Shares its convolutions, but for the last one, with ``trained``."""
    return nn.Sequential(*(folded(layer) for layer in trained.layers), SubPixel(trained.last))


def to_bfloat16(net: nn.Sequential) -> nn.Sequential:
    """All layers but the attention's few numbers."""
    for layer in net:
        if not isinstance(layer, FoldedAttention):
            layer.to(torch.bfloat16)
    return net
