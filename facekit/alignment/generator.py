"""The two networks of the conditional GAN that draws the face of an embedding.

The generator takes noise z and an embedding c; the discriminator judges an image together with the c that it should
show. Residual networks with spectral normalisation (arXiv 1802.05957) and a projection of c (arXiv 1802.05637) in the
discriminator. Sizes and norms are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facekit.core.errors import unknown_name

LATENT = 128
"""Numbers of noise behind one face."""
_CODE = 128  # numbers that the condition becomes before it joins the noise
_GROUP = 4  # channels normalised together


@dataclass(frozen=True)
class Shape:
    """A square image grows from ``start`` pixels, doubling between two entries of ``channels``.

    >>> Shape(4, (64, 64, 32)).side
    16
    """

    start: int
    channels: tuple[int, ...]

    @property
    def side(self) -> int:
        """Pixels of the finished image."""
        return self.start * 2 ** (len(self.channels) - 1)


SHAPES = {
    "32": Shape(4, (128, 64, 32, 16)),  # for demo and tests: narrow, so that a CPU trains it
    "64": Shape(4, (256, 256, 128, 64, 32)),
    "112": Shape(7, (256, 256, 128, 64, 32)),
}
"""Side of the drawn images -> how they grow."""


class Pair(NamedTuple):
    """A generator and its discriminator."""

    generator: Generator
    discriminator: Discriminator


def build_gan(side: str, width: int) -> Pair:
    """Both networks, freshly initialised (torch's global generator), for embeddings of ``width`` numbers.

    Raises UsageError for a side that is not in SHAPES.
    """
    if side not in SHAPES:
        raise unknown_name("side", side, SHAPES)
    return Pair(Generator(SHAPES[side], width), Discriminator(SHAPES[side], width))


class ConditionalNorm(nn.Module):
    """Group normalisation whose gain and bias are read from a code.

    Groups rather than batches: what is drawn for (z, c) must not depend on what is drawn beside it.
    """

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // _GROUP, channels, affine=False)
        self.modulation = nn.Linear(code, 2 * channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """[B,C,H,W] and [B,code] -> [B,C,H,W]."""
        gain, bias = self.modulation(code)[:, :, None, None].chunk(2, dim=1)
        normed: Tensor = self.norm(x)
        return normed * (1 + gain) + bias


class UpBlock(nn.Module):
    """Residual block that doubles the side."""

    def __init__(self, inputs: int, outputs: int, code: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, code)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = ConditionalNorm(outputs, code)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,2H,2W]."""
        y = self.conv1(F.interpolate(F.relu(self.norm1(x, code)), scale_factor=2.0))
        y = self.conv2(F.relu(self.norm2(y, code)))
        # A 1x1 convolution and the doubling commute: the cheaper order.
        return y + F.interpolate(self.skip(x), scale_factor=2.0)


class Generator(nn.Module):
    """Noise [B,LATENT] and unit embeddings [B,D] -> images [B,3,side,side] in -1..1."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        code = LATENT + _CODE
        self.condition = nn.Linear(width, _CODE)
        self.first = nn.Linear(code, shape.channels[0] * shape.start**2)
        self.blocks = nn.ModuleList(UpBlock(a, b, code) for a, b in pairwise(shape.channels))
        self.norm = nn.GroupNorm(shape.channels[-1] // _GROUP, shape.channels[-1])
        self.colour = nn.Conv2d(shape.channels[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Draw."""
        # The numbers of a unit vector are as small as 1/sqrt(D): beside the noise they would be lost.
        code = torch.cat([z, self.condition(c * self.width**0.5)], dim=1)
        x: Tensor = self.first(code).unflatten(1, (-1, self.shape.start, self.shape.start))
        for block in self.blocks:
            x = block(x, code)
        return torch.tanh(self.colour(F.relu(self.norm(x))))


class DownBlock(nn.Module):
    """Residual block that halves the side; every weight has spectral norm 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/2,W/2]."""
        y = F.avg_pool2d(self.conv2(F.relu(self.conv1(F.relu(x)))), 2)
        shortcut: Tensor = self.skip(F.avg_pool2d(x, 2))
        return y + shortcut


class Discriminator(nn.Module):
    """Images [B,3,side,side] in -1..1 and the embeddings [B,D] they should show -> scores [B], high for real."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        channels = shape.channels[::-1]
        self.colour = spectral_norm(nn.Conv2d(3, channels[0], 3, padding=1))
        self.blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(channels))
        self.score = spectral_norm(nn.Linear(channels[-1], 1))
        self.projection = spectral_norm(nn.Linear(width, channels[-1], bias=False))

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        """Judge."""
        x = self.colour(images)
        for block in self.blocks:
            x = block(x)
        seen = F.relu(x).sum(dim=(2, 3))
        score: Tensor = self.score(seen).squeeze(1) + (self.projection(c) * seen).sum(dim=1)
        return score
