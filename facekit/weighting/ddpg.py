"""DDPG (arXiv 1509.02971): an actor learns from a critic, which learns from rewards.

The update is of 1509.02971; norm clipping and the cost of long actions are of the authors' code of arXiv 1905.11058.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from facekit.weighting.networks import Actor, Critic
from facekit.weighting.profiles import Profile
from facekit.weighting.replaybuffer import Transitions


class Ddpg:
    """Actor and critic, and of each a copy that follows slowly: the targets that values are bootstrapped from."""

    def __init__(self, profile: Profile, stages: int, actions: int, generator: Generator) -> None:
        self.profile, self.updates = profile, 0
        self.actor = Actor(profile, stages, actions, generator)
        self.critic = Critic(profile, stages, actions, generator)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimiser = adam(self.actor, profile.actor_rate, profile.weight_decay)
        self.critic_optimiser = adam(self.critic, profile.critic_rate, profile.weight_decay)

    def update(self, batch: Transitions) -> Tensor:
        """One step of the critic, one of the actor, and the targets follow. The critic's loss, a scalar."""
        critic_loss = F.mse_loss(self.critic(batch.state, batch.action), self.bootstrapped(batch))
        self.step(self.critic, self.critic_optimiser, critic_loss)

        action = self.actor(batch.state)
        actor_loss = -self.critic(batch.state, action).mean() + self.profile.norm_cost * action.norm(dim=1).mean()
        self.step(self.actor, self.actor_optimiser, actor_loss)

        follow(self.actor_target, self.actor, self.profile.follow)
        follow(self.critic_target, self.critic, self.profile.follow)
        self.updates += 1
        return critic_loss.detach()

    def bootstrapped(self, batch: Transitions) -> Tensor:
        """What each transition was worth: y = r + gamma (1 - done) Q'(s', pi'(s')), [n]."""
        with torch.no_grad():
            later = self.critic_target(batch.following, self.actor_target(batch.following))
            return batch.reward + self.profile.discount * (1 - batch.done) * later

    def step(self, network: nn.Module, optimiser: Optimizer, loss: Tensor) -> None:
        """Move one network down its own gradient, whose norm is clipped."""
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, self.profile.clip_norm)
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and the number of updates."""
        return {"updates": self.updates, **{name: part.state_dict() for name, part in self._parts().items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned. The state stays the caller's: optimisers keep what they are given."""
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))
        self.updates = int(state["updates"])

    def _parts(self) -> dict[str, nn.Module | Optimizer]:
        return {
            "actor": self.actor,
            "critic": self.critic,
            "actor_target": self.actor_target,
            "critic_target": self.critic_target,
            "actor_optimiser": self.actor_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }


def adam(network: nn.Module, rate: float, weight_decay: float) -> Adam:
    """Adam over a network; the decay is added to the gradient, as in the authors' code."""
    return Adam(network.parameters(), lr=rate, weight_decay=weight_decay, fused=True)


@torch.no_grad()
def follow(target: nn.Module, trained: nn.Module, share: float) -> None:
    """target <- target + share (trained - target)."""
    torch._foreach_lerp_(list(target.parameters()), list(trained.parameters()), share)
