"""The learning rate over a run, as a factor of its peak."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long a run is and how its learning rate moves.

    >>> Schedule(epochs=2, steps_per_epoch=5, shape="linear").factor(5)
    0.5
    """

    epochs: int
    steps_per_epoch: int  # optimiser steps
    shape: str = "cosine"  # cosine, linear, constant, step
    warmup: float = 0.0  # share of the run
    milestones: tuple[float, ...] = (0.4, 0.7, 0.85)  # shares of the run, for shape "step"
    accumulate: int = 1
    clip: float = 0.0  # 0 is off

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def factor(self, step: int) -> float:
        """Learning-rate factor of 0-based optimiser step ``step``."""
        warm = round(self.warmup * self.total_steps)
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.total_steps - warm)
        if self.shape == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        if self.shape == "linear":
            return 1.0 - done
        if self.shape == "step":
            return float(0.1 ** sum(step >= m * self.total_steps for m in self.milestones))
        return 1.0
