"""MobileNetV2 of half width for 32-pixel images: the student of route-constrained optimisation (arXiv 1904.09149).

The paper's network as HobbitLong/RepDistiller ``models/mobilenetv2.py`` gives it: its table, keys, initialisation and
parameter count; the code is ours. Blocks end in a projection without ReLU (arXiv 1801.04381), and so do the maps.
"""

from __future__ import annotations

from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.classified import classified, initialise, refuse_dropout

STEM, LAST = 16, 1280
# Expansion, channels (half of 16, 24, 32, 64, 96, 160, 320), blocks, stride of the first block.
STAGES = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
MAPS = (1, 2, 4, 6)
"""The last stage of each side: 16, 8, 4 and 2 pixels for a 32-pixel image."""


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class InvertedResidual(nn.Module):
    """Expand, 3x3 depth-wise, project; the input is added where neither size nor width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *convolution(inputs, hidden, 1),
            *convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """[B,3,H,W] of any side -> Outputs: pooled feature [B,1280], four maps (projections, no ReLU), class scores [B,C].

    Raises UsageError for a dropout other than 0.
    """

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        refuse_dropout(dropout)
        self.size = (32, 32)
        self.classes = classes
        self.embedding = LAST
        self.conv1 = nn.Sequential(*convolution(3, STEM, 3, 2))
        self.blocks = nn.ModuleList()
        inputs = STEM
        for expansion, outputs, count, stride in STAGES:
            layers = [InvertedResidual(inputs, outputs, stride, expansion)]
            layers += [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(count - 1)]
            self.blocks.append(nn.Sequential(*layers))
            inputs = outputs
        self.conv2 = nn.Sequential(*convolution(inputs, LAST, 1))
        layer = nn.Linear(LAST, classes)
        nn.init.normal_(layer.weight, 0.0, 0.01)
        nn.init.zeros_(layer.bias)
        self.classifier = nn.Sequential(layer)
        initialise(self)

    @property
    def class_layer(self) -> nn.Module:
        """From the embedding to the class scores."""
        return self.classifier

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs."""
        x = self.conv1(x)
        maps: list[Tensor] = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in MAPS:
                maps.append(x)
        return classified(tuple(maps), self.conv2(x), self.classifier)
