"""The controller: it solves a bandit, learns when it should, resumes bit for bit, refuses what it cannot learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facekit.core.checkpoints import CheckpointStore
from facekit.weighting.agent import Controller
from facekit.weighting.errors import NotANumber, OtherSearch
from facekit.weighting.profiles import PROFILES, Profile

STAGES, ACTIONS, EPISODES = 6, 3, 40
PAPER_SMALL = replace(PROFILES["paper"], actor_hidden=(16,), critic_hidden=(16,))
each_kind = pytest.mark.parametrize(
    "profile", [PROFILES["short"], replace(PAPER_SMALL, passes=2)], ids=["short", "paper"]
)


def state_at(stage: int) -> Tensor:
    return torch.tensor([float(stage), 0.5 + 0.1 * stage, 1.0, 1.0 - 0.1 * stage])


def stage(controller: Controller, number: int) -> list[float]:
    """Act, and earn the sum of the action."""
    action = controller.act(state_at(number), explore=True)
    done = number == STAGES - 1
    controller.remember(state_at(number), action, float(action.sum()), state_at(number + 1), done)
    return action.tolist()


def search(controller: Controller, first: int, last: int) -> list[list[float]]:
    """All actions of episodes ``first`` to ``last - 1``."""
    said = []
    for episode in range(first, last):
        controller.begin_episode(episode)
        said += [stage(controller, number) for number in range(STAGES)]
        controller.end_episode()
    return said


def controller_of(profile: Profile, seed: int = 0) -> Controller:
    return Controller(profile, STAGES, ACTIONS, EPISODES, seed)


def through_a_file(state: dict[str, Any], folder: Path) -> Any:
    """As the store gives it back after a kill."""
    store = CheckpointStore(folder)
    store.save("last", {}, {"step": 0}, state)
    return store.load_state()


# --- a bandit -------------------------------------------------------------------------------------------------


def distance_on_bandit(best: float, seed: int, per_episode: int) -> float:
    """Largest |a - a*| of the policy over 5 states after 300 transitions with reward -(a - a*)^2."""
    episodes = 300 // per_episode
    controller = Controller(PROFILES["short"], 5, 1, episodes, seed)
    for episode in range(episodes):
        controller.begin_episode(episode)
        for i in range(per_episode):
            state = state_at(i % 5)
            action = controller.act(state, explore=True)
            controller.remember(state, action, -(float(action - best) ** 2), state, done=True)
        controller.end_episode()
    greedy = torch.stack([controller.act(state_at(i), explore=False) for i in range(5)])
    return float((greedy - best).abs().max())


def test_the_policy_finds_the_best_action_of_a_bandit() -> None:
    """544 updates; over seeds 0 to 4 the distance was at most 0.11."""
    assert distance_on_bandit(best=1.3, seed=1, per_episode=20) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "best"), list(enumerate([-2.0, -0.7, 0.0, 1.3, 2.0])))
def test_the_policy_finds_any_action_of_a_bandit(seed: int, best: float) -> None:
    """2,056 updates; over 5 seeds of each of these actions the distance was at most 0.06."""
    assert distance_on_bandit(best, seed, per_episode=5) < 0.15


# --- when it learns ---------------------------------------------------------------------------------------------


def test_the_short_profile_learns_after_each_episode_eight_times_from_all_it_remembers() -> None:
    controller = controller_of(PROFILES["short"])
    for episode in range(12):
        before = controller.learner.updates
        controller.begin_episode(episode)
        for number in range(STAGES):
            stage(controller, number)
        assert controller.learner.updates == before, "not before the episode's end"
        controller.end_episode()
        assert controller.learner.updates - before == 8 * (6 * (episode + 1) // 32)
    assert controller.learner.updates == 8 * (0 * 5 + 1 * 5 + 2 * 2)


@pytest.mark.parametrize(("count", "updates"), [(31, 0), (32, 8), (63, 8), (64, 16)])
def test_the_paper_profile_learns_after_each_transition(count: int, updates: int) -> None:
    controller = controller_of(PAPER_SMALL)
    for number in range(count - 1):
        controller.replay.add(state_at(number % STAGES), torch.zeros(ACTIONS), 0.0, state_at(0), False)
    stage(controller, 0)
    assert controller.learner.updates == updates
    controller.end_episode()
    assert controller.learner.updates == updates, "not again at the episode's end"


def test_a_full_memory_costs_no_more() -> None:
    controller = controller_of(replace(PROFILES["short"], capacity=40))
    for number in range(100):
        stage(controller, number % STAGES)
    controller.learn()
    assert controller.learner.updates == 8 * (40 // 32)
    assert len(controller.replay) == 40


# --- acting -----------------------------------------------------------------------------------------------------


@each_kind
def test_the_greedy_action_is_the_actors_and_changes_nothing(profile: Profile, tmp_path: Path) -> None:
    controller = controller_of(profile)
    search(controller, 0, 6)
    before = through_a_file(controller.state_dict(), tmp_path / "before")
    action = controller.act(state_at(2), explore=False)
    with torch.no_grad():
        assert torch.equal(action, controller.actor(state_at(2)[None])[0])
    assert torch.equal(action, controller.act(state_at(2), explore=False))
    same(through_a_file(controller.state_dict(), tmp_path / "after"), before)


def test_exploring_actions_differ_and_stay_within_the_bound() -> None:
    controller = controller_of(PROFILES["short"])
    controller.begin_episode(0)
    actions = torch.stack([controller.act(state_at(0), explore=True) for _ in range(1_000)])
    assert len(actions.unique(dim=0)) == 1_000
    assert actions.std().item() == pytest.approx(1.0, rel=0.05)
    far = replace(PROFILES["short"], bound=0.25)
    controller = controller_of(far)
    actions = torch.stack([controller.act(state_at(0), explore=True) for _ in range(100)])
    assert actions.abs().max() == 0.25


def test_a_seed_repeats_and_another_does_not() -> None:
    first, again, other = (search(controller_of(PROFILES["short"], seed), 0, 7) for seed in (0, 0, 1))
    assert first == again
    assert first != other


# --- saving -----------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("stop", [0, 3], ids=["between episodes", "within an episode"])
def test_interrupted_is_uninterrupted(profile: Profile, stop: int, tmp_path: Path) -> None:
    """Stopped after 7 episodes and ``stop`` stages, with updates behind and before it."""
    controller = controller_of(profile)
    search(controller, 0, 7)
    controller.begin_episode(7)
    for number in range(stop):
        stage(controller, number)
    saved = through_a_file(controller.state_dict(), tmp_path / "half")
    resumed = controller_of(profile, seed=123)
    resumed.load_state_dict(saved)
    ends, said = [], []
    for name, each in (("whole", controller), ("resumed", resumed)):
        rest = [stage(each, number) for number in range(stop, STAGES)]
        each.end_episode()
        said.append(rest + search(each, 8, 10))
        ends.append(through_a_file(each.state_dict(), tmp_path / name))
    assert said[0] == said[1]
    same(*ends)


def same(left: Any, right: Any) -> None:
    """Equal trees, tensors bit for bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    else:
        assert left == right


@pytest.mark.parametrize(
    ("profile", "stages", "actions"), [("short", 7, 3), ("short", 6, 4), ("middle", 6, 3)], ids=str
)
def test_a_state_of_another_search_is_refused(profile: Any, stages: int, actions: int) -> None:
    controller = controller_of(PROFILES["short"])
    search(controller, 0, 1)
    other = Controller(PROFILES[profile], stages, actions, EPISODES, seed=0)
    with pytest.raises(OtherSearch, match="made for") as error:
        other.load_state_dict(controller.state_dict())
    assert error.value.code == "AW-HASH"
    assert other.replay.added == 0


# --- what it cannot learn from ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_and_not_kept(number: float) -> None:
    controller = controller_of(PAPER_SMALL)
    state, action = state_at(1), torch.zeros(ACTIONS)
    broken = state.clone()
    broken[1] = number
    for what, values in {
        "reward": (state, action, number, state),
        "the state": (broken, action, 0.0, state),
        "following state": (state, action, 0.0, broken),
        "action": (state, action + number, 0.0, state),
    }.items():
        with pytest.raises(NotANumber, match=what) as error:
            controller.remember(*values, done=False)
        assert error.value.code == "AW-NAN"
    assert len(controller.replay) == 0


def test_a_critic_that_diverges_is_told() -> None:
    controller = controller_of(PROFILES["short"])
    for number in range(32):
        controller.remember(state_at(number % STAGES), torch.zeros(ACTIONS), 1e30, state_at(0), done=True)
    with pytest.raises(NotANumber, match="critic"):
        controller.end_episode()


# --- what it says of itself -------------------------------------------------------------------------------------


def test_it_describes_itself_for_run_json() -> None:
    controller = controller_of(PROFILES["short"])
    search(controller, 0, 6)
    said = json.loads(json.dumps(controller.describe()))
    assert said["profile"] == "short"
    assert (said["transitions"], said["updates"]) == (36, 8)
    assert said["constants"]["actor_rate"] == 1e-3
    assert said["constants"]["exploration"] == {"least": 0.1}
    assert said["constants"]["actor_hidden"] == [64, 64]
