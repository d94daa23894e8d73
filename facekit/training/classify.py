"""Train a network to tell identities or classes apart: a teacher, or the student alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.training.classes import Classes


class Classify:
    """Classification of the training data. One phase, one term: ``cls``."""

    def __init__(
        self,
        model: nn.Module,
        classes: Classes,
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        augment: Augment = Augment(),
    ) -> None:
        beside = {name: device.module(module) for name, module in classes.modules.items()}
        self.modules: dict[str, nn.Module] = {"model": device.module(model), **beside}
        self.optimisers = {"main": optimiser(list(self.modules.values()))}
        self.classes, self.preprocess, self.device, self.augment = classes, preprocess, device, augment

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of network and head together."""

        def terms() -> Terms:
            images = self.view(batch)
            with self.device.autocast():
                outputs: Outputs = self.modules["model"](images)
            return self.terms(outputs, batch)

        yield "main", terms

    def view(self, batch: Batch) -> Tensor:
        """What the network is shown."""
        return self.preprocess(self.augment(batch))

    def terms(self, outputs: Outputs, batch: Batch) -> Terms:
        """The term of what the network says of it."""
        return {"cls": self.classes.loss(outputs, batch.labels).mean()}

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
