"""Batches of several sources by turns: each step sees one of them, so that their images may differ in size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from facekit.core.loop import TrainingBatches
from facekit.core.types import Batch


class Alternating:
    """A batch of the first, one of the second, and so on, and again of the first.

    An epoch is over when the longest was seen once; shorter ones begin anew in between, in their own next order.
    Accumulating as many batches as there are sources brings all of them into every update.
    """

    def __init__(self, parts: Sequence[TrainingBatches]) -> None:
        self.parts = parts
        self.rounds = max(part.steps_per_epoch for part in parts)
        self.steps_per_epoch = self.rounds * len(parts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on."""
        count = len(self.parts)
        # Of the steps before ``start`` part i had those that are i modulo count.
        seen = [epoch * self.rounds + (start + count - 1 - i) // count for i in range(count)]
        streams = [onwards(part, first) for part, first in zip(self.parts, seen, strict=True)]
        for step in range(start, self.steps_per_epoch):
            yield next(streams[step % count])


def onwards(batches: TrainingBatches, first: int) -> Iterator[Batch]:
    """All batches from the ``first``-th on, counted over epochs, without end."""
    epoch, start = divmod(first, batches.steps_per_epoch)
    while True:
        yield from batches.epoch(epoch, start)
        epoch, start = epoch + 1, 0


def as_many_pixels(batch: int, side: int, size: tuple[int, int], world: int = 1) -> int:
    """How many images of ``size`` hold the pixels of ``batch`` squares: a multiple of ``world``, and at least that.

    32 patches of 192 x 192 are 94 faces of 112 x 112.
    """
    height, width = size
    return world * max(1, round(batch * side * side / (height * width * world)))
