"""What a weighter sees and gives: one weight for every sample of a batch.

With losses l [B] and weights w [B] the loss of the batch is

- ``weighted_mean``: sum w l / max(sum w, 1e-6)
- ``batch_mean``: sum w l / B

over the global batch, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

LEAST_SUM = 1e-6
"""Smallest sum of weights that a weighted mean is divided by."""

Reduction = Literal["weighted_mean", "batch_mean"]
Need = Literal["clean", "sample_id", "peer", "reference", "truth"]


class Facts(NamedTuple):
    """What a weighter is told of a run before its first step."""

    images: int
    """Training images: ``View.index`` is below it."""
    class_count: Tensor
    """int64 [C], training images of each class as labelled."""
    epochs: int
    steps_per_epoch: int
    """Batches of an epoch."""
    seed: int
    device: torch.device
    truth: Tensor | None = None
    """bool [images], where the label is the true one; None where nobody recorded it."""


class Replay(Protocol):
    """The losses of this step as functions of the parameters. Asking changes nothing: buffers stay as they are."""

    parameters: Mapping[str, Tensor]
    """All that is trained: network and head. Leaves without gradient."""
    rate: float
    """Learning rate of the step."""

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Of every sample of the batch, [B], in training mode, float32, same augmentation at every call."""

    def clean_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Mean over a batch of clean images, the same at every call of a step; a scalar."""


def alone(values: Tensor) -> Tensor:
    """What one process gathers: its own values."""
    return values


class View(NamedTuple):
    """A batch as a weighter sees it. No tensor has a gradient."""

    loss: Tensor
    """float32 [B], of each sample (with the head's margin, where there is one)."""
    logits: Tensor
    """float32 [B,C], scores without margin."""
    labels: Tensor
    """int64 [B]"""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a view
    """int64 [B], which training image."""
    step: int
    """Batches before this one in the run, from 0."""
    rate: float
    """Learning rate as a share of its peak."""
    gather: Callable[[Tensor], Tensor] = alone
    """[B,...] of this process -> of all, one after the other in rank order."""
    own: slice = slice(None)
    """This process's rows of what is gathered."""
    replay: Replay | None = None
    """For weighters that need clean images."""


class Weighter:
    """A rule that gives every sample a weight: float32, finite, >= 0, without gradient.

    Settings are the keyword arguments of ``__init__``, which refuses values out of range (OutOfRange).
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it is given beyond the batch; printed beside every result, since it is not free."""
    reduction: ClassVar[Reduction] = "weighted_mean"

    def begin(self, facts: Facts) -> None:
        """Called once, before the first step and before ``load_state_dict``."""

    def weights(self, view: View) -> Tensor:
        """[B]. Called once for every batch, before its update."""
        raise NotImplementedError

    def after_step(self, view: View) -> None:
        """Called after the update, with the same view."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: all that a bit-exact resume needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
