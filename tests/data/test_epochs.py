"""Epochs of another length see the same batches in the same order, from any step on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from facekit.core.types import Batch
from facekit.data.epochs import Epochs


class Counted:
    """Batch k of epoch e is the number 10 e + k."""

    steps_per_epoch = 4

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for k in range(start, 4):
            number = torch.tensor(10 * epoch + k)
            yield Batch(number, number, number, number, number)


def numbers(epochs: Epochs, epoch: int, start: int = 0) -> list[int]:
    return [int(batch.index) for batch in epochs.epoch(epoch, start)]


@pytest.mark.parametrize("steps", [1, 3, 4, 9])
def test_no_batch_is_left_out_or_seen_twice(steps: int) -> None:
    epochs = Epochs(Counted(), steps)
    assert epochs.steps_per_epoch == steps
    seen = [number for epoch in range(12 // steps + 1) for number in numbers(epochs, epoch)]
    assert seen[:12] == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    for start in range(steps):
        assert numbers(epochs, 1, start) == numbers(epochs, 1)[start:]
