"""What is told of an episode of a policy search: its actions, rewards and weights, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StageReport:
    """One stage. What was not measured is None: percents and rewards of warm-up stages, weights without the truth."""

    state: tuple[float, ...]
    """What the controller saw: stage, loss EMA / ln C, mean weight EMA, share of the peak learning rate."""
    action: tuple[float, ...]
    target: float | None
    """Percent on clean images at its end, of the network that learned from weighted losses."""
    reference: float | None
    """The same of its twin."""
    reward: float | None
    weight_right: float | None
    """Mean weight of samples whose label is the true one."""
    weight_wrong: float | None
    """Mean weight of mislabelled samples."""


@dataclass(frozen=True)
class EpisodeReport:
    """One episode; ``number`` counts all of them from 0, ``search_episode`` those that explore."""

    number: int
    search_episode: int | None
    """None: a validation, without exploration."""
    stages: tuple[StageReport, ...]
    reward: float
    """Mean over the stages that were decided."""
    drift: float | None
    """Largest difference between the twins at the end of the warm-up, where it must be 0; None without warm-up."""
    best: bool
    """Whether the policy it validates is the best so far, now that its round is over."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(table: Mapping[str, Any]) -> EpisodeReport:
        """Undo ``to_dict``."""
        return EpisodeReport(**{**table, "stages": tuple(stage_from(stage) for stage in table["stages"])})


def stage_from(table: Mapping[str, Any]) -> StageReport:
    """Undo ``asdict``, also after JSON made lists of the tuples."""
    return StageReport(**{**table, "state": tuple(table["state"]), "action": tuple(table["action"])})
