"""Two equal networks on the same batches: one learns from weighted losses, its reference from plain ones.

They start from one state, see one augmentation of each batch, drop the same units and take the same steps. With equal
weights they stay equal bit for bit (on a GPU in deterministic mode), so all that tells them apart later is the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.training.classes import Classes
from facekit.training.replay import Learner

Fresh = Callable[[int], tuple[nn.Module, Classes]]
"""Episode -> a new network and where its class scores come from; the same ones whenever it is asked again."""


class TwinLosses(NamedTuple):
    """What the two networks make of a batch."""

    target: Tensor
    """[B], with gradient."""
    reference: Tensor
    """[B], with gradient."""
    logits: Tensor
    """[B,C] of the target, float32, without margin and without gradient."""


class Twins:
    """The target (``model``, ``head``) and its reference (``reference``, ``reference_head``) under one optimiser."""

    def __init__(
        self,
        fresh: Fresh,
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        augment: Augment = Augment(),
    ) -> None:
        self.fresh, self.preprocess, self.device, self.augment = fresh, preprocess, device, augment
        target, self.classes = fresh(0)
        reference, self.reference_classes = fresh(0)
        heads = {f"reference_{name}": head for name, head in self.reference_classes.modules.items()}
        own = {"model": target, **self.classes.modules}
        other = {"reference": reference, **heads}
        self.modules: dict[str, nn.Module] = {name: device.module(net) for name, net in (own | other).items()}
        self.pairs = list(zip(own.values(), other.values(), strict=True))
        self.optimiser = optimiser(list(self.modules.values()))
        self.learner = Learner(self.modules["model"], self.classes, self.show, self.optimiser)

    def reset(self, episode: int) -> None:
        """Start anew from the networks of ``episode``: all parameters and buffers, equal in both, no momentum."""
        generators = self.device.rng_state()  # whatever seeds the networks, processes keep dropout of their own
        network, classes = self.fresh(episode)
        self.device.set_rng_state(generators)
        for pair, start in zip(self.pairs, (network, *classes.modules.values()), strict=True):
            for module in pair:
                module.load_state_dict(start.state_dict())
        for moments in self.optimiser.state.values():
            for value in moments.values():
                if isinstance(value, Tensor):
                    value.zero_()

    def show(self, batch: Batch) -> Tensor:
        """What both are shown."""
        return self.preprocess(self.augment(batch))

    def losses(self, batch: Batch) -> TwinLosses:
        """Of both on one augmentation of the batch, with the same dropout."""
        images = self.show(batch)
        generators = self.device.rng_state()
        with self.device.autocast():
            outputs: Outputs = self.modules["model"](images)
        self.device.set_rng_state(generators)
        with self.device.autocast():
            reference: Outputs = self.modules["reference"](images)
        with torch.no_grad():
            logits = self.classes.logits(outputs).detach().float()
        target_loss = self.classes.loss(outputs, batch.labels)
        return TwinLosses(target_loss, self.reference_classes.loss(reference, batch.labels), logits)

    @torch.no_grad()
    def drift(self) -> float:
        """The largest difference between a number of the target and its counterpart. Waits for the device."""
        gaps = [
            (own.float() - other.float()).abs().max()
            for pair in self.pairs
            for own, other in zip(*(module.state_dict().values() for module in pair), strict=True)
        ]
        return float(torch.stack(gaps).max())
