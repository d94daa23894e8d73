"""What a stage of a policy search earns: how much better the weighted network is than its twin with weights 1.

LAW (arXiv 1905.11058) calls it the duplicate network reward: both saw the same batches, so training's luck cancels.
"""

from __future__ import annotations

import math
from typing import Literal

RewardScale = Literal["exponential", "flat"]


def reward_scale(epoch: float, epochs: float) -> float:
    """How much a stage counts that ends at ``epoch`` of ``epochs``: 2 at the end, 2 e^-5 = 0.0135 at the start."""
    return 2 * math.exp(5 * epoch / epochs) / math.exp(5)


def duplicate_reward(target: float, reference: float, scale: float = 1.0) -> float:
    """Percent of both networks on clean images -> reward. 60 against 55 percent is 0.5 at scale 1."""
    return (target - reference) / 10 * scale
