"""Several trainings in one: networks of one architecture that share every pass, and nothing else.

A small network leaves an accelerator idle. N of them, with other seeds or other losses, run as one stacked network on
N batches laid side by side; each has its own gradients, statistics, momentum and order of data. On a CPU it does not
pay: there the arithmetic is the cost, not the launches (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.device import Device
from facekit.core.loop import Phase, Task, Terms
from facekit.core.types import Batch, Outputs
from facekit.data.batches import apart
from facekit.models.stacked import Stacked


class Member(Task, Protocol):
    """A task whose step is: show images to one network, and judge what it says."""

    def view(self, batch: Batch) -> Tensor:
        """What the network is shown."""

    def terms(self, outputs: Outputs, batch: Batch) -> Terms:
        """The weighted terms of its outputs."""


class Together:
    """One phase for all: the sum of the members' terms, named ``<term>.<k>``. The members' own optimisers are not used.

    Weights move as in N separate runs up to rounding: a sum of losses that share no weight has their gradients. The
    loop's clipping does not know of members: it must be off.
    """

    def __init__(
        self, members: Sequence[Member], device: Device, optimiser: Callable[[list[nn.Module]], Optimizer]
    ) -> None:
        self.members, self.device = members, device
        self.stacked = Stacked([member.modules["model"] for member in members]).to(device.torch_device)
        if device.compile:
            self.stacked.compile()
        beside = {
            f"{name}_{k}": module
            for k, member in enumerate(members)
            for name, module in member.modules.items()
            if name != "model"
        }
        self.modules: dict[str, nn.Module] = {"model": self.stacked, **beside}
        self.optimisers = {"main": optimiser(list(self.modules.values()))}

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of all networks."""

        def terms() -> Terms:
            parts = apart(batch, len(self.members))
            images = torch.cat([member.view(part) for member, part in zip(self.members, parts, strict=True)])
            with self.device.autocast():
                outputs = self.stacked(images)
            return {
                f"{name}.{k}": term
                for k, (member, part) in enumerate(zip(self.members, parts, strict=True))
                for name, term in member.terms(self.own(outputs, k), part).items()
            }

        yield "main", terms

    def own(self, outputs: Outputs, k: int) -> Outputs:
        """The rows of the k-th member."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor.chunk(len(self.members))[k]

        logits = None if outputs.logits is None else rows(outputs.logits)
        return Outputs(rows(outputs.embedding), tuple(map(rows, outputs.features)), logits)

    def measured(self) -> Mapping[str, Tensor]:
        """Each member's gradient norms."""
        return {f"{name}.{k}": norm for k, m in enumerate(self.members) for name, norm in m.measured().items()}

    def after_step(self, batch: Batch) -> None:
        """Each member refreshes what it remembers."""
        for member, part in zip(self.members, apart(batch, len(self.members)), strict=True):
            member.after_step(part)

    def state_dict(self) -> dict[str, Any]:
        """Modules and optimiser are all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
