"""Three convolutions for small images. Ours: made to compare training rules where there is no accelerator."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facekit.core.types import Outputs
from facekit.models.classified import classified, initialise, refuse_dropout


class Conv3(nn.Module):
    """[B,3,H,W] of any side from 4 -> Outputs: pooled feature [B,64], three maps after their ReLU, class scores [B,C].

    Each map but the first has half the side of the one before. Raises UsageError for a dropout other than 0.
    """

    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        refuse_dropout(dropout)
        self.size = (32, 32)
        self.classes = classes
        self.embedding = 64
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(self.embedding, classes)
        initialise(self)

    @property
    def class_layer(self) -> nn.Module:
        """From the embedding to the class scores."""
        return self.fc

    def forward(self, x: Tensor) -> Outputs:
        """Normalised float images -> Outputs."""
        first = F.relu(self.bn1(self.conv1(x)), inplace=True)
        second = F.relu(self.bn2(self.conv2(F.max_pool2d(first, 2))), inplace=True)
        third = F.relu(self.bn3(self.conv3(F.max_pool2d(second, 2))), inplace=True)
        return classified((first, second, third), third, self.fc)
