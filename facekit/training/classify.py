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
from facekit.training.replay import Learner
from facekit.training.weighing import Weighing, reduced


class Classify:
    """Classification of the training data. One phase, one term: ``cls``; without ``weighing`` its plain mean."""

    def __init__(
        self,
        model: nn.Module,
        classes: Classes,
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        augment: Augment = Augment(),
        weighing: Weighing | None = None,
    ) -> None:
        beside = {name: device.module(module) for name, module in classes.modules.items()}
        self.modules: dict[str, nn.Module] = {"model": device.module(model), **beside}
        self.optimisers = {"main": optimiser(list(self.modules.values()))}
        self.classes, self.preprocess, self.device, self.augment = classes, preprocess, device, augment
        self.weighing = weighing

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
        losses = self.classes.loss(outputs, batch.labels)
        if not self.weighing:
            return {"cls": losses.mean()}
        learner = Learner(self.modules["model"], self.classes, self.view, self.optimisers["main"])
        return {"cls": reduced(losses, self.weighing.shares(losses, outputs, batch, learner))}

    def measured(self) -> Mapping[str, Tensor]:
        """With one term its gradient is the whole one, which the loop logs already."""
        return {}

    def after_step(self, batch: Batch) -> None:
        """Let the weighter remember."""
        if self.weighing:
            self.weighing.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The weighter's, beyond modules and optimisers."""
        return {"weighing": self.weighing.state_dict()} if self.weighing else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if self.weighing:
            self.weighing.load_state_dict(state["weighing"])
