"""A random action for each stage: the best of several such runs is what a search of equal cost must beat."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from facekit.weighting.errors import OutOfRange
from facekit.weighting.features import DEFAULT_FEATURES
from facekit.weighting.staged import StagedWeights

BOUND = 3.0
"""Numbers of an action lie in [-3, 3], as a controller's do."""


class RandomSchedule(StagedWeights):
    """Actions uniform in [-3, 3], drawn once from ``seed``: the same schedule in every run."""

    def __init__(
        self,
        seed: int = 0,
        stages: int = 8,
        warm_up: int = 1,
        features: tuple[str, ...] = DEFAULT_FEATURES,
        hidden: int = 0,
    ) -> None:
        super().__init__(features, hidden, stages, warm_up)
        if not 0 <= seed < 1 << 63:
            raise OutOfRange(f"seed is {seed}, but must be between 0 and 2^63 - 1")
        shares = torch.rand(stages, self.size, generator=Generator().manual_seed(seed))
        self.schedule = BOUND * (2 * shares - 1)

    def action_for(self, stage: int, rate: float) -> Tensor:
        """CPU [A]."""
        return self.schedule[stage]
