"""Wide residual networks of 32-pixel images (Zagoruyko and Komodakis, arXiv 1605.07146).

Keys, initialisation and parameter counts are RepDistiller's (HobbitLong/RepDistiller ``models/wrn.py``); the code is
ours. Blocks normalise before they convolve, so that a stage ends in a plain sum: it is this sum, ahead of any ReLU,
that is the stage's map, as RepDistiller distils it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.classified import classified, initialise


@dataclass(frozen=True)
class Wide:
    """What distinguishes one of these networks from another: depth 6 ``blocks`` + 4, ``widen`` x (16, 32, 64)."""

    blocks: int
    widen: int


WIDE: dict[str, Wide] = {
    "wrn16_1": Wide(2, 1),
    "wrn16_2": Wide(2, 2),
    "wrn40_1": Wide(6, 1),
    "wrn40_2": Wide(6, 2),
}


class Block(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, with dropout before the second convolution.

    Where the width changes, the shortcut sees the normalised input.
    """

    folds = (("conv1", "bn2"),)

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        active = F.relu(self.bn1(x), inplace=True)
        y = F.relu(self.bn2(self.conv1(active)), inplace=True)
        y = self.conv2(self.dropout(y))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class Stage(nn.Module):
    """``blocks`` blocks; ``stride`` sits on the first."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = Block(inputs, outputs, stride, dropout)
        self.layer = nn.Sequential(first, *(Block(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        y: Tensor = self.layer(x)
        return y


class WideResNet(nn.Module):
    """[B,3,H,W] of any side -> Outputs: pooled feature [B,D], sums at the ends of three stages, class scores [B,C]."""

    def __init__(self, wide: Wide, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [16, *(wide.widen * width for width in (16, 32, 64))]
        self.size = (32, 32)
        self.classes = classes
        self.embedding = widths[-1]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.block1 = Stage(widths[0], widths[1], wide.blocks, 1, dropout)
        self.block2 = Stage(widths[1], widths[2], wide.blocks, 2, dropout)
        self.block3 = Stage(widths[2], widths[3], wide.blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    @property
    def class_layer(self) -> nn.Module:
        """From the embedding to the class scores."""
        return self.fc

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs."""
        x = self.conv1(x)
        maps: list[Tensor] = []
        for stage in (self.block1, self.block2, self.block3):
            x = stage(x)
            maps.append(x)
        return classified(tuple(maps), F.relu(self.bn1(x), inplace=True), self.fc)
