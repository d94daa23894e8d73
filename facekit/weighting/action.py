"""From features and an action to weights: w = 1 + tanh(score), in (0, 2) (authors' code of arXiv 1905.11058).

The action of zeros gives every sample the weight 1, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facekit.weighting.base import Facts, View, Weighter
from facekit.weighting.errors import OutOfRange, WrongAction
from facekit.weighting.features import DEFAULT_FEATURES, Features

MOST_HIDDEN = 1000
_FLAT = 8.0
"""Here tanh is within 2.3e-7 of 1. Further out float32 rounds it to 1, and weights would reach 0."""


def action_size(features: int, hidden: int = 0) -> int:
    """Numbers of an action: F + 1 (linear), or F n + n + 2 with a hidden layer of n.

    Raises OutOfRange for a hidden layer that cannot be.

    >>> action_size(2), action_size(2, hidden=4)
    (3, 14)
    """
    if not 0 <= hidden <= MOST_HIDDEN:
        raise OutOfRange(f"hidden is {hidden}, but must be between 0 and {MOST_HIDDEN}")
    return features * hidden + hidden + 2 if hidden else features + 1


def check_action(length: int, features: int, hidden: int) -> None:
    """Raise WrongAction for another length than the layout's."""
    wanted = action_size(features, hidden)
    if length != wanted:
        layout = f"a hidden layer of {hidden}" if hidden else "no hidden layer"
        raise WrongAction(f"an action of {length} numbers: {features} features and {layout} take {wanted}")


def weigh(features: Tensor, action: Tensor, hidden: int = 0) -> Tensor:
    """Weights in (0, 2): features [B,F], action [A] -> float32 [B].

    Linear, the action is [w (F), b]: score = w . f + b. With a hidden layer of n it is [U (F x n), u (n), b, c]:
    score = u . tanh(U' f + b) + c. Raises WrongAction for an action of another length.

    >>> weigh(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.0, 0.0]))
    tensor([0.5379, 1.4621])
    """
    count = features.shape[1]
    check_action(len(action), count, hidden)
    with torch.autocast(features.device.type, enabled=False):
        if hidden:
            inner, outer, biases = action.split([count * hidden, hidden, 2])
            features, action = (features @ inner.view(count, hidden) + biases[0]).tanh(), torch.cat([outer, biases[1:]])
        score = features @ action[:-1] + action[-1]
    return 1 + score.clamp(-_FLAT, _FLAT).tanh()


class ActionWeights(Weighter):
    """Weights by the action that stands in ``action``, which whoever uses this may replace between batches."""

    action: Tensor
    """float32 [A] on the run's device; zeros at the beginning."""

    def __init__(self, features: tuple[str, ...] = DEFAULT_FEATURES, hidden: int = 0) -> None:
        self.features, self.hidden = Features(features), hidden
        self.size = action_size(len(features), hidden)

    def begin(self, facts: Facts) -> None:
        """Start with weights 1; a second call starts anew."""
        self.features.begin(facts)
        self.action = torch.zeros(self.size, device=facts.device)

    @torch.no_grad()
    def weights(self, view: View) -> Tensor:
        """[B]."""
        return weigh(self.features.of(view), self.action, self.hidden)

    def state_dict(self) -> dict[str, Any]:
        """The action, and what the features remember."""
        return {"action": self.action, "features": self.features.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.action = state["action"].to(self.action.device)
        self.features.load_state_dict(state["features"])
