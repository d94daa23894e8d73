"""The shared nouns: what a batch and a network's outputs are."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One batch of training images, on the device, not yet converted or flipped."""

    images: Tensor
    """uint8 [B,3,H,W], RGB; converted, flipped and augmented on the device."""
    labels: Tensor
    """int64 [B], -1 where unlabelled."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    """int64 [B], position in the data set: teacher caches, banks and weights remember samples by it."""
    view: Tensor
    """int64 [B], 0 plain, 1 mirrored: which cached teacher output belongs to the sample."""
    position: Tensor
    """int64 [B], place in the global batch: makes "last one wins" the same on any number of processes."""
    mask: Tensor | None = None
    """int64 [B], which face mask the sample wears (a key of ``wear_mask``), 0 for none; None where nobody wears one."""
    crop: Tensor | None = None
    """int64 [B], which crop of the sample is seen (a key of ``Augment``); None where none is taken."""


class Outputs(NamedTuple):
    """What a network returns."""

    embedding: Tensor
    """[B,D], not normalised."""
    features: tuple[Tensor, ...] = ()
    """One map per stage, shallow to deep."""
    logits: Tensor | None = None
