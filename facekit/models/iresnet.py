"""IResNet (improved residual network) with the state-dict keys of arcface_torch's r18 .. r200.

Pre-activation blocks BN-conv-BN-PReLU-conv-BN with the stride on the second convolution, a stem without
stride, and a fully connected embedding layer. Keys and initialisation follow arcface_torch
``backbones/iresnet.py``; the code is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.precision import in_full_precision
from facekit.models.prelu import PReLU

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "r18": (2, 2, 2, 2),
    "r34": (3, 4, 6, 3),
    "r50": (3, 4, 14, 3),
    "r100": (3, 13, 30, 3),
    "r200": (6, 26, 60, 6),
}
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3x3 convolutions; ``stride`` sits on the second, and with it the shortcut is a 1x1 convolution."""

    folds = (("conv1", "bn2"), ("conv2", "bn3"))

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


def stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """``blocks`` blocks of which the first halves the side."""
    return nn.Sequential(*(Block(inputs if i == 0 else outputs, outputs, 2 if i == 0 else 1) for i in range(blocks)))


class IResNet(nn.Module):
    """[B,3,112,112] -> Outputs: embedding [B,D] and four maps, the ends of the four stages."""

    folds = (("conv1", "bn1"),)

    def __init__(self, blocks: tuple[int, int, int, int], embedding: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding_size = embedding
        self.size = (112, 112)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = PReLU(WIDTHS[0])
        self.layer1 = stage(WIDTHS[0], WIDTHS[0], blocks[0])
        self.layer2 = stage(WIDTHS[0], WIDTHS[1], blocks[1])
        self.layer3 = stage(WIDTHS[1], WIDTHS[2], blocks[2])
        self.layer4 = stage(WIDTHS[2], WIDTHS[3], blocks[3])
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(WIDTHS[-1] * 7 * 7, embedding)
        self.features = nn.BatchNorm1d(embedding)
        # The margin head normalises anyway: a free scale per dimension would only drift.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def embed(self, x: Tensor) -> Tensor:
        """[B,25088] -> [B,embedding]."""
        y: Tensor = self.features(self.fc(x))
        return y

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs; the embedding layer stays in full precision under autocast."""
        x = self.prelu(self.bn1(self.conv1(x)))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        return Outputs(in_full_precision(self.embed, x), tuple(maps))
