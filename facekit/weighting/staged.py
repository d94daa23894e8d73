"""Weights by an action that stands for a stage: what a learned policy and a random schedule share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facekit.weighting.action import ActionWeights
from facekit.weighting.base import Facts, View
from facekit.weighting.stages import check_stages, check_steps, stage_of


class StagedWeights(ActionWeights):
    """Weights 1 in the warm-up stages; then asks ``action_for`` at the start of every stage."""

    def __init__(self, features: tuple[str, ...], hidden: int, stages: int, warm_up: int) -> None:
        super().__init__(features, hidden)
        check_stages(stages, warm_up)
        self.stages, self.warm_up = stages, warm_up

    def begin(self, facts: Facts) -> None:
        """Raises WrongStages where the run has fewer steps than stages."""
        super().begin(facts)
        self.total_steps = facts.epochs * facts.steps_per_epoch
        check_steps(self.total_steps, self.stages)
        self.stage = -1

    def action_for(self, stage: int, rate: float) -> Tensor:
        """CPU [A]; ``rate`` is the learning rate as a share of its peak."""
        raise NotImplementedError

    @torch.no_grad()
    def weights(self, view: View) -> Tensor:
        """[B]."""
        stage = stage_of(view.step, self.total_steps, self.stages)
        if stage != self.stage:
            self.stage = stage
            if stage >= self.warm_up:
                self.action = self.action_for(stage, view.rate).to(self.action.device)
        return super().weights(view)

    def state_dict(self) -> dict[str, Any]:
        """Also the stage: a resume within it keeps its action."""
        return super().state_dict() | {"stage": self.stage}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.stage = int(state["stage"])
