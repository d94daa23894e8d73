"""A policy at work: it acts at the start of a stage on what it has seen, on any number of processes, after a resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from facekit.weighting.action import weigh
from facekit.weighting.errors import WrongStages
from facekit.weighting.features import Features
from facekit.weighting.law import Law
from facekit.weighting.naming import build_weighter
from facekit.weighting.policy import write_policy
from facekit.weighting.stages import StageTracker, batch_means
from tests.weighting.policies import policy
from tests.weighting.views import CPU, facts, in_processes, view

RATES = [1.0, 1.0, 0.9, 0.8, 0.5, 0.4, 0.2, 0.1]
BATCHES = [view(seed=step, step=step, rate=RATES[step]) for step in range(8)]


@pytest.fixture
def stored(tmp_path: Path) -> str:
    return str(write_policy(tmp_path / "policy.json", policy(stages=4, warm_up=1)))


def started(path: str) -> Law:
    rule = build_weighter(f"law:{path}")
    assert isinstance(rule, Law)
    rule.begin(facts())
    return rule


def test_it_does_what_a_person_with_pencil_would(stored: str) -> None:
    rule = started(stored)
    actor = rule.policy.network()
    features, tracker, action = Features(rule.policy.features), StageTracker(4, 4, CPU), torch.zeros(3)
    features.begin(facts())
    for step, batch in enumerate(BATCHES):
        if step % 2 == 0 and step >= 2:
            action = actor(tracker.state(step // 2, RATES[step])[None])[0]
        expected = weigh(features.of(batch), action)
        tracker.observe(*batch_means(batch, expected))
        assert torch.equal(rule.weights(batch), expected)
        assert torch.equal(expected, torch.ones(16)) == (step < 2)


def test_it_asks_once_a_stage(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = StageTracker.state
    monkeypatch.setattr(StageTracker, "state", lambda self, stage, rate: asked.append(stage) or ask(self, stage, rate))
    rule = started(stored)
    for batch in BATCHES:
        rule.weights(batch)
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_a_resume_goes_on_bit_for_bit(stored: str, cut: int) -> None:
    first, second = started(stored), started(stored)
    for batch in BATCHES[:cut]:
        first.weights(batch)
    second.load_state_dict(first.state_dict())
    for batch in BATCHES[cut:]:
        assert torch.equal(first.weights(batch), second.weights(batch))


def test_two_processes_weigh_as_one(stored: str) -> None:
    alone, first, second = started(stored), started(stored), started(stored)
    for batch in BATCHES:
        halves = in_processes(lambda part: (second if part.own.start else first).weights(part), batch, (8, 8))
        torch.testing.assert_close(torch.cat(halves), alone.weights(batch), rtol=0, atol=1e-6)
        assert torch.equal(first.action, second.action)


def test_a_run_shorter_than_the_stages_is_refused(tmp_path: Path) -> None:
    long = write_policy(tmp_path / "policy.json", policy(stages=9))
    with pytest.raises(WrongStages, match="8 steps cannot be cut into 9 stages"):
        started(str(long))


def test_a_hidden_layer_comes_with_the_policy(tmp_path: Path) -> None:
    made = dataclasses.replace(policy(hidden=2), source={"data": "a"})
    rule = started(str(write_policy(tmp_path / "p.json", made)))
    for batch in BATCHES:
        weights = rule.weights(batch)
    assert rule.action.shape == (8,)
    assert weights.std() > 0
