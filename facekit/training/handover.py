"""What goes on where a student gets another teacher, and what is made anew.

What was trained goes on: the student with its running statistics, heads, adapter, the layers of a loss. What was
computed from a teacher follows the new one: its outputs, prototypes, neighbours, banks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from facekit.core.loop import TrainingBatches
from facekit.core.types import Batch
from facekit.losses import Loss
from facekit.training.distill import Distill


@torch.no_grad()
def hand_over(task: Distill, earlier: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give a new stage what the modules of the stage before it learned. The student itself is given before."""
    for name, module in task.modules.items():
        if name == "model":
            continue
        if name.startswith("loss_"):
            for key, parameter in module.named_parameters():
                parameter.copy_(earlier[name][key])
        else:
            module.load_state_dict(earlier[name])


def take_teacher(task: Distill, fresh: Distill) -> None:
    """Let a task in training go on with the teacher, and all that was made from it, of ``fresh``."""
    task.teacher = fresh.teacher
    made = {name: term for name, term in fresh.losses.items() if not learns(term.loss)}
    task.losses = {**task.losses, **made}
    task.modules |= {f"loss_{name}": term.loss for name, term in made.items()}
    task.refreshed = [t.loss for t in task.losses.values() if type(t.loss).after_step is not Loss.after_step]


def learns(module: nn.Module) -> bool:
    """Whether a module has parameters."""
    return next(module.parameters(), None) is not None


class Segments:
    """Batches of a training whose teacher changes: ``swap`` is told the segment that an epoch belongs to.

    Which teacher is in use is a function of the epoch alone, so a resume in the middle finds the right one.
    ``bounds`` are the first epochs of the segments and the number of epochs; ``current`` is in use from the start.
    """

    def __init__(
        self, batches: TrainingBatches, bounds: Sequence[int], current: int, swap: Callable[[int], None]
    ) -> None:
        self.batches, self.bounds, self.current, self.swap = batches, bounds, current, swap
        self.steps_per_epoch = batches.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; the loop asks for them when the epoch before it is over."""
        segment = segment_of(epoch, self.bounds)
        if segment != self.current:
            self.current = segment
            self.swap(segment)
        return self.batches.epoch(epoch, start)


def segment_of(epoch: int, bounds: Sequence[int]) -> int:
    """Which segment an epoch, counted from 0, belongs to.

    >>> [segment_of(epoch, (0, 2, 5)) for epoch in range(5)]
    [0, 0, 1, 1, 1]
    """
    return bisect_right(bounds, epoch) - 1
