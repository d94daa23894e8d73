"""MobileFaceNet with the state-dict keys of arcface_torch's ``mbf`` (Chen et al. 2018, arXiv 1804.07573).

One class serves all sizes, ours and foreign ones: a ``Shape`` says how wide each part is. Keys and
initialisation follow arcface_torch ``backbones/mobilefacenet.py``; the code is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.precision import in_full_precision
from facekit.models.prelu import PReLU


@dataclass(frozen=True)
class Shape:
    """What distinguishes one MobileFaceNet from another.

    >>> Shape.scaled(1).widths
    (64, 64, 128, 128)
    """

    widths: tuple[int, int, int, int]
    """Channels of the four stages, at 56, 28, 14 and 7 pixels for a 112-pixel input."""
    hidden: tuple[int, int, int, int, int, int]
    """Expanded channels of layers 2 to 7: transition, residual stage, and so on in turn."""
    first: int
    """layers.1: groups of its 3x3 convolution, or expanded channels where it is a residual stage."""
    blocks: tuple[int, int, int, int] = (1, 4, 6, 2)
    """Residual blocks of layers 1, 3, 5, 7; a leading 1 is one plain convolution."""
    separate: int = 512
    """Channels that the global depth-wise convolution sees."""
    stem: tuple[int, int] = (3, 2)
    """Kernel and stride of the first convolution."""
    strides: tuple[int, int, int] = (2, 2, 2)
    """Strides of the three transitions."""

    @staticmethod
    def scaled(scale: int, blocks: tuple[int, int, int, int] = (1, 4, 6, 2)) -> Shape:
        """arcface_torch's family: the outer widths grow with ``scale``, the hidden ones do not."""
        narrow, wide = 64 * scale, 128 * scale
        first = 64 if blocks[0] == 1 else 128
        return Shape((narrow, narrow, wide, wide), (128, 128, 256, 256, 512, 256), first, blocks)


SHAPES: dict[str, Shape] = {
    # Ours, for demo and tests: 28x28 after the stem, so that one CPU core trains it at some 400 images a second.
    # Of five shapes of this cost the one that came closest to a teacher in six epochs on 4,421 images.
    "mbf_nano": Shape((16, 32, 64, 128), (48, 64, 128, 128, 256, 256), 16, (1, 1, 1, 1), 512, (5, 4), (2, 2, 1)),
    "mbf_half": Shape((32, 32, 64, 64), (64, 64, 128, 128, 256, 128), 32),
    "mbf_s1": Shape.scaled(1),
    "mbf": Shape.scaled(2),
    "mbf_large": Shape.scaled(4, (2, 8, 12, 4)),
}


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, PReLU (left out where ``linear``); "same" padding unless ``padding`` is given."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        linear: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.layers = nn.Sequential(*layers, *([] if linear else [PReLU(outputs)]))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H',W']."""
        y: Tensor = self.layers(x)
        return y


class DepthWise(nn.Module):
    """Expand to ``hidden`` channels, 3x3 depth-wise, project; the input is added where ``residual``."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(inputs, hidden),
            ConvBlock(hidden, hidden, 3, stride, groups=hidden),
            ConvBlock(hidden, outputs, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Residual(nn.Module):
    """A stage of residual depth-wise blocks."""

    def __init__(self, channels: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(DepthWise(channels, channels, hidden, residual=True) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> the same shape."""
        y: Tensor = self.layers(x)
        return y


class Flatten(nn.Module):
    """[B,C,1,1] -> [B,C], with dropout: it has no state, so that the layout's keys stay as they are."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Dropout acts in training mode only."""
        return F.dropout(x.flatten(1), self.dropout, self.training)


class Embedding(nn.Module):
    """Global depth-wise convolution (one 7x7 filter per channel), linear layer, BatchNorm."""

    def __init__(self, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(channels, channels, 7, groups=channels, linear=True, padding=0),
            Flatten(dropout),
            nn.Linear(channels, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,7,7] -> [B,embedding]; the linear layer stays in full precision under autocast."""
        return in_full_precision(self.layers[1:], self.layers[0](x))


class MobileFaceNet(nn.Module):
    """[B,3,112,112] -> Outputs: embedding [B,D] and four maps, the ends of the four stages."""

    def __init__(self, shape: Shape, embedding: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding_size = embedding
        self.size = (112, 112)
        kernel, stride = shape.stem
        first = shape.widths[0]
        self.layers = nn.ModuleList([ConvBlock(3, first, kernel, stride)])
        if shape.blocks[0] == 1:
            self.layers.append(ConvBlock(first, first, 3, groups=shape.first))
        else:
            self.layers.append(Residual(first, shape.blocks[0], shape.first))
        for stage, (inputs, outputs) in enumerate(pairwise(shape.widths)):
            transition, residual = shape.hidden[2 * stage : 2 * stage + 2]
            self.layers.append(DepthWise(inputs, outputs, transition, shape.strides[stage]))
            self.layers.append(Residual(outputs, shape.blocks[stage + 1], residual))
        self.conv_sep = ConvBlock(shape.widths[-1], shape.separate)
        self.features = Embedding(shape.separate, embedding, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs."""
        maps: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index % 2 == 1:
                maps.append(x)
        return Outputs(self.features(self.conv_sep(x)), tuple(maps))
