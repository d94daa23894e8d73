"""Where a training step gets the teacher's outputs: from the cache, or from the live network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.augment import mirror
from facekit.core.device import Device
from facekit.core.types import Batch

_ON_DEVICE_BYTES = 2**30  # a cache up to this size is kept on the device, a larger one stays a memory map


class Teacher(Protocol):
    """Gives the teacher's embeddings of a batch: float32 [B,D], no gradient."""

    width: int

    def __call__(self, batch: Batch) -> Tensor:
        """[B,D] of the views the student sees."""


class CachedTeacher:
    """Looks embeddings up by (index, view) in a table float32 [N,V,D]."""

    def __init__(self, table: np.ndarray, device: Device) -> None:
        self.width, self.device = table.shape[2], device
        self.table = torch.from_numpy(table)  # shares a memory map's pages: nothing is read yet
        self.resident = table.nbytes <= _ON_DEVICE_BYTES
        if self.resident:
            self.table = device.put(self.table.clone())

    def __call__(self, batch: Batch) -> Tensor:
        """[B,D]."""
        if self.resident:
            return self.table[batch.index, batch.view]
        return self.device.put(self.table[batch.index.cpu(), batch.view.cpu()])


class LiveTeacher:
    """Runs the teacher on the very images the student sees."""

    def __init__(self, embed: Callable[[Tensor], Tensor], width: int, device: Device) -> None:
        self.embed, self.width, self.device = embed, width, device

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """[B,D]."""
        return self.device.put(self.embed(mirror(batch.images, batch.view)))


def class_centres(table: np.ndarray, labels: np.ndarray, classes: int) -> Tensor:
    """Unit mean direction of each identity's teacher embeddings: float32 [C,D] from [N,V,D] and int64 [N].

    They are the teacher's classifier for ``kd``: any teacher has them, also one whose own head is lost or was
    trained on other people. Accumulated in float64, all views counted.
    """
    sums = torch.zeros(classes, table.shape[2], dtype=torch.float64)
    for start in range(0, len(table), 65536):  # bounded memory, not a loop over samples
        block = torch.from_numpy(np.array(table[start : start + 65536])).double()
        units = normalize(block, dim=2).sum(dim=1)
        sums.index_add_(0, torch.from_numpy(labels[start : start + 65536]), units)
    return normalize(sums).float()
