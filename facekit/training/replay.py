"""A step's losses as functions of the parameters, and clean images beside it: for weighters that look ahead.

Derivatives of any mode and order pass through. Buffers are copied at every call, so that BatchNorm's statistics stay
as they are; dropout draws other masks than the step itself did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from facekit.core.types import Batch
from facekit.data.batches import Batches
from facekit.data.classes import matched_columns
from facekit.data.protocol import Source
from facekit.training.classes import Classes
from facekit.weighting.errors import NeedsClean


class Learner(NamedTuple):
    """A network whose samples are weighed, and what belongs to it."""

    network: nn.Module
    classes: Classes
    show: Callable[[Batch], Tensor]
    """What the network sees of a batch, the same at every call."""
    optimiser: Optimizer

    @property
    def rate(self) -> float:
        """Learning rate of this step."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def rate_share(self) -> float:
        """The same as a share of its peak."""
        return self.rate / float(self.optimiser.param_groups[0].get("initial_lr", self.rate))


class Judged(nn.Module):
    """Network and head as one module: ``forward(images [B,3,H,W], labels [B]) -> losses [B]``."""

    def __init__(self, network: nn.Module, classes: Classes) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        for name, module in classes.modules.items():
            self.add_module(name, module)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """In float32. ``network.forward``: a compiled network would be compiled again for every kind of derivative."""
        with torch.autocast(images.device.type, enabled=False):
            return self.classes.whole_loss(self.network.forward(images), labels)


class StepReplay:
    """The ``Replay`` of one step: ``batch`` as it was shown, ``clean`` in the same manner."""

    def __init__(self, learner: Learner, batch: Batch, clean: Batch) -> None:
        self.judged = Judged(learner.network, learner.classes)
        trained = ((name, p) for name, p in self.judged.named_parameters() if p.requires_grad)
        self.parameters: Mapping[str, Tensor] = {name: p.detach() for name, p in trained}
        self.rate = learner.rate
        self.samples = learner.show(batch), batch.labels
        self.clean = learner.show(clean), clean.labels

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Of every sample of the batch, [B]."""
        return self.replayed(parameters, *self.samples)

    def clean_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Mean over the clean batch, a scalar."""
        return self.replayed(parameters, *self.clean).mean()

    def replayed(self, parameters: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """[B]."""
        copies = {name: buffer.clone() for name, buffer in self.judged.named_buffers()}  # here: jvp refuses outer ones
        result: Tensor = functional_call(self.judged, {**parameters, **copies}, (images, labels))
        return result


class CleanBatches:
    """A batch of clean images for every step; which ones, and how they look, are functions of (seed, step).

    Every process gets the same ones. ``identities`` are the classes that are trained: labels are matched by name, and
    ``note`` says where they could not be. Raises NeedsClean for images without a label, InputError for unknown classes.
    """

    def __init__(
        self,
        source: Source,
        batch: int,
        seed: int,
        put: Callable[[Tensor], Tensor],
        identities: Sequence[str],
        path: str,
        *,
        flip: bool,
        mask: float = 0.0,
        crops: bool = False,
        free_bytes: int | None = None,
    ) -> None:
        if unlabelled := int((source.labels < 0).sum()):
            raise NeedsClean(
                f"{path} has no labels for {unlabelled:,} of {len(source):,} images, and clean images need them all; "
                "use a folder per class, or a list with labels"
            )
        columns, self.note = matched_columns(source.identities, identities, path)
        self.columns = put(torch.from_numpy(np.ascontiguousarray(columns)))
        self.batches = Batches(
            source,
            batch=min(batch, len(source)),
            seed=seed,
            flip=flip,
            put=put,
            mask=mask,
            crops=crops,
            free_bytes=free_bytes,
        )
        self.following = -1
        self.stream: Iterator[Batch] = iter(())

    def at(self, step: int) -> Batch:
        """The clean batch of a step, its labels those of the training classes. Steps in their order cost least."""
        if step != self.following:
            self.stream = self.batches_from(step)
        self.following = step + 1
        batch = next(self.stream)
        return batch._replace(labels=self.columns[batch.labels])

    def batches_from(self, step: int) -> Iterator[Batch]:
        """All batches from there on, epoch after epoch of the clean images."""
        epoch, start = divmod(step, self.batches.steps_per_epoch)
        while True:
            yield from self.batches.epoch(epoch, start)
            epoch, start = epoch + 1, 0
