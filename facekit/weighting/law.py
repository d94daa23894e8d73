"""A learned policy at work (after the abstract of arXiv 1905.11058; details in ``policy`` and ``action``).

Without the reference network and without noise: a run costs what a plain one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facekit.weighting.base import Facts, View
from facekit.weighting.policy import read_policy
from facekit.weighting.staged import StagedWeights
from facekit.weighting.stages import StageTracker, batch_means


class Law(StagedWeights):
    """Asks the policy's actor for an action at the start of every stage; only then it waits for the device.

    ``policy`` is the policy.json of a search. Raises what ``read_policy`` does.
    """

    def __init__(self, policy: str) -> None:
        self.policy = read_policy(policy)
        super().__init__(self.policy.features, self.policy.hidden, self.policy.stages, self.policy.warm_up)
        self.actor = self.policy.network()

    def begin(self, facts: Facts) -> None:
        """Raises WrongStages where the run has fewer steps than the policy has stages."""
        super().begin(facts)
        self.tracker = StageTracker(self.stages, len(facts.class_count), facts.device)

    def action_for(self, stage: int, rate: float) -> Tensor:
        """CPU [A]."""
        action: Tensor = self.actor(self.tracker.state(stage, rate)[None])[0]
        return action

    @torch.no_grad()
    def weights(self, view: View) -> Tensor:
        """[B]."""
        weights = super().weights(view)
        self.tracker.observe(*batch_means(view, weights))
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Also the averages that the next stage is judged by."""
        return super().state_dict() | {"tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.tracker.load_state_dict(state["tracker"])
