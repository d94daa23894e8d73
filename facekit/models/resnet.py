"""Residual networks for classes (He et al., arXiv 1512.03385): of 32-pixel images, and of 224-pixel ones.

One class serves both, as they differ in the stem and in the number of stages. Keys, initialisation and parameter
counts of the first family are RepDistiller's (HobbitLong/RepDistiller ``models/resnet.py``: a 1x1 convolution where a
block changes the width), of the second torchvision's (``models/resnet.py``). The code is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.classified import classified, initialise, refuse_dropout


@dataclass(frozen=True)
class Shape:
    """What distinguishes one of these networks from another."""

    blocks: tuple[int, ...]
    """Blocks of each stage."""
    widths: tuple[int, ...]
    """Channels inside the blocks of each stage; a bottleneck gives four times as many."""
    stem: int
    """Channels of the first convolution."""
    kernel: Literal[3, 7]
    """Side of the first convolution: 3 keeps the image's size, 7 halves it, and a pooling halves it again."""
    bottleneck: bool = False

    @staticmethod
    def small(depth: int, stem: int = 16, widths: tuple[int, int, int] = (16, 32, 64)) -> Shape:
        """For 32-pixel images: three stages of n blocks, depth 6n + 2.

        >>> Shape.small(20).blocks
        (3, 3, 3)
        """
        return Shape(3 * ((depth - 2) // 6,), widths, stem, 3)

    @staticmethod
    def large(blocks: tuple[int, int, int, int], bottleneck: bool = False) -> Shape:
        """For 224-pixel images: four stages."""
        return Shape(blocks, (64, 128, 256, 512), 64, 7, bottleneck)


SHAPES: dict[str, Shape] = {
    "resnet8": Shape.small(8),
    "resnet14": Shape.small(14),
    "resnet20": Shape.small(20),
    "resnet32": Shape.small(32),
    "resnet44": Shape.small(44),
    "resnet56": Shape.small(56),
    "resnet110": Shape.small(110),
    "resnet8x4": Shape.small(8, 32, (64, 128, 256)),
    "resnet32x4": Shape.small(32, 32, (64, 128, 256)),
    "resnet18": Shape.large((2, 2, 2, 2)),
    "resnet34": Shape.large((3, 4, 6, 3)),
    "resnet50": Shape.large((3, 4, 6, 3), bottleneck=True),
}


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where a block changes size or width; elsewhere its input is added as it is."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; ``stride`` sits on the first."""

    expansion = 1
    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,width,H/stride,W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; ``stride`` sits on the 3x3 one, as torchvision has it."""

    expansion = 4
    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,4 width,H/stride,W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """[B,3,H,W] of any side -> Outputs: pooled feature [B,D], the end of each stage after its ReLU, class scores [B,C].

    ``size`` is the side of the images that the network was made for. Raises UsageError for a dropout other than 0.
    """

    folds = (("conv1", "bn1"),)

    def __init__(self, shape: Shape, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        refuse_dropout(dropout)
        block = Bottleneck if shape.bottleneck else BasicBlock
        self.large = shape.kernel == 7
        self.size = (224, 224) if self.large else (32, 32)
        self.classes = classes
        self.embedding = block.expansion * shape.widths[-1]
        self.conv1 = nn.Conv2d(3, shape.stem, shape.kernel, 2 if self.large else 1, shape.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        self.stages = [f"layer{i + 1}" for i in range(len(shape.blocks))]
        inputs = shape.stem
        for i, (name, blocks, width) in enumerate(zip(self.stages, shape.blocks, shape.widths, strict=True)):
            layers = [block(inputs, width, 1 if i == 0 else 2)]
            inputs = block.expansion * width
            layers += [block(inputs, width, 1) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    @property
    def class_layer(self) -> nn.Module:
        """From the embedding to the class scores."""
        return self.fc

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        maps: list[Tensor] = []
        for name in self.stages:
            x = getattr(self, name)(x)
            maps.append(x)
        return classified(tuple(maps), x, self.fc)
