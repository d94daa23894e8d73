"""Episodes as epochs of the loop, and what a stage earns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from facekit.core.errors import UsageError
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.training.episodes import EpisodePlan, Episodes, EpisodeSchedule
from facekit.training.reward import duplicate_reward, reward_scale
from facekit.weighting.errors import OutOfRange


class Passes:
    """Batches that say which they are: 100 x pass + place."""

    def __init__(self, steps: int) -> None:
        self.steps_per_epoch = steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps_per_epoch):
            number = torch.tensor([100 * epoch + step])
            yield Batch(number, number, number, number, number)


def numbers(batches: Episodes, episode: int, start: int = 0) -> list[int]:
    return [int(batch.index) for batch in batches.epoch(episode, start)]


@pytest.mark.parametrize("per_pass", [1, 3, 4, 8, 11])
def test_an_episode_has_its_steps_and_passes_of_its_own(per_pass: int) -> None:
    episodes = Episodes(Passes(per_pass), 8)
    seen = [numbers(episodes, episode) for episode in range(3)]
    assert episodes.steps_per_epoch == 8 and [len(batches) for batches in seen] == [8, 8, 8]
    assert len(set().union(*({number // 100 for number in batches} for batches in seen))) == 3 * math.ceil(8 / per_pass)
    for episode, whole in enumerate(seen):
        assert [numbers(episodes, episode, start) for start in range(9)] == [whole[start:] for start in range(9)]


def test_an_episode_over_passes_by_hand() -> None:
    assert numbers(Episodes(Passes(3), 7), 1) == [300, 301, 302, 400, 401, 402, 500]


@pytest.mark.parametrize("shape", ["cosine", "linear", "step", "constant"])
def test_every_episode_has_the_whole_curve_of_the_learning_rate(shape: str) -> None:
    alone = Schedule(1, 20, shape, warmup=0.2)
    search = EpisodeSchedule(3, 20, shape, warmup=0.2)
    curve = [alone.factor(step) for step in range(20)]
    assert [search.factor(step) for step in range(60)] == 3 * curve
    assert search.total_steps == 60


@pytest.mark.parametrize("setting", [{"clip": 1.0}, {"accumulate": 2}])
def test_what_would_tie_the_twins_together_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--clip .* --accumulate"):
        EpisodeSchedule(1, 4, **setting)


def test_validations_follow_every_round_also_a_short_last_one() -> None:
    plan = EpisodePlan(7, every=3, validations=2)
    assert plan.total == 13
    assert [plan.search_episode(number) for number in range(13)] == [
        0,
        1,
        2,
        None,
        None,
        3,
        4,
        5,
        None,
        None,
        6,
        None,
        None,
    ]
    assert [number for number in range(13) if plan.closes_round(number)] == [4, 9, 12]


@pytest.mark.parametrize("episodes", [1, 4, 5, 6, 45])
@pytest.mark.parametrize("validations", [0, 1, 2])
def test_every_search_episode_comes_once_and_in_order(episodes: int, validations: int) -> None:
    plan = EpisodePlan(episodes, every=5, validations=validations)
    order = [plan.search_episode(number) for number in range(plan.total)]
    rounds = -(-episodes // 5)
    assert [each for each in order if each is not None] == list(range(episodes))
    assert order.count(None) == validations * rounds
    assert sum(plan.closes_round(number) for number in range(plan.total)) == (rounds if validations else 0)
    assert EpisodePlan(45).total == 63


@pytest.mark.parametrize("wrong", [(0, 5, 2), (3, 0, 2), (3, 5, -1)])
def test_a_plan_without_episodes_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(OutOfRange):
        EpisodePlan(*wrong)


def test_later_stages_earn_more_and_swapped_roles_the_negative() -> None:
    assert reward_scale(60, 60) == 2.0
    assert reward_scale(0, 60) == pytest.approx(0.013476, abs=5e-7)
    assert duplicate_reward(60.0, 55.0) == 0.5
    for target, reference in ((57.25, 60.5), (0.1, 0.3), (99.9, 12.34)):
        scale = reward_scale(7, 20)
        assert duplicate_reward(target, reference, scale) == -duplicate_reward(reference, target, scale) != 0
