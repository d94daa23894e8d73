"""Stage arithmetic, and the state that a controller is told."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekit.weighting.errors import OutOfRange, WrongStages
from facekit.weighting.stages import StageTracker, batch_means, check_stages, stage_of, steps_per_stage
from tests.weighting.views import CPU, in_processes, view


@pytest.mark.parametrize(
    ("images", "epochs", "stages", "steps"), [(20_000, 60, 40, 300), (50_000, 60, 40, 750), (40_000, 100, 20, 2000)]
)
def test_steps_of_the_published_configurations(images: int, epochs: int, stages: int, steps: int) -> None:
    assert steps_per_stage(images, 100, epochs, stages) == steps


@given(st.integers(2, 50), st.integers(0, 500))
def test_stages_follow_each_other_and_differ_by_a_step_at_most(stages: int, beyond: int) -> None:
    total = stages + beyond
    which = [stage_of(step, total, stages) for step in range(total)]
    assert which == sorted(which)
    assert set(which) == set(range(stages))
    lengths = [which.count(stage) for stage in range(stages)]
    assert max(lengths) - min(lengths) <= 1
    assert stage_of(total + 5, total, stages) == stages - 1


@pytest.mark.parametrize(("stages", "warm_up"), [(1, 0), (0, 0), (8, 8), (8, -1), (10**9, 1)])
def test_stages_that_cannot_be_are_refused(stages: int, warm_up: int) -> None:
    with pytest.raises(WrongStages) as error:
        check_stages(stages, warm_up)
    assert error.value.code == "AW-STAGES"


def test_stages_without_a_step_are_refused() -> None:
    assert steps_per_stage(1000, 100, 4, 40) == 1
    with pytest.raises(WrongStages, match="39 steps"):
        steps_per_stage(1399, 100, 3, 40)
    with pytest.raises(WrongStages):
        steps_per_stage(99, 100, 60, 40)


def test_the_state_by_hand() -> None:
    tracker = StageTracker(stages=8, classes=10, device=CPU)
    torch.testing.assert_close(tracker.state(0, 1.0), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    tracker.observe(torch.tensor(1.0), torch.tensor(0.5))
    tracker.observe(torch.tensor(2.0), torch.tensor(1.5))
    loss = 0.64 * math.log(10) + 0.16 * 1 + 0.2 * 2
    state = tracker.state(8, 0.1)
    torch.testing.assert_close(state, torch.tensor([8, loss / math.log(10), 0.16 * 0.5 + 0.2 * 1.5, 0.1]))
    assert state.dtype == torch.float32

    again = StageTracker(stages=8, classes=10, device=CPU)
    again.load_state_dict(tracker.state_dict())
    assert torch.equal(again.state(8, 0.1), state)
    tracker.reset()
    assert torch.equal(tracker.state(0, 1.0), StageTracker(8, 10, CPU).state(0, 1.0))


def test_a_broken_batch_is_no_part_of_the_state() -> None:
    tracker = StageTracker(8, 10, CPU)
    before = tracker.state(1, 1.0)
    tracker.observe(torch.tensor(math.inf), torch.tensor(math.nan))
    assert torch.equal(tracker.state(1, 1.0), before)


def test_means_are_those_of_the_global_batch() -> None:
    batch = view()
    weights = torch.linspace(0.1, 1.9, 16)
    expected = ((weights * batch.loss).sum() / weights.sum(), weights.mean())
    for loss_and_weight in in_processes(lambda part: batch_means(part, weights[part.own]), batch, (11, 5)):
        torch.testing.assert_close(loss_and_weight, expected)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(OutOfRange, match="2 or more"):
        StageTracker(8, 1, CPU)
    with pytest.raises(WrongStages, match="stage 9 of 8"):
        StageTracker(8, 10, CPU).state(9, 1.0)
