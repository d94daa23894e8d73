"""A search whose right answer is known: Gaussian classes, and labels that were drawn anew with probability p.

Four classes in 20 dimensions, means in random directions of length 2, unit variance; 1,000 training samples, 400 clean
ones. An MLP 20-128-128-4 learns them by heart within some hundred steps, wrong labels too. Every data set is a function
of its number, so that each episode can have its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from facekit.core.device import Device
from facekit.core.loop import fit
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal
from facekit.core.types import Batch, Outputs
from facekit.training.classes import Classes, OwnClasses
from facekit.training.episodereport import EpisodeReport
from facekit.training.episodes import EpisodePlan, Episodes, EpisodeSchedule
from facekit.training.optimisers import build_optimiser
from facekit.training.policysearch import Decides, PolicySearch
from facekit.weighting.action import action_size
from facekit.weighting.agent import Controller
from facekit.weighting.base import Facts
from facekit.weighting.networks import Actor
from facekit.weighting.profiles import PROFILES

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
CLASSES, WIDTH, IMAGES, CLEAN, BATCH = 4, 20, 1000, 400, 100
FEATURES = ("loss_norm", "entropy_norm")
PREPROCESS = Preprocess(size=(1, WIDTH), scale=1.0, shift=0.0)
ACTIONS = action_size(len(FEATURES))


class Planted(NamedTuple):
    """One data set."""

    points: Tensor
    """float32 [N,1,1,20], "images" that need no conversion."""
    labels: Tensor
    truth: Tensor
    """bool [N]"""
    clean_points: Tensor
    clean_labels: Tensor


@lru_cache(maxsize=8)
def planted(number: int, noise: float) -> Planted:
    generator = Generator().manual_seed(1000 + number)
    means = 2 * normalize(torch.randn(CLASSES, WIDTH, generator=generator))
    labels = torch.randint(CLASSES, (IMAGES + CLEAN,), generator=generator)
    points = (means[labels] + torch.randn(IMAGES + CLEAN, WIDTH, generator=generator))[:, None, None]
    redrawn = torch.rand(IMAGES, generator=generator) < noise
    given = torch.where(redrawn, torch.randint(CLASSES, (IMAGES,), generator=generator), labels[:IMAGES])
    return Planted(points[:IMAGES], given, given == labels[:IMAGES], points[IMAGES:], labels[IMAGES:])


class Draws:
    """Batches drawn with replacement: of one data set, or of a new one for every "epoch" of ``steps``."""

    def __init__(self, first: int, noise: float, steps: int) -> None:
        self.first, self.noise, self.steps_per_epoch = first, noise, steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        number = self.first + epoch
        data = planted(number, self.noise)
        rows = torch.randint(IMAGES, (self.steps_per_epoch, BATCH), generator=Generator().manual_seed(2000 + number))
        for row in rows[start:]:
            # The index runs over all data sets, for one table of the truth.
            yield Batch(data.points[row], data.labels[row], row + epoch * IMAGES, torch.zeros_like(row), row)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.last = nn.Linear(128, CLASSES)

    def forward(self, points: Tensor) -> Outputs:
        embedding = self.inner(points.flatten(1))
        return Outputs(embedding, logits=self.last(embedding))


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 0.0)


@dataclass(frozen=True)
class Setting:
    """Lengths of an episode, and how its rewards are scaled."""

    stages: int
    steps: int
    noise: float = 0.4
    warm_up: int = 1


TABLE = Setting(stages=6, steps=100)
SEARCHED = Setting(stages=5, steps=60)


def searching(setting: Setting, plan: EpisodePlan, controller: Decides, first: int) -> PolicySearch:
    """Episode e trains on data set ``first`` + e."""

    def fresh(episode: int) -> tuple[nn.Module, Classes]:
        torch.manual_seed(3000 + first + episode)
        return Mlp(), OwnClasses()

    def accuracy(network: nn.Module, episode: int) -> float:
        data = planted(first + episode, setting.noise)
        scores = network(data.clean_points).logits
        return float((scores.argmax(dim=1) == data.clean_labels).float().mean()) * 100

    truth = torch.cat([planted(first + episode, setting.noise).truth for episode in range(plan.total)])
    counts = torch.full((CLASSES,), IMAGES // CLASSES)
    facts = Facts(IMAGES, counts, 1, setting.stages * setting.steps, 0, CPU.torch_device, truth)
    return PolicySearch(
        fresh,
        accuracy,
        facts,
        PREPROCESS,
        CPU,
        sgd,
        controller,
        features=FEATURES,
        hidden=0,
        stages=setting.stages,
        warm_up=setting.warm_up,
        steps_per_stage=setting.steps,
        plan=plan,
        scale="flat",
    )


def finish(search: PolicySearch, first: int, noise: float) -> PolicySearch:
    """Run it to its end by the one loop, keeping nothing on disk."""
    steps = search.stages * search.steps_per_stage
    schedule = EpisodeSchedule(epochs=search.plan.total, steps_per_epoch=steps, shape="constant")
    batches = Episodes(Draws(first, noise, steps), steps)
    fit(search, batches, schedule, None, CPU, Journal(None, schedule.total_steps, BATCH), meta={})
    return search


# --- policies that are given -----------------------------------------------------------------------------------


class Given:
    """A controller that learns nothing: it does what its policy says, in every episode."""

    def __init__(self, actor: nn.Module) -> None:
        self.actor = actor

    @torch.no_grad()
    def act(self, state: Tensor, explore: bool) -> Tensor:
        action: Tensor = self.actor(state[None])[0]
        return action

    def begin_episode(self, episode: int) -> None: ...

    def remember(self, state: Tensor, action: Tensor, reward: float, following: Tensor, done: bool) -> None: ...

    def end_episode(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


class Constant(nn.Module):
    """The same action whatever the state."""

    action: Tensor

    def __init__(self, action: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("action", torch.tensor(action))

    def forward(self, state: Tensor) -> Tensor:
        return self.action.expand(len(state), -1)


def judged(setting: Setting, actor: nn.Module, first: int, episodes: int) -> list[EpisodeReport]:
    """What a policy does on that many data sets, from ``first`` on, without learning."""
    search = searching(setting, EpisodePlan(episodes, validations=0), Given(actor), first)
    return finish(search, first, setting.noise).reports


# --- the search ------------------------------------------------------------------------------------------------

EPISODES = 45
UNSEEN, UNSEEN_FROM = 5, 500_000
"""Data sets that policies are judged on, and the number of the first: no search comes so far."""


def searched(seed: int, noise: float = SEARCHED.noise) -> tuple[PolicySearch, Actor]:
    """The profile ``short`` on data sets of its own; the finished search and its best-validated policy."""
    profile, first = PROFILES["short"], 10_000 * (seed + 1)
    controller = Controller(profile, SEARCHED.stages, ACTIONS, EPISODES, seed)
    search = searching(replace(SEARCHED, noise=noise), EpisodePlan(EPISODES), controller, first)
    finish(search, first, noise)
    assert search.best is not None
    actor = Actor(profile, SEARCHED.stages, ACTIONS)
    actor.load_state_dict(search.best.actor)
    return search, actor


def unseen(actor: nn.Module, noise: float = SEARCHED.noise) -> Outcome:
    """What a policy does on data sets that no search has seen."""
    return outcome(judged(replace(SEARCHED, noise=noise), actor, UNSEEN_FROM, UNSEEN))


class Outcome(NamedTuple):
    """A policy on unseen data sets, at their last stage; means over the data sets."""

    reward: float
    target: float
    reference: float
    right: float
    wrong: float | None


def outcome(reports: list[EpisodeReport]) -> Outcome:
    last = [report.stages[-1] for report in reports]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    learned = [stage for report in reports for stage in report.stages if stage.reward is not None]
    wrong = [stage.weight_wrong for stage in learned if stage.weight_wrong is not None]
    return Outcome(
        reward=mean([report.reward for report in reports]),
        target=mean([stage.target for stage in last if stage.target is not None]),
        reference=mean([stage.reference for stage in last if stage.reference is not None]),
        right=mean([stage.weight_right for stage in learned if stage.weight_right is not None]),
        wrong=mean(wrong) if wrong else None,
    )
