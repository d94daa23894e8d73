"""Where a training step gets the teacher's outputs: from the cache, or from the live network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.types import Batch, Outputs

_ON_DEVICE_BYTES = 2**30  # a cache up to this size is kept on the device, a larger one stays a memory map


class Teacher(Protocol):
    """Gives the teacher's outputs of a batch, on the device, without gradient."""

    def __call__(self, batch: Batch) -> Outputs:
        """Of the view that the student sees; whether masks are seen too is the teacher's."""


class CachedTeacher:
    """Looks embeddings up by (index, view) in a table float32 [N,V,D], made of faces without masks."""

    def __init__(self, table: np.ndarray, device: Device) -> None:
        self.device = device
        self.table = torch.from_numpy(table)  # shares a memory map's pages: nothing is read yet
        self.resident = table.nbytes <= _ON_DEVICE_BYTES
        if self.resident:
            self.table = device.put(self.table.clone())

    def __call__(self, batch: Batch) -> Outputs:
        """Embeddings alone."""
        if self.resident:
            return Outputs(self.table[batch.index, batch.view])
        return Outputs(self.device.put(self.table[batch.index.cpu(), batch.view.cpu()]))


class LiveTeacher:
    """Runs the teacher on the images the student sees, with their masks on only where ``masked``."""

    def __init__(
        self,
        outputs: Callable[[Tensor], Outputs],
        device: Device,
        augment: Augment = Augment(),
        *,
        masked: bool = False,
    ) -> None:
        self.outputs, self.device, self.augment, self.masked = outputs, device, augment, masked

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """All that the network gives."""
        return self.outputs(self.augment(batch, masks=self.masked))


class ScoredTeacher:
    """A teacher whose class scores are a function of its embedding: ``scores`` [B,D] -> [B,C]."""

    def __init__(self, teacher: Teacher, scores: Callable[[Tensor], Tensor]) -> None:
        self.teacher, self.scores = teacher, scores

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """With logits [B,C]."""
        outputs = self.teacher(batch)
        return outputs._replace(logits=self.scores(outputs.embedding))


def centred_scores(centres: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
    """Scaled cosines to ``centres`` [C,D], unit rows: class scores that any teacher has."""
    return lambda embedding: scale * linear(normalize(embedding), centres)


class OrderedTeacher:
    """A teacher with classes of its own, its scores put into the order of the data's: ``columns`` int64 [C]."""

    def __init__(self, teacher: Teacher, columns: Tensor, device: Device) -> None:
        self.teacher, self.columns = teacher, device.put(columns)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """With logits [B,C]."""
        outputs = self.teacher(batch)
        assert outputs.logits is not None
        return outputs._replace(logits=outputs.logits[:, self.columns])
