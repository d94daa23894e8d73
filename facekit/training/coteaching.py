"""Co-teaching (Han et al., arXiv 1804.06872): two networks, each trained on what the other finds easy.

Noisy labels are learned late, so samples of small loss are mostly labelled right; a network that chose its own would
confirm its own mistakes. Re-implemented from the abstract and the published schedule; twice the cost of one network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

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

NAMES = ("model", "peer")


class Choice(NamedTuple):
    """A network's losses [B], and what its chooser makes of them: shares [B] for the other network."""

    losses: Tensor
    shares: Tensor


class CoTeaching:
    """One phase, two terms: ``cls`` of the network that ships, and ``peer``.

    ``classes`` and ``choosers`` belong to the model and its peer, in this order: a chooser (small_loss) weighs by its
    own network's losses, and the other network is trained on that. Both networks see the same images. They must start
    from different seeds: equal ones choose equally, for ever. The peer stays in the training state.
    """

    def __init__(
        self,
        model: nn.Module,
        peer: nn.Module,
        classes: tuple[Classes, Classes],
        choosers: tuple[Weighing, Weighing],
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        augment: Augment = Augment(),
    ) -> None:
        networks = (device.module(model), device.module(peer))
        self.modules: dict[str, nn.Module] = dict(zip(NAMES, networks, strict=True))
        for prefix, own in zip(("", "peer_"), classes, strict=True):
            self.modules |= {f"{prefix}{name}": device.module(module) for name, module in own.modules.items()}
        self.optimisers = {"main": optimiser(list(self.modules.values()))}
        self.classes, self.choosers = classes, choosers
        self.preprocess, self.device, self.augment = preprocess, device, augment

    @property
    def weighing(self) -> Weighing:
        """What decides how much a sample counts for the network that ships: its peer's choice."""
        return self.choosers[1]

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of both networks."""

        def terms() -> Terms:
            images = self.view(batch)
            with self.device.autocast():
                outputs: list[Outputs] = [self.modules[name](images) for name in NAMES]
            model, peer = (self.losses_and_choice(k, outputs[k], batch) for k in (0, 1))
            return {"cls": reduced(model.losses, peer.shares), "peer": reduced(peer.losses, model.shares)}

        yield "main", terms

    def losses_and_choice(self, k: int, outputs: Outputs, batch: Batch) -> Choice:
        """Of the k-th network."""
        losses = self.classes[k].loss(outputs, batch.labels)
        learner = Learner(self.modules[NAMES[k]], self.classes[k], self.view, self.optimisers["main"])
        return Choice(losses, self.choosers[k].shares(losses, outputs, batch, learner))

    def view(self, batch: Batch) -> Tensor:
        """What both networks are shown."""
        return self.preprocess(self.augment(batch))

    def measured(self) -> Mapping[str, Tensor]:
        """No embedding is seen by two terms."""
        return {}

    def after_step(self, batch: Batch) -> None:
        """Let the choosers remember."""
        for chooser in self.choosers:
            chooser.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The choosers', by the name of their network."""
        return {name: chooser.state_dict() for name, chooser in zip(NAMES, self.choosers, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, chooser in zip(NAMES, self.choosers, strict=True):
            chooser.load_state_dict(state[name])
