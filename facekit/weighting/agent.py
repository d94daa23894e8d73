"""The controller: it watches stages of training, says how to weigh their samples, and learns from what that earned.

Full data update (FDU, arXiv 1905.11058): each time it learns, it goes over everything it remembers, several times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Generator, Tensor

from facekit.weighting.ddpg import Ddpg
from facekit.weighting.errors import NotANumber, OtherSearch
from facekit.weighting.networks import Actor
from facekit.weighting.profiles import Profile
from facekit.weighting.replaybuffer import ReplayBuffer


class Controller:
    """One call of ``act`` for each stage it decides, and one of ``remember`` when the stage's reward is known.

    States are float32 [4] on the CPU (see ``networks``), actions float32 [A]. An episode that is only validated uses
    ``act(state, explore=False)`` alone: nothing of the controller changes.
    """

    def __init__(self, profile: Profile, stages: int, actions: int, episodes: int, seed: int) -> None:
        self.profile = profile
        self.made_for = {"profile": profile.name, "stages": stages, "actions": actions}
        self.generator = Generator().manual_seed(seed)
        self.learner = Ddpg(profile, stages, actions, self.generator)
        self.replay = ReplayBuffer(profile.capacity, actions)
        self.noise = profile.exploration.start(actions, episodes)

    @property
    def actor(self) -> Actor:
        """The policy: the actor's target, by which the authors' code judges. Updates change its tensors in place."""
        return self.learner.actor_target

    def begin_episode(self, episode: int) -> None:
        """Before an episode of the search; ``episode`` counts from 0."""
        self.noise.begin_episode(episode)

    @torch.no_grad()
    def act(self, state: Tensor, explore: bool) -> Tensor:
        """What to do in this state: the policy's action, or the trained actor's with noise, inside the same bound."""
        if not explore:
            action: Tensor = self.actor(state[None])[0]
            return action
        noisy = self.noise(self.learner.actor(state[None])[0], self.generator)
        return noisy.clamp(-self.profile.bound, self.profile.bound)

    def remember(self, state: Tensor, action: Tensor, reward: float, following: Tensor, done: bool) -> None:
        """Keep a transition, and learn where the profile learns after each. ``done``: the last stage of its episode.

        Raises NotANumber where something is not finite; nothing is kept then.
        """
        seen = {"state": state, "action": action, "reward": torch.tensor(reward), "following state": following}
        for what, value in seen.items():
            if not value.isfinite().all():
                raise NotANumber(f"the {what} of a stage is {value.tolist()}: the search stops, its last save is whole")
        self.replay.add(state, action, reward, following, done)
        if self.profile.learn_after == "transition":
            self.learn()

    def end_episode(self) -> None:
        """After an episode of the search; learn where the profile learns then."""
        if self.profile.learn_after == "episode":
            self.learn()

    def learn(self) -> None:
        """Full data update: 8 floor(n / 32) updates on n transitions, none while there are fewer than 32."""
        losses = [
            self.learner.update(batch)
            for _ in range(self.profile.passes)
            for batch in self.replay.shuffled(self.profile.batch, self.generator)
        ]
        if losses and not torch.stack(losses).isfinite().all():
            raise NotANumber("the critic's loss is not finite: the search stops, its last save is whole")

    def describe(self) -> dict[str, Any]:
        """For run.json: the constants it learns with, and how much it has learned."""
        return {
            "profile": self.profile.name,
            "constants": asdict(self.profile),
            "transitions": self.replay.added,
            "updates": self.learner.updates,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact resume needs, at any step of the search; the tensors are the live ones."""
        return {
            "made_for": self.made_for,
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "noise": self.noise.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; OtherSearch where it is of another profile, stages or actions."""
        if state["made_for"] != self.made_for:
            raise OtherSearch(
                f"the saved controller was made for {state['made_for']} and this search needs {self.made_for}; "
                "resume with the settings it was started with, or search anew in another folder"
            )
        self.replay.load_state_dict(state["replay"])
        self.learner.load_state_dict(state["learner"])
        self.noise.load_state_dict(state["noise"])
        self.generator.set_state(state["generator"])
