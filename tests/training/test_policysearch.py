"""The policy search: its order of events, its exact resume, and that it finds what was planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from facekit.core.augment import Augment
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.loop import Guard, Progress, fit, update
from facekit.core.reporting import Journal
from facekit.data.batches import Batches
from facekit.training.episodereport import EpisodeReport
from facekit.training.episodes import EpisodePlan, Episodes, EpisodeSchedule
from facekit.training.policysearch import Decides, PolicySearch
from facekit.training.reward import reward_scale
from facekit.weighting.agent import Controller
from facekit.weighting.base import Facts
from facekit.weighting.errors import NotANumber, WrongStages
from facekit.weighting.profiles import PROFILES
from tests.training.planted import FEATURES, TABLE, Constant, Given, judged, outcome, searched, unseen
from tests.training.test_twins import CLASSES, CPU, PREPROCESS, SIDE, closed, sgd

IMAGES, BATCH, STAGES, WARM_UP, STEPS = 24, 8, 3, 1, 2
EPISODE = STAGES * STEPS


class Noise:
    """Images in memory."""

    size, fingerprint, notes = (SIDE, SIDE), "few", ()
    identities = tuple(map(str, range(CLASSES)))
    labels = np.arange(IMAGES) % CLASSES
    names = tuple(map(str, range(IMAGES)))
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


def facts(truth: Tensor | None = None) -> Facts:
    return Facts(IMAGES, torch.full((CLASSES,), IMAGES // CLASSES), 1, EPISODE, 0, CPU.torch_device, truth)


def score(network: nn.Module, episode: int) -> float:
    """Percent of confidence in the right class of all images; no run has two equal ones by chance."""
    images = torch.from_numpy(Noise.pixels).permute(0, 3, 1, 2)
    probabilities = network(PREPROCESS(images)).logits.softmax(dim=1)
    return float(probabilities[torch.arange(IMAGES), torch.from_numpy(Noise.labels)].mean()) * 100


def searching(controller: Decides, plan: EpisodePlan, **settings: Any) -> PolicySearch:
    options: dict[str, Any] = {"features": FEATURES, "hidden": 0, "stages": STAGES, "warm_up": WARM_UP}
    options |= {"steps_per_stage": STEPS, "augment": Augment(pad=1), "metric": score, "facts": facts()} | settings
    metric, told = options.pop("metric"), options.pop("facts")
    return PolicySearch(closed, metric, told, PREPROCESS, CPU, sgd, controller, plan=plan, **options)


def run(search: PolicySearch, folder: Path | None = None, **options: Any) -> Progress:
    torch.manual_seed(0)  # dropout; a resume has its own
    schedule = EpisodeSchedule(search.plan.total, EPISODE, shape="linear")
    batches = Batches(Noise(), batch=BATCH, seed=0, flip=True, put=CPU.put, crops=True)
    store, journal = CheckpointStore(folder) if folder else None, Journal(folder, schedule.total_steps, BATCH)
    return fit(search, Episodes(batches, EPISODE), schedule, store, CPU, journal, meta={}, log_every=1, **options)


class Witness(Given):
    """Does as its policy says, and writes down what it is told."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__(actor)
        self.heard: list[tuple[Any, ...]] = []

    def act(self, state: Tensor, explore: bool) -> Tensor:
        self.heard.append(("act", state, explore))
        return super().act(state, explore)

    def begin_episode(self, episode: int) -> None:
        self.heard.append(("begin", episode))

    def remember(self, state: Tensor, action: Tensor, reward: float, following: Tensor, done: bool) -> None:
        self.heard.append(("remember", state, action, reward, following, done))

    def end_episode(self) -> None:
        self.heard.append(("end",))


TILTED, LEVEL = Constant([-1.0, 0.5, 0.25]), Constant([0.0, 0.0, 0.0])


# --- rewards -------------------------------------------------------------------------------------------------


def test_the_action_of_zeros_earns_nothing_and_keeps_the_twins_equal_to_the_last_bit() -> None:
    level, tilted = (searching(Given(actor), EpisodePlan(2, validations=0)) for actor in (LEVEL, TILTED))
    run(level)
    run(tilted)
    for search, equal in ((level, True), (tilted, False)):
        hashes = [state_hash(search.modules[name].state_dict()) for name in ("model", "reference")]
        assert (hashes[0] == hashes[1]) == equal
        rewards = [stage.reward for report in search.reports for stage in report.stages]
        assert rewards[0] is None and (rewards[1] == rewards[2] == 0.0) == equal
        assert [report.drift for report in search.reports] == [0.0, 0.0]


def test_rewards_grow_towards_the_end_of_an_episode_as_the_scale_says() -> None:
    flat, scaled = (searching(Given(TILTED), EpisodePlan(1, validations=0), scale=s) for s in ("flat", "exponential"))
    run(flat)
    run(scaled)
    for stage in (1, 2):
        plain, weighted = (search.reports[0].stages[stage] for search in (flat, scaled))
        assert (plain.target, plain.reference) == (weighted.target, weighted.reference)
        assert plain.target is not None and plain.reference is not None
        assert plain.reward == (plain.target - plain.reference) / 10 != 0
        assert weighted.reward == plain.reward * reward_scale(stage + 1, STAGES)
    assert scaled.reports[0].reward == pytest.approx(sum(s.reward or 0 for s in scaled.reports[0].stages) / 2)


def test_swapped_roles_earn_the_negative() -> None:
    rewards = []
    for names in (("model", "reference"), ("reference", "model")):
        search = searching(Given(TILTED), EpisodePlan(1, validations=0), scale="flat")
        run(search, max_steps=EPISODE - STEPS)
        search.modules = dict(zip(("model", "reference"), (search.modules[name] for name in names), strict=True))
        search.end_stage(0, STAGES - 1)
        rewards.append(search.done[-1].reward)
    assert rewards[0] == -rewards[1] != 0


def test_the_metric_is_asked_in_eval_mode_and_changes_nothing() -> None:
    modes = []

    def nosy(network: nn.Module, episode: int) -> float:
        before = state_hash(network.state_dict())
        value = score(network, episode)
        modes.append((network.training, torch.is_grad_enabled(), episode, state_hash(network.state_dict()) == before))
        return value

    search = searching(Given(TILTED), EpisodePlan(2, validations=0), metric=nosy)
    run(search)
    assert modes == [(False, False, episode, True) for episode in (0, 1) for _ in range(2 * (STAGES - WARM_UP))]
    assert search.modules["model"].training and search.modules["reference"].training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_stops_the_search(value: float) -> None:
    with pytest.raises(NotANumber, match="stage 1 of episode 0") as error:
        run(searching(Given(TILTED), EpisodePlan(1), metric=lambda network, episode: value))
    assert error.value.code == "AW-NAN"


def test_an_action_that_is_no_number_stops_the_search() -> None:
    with pytest.raises(NotANumber, match="stage 1 of episode 0"):
        run(searching(Given(Constant([float("nan"), 0.0, 0.0])), EpisodePlan(1)))


@pytest.mark.parametrize("wrong", [{"stages": 1, "warm_up": 0}, {"warm_up": 3}, {"steps_per_stage": 0}])
def test_stages_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(WrongStages):
        searching(Given(LEVEL), EpisodePlan(1), **wrong)


# --- what the controller is told -----------------------------------------------------------------------------


def test_the_controller_hears_of_every_decided_stage_in_order_and_nothing_of_validations() -> None:
    witness = Witness(TILTED)
    search = searching(witness, EpisodePlan(2, every=1, validations=1))
    run(search)
    words = [entry[0] for entry in witness.heard]
    explored, validated = ["begin", "act", "remember", "act", "remember", "end"], ["act", "act"]
    # What a decision led to is known when the next stage begins, or when the episode ends.
    assert words == (explored + validated) * 2
    assert [entry[1] for entry in witness.heard if entry[0] == "begin"] == [0, 1]
    assert [entry[2] for entry in witness.heard if entry[0] == "act"] == [True, True, False, False] * 2
    for place, number in ((0, 0), (8, 2)):
        _, first, again, second, last, _ = witness.heard[place : place + 6]
        stages = search.reports[number].stages
        assert torch.equal(again[1], first[1]) and torch.equal(again[4], second[1]) and torch.equal(last[1], second[1])
        assert torch.equal(again[2], TILTED.action) and torch.equal(last[2], TILTED.action)
        assert (again[3], last[3]) == (stages[1].reward, stages[2].reward)
        assert (again[5], last[5]) == (False, True)
        assert last[4][0] == STAGES
        assert tuple(second[1].tolist()) == stages[2].state and first[1][0] == 1 and second[1][0] == 2


def test_the_state_tells_stage_loss_weight_and_rate_by_hand() -> None:
    search = searching(Given(Constant([0.0, 0.0, 0.5])), EpisodePlan(2, validations=0))
    run(search)
    schedule = EpisodeSchedule(1, EPISODE, shape="linear")
    for report in search.reports:
        assert [stage.state[0] for stage in report.stages] == [0, 1, 2]
        assert report.stages[0].state[1:3] == (1.0, 0.0)  # before the first batch: ln C / ln C, and no weight
        rates = [schedule.factor(stage * STEPS) for stage in range(STAGES)]
        assert [stage.state[3] for stage in report.stages] == pytest.approx(rates)
        weight = 0.0
        for stage in (1, 2):
            for _ in range(STEPS):
                weight = 0.8 * weight + 0.2 * (1.0 if stage == 1 else 1 + np.tanh(0.5))
            assert report.stages[stage].state[2] == pytest.approx(weight)
        assert report.stages[0].action == (0.0, 0.0, 0.0) and report.stages[1].action == (0.0, 0.0, 0.5)


def test_mean_weights_of_right_and_wrong_labels_are_told_where_the_truth_is_known() -> None:
    wrong = torch.arange(IMAGES) % 4 == 0
    seen: list[tuple[Tensor, Tensor]] = []
    search = searching(Given(TILTED), EpisodePlan(1, validations=0), facts=facts(~wrong))
    note = search.note_weights

    def watch(weights: Tensor, index: Tensor) -> None:
        seen.append((weights, index))
        note(weights, index)

    search.note_weights = watch  # type: ignore[method-assign]
    run(search)
    for stage, report in enumerate(search.reports[0].stages):
        steps = seen[stage * STEPS : (stage + 1) * STEPS]
        weights, index = torch.cat([w for w, _ in steps]), torch.cat([i for _, i in steps])
        assert report.weight_wrong == pytest.approx(float(weights[wrong[index]].mean()), rel=1e-5)
        assert report.weight_right == pytest.approx(float(weights[~wrong[index]].mean()), rel=1e-5)
    assert search.reports[0].stages[0].weight_right == 1.0 != search.reports[0].stages[1].weight_right


# --- the best policy -----------------------------------------------------------------------------------------


class Fickle(Given):
    """Its policy is a number that grows by one with every search episode."""

    def __init__(self) -> None:
        super().__init__(Constant([0.0, 0.0, 0.0]))

    def end_episode(self) -> None:
        self.actor.get_buffer("action").add_(1.0)


def test_the_policy_of_the_round_that_earned_most_is_kept_as_it_was_then() -> None:
    # Percents of the target in the last two stages of each validation; the reference has 50.
    percents = {1: 52.0, 2: 56.0, 4: 60.0, 5: 54.0, 7: 70.0, 8: 30.0}
    asked = 0

    def scripted(network: nn.Module, episode: int) -> float:
        nonlocal asked
        asked += 1
        return percents.get(episode, 90.0) if asked % 2 else 50.0

    told: list[EpisodeReport] = []
    plan = EpisodePlan(3, every=1, validations=2)
    search = searching(Fickle(), plan, metric=scripted, scale="flat", on_episode=told.append)
    run(search)
    assert [report.reward for report in search.reports] == pytest.approx([4.0, 0.2, 0.6, 4.0, 1.0, 0.4, 4.0, 2.0, -2.0])
    assert [report.number for report in search.reports if report.best] == [2, 5]
    assert told == search.reports and search.best is not None
    assert search.best.reward == pytest.approx(0.7)
    assert search.best.actor["action"].tolist() == [2.0, 2.0, 2.0]  # of round two; by now it is 3
    assert [moment.state for moment in search.best.trace] == [stage.state for stage in search.reports[4].stages[1:]]
    assert [moment.action for moment in search.best.trace] == [(2.0, 2.0, 2.0)] * 2


# --- resume --------------------------------------------------------------------------------------------------


def resumable() -> PolicySearch:
    """Two search episodes with a validation after each; a controller that learns from two transitions on."""
    features = (*FEATURES, "loss_abs")  # with a feature that remembers
    controller = Controller(replace(PROFILES["short"], batch=2), STAGES, len(features) + 1, 2, seed=0)
    plan, truth = EpisodePlan(2, every=1, validations=1), torch.arange(IMAGES) % 3 != 0
    return searching(controller, plan, features=features, facts=facts(truth))


def plainly(tree: Any) -> Any:
    """A state whose parts can be compared: tensors by their bits."""
    if isinstance(tree, Tensor):
        return state_hash({"": tree})
    if isinstance(tree, dict):
        return {key: plainly(value) for key, value in tree.items()}
    return [plainly(each) for each in tree] if isinstance(tree, list) else tree


def everything(folder: Path) -> tuple[Any, ...]:
    """All that a finished search leaves: networks, momentum, controller, best policy, reports, rows."""
    store = CheckpointStore(folder)
    state = store.load_state()
    state["progress"].pop("seconds")
    return state_hash(store.load().tensors), plainly(state), (folder / "metrics.jsonl").read_bytes()


def test_a_search_cut_after_every_step_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = resumable()
    run(whole, tmp_path / "whole")
    assert len(whole.reports) == 4 and whole.best is not None
    assert whole.controller.describe()["updates"] > 0  # type: ignore[attr-defined]
    for cut in range(1, 4 * EPISODE + 1):  # every step by a new task, from what the one before it saved
        last = resumable()
        run(last, tmp_path / "cut", max_steps=cut, resume=cut > 1)
    assert last.reports == whole.reports and last.best is not None and last.best.trace == whole.best.trace
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_a_step_within_a_stage_never_waits_for_the_device() -> None:
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    search = searching(Given(TILTED), EpisodePlan(1), facts=facts(torch.arange(IMAGES) % 3 != 0), steps_per_stage=3)
    batches = Batches(Noise(), batch=BATCH, seed=0, flip=True, put=CPU.put, crops=True).epoch(0)
    schedule, guard, progress = EpisodeSchedule(1, 9), Guard(), Progress()

    def waits() -> list[str]:
        seen.clear()
        batch = next(batches)
        with Watch():
            update(search, [batch], schedule, CPU, CPU.scaler(), guard, progress)
            search.after_step(batch)
        return [name for name in seen if "_local_scalar_dense" in name or "is_nonzero" in name]

    first, second, third = waits(), waits(), waits()
    assert first and third and not second and seen  # only where a stage begins or ends


# --- planted noise: spec figures, see planted.py -------------------------------------------------------------


def test_down_weighting_large_losses_pays_on_one_data_set() -> None:
    """A row of the table below in small."""
    down = outcome(judged(replace(TABLE, stages=3, steps=50), Constant([-2.0, 0.0, 0.0]), 0, 1))
    assert down.reward > 0 and down.wrong is not None and down.wrong < down.right


@pytest.mark.slow
def test_the_table_of_fixed_actions_over_five_data_sets() -> None:
    level, down, up, certain = (
        outcome(judged(TABLE, Constant(action), 0, 5))
        for action in ([0.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, -2.0, 0.0])
    )
    assert level.reward == 0.0 and level.target == level.reference and level.right == level.wrong == 1.0
    assert down.reward > 0 and up.reward < 0 and certain.reward > 0
    for kept in (down, certain):
        assert kept.wrong is not None and kept.wrong < kept.right and kept.target > kept.reference


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_finds_which_labels_to_trust(seed: int) -> None:
    found = unseen(searched(seed)[1])
    assert found.target - found.reference > 5
    assert found.wrong is not None and found.right / found.wrong > 1.3


@pytest.mark.slow
def test_without_noise_the_search_does_no_harm() -> None:
    found = unseen(searched(0, noise=0.0)[1], noise=0.0)
    assert found.target > found.reference - 1
