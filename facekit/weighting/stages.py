"""A run cut into stages, and what a controller is told at the start of each.

As in the authors' code of arXiv 1905.11058. Ours: the average of the loss starts at ln C (there: 2.3) and is told in
units of ln C, the learning rate as a share of its start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facekit.weighting.average import moving_average
from facekit.weighting.base import LEAST_SUM, View
from facekit.weighting.errors import OutOfRange, WrongStages

MOST_STAGES = 10_000


def check_stages(stages: int, warm_up: int) -> None:
    """Raise WrongStages for fewer than two stages, far too many, or warm-up that leaves none."""
    if not 2 <= stages <= MOST_STAGES:
        raise WrongStages(f"stages is {stages}, but must be between 2 and {MOST_STAGES}")
    if not 0 <= warm_up < stages:
        raise WrongStages(f"warm-up takes {warm_up} of {stages} stages: give 0 to {stages - 1}")


def check_steps(total_steps: int, stages: int) -> None:
    """Raise WrongStages where a stage would have no step."""
    if total_steps < stages:
        raise WrongStages(f"{total_steps} steps cannot be cut into {stages} stages; train longer, or use fewer stages")


def steps_per_stage(images: int, batch: int, epochs: int, stages: int) -> int:
    """(images // batch) epochs // stages. Raises WrongStages where that is 0.

    >>> steps_per_stage(20_000, batch=100, epochs=60, stages=40)
    300
    """
    total = images // batch * epochs
    check_steps(total, stages)
    return total // stages


def stage_of(step: int, total_steps: int, stages: int) -> int:
    """The stage of a 0-based step: relative to the run, so that a policy fits any length. The last one stays.

    >>> [stage_of(step, 7, stages=3) for step in range(8)]
    [0, 0, 0, 1, 1, 2, 2, 2]
    """
    return min(step * stages // total_steps, stages - 1)


def batch_means(view: View, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(weighted mean of the loss, mean weight) of the global batch; weights [B] -> two scalars on the device."""
    rows = view.gather(torch.stack([weights * view.loss, weights], dim=1))
    loss, weight = rows.sum(dim=0)
    return loss / weight.clamp(min=LEAST_SUM), weight / len(rows)


class StageTracker:
    """Moving averages over batches, kept on the device; only ``state`` waits for them.

    Raises OutOfRange for fewer than two classes, whose ln C is no unit.
    """

    def __init__(self, stages: int, classes: int, device: torch.device) -> None:
        if classes < 2:
            raise OutOfRange(f"classes is {classes}, but sample weights by stages need 2 or more")
        self.stages, self.start, self.device = stages, math.log(classes), device
        self.reset()

    def reset(self) -> None:
        """As before the first batch."""
        self.loss = torch.tensor(self.start, device=self.device)
        self.weight = torch.zeros((), device=self.device)

    def observe(self, loss_mean: Tensor, weight_mean: Tensor) -> None:
        """After a batch, its ``batch_means``: device scalars."""
        self.loss = moving_average(self.loss, loss_mean)
        self.weight = moving_average(self.weight, weight_mean)

    def state(self, stage: int, rate: float) -> Tensor:
        """float32 CPU [4]: stage, loss average / ln C, weight average, share of the first learning rate.

        ``stage`` may be the number of stages: the state that the last stage leads to.
        """
        if not 0 <= stage <= self.stages:
            raise WrongStages(f"stage {stage} of {self.stages}")
        loss, weight = torch.stack([self.loss, self.weight]).tolist()
        return torch.tensor([stage, loss / self.start, weight, rate])

    def state_dict(self) -> dict[str, Any]:
        """Both averages."""
        return {"loss": self.loss, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both averages."""
        self.loss, self.weight = state["loss"].to(self.device), state["weight"].to(self.device)
