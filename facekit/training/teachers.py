"""Where a training step gets the teacher's outputs: from the cache, or from the live network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from facekit.core.augment import mirror, seen
from facekit.core.device import Device
from facekit.core.types import Batch

_ON_DEVICE_BYTES = 2**30  # a cache up to this size is kept on the device, a larger one stays a memory map


class Teacher(Protocol):
    """Gives the teacher's embeddings of a batch: float32 [B,D], no gradient."""

    width: int

    def __call__(self, batch: Batch) -> Tensor:
        """[B,D] of the plain or mirrored view, as the student sees it; whether masks are seen too is the teacher's."""


class CachedTeacher:
    """Looks embeddings up by (index, view) in a table float32 [N,V,D], made of faces without masks."""

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
    """Runs the teacher on the images the student sees, with their masks on only where ``masked``."""

    def __init__(self, embed: Callable[[Tensor], Tensor], width: int, device: Device, *, masked: bool = False) -> None:
        self.embed, self.width, self.device, self.masked = embed, width, device, masked

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """[B,D]."""
        images = seen(batch) if self.masked else mirror(batch.images, batch.view)
        return self.device.put(self.embed(images))
