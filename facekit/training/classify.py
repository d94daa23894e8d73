"""Train a network to tell identities apart: a teacher, or the student alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import seen
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch
from facekit.models.heads import MarginHead


class Classify:
    """Margin softmax over the identities of the data. One phase, one term: ``cls``."""

    def __init__(
        self,
        model: nn.Module,
        head: MarginHead,
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
    ) -> None:
        self.head = device.module(head)
        self.modules: dict[str, nn.Module] = {"model": device.module(model), "head": self.head}
        self.optimisers = {"main": optimiser([model, head])}
        self.preprocess, self.device = preprocess, device

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of network and head together."""

        def terms() -> Terms:
            images = self.preprocess(seen(batch))
            with self.device.autocast():
                embedding: Tensor = self.modules["model"](images).embedding
            return {"cls": self.head.loss(embedding, batch.labels).mean()}

        yield "main", terms

    def measured(self) -> Mapping[str, Tensor]:
        """With one term its gradient is the whole one, which the loop logs already."""
        return {}

    def after_step(self, batch: Batch) -> None:
        """Nothing is remembered between steps."""

    def state_dict(self) -> dict[str, Any]:
        """Modules and optimisers are all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
