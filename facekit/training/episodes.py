"""Episodes of a policy search as epochs of the one loop: their batches, their learning rates, their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from facekit.core.errors import UsageError
from facekit.core.loop import TrainingBatches
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.weighting.errors import OutOfRange


class Episodes:
    """Batches in which an "epoch" is an episode: ``steps`` batches, over as many passes of the data as that takes.

    No pass is used twice, so every episode has an order of its own.
    """

    def __init__(self, batches: TrainingBatches, steps: int) -> None:
        self.batches, self.steps_per_epoch = batches, steps
        self.passes = -(-steps // batches.steps_per_epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an episode from step ``start`` on."""
        step = start
        while step < self.steps_per_epoch:
            done, within = divmod(step, self.batches.steps_per_epoch)
            for batch in self.batches.epoch(epoch * self.passes + done, within):
                yield batch
                step += 1
                if step == self.steps_per_epoch:
                    return


@dataclass(frozen=True)
class EpisodeSchedule(Schedule):
    """A schedule whose "epochs" are episodes: each has the whole curve of the learning rate.

    >>> EpisodeSchedule(epochs=3, steps_per_epoch=4, shape="linear").factor(6)
    0.5
    """

    def __post_init__(self) -> None:
        if self.clip or self.accumulate != 1:
            raise UsageError(
                f"a search takes neither --clip ({self.clip:g}) nor --accumulate ({self.accumulate}): twins share each "
                "update, and clipping would tie one to the other; leave both out"
            )

    def factor(self, step: int) -> float:
        """Learning-rate factor of 0-based step ``step`` of the whole search."""
        episode = Schedule(1, self.steps_per_epoch, self.shape, self.warmup, self.milestones)
        return episode.factor(step % self.steps_per_epoch)


@dataclass(frozen=True)
class EpisodePlan:
    """Which episodes explore and which validate: after ``every`` search episodes come ``validations`` greedy ones.

    A shorter last round is validated too. 45 episodes are 63 with their validations.
    """

    episodes: int
    every: int = 5
    validations: int = 2

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.every < 1 or self.validations < 0:
            raise OutOfRange(
                f"a search needs 1 or more episodes, validated after every 1 or more by 0 or more; given: "
                f"{self.episodes} episodes, every {self.every}, {self.validations} validations"
            )

    @property
    def total(self) -> int:
        """Episodes of both kinds."""
        return self.episodes + self.validations * -(-self.episodes // self.every)

    def search_episode(self, number: int) -> int | None:
        """Which of the search episodes is the ``number``-th of all (both from 0); None where it validates."""
        begin, within = self._place(number)
        return begin + within if within < self._searched(begin) else None

    def closes_round(self, number: int) -> bool:
        """Whether it is the last validation of its round."""
        begin, within = self._place(number)
        return self.validations > 0 and within == self._searched(begin) + self.validations - 1

    def _place(self, number: int) -> tuple[int, int]:
        """The first search episode of its round, and how many episodes of that round come before it."""
        full, within = divmod(number, self.every + self.validations)
        return full * self.every, within

    def _searched(self, begin: int) -> int:
        """Search episodes of the round that starts with search episode ``begin``."""
        return min(self.every, self.episodes - begin)
