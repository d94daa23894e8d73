"""The same batches in epochs of another length: how often a run looks up is no matter of how many images it has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from facekit.core.loop import TrainingBatches
from facekit.core.types import Batch
from facekit.data.alternating import onwards


class Epochs:
    """Epochs of ``steps`` batches, which go on where the last one ended; every image is seen in its turn."""

    def __init__(self, batches: TrainingBatches, steps: int) -> None:
        self.batches, self.steps_per_epoch = batches, steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on."""
        first = epoch * self.steps_per_epoch + start
        yield from islice(onwards(self.batches, first), self.steps_per_epoch - start)
