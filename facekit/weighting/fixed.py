"""One action for the whole run: what a learned policy must beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facekit.weighting.action import ActionWeights, check_action
from facekit.weighting.base import Facts, View
from facekit.weighting.errors import OutOfRange
from facekit.weighting.features import DEFAULT_FEATURES


class Fixed(ActionWeights):
    """Weights 1 for the share ``warm_up`` of the run, then by ``action``. The default favours small losses.

    Raises WrongAction for an action of another length than features and hidden layer take.
    """

    def __init__(
        self,
        action: tuple[float, ...] = (-2.0, 0.0, 0.0),
        features: tuple[str, ...] = DEFAULT_FEATURES,
        hidden: int = 0,
        warm_up: float = 0.125,  # 5 of 40 stages, as in the authors' code of arXiv 1905.11058
    ) -> None:
        super().__init__(features, hidden)
        check_action(len(action), len(features), hidden)
        if not all(map(math.isfinite, action)):
            raise OutOfRange(f"action is {'/'.join(map(str, action))}, but its numbers must be finite")
        if not 0 <= warm_up < 1:
            raise OutOfRange(f"warm_up is {warm_up}, but must be a share of the run from 0 to below 1")
        self.chosen, self.warm_up = torch.tensor(action), warm_up

    def begin(self, facts: Facts) -> None:
        """Weights 1 until the warm-up is over."""
        super().begin(facts)
        self.chosen = self.chosen.to(facts.device)
        self.first_step = self.warm_up * facts.epochs * facts.steps_per_epoch

    def weights(self, view: View) -> Tensor:
        """[B]."""
        if view.step >= self.first_step:
            self.action = self.chosen
        return super().weights(view)
