"""What the controller remembers: the last transitions of its search, one for each stage that it acted in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from facekit.weighting.errors import OtherSearch
from facekit.weighting.networks import STATE


class Transitions(NamedTuple):
    """n times: in this state this was done, it earned that, and led there. All float32."""

    state: Tensor
    """[n,4]"""
    action: Tensor
    """[n,A]"""
    reward: Tensor
    """[n]"""
    following: Tensor
    """[n,4], the next stage's state."""
    done: Tensor
    """[n], 1 where there is no next stage."""


class ReplayBuffer:
    """A ring of transitions: once full, each new one takes the place of the oldest."""

    def __init__(self, capacity: int, actions: int) -> None:
        self.capacity, self.added = capacity, 0
        self.kept = Transitions(
            state=torch.zeros(capacity, STATE),
            action=torch.zeros(capacity, actions),
            reward=torch.zeros(capacity),
            following=torch.zeros(capacity, STATE),
            done=torch.zeros(capacity),
        )

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, state: Tensor, action: Tensor, reward: float, following: Tensor, done: bool) -> None:
        """Keep one transition: states [4], action [A]."""
        new = Transitions(state, action, torch.tensor(reward), following, torch.tensor(float(done)))
        for kept, value in zip(self.kept, new, strict=True):
            kept[self.added % self.capacity] = value
        self.added += 1

    def shuffled(self, size: int, generator: Generator) -> Iterator[Transitions]:
        """Once over all that is kept, in batches of ``size``; a last batch that is not full is left out."""
        batches = len(self) // size
        order = torch.randperm(len(self), generator=generator)
        for rows in order[: batches * size].view(batches, size):
            yield Transitions(*(kept[rows] for kept in self.kept))

    def state_dict(self) -> dict[str, Any]:
        """All places, full or not, and how many transitions were added."""
        return {**self.kept._asdict(), "added": self.added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; OtherSearch where its sizes are others."""
        for name, kept in self.kept._asdict().items():
            if state[name].shape != kept.shape or state[name].dtype != kept.dtype:
                raise OtherSearch(
                    f"the replay's {name} is {state[name].dtype} {list(state[name].shape)} and this search needs "
                    f"{kept.dtype} {list(kept.shape)}: it was saved with another profile or other features; search anew"
                )
        for name, kept in self.kept._asdict().items():
            kept.copy_(state[name])
        self.added = int(state["added"])
