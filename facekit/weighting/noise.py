"""How the controller explores: what is added to its actions while it searches.

Constants are of arXiv 1905.11058's code (``Wandering``) and of our measured set-up (``Gaussian``). A profile has one of
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor


class Noise(Protocol):
    """Makes an action [A] another one nearby. The result may leave the actions' bound."""

    def begin_episode(self, episode: int) -> None:
        """``episode`` counts from 0."""

    def __call__(self, action: Tensor, generator: Generator) -> Tensor:
        """[A] -> [A]."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume in the midst of an episode needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


@dataclass(frozen=True)
class Gaussian:
    """Independent noise on every action, of deviation max(``least``, 1 - episode / episodes)."""

    least: float = 0.1

    def start(self, actions: int, episodes: int) -> GaussianNoise:
        """The process, for actions of that length in a search of that many episodes."""
        return GaussianNoise(self, episodes)


class GaussianNoise:
    """See ``Gaussian``: in episode 10 of 40 the deviation is 0.75."""

    def __init__(self, settings: Gaussian, episodes: int) -> None:
        self.settings, self.episodes = settings, episodes
        self.deviation = 1.0

    def begin_episode(self, episode: int) -> None:
        """The deviation falls from episode to episode."""
        self.deviation = max(self.settings.least, 1 - episode / self.episodes)

    def __call__(self, action: Tensor, generator: Generator) -> Tensor:
        """a + deviation n, n ~ N(0, 1)."""
        return action + self.deviation * torch.randn(action.shape, generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """The deviation."""
        return {"deviation": self.deviation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the deviation."""
        self.deviation = float(state["deviation"])


@dataclass(frozen=True)
class Wandering:
    """An Ornstein-Uhlenbeck process, which starts at 0 in every episode, added to some of the actions.

    n <- n - theta n dt + sigma sqrt(dt) N(0, 1), and with probability ``chance`` a <- a + scale max(|a|, 1) n. The
    scale falls by ``fall`` with every action. The least factor of 1 is ours: without it an actor near 0 would not
    explore. That n moves at every action, added or not, is ours too.
    """

    chance: float = 0.3
    theta: float = 0.15
    sigma: float = 0.2
    dt: float = 0.01
    scale: float = 0.5
    fall: float = 2e-4

    def start(self, actions: int, episodes: int) -> WanderingNoise:
        """The process, for actions of that length; the number of episodes does not matter."""
        return WanderingNoise(self, actions)


class WanderingNoise:
    """See ``Wandering``."""

    def __init__(self, settings: Wandering, actions: int) -> None:
        self.settings = settings
        self.position, self.scale = torch.zeros(actions), settings.scale

    def begin_episode(self, episode: int) -> None:
        """Back to 0; the scale falls on."""
        self.position = torch.zeros_like(self.position)

    def __call__(self, action: Tensor, generator: Generator) -> Tensor:
        """Move on, and add the position or not."""
        chosen = self.settings
        push = torch.randn(action.shape, generator=generator)
        self.position = self.position * (1 - chosen.theta * chosen.dt) + chosen.sigma * chosen.dt**0.5 * push
        scale, self.scale = self.scale, max(0.0, self.scale - chosen.fall)
        if torch.rand((), generator=generator) >= chosen.chance:
            return action
        return action + scale * action.norm().clamp(min=1) * self.position

    def state_dict(self) -> dict[str, Any]:
        """Position and scale."""
        return {"position": self.position, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.position, self.scale = state["position"], float(state["scale"])
