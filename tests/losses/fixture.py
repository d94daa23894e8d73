"""The numbers all loss tests share: no generator, float64, reproducible by hand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from facekit.core.types import Batch, Outputs


def grid(rows: int, columns: int) -> Tensor:
    return torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)


S = torch.sin(0.37 * grid(6, 8) + 0.1)
T = torch.cos(0.53 * grid(6, 8) + 0.2)
P = normalize(torch.sin(0.91 * grid(5, 8) + 0.3))
Q = normalize(torch.cos(0.91 * grid(5, 8) + 0.3))
ZS = 3 * torch.sin(0.9 * grid(4, 5))
ZT = 3 * torch.cos(0.7 * grid(4, 5))
LABELS = torch.tensor([0, 0, 1, 1, 2, 4])
INDEX = torch.arange(6)
BATCH = Batch(torch.zeros(6, dtype=torch.uint8), LABELS, INDEX, torch.zeros_like(INDEX), INDEX)
NEIGHBOURS = torch.tensor([[1, 2], [2, 0], [1, 3], [4, 2], [3, 2]])
REFLECTION = torch.eye(8, dtype=torch.float64) - torch.ones(8, 8, dtype=torch.float64) / 4
RELATIONS = {
    "prototypes": P,
    "student_prototypes": Q,
    "neighbours": NEIGHBOURS,
    "valid": torch.ones(5, dtype=torch.bool),
}


def close(value: Tensor | float, wanted: float) -> bool:
    return abs(float(torch.as_tensor(value, dtype=torch.float64).detach()) - wanted) <= 1e-12 * max(1.0, abs(wanted))


def outputs(embedding: Tensor) -> Outputs:
    weight = torch.cos(grid(5, 8))
    return Outputs(embedding, logits=linear(embedding, weight))
