"""The rules that learn nothing: all the same, by the truth, by one action, by random actions."""

from __future__ import annotations

import math

import pytest
import torch

from facekit.weighting.action import weigh
from facekit.weighting.clean_only import CleanOnly
from facekit.weighting.errors import NeedsTruth, OutOfRange, WrongAction, WrongStages
from facekit.weighting.features import FEATURES, Features
from facekit.weighting.fixed import Fixed
from facekit.weighting.random_schedule import RandomSchedule
from facekit.weighting.uniform import Uniform
from tests.weighting.views import facts, view


def test_uniform_is_one() -> None:
    assert torch.equal(Uniform().weights(view(size=5)), torch.ones(5))


def test_clean_only_keeps_exactly_the_true_labels() -> None:
    truth = torch.arange(100) % 3 > 0
    rule = CleanOnly()
    rule.begin(facts(truth=truth))
    batch = view()
    weights = rule.weights(batch)
    assert weights.dtype == torch.float32
    assert weights.tolist() == [float(i % 3 > 0) for i in batch.index.tolist()]
    assert rule.needs == {"truth"}


def test_clean_only_without_truth_is_refused() -> None:
    with pytest.raises(NeedsTruth, match="--noise-plan") as error:
        CleanOnly().begin(facts())
    assert error.value.code == "AW-TRUTH"


def expected(seed: int, action: torch.Tensor) -> torch.Tensor:
    features = Features(("loss_norm", "entropy_norm"))
    features.begin(facts())
    return weigh(features.of(view(seed)), action)


def test_fixed_is_uniform_in_its_warm_up_and_its_action_after() -> None:
    rule = Fixed(action=(-2.0, 1.0, 0.5), warm_up=0.25)  # 2 of 8 steps
    rule.begin(facts())
    for step in range(8):
        weights = rule.weights(view(seed=step, step=step))
        action = torch.tensor([-2.0, 1.0, 0.5]) if step >= 2 else torch.zeros(3)
        assert torch.equal(weights, expected(step, action))
    rule.begin(facts())
    assert torch.equal(rule.weights(view()), torch.ones(16))


@pytest.mark.parametrize("action", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0), ()])
def test_fixed_refuses_an_action_of_another_length(action: tuple[float, ...]) -> None:
    with pytest.raises(WrongAction, match="take 3"):
        Fixed(action=action)


def test_fixed_refuses_numbers_out_of_range() -> None:
    with pytest.raises(OutOfRange, match="finite"):
        Fixed(action=(math.nan, 0.0, 0.0))
    for share in (1.0, -0.1, math.nan):
        with pytest.raises(OutOfRange, match="warm_up"):
            Fixed(warm_up=share)


def test_random_has_one_action_for_each_stage_after_the_warm_up() -> None:
    rule = RandomSchedule(seed=3, stages=4, warm_up=1)
    rule.begin(facts())  # 8 steps, 2 for each stage
    actions = []
    for step in range(8):
        weights = rule.weights(view(seed=step, step=step))
        assert torch.equal(weights, expected(step, rule.action))
        actions.append(rule.action.tolist())
    assert actions[0] == actions[1] == [0, 0, 0]
    assert actions[2:] == [row for row in rule.schedule[1:].tolist() for _ in range(2)]
    assert len({tuple(action) for action in actions}) == 4


def test_random_schedules_are_those_of_their_seed() -> None:
    assert torch.equal(RandomSchedule(seed=3).schedule, RandomSchedule(seed=3).schedule)
    many = torch.cat([RandomSchedule(seed=seed, stages=50).schedule.flatten() for seed in range(20)])
    assert many.abs().max() <= 3
    # 3,000 uniform numbers: mean within 4.5 deviations of 0, spread of a uniform law
    assert abs(many.mean()) < 4.5 * math.sqrt(3 / 3000)
    assert many.std() == pytest.approx(math.sqrt(3), rel=0.03)
    assert len(many.unique()) > 2900


def test_random_goes_on_within_a_stage_after_a_resume() -> None:
    names = tuple(FEATURES)
    first = RandomSchedule(stages=2, warm_up=0, features=names)
    first.begin(facts())
    first.weights(view(step=0))
    second = RandomSchedule(stages=2, warm_up=0, features=names)
    second.begin(facts())
    second.load_state_dict(first.state_dict())
    for step in range(1, 8):
        batch = view(seed=step, step=step)
        assert torch.equal(first.weights(batch), second.weights(batch))


def test_random_refuses_what_cannot_be() -> None:
    with pytest.raises(WrongStages):
        RandomSchedule(stages=1)
    with pytest.raises(WrongStages):
        RandomSchedule(stages=4, warm_up=4)
    with pytest.raises(WrongStages, match="8 steps"):
        RandomSchedule(stages=9).begin(facts())
    with pytest.raises(OutOfRange, match="seed"):
        RandomSchedule(seed=-1)
