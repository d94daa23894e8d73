"""Every constant of the controller, for searches of three lengths.

``paper`` has those of the authors' code of arXiv 1905.11058 (1,000 episodes), ``short`` those of our measured runs of
45 episodes. ``middle`` is ours and unmeasured: ``paper``, whose actor and target networks move ten times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from facekit.weighting.errors import OutOfRange
from facekit.weighting.noise import Gaussian, Wandering

ProfileName = Literal["short", "middle", "paper"]


@dataclass(frozen=True)
class Profile:
    """How a controller is built, explores and learns."""

    name: ProfileName

    # Networks.
    stage_width: int | None
    """Width of the learned vector that a stage becomes; None: one-hot."""
    actor_hidden: tuple[int, ...]
    critic_hidden: tuple[int, ...]
    actor_std: float
    """Deviation of the initial weights; biases start at 0."""
    critic_std: float
    exploration: Gaussian | Wandering

    # One update.
    actor_rate: float
    critic_rate: float
    discount: float
    """gamma: what the next stage's value counts."""
    follow: float
    """Share by which the target networks move to the trained ones with every update."""
    norm_cost: float
    """What an action of length 1 costs the actor."""

    # When it learns.
    learn_after: Literal["transition", "episode"]

    bound: float = 3.0
    """Numbers of an action lie in (-bound, bound)."""
    weight_decay: float = 1e-5
    clip_norm: float = 5.0
    capacity: int = 500
    """Transitions that are kept; the oldest goes first."""
    batch: int = 32
    passes: int = 8
    """Over all that is kept, each time it learns; last batches that are not full are left out."""


_PAPER = Profile(
    name="paper",
    stage_width=16,
    actor_hidden=(256, 512, 256),
    critic_hidden=(256, 512, 256),
    actor_std=0.05,
    critic_std=0.01,
    exploration=Wandering(),
    actor_rate=1e-5,
    critic_rate=1e-3,
    discount=0.99,
    follow=0.001,
    norm_cost=0.001,
    learn_after="transition",
)

PROFILES: dict[ProfileName, Profile] = {
    "short": Profile(
        name="short",
        stage_width=None,
        actor_hidden=(64, 64),
        critic_hidden=(64, 64),
        actor_std=0.05,
        critic_std=0.1,
        exploration=Gaussian(),
        actor_rate=1e-3,
        critic_rate=3e-3,
        discount=0.9,
        follow=0.02,
        norm_cost=0.0,
        learn_after="episode",
    ),
    "middle": replace(_PAPER, name="middle", actor_rate=1e-4, follow=0.01),
    "paper": _PAPER,
}


def profile_for(episodes: int) -> Profile:
    """The profile for a search of that length: ``short`` below 100 episodes, ``middle`` up to 300, then ``paper``.

    Raises OutOfRange for less than one episode.
    """
    if episodes < 1:
        raise OutOfRange(f"a search of {episodes} episodes: give 1 or more")
    if episodes < 100:
        return PROFILES["short"]
    return PROFILES["middle" if episodes <= 300 else "paper"]
