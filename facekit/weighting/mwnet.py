"""Meta-Weight-Net (arXiv 1902.07379): a small network V that turns a loss into a weight, trained on clean images.

Every step, with w_i = V(l_i; Theta) / sum V, l_i constant:

1. a virtual step theta' = theta - eta grad sum w_i l_i
2. Theta moves against d L_clean(theta') / d Theta = d/dTheta [-eta sum h_i w_i], h_i = <grad L_clean(theta'), grad l_i>
3. the network is trained with the new weights
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init
from torch.optim import Adam

from facekit.weighting.base import LEAST_SUM, Facts, View
from facekit.weighting.errors import OutOfRange
from facekit.weighting.meta import MetaWeighter, replay_of
from facekit.weighting.slopes import Parameters, gradient

WEIGHT_DECAY = 1e-4


class MWNet(MetaWeighter):
    """V has one hidden layer and ends in a sigmoid; the weights are what it says, in (0, 1).

    ``hidden`` is the width of V, ``lr`` the rate of its Adam.
    """

    def __init__(self, hidden: int = 100, lr: float = 1e-3) -> None:
        if hidden < 1:
            raise OutOfRange(f"hidden is {hidden}, but must be 1 or more")
        if not 0 < lr <= 1:
            raise OutOfRange(f"lr is {lr}, but must be above 0 and at most 1")
        self.hidden, self.lr = hidden, lr

    def begin(self, facts: Facts) -> None:
        """V starts from the run's seed."""
        self.network = fresh_network(self.hidden, facts.seed).to(facts.device)
        self.optimiser = Adam(self.network.parameters(), self.lr, weight_decay=WEIGHT_DECAY)

    def weights(self, view: View) -> Tensor:
        """[B], of V after it learned from this batch. Raises NeedsClean."""
        losses = view.gather(view.loss)
        ahead = self.virtual_step(view, losses)
        self.learn(view, losses, gradient(replay_of(view).clean_loss, ahead, view.gather))
        with torch.no_grad():
            return self.said(losses)[view.own]

    def said(self, losses: Tensor) -> Tensor:
        """V's weights, [B]."""
        said: Tensor = self.network(losses[:, None])
        return said[:, 0]

    def virtual_step(self, view: View, losses: Tensor) -> dict[str, Tensor]:
        """The parameters after a plain step with V's weights."""
        replay = replay_of(view)
        with torch.no_grad():
            own = len(losses) * shares(self.said(losses))[view.own]

        def weighted(parameters: Parameters) -> Tensor:
            return (own * replay.losses(parameters)).mean()  # its mean over the processes is the sum of w_i l_i

        moves = gradient(weighted, replay.parameters, view.gather)
        return {name: tensor - replay.rate * moves[name] for name, tensor in replay.parameters.items()}

    def learn(self, view: View, losses: Tensor, uphill: Parameters) -> None:
        """One step of V; ``uphill`` is the gradient of the clean loss after the virtual step."""
        helps = replay_of(view).rate * self.slopes(view, uphill)
        parameters = list(self.network.parameters())
        with torch.enable_grad():
            worth = -(helps * shares(self.said(losses))).sum()
            found = torch.autograd.grad(worth, parameters)
        for parameter, part in zip(parameters, found, strict=True):
            parameter.grad = part
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """V and its optimiser."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def shares(weights: Tensor) -> Tensor:
    """Of the sum, [B], as ``weighted_mean`` has them."""
    return weights / weights.sum().clamp(min=LEAST_SUM)


def fresh_network(hidden: int, seed: int) -> nn.Sequential:
    """losses [B,1] -> weights [B,1]. Torch's uniform start, from a generator of its own: no other draw is moved."""
    first, last = skip_init(nn.Linear, 1, hidden), skip_init(nn.Linear, hidden, 1)
    generator = Generator().manual_seed(seed)
    for layer in (first, last):
        bound = layer.in_features**-0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid())
