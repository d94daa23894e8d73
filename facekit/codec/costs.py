"""What a codec of some shape costs, part by part, without building it in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from facekit.codec.arch import Arch
from facekit.codec.networks import STRIDE, Codec


class Cost(NamedTuple):
    """Of one part and one image."""

    macs: int
    """Multiply-adds of convolutions and matrix products, GDN's among them."""
    parameters: int


def costs(arch: Arch, height: int, width: int) -> dict[str, Cost]:
    """Of analysis, synthesis, hyper_analysis, hyper_synthesis and enhancement, for an image padded to multiples of 64.

    N = 128, M = 192 at 512x768: synthesis 16.58e9 multiply-adds, 1,504,487 parameters. Its last layer is counted as
    it is trained, a transposed convolution.
    """
    h, w = (-(-side // STRIDE) for side in (height, width))
    with torch.device("meta"):
        codec = Codec(arch)
        image, y, z = (
            torch.empty(1, channels, h * cells, w * cells)
            for channels, cells in ((3, STRIDE), (arch.m, STRIDE // 16), (arch.n, 1))
        )
    runs = {
        "analysis": (codec.analysis, image),
        "synthesis": (codec.synthesis, y),
        "hyper_analysis": (codec.hyper_analysis, y),
        "hyper_synthesis": (codec.hyper_synthesis, z),
        "enhancement": (codec.enhancement, image),
    }
    return {name: Cost(macs(net, x), sum(p.numel() for p in net.parameters())) for name, (net, x) in runs.items()}


def macs(net: Callable[..., Any], x: torch.Tensor) -> int:
    """Of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return int(counter.get_total_flops()) // 2
