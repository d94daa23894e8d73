"""The convolutions all parts are built of, how they start, and which of them never run in reduced precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

FIRST_BIAS = 0.01
L = TypeVar("L", nn.Conv2d, nn.ConvTranspose2d)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """An odd kernel, padded so that stride 1 keeps the size and stride 2 halves an even one."""
    return initialised(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))


def upsampling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """5x5, doubles height and width."""
    return initialised(nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1))


def initialised(layer: L) -> L:
    """Normal weights of variance 2 / (inputs * taps), biases .01, as in the authors' released base network.

    Their code writes it as xavier_normal with gain sqrt((a + b) / a) for a to b channels, which is the same number.
    """
    taps = math.prod(layer.kernel_size)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * taps)))
    assert layer.bias is not None
    nn.init.constant_(layer.bias, FIRST_BIAS)
    return layer


@contextmanager
def full_precision(x: Tensor) -> Iterator[Tensor]:
    """Gives x in float32 (float64 stays), and switches autocast off inside."""
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        yield x.to(torch.promote_types(x.dtype, torch.float32))
