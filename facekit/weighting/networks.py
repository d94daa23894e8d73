"""The controller's two networks: the actor says what to do at a stage, the critic what that is worth.

A state is [stage, loss EMA / ln C, mean weight EMA, share of the first learning rate], float32 [4].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from facekit.weighting.profiles import Profile

STATE = 4
"""Numbers of a state."""
SPARE_STAGES = 10
"""Rows of a stage table beyond the stages, as in the authors' code."""


class Actor(nn.Module):
    """States [n,4] -> actions [n,A], each number in (-bound, bound).

    The bound, bound x tanh, is ours: the authors' output is linear.
    """

    def __init__(self, profile: Profile, stages: int, actions: int, generator: Generator | None = None) -> None:
        """Initial weights are drawn from ``generator``; the global one is left alone."""
        super().__init__()
        generator = generator or Generator().manual_seed(0)
        self.bound = profile.bound
        self.input = StateInput(profile.stage_width, stages, generator)
        self.layers = layers((self.input.width, *profile.actor_hidden, actions), profile.actor_std, generator)

    def forward(self, state: Tensor) -> Tensor:
        """[n,4] -> [n,A]."""
        action: Tensor = self.bound * torch.tanh(self.layers(self.input(state)))
        return action


class Critic(nn.Module):
    """States [n,4] and actions [n,A] -> what is expected to come from them, [n]."""

    def __init__(self, profile: Profile, stages: int, actions: int, generator: Generator | None = None) -> None:
        """Initial weights are drawn from ``generator``; the global one is left alone."""
        super().__init__()
        generator = generator or Generator().manual_seed(0)
        self.input = StateInput(profile.stage_width, stages, generator)
        widths = (self.input.width + actions, *profile.critic_hidden, 1)
        self.layers = layers(widths, profile.critic_std, generator)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """[n,4], [n,A] -> [n]."""
        value: Tensor = self.layers(torch.cat([self.input(state), action], dim=1))
        return value[:, 0]


class StateInput(nn.Module):
    """States [n,4] -> [n,width]: the stage's number becomes a learned vector or one-hot, the rest stays."""

    def __init__(self, stage_width: int | None, stages: int, generator: Generator) -> None:
        super().__init__()
        self.stages = stages
        self.table: nn.Parameter | None = None
        if stage_width is not None:
            self.table = nn.Parameter(torch.randn(stages + SPARE_STAGES, stage_width, generator=generator))
        self.width = (stage_width or stages) + STATE - 1

    def forward(self, state: Tensor) -> Tensor:
        """[n,4] -> [n,width]."""
        stage = state[:, 0].long()
        return torch.cat([self.code(stage), state[:, 1:]], dim=1)

    def code(self, stage: Tensor) -> Tensor:
        """[n] -> [n,stage width]. The state after the last stage has no place of its own in one-hot: all zeros."""
        if self.table is not None:
            return F.embedding(stage, self.table)
        return (stage[:, None] == torch.arange(self.stages, device=stage.device)).float()


def layers(widths: Sequence[int], std: float, generator: Generator) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them: weights N(0, std^2), biases 0."""
    with torch.random.fork_rng(devices=[]):  # a new layer draws weights of its own from the global generator
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
    for linear in linears:
        nn.init.normal_(linear.weight, std=std, generator=generator)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*[layer for linear in linears for layer in (linear, nn.ReLU())][:-1])
