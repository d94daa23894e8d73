"""An actor as a search would leave it, small and untrained."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from facekit.weighting.action import action_size
from facekit.weighting.networks import Actor
from facekit.weighting.policy import Moment, Policy
from facekit.weighting.profiles import PROFILES, ProfileName


def actor_state(stages: int, size: int, profile: ProfileName = "short") -> dict[str, Tensor]:
    """Random numbers large enough that actions differ from state to state."""
    actor = Actor(PROFILES[profile], stages, size)
    generator = Generator().manual_seed(1)
    state = actor.state_dict()
    return {name: torch.randn(t.shape, generator=generator) / t.shape[-1] ** 0.5 for name, t in state.items()}


def policy(stages: int = 4, warm_up: int = 1, hidden: int = 0, profile: ProfileName = "short") -> Policy:
    """Of two features, with a trace of one stage."""
    size = action_size(2, hidden)
    return Policy(
        actor=actor_state(stages, size, profile),
        features=("loss_norm", "entropy_norm"),
        hidden=hidden,
        stages=stages,
        warm_up=warm_up,
        profile=profile,
        bound=PROFILES[profile].bound,
        reward=0.1 + 0.2,
        trace=(Moment((1.0, 0.3333333432674408, 0.7, 1.0), tuple(0.1 * i for i in range(size))),),
        source={"data": "a" * 64, "noise": "b" * 64},
    )
