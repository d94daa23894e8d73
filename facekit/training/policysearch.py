"""Search a policy that weighs samples: LAW (arXiv 1905.11058) as a task of the one loop.

An "epoch" of the loop is an episode: a training from scratch in stages. At the start of each stage the controller says
how samples are weighed; at its end the weighted network is compared with its twin on clean images
(``training.reward``), which the controller learns from. Stages of the warm-up have weights 1 and teach nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.preprocess import Preprocess
from facekit.core.replicas import averaged_statistics
from facekit.core.types import Batch
from facekit.training.episodereport import EpisodeReport, StageReport, stage_from
from facekit.training.episodes import EpisodePlan
from facekit.training.reward import RewardScale, duplicate_reward, reward_scale
from facekit.training.twins import Fresh, TwinLosses, Twins
from facekit.training.weighing import mean_one, reduced
from facekit.weighting.action import ActionWeights
from facekit.weighting.base import Facts, View
from facekit.weighting.errors import NotANumber
from facekit.weighting.networks import STATE
from facekit.weighting.policy import Moment
from facekit.weighting.stages import StageTracker, batch_means, check_stages, check_steps


class Decides(Protocol):
    """What a search asks of its controller (``weighting.agent.Controller``)."""

    @property
    def actor(self) -> nn.Module:
        """The policy: states [n,4] -> actions [n,A]."""

    def begin_episode(self, episode: int) -> None:
        """Before a search episode, counted from 0."""

    def act(self, state: Tensor, explore: bool) -> Tensor:
        """State [4] -> action [A], both float32 on the CPU."""

    def remember(self, state: Tensor, action: Tensor, reward: float, following: Tensor, done: bool) -> None:
        """What a decision earned, and where it led."""

    def end_episode(self) -> None:
        """After a search episode."""

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact resume needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class Decision(NamedTuple):
    """What the controller saw and said at the start of a stage, float32 on the CPU."""

    state: Tensor
    action: Tensor


@dataclass(frozen=True)
class BestPolicy:
    """The policy that earned most in a round of validations."""

    reward: float
    """Mean over the episodes of the round."""
    actor: dict[str, Tensor]
    trace: tuple[Moment, ...]
    """Of the round's best episode, one for each decided stage."""


class PolicySearch:
    """One phase, the terms ``target`` and ``reference``. Run it by ``fit``, with ``Episodes`` and ``EpisodeSchedule``.

    ``fresh`` gives an episode's networks, ``metric`` the percent of one of them on clean images (it is asked in eval
    mode). ``facts.truth``, where known, only goes into the reports. ``reports`` has all episodes so far; each is also
    handed to ``on_episode``.
    """

    def __init__(
        self,
        fresh: Fresh,
        metric: Callable[[nn.Module, int], float],
        facts: Facts,
        preprocess: Preprocess,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        controller: Decides,
        *,
        features: tuple[str, ...],
        hidden: int,
        stages: int,
        warm_up: int,
        steps_per_stage: int,
        plan: EpisodePlan,
        augment: Augment = Augment(),
        scale: RewardScale = "exponential",
        on_episode: Callable[[EpisodeReport], None] | None = None,
    ) -> None:
        check_stages(stages, warm_up)
        check_steps(stages * steps_per_stage, stages)
        self.twins = Twins(fresh, preprocess, device, optimiser, augment)
        self.modules, self.optimisers = self.twins.modules, {"main": self.twins.optimiser}
        self.metric, self.device, self.controller, self.plan = metric, device, controller, plan
        self.stages, self.warm_up, self.steps_per_stage, self.scale = stages, warm_up, steps_per_stage, scale
        self.facts, self.on_episode = facts, on_episode
        self.truth = None if facts.truth is None else device.put(facts.truth)
        self.tracker = StageTracker(stages, len(facts.class_count), device.torch_device)
        self.rule = ActionWeights(features, hidden)
        self.rule.begin(facts)

        self.step = 0  # of the whole search
        self.decision = Decision(torch.zeros(STATE), torch.zeros(self.rule.size))
        self.weights_seen = torch.zeros(4, device=device.torch_device)  # of the stage: see ``note_weights``
        self.done: list[StageReport] = []  # stages of the running episode
        self.drift: float | None = None
        self.round: list[EpisodeReport] = []  # validations of the running round
        self.best: BestPolicy | None = None
        self.reports: list[EpisodeReport] = []

    # --- a step ---------------------------------------------------------------------------------------------

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of both networks. What an episode and a stage begin with comes before."""
        episode, step = divmod(self.step, self.stages * self.steps_per_stage)
        if step == 0:
            self.begin_episode(episode)
        if step % self.steps_per_stage == 0:
            self.begin_stage(episode, step // self.steps_per_stage)

        def terms() -> Terms:
            losses = self.twins.losses(batch)
            view = self.view(batch, losses, step)
            weights = self.rule.weights(view)
            self.tracker.observe(*batch_means(view, weights))
            self.note_weights(weights, batch.index)
            shares = mean_one(weights, self.device.gather(weights))
            return {"target": reduced(losses.target, shares), "reference": reduced(losses.reference, None)}

        yield "main", terms

    def view(self, batch: Batch, losses: TwinLosses, step: int) -> View:
        """What the rule is told of a batch; ``step`` counts from the episode's start."""
        first = self.device.rank * len(batch.labels)
        return View(
            loss=losses.target.detach().float(),
            logits=losses.logits,
            labels=batch.labels,
            index=batch.index,
            step=step,
            rate=self.twins.learner.rate_share,
            gather=self.device.gather,
            own=slice(first, first + len(batch.labels)),
        )

    def note_weights(self, weights: Tensor, index: Tensor) -> None:
        """Add up the weights of right and of wrong labels, and how many there were. On the device: nothing waits."""
        if self.truth is not None:
            right = self.truth[index].float()
            self.weights_seen += torch.stack(
                [(weights * right).sum(), right.sum(), (weights * (1 - right)).sum(), (1 - right).sum()]
            )

    def measured(self) -> Mapping[str, Tensor]:
        """Not measured: each term has a network of its own."""
        return {}

    def after_step(self, batch: Batch) -> None:
        """Count the step; the last one of a stage or an episode closes it."""
        episode, step = divmod(self.step, self.stages * self.steps_per_stage)
        self.step += 1
        stage, within = divmod(step, self.steps_per_stage)
        if within == self.steps_per_stage - 1:
            self.end_stage(episode, stage)
            if stage == self.stages - 1:
                self.end_episode(episode)

    # --- stages ---------------------------------------------------------------------------------------------

    def begin_stage(self, episode: int, stage: int) -> None:
        """Ask the controller what to do, after telling it what its last decision led to."""
        state = self.tracker.state(stage, self.twins.learner.rate_share)
        if stage > self.warm_up:
            self.remember(episode, state, done=False)
        action = torch.zeros_like(self.decision.action)
        if stage >= self.warm_up:
            said = self.controller.act(state, explore=self.plan.search_episode(episode) is not None)
            action = torch.tensor(self.device.tell(said.tolist()))
        if not (state.isfinite().all() and action.isfinite().all()):
            raise NotANumber(
                f"stage {stage} of episode {episode} begins with state {state.tolist()} and action {action.tolist()}: "
                "the search stops, its last save is whole; lower --lr"
            )
        self.decision = Decision(state, action)
        self.rule.action = self.device.put(action)
        self.weights_seen.zero_()

    def end_stage(self, episode: int, stage: int) -> None:
        """Compare the twins; in the warm-up only see that they are still equal."""
        target = reference = reward = None
        if stage >= self.warm_up:
            target, reference = self.percents(episode)
            scale = reward_scale(stage + 1, self.stages) if self.scale == "exponential" else 1.0
            reward = duplicate_reward(target, reference, scale)
            if not math.isfinite(reward):
                raise NotANumber(
                    f"stage {stage} of episode {episode} earns {reward}, from {target} percent for the target and "
                    f"{reference} for its reference: the search stops, its last save is whole"
                )
        elif stage == self.warm_up - 1:
            self.drift = self.twins.drift()
        state, action = (tuple(part.tolist()) for part in self.decision)
        self.done.append(StageReport(state, action, target, reference, reward, *self.mean_weights()))

    def percents(self, episode: int) -> tuple[float, float]:
        """Target and reference on clean images, by process 0's count."""
        with averaged_statistics(self.modules, self.device):
            both = [self.percent(self.modules[name], episode) for name in ("model", "reference")]
        target, reference = self.device.tell(both)
        return target, reference

    @torch.no_grad()
    def percent(self, network: nn.Module, episode: int) -> float:
        """The metric, asked in eval mode."""
        network.eval()
        value = float(self.metric(network, episode))
        network.train()
        return value

    def mean_weights(self) -> tuple[float | None, float | None]:
        """Mean weight of right and of wrong labels in the stage."""
        self.device.average([self.weights_seen])
        right, rights, wrong, wrongs = self.weights_seen.tolist()
        return right / rights if rights else None, wrong / wrongs if wrongs else None

    def remember(self, episode: int, following: Tensor, done: bool) -> None:
        """Tell the controller what the stage that just ended earned; nothing in a validation."""
        reward = self.done[-1].reward
        if self.plan.search_episode(episode) is not None and reward is not None:
            self.controller.remember(*self.decision, reward, following, done)

    # --- episodes -------------------------------------------------------------------------------------------

    def begin_episode(self, episode: int) -> None:
        """New networks, nothing remembered of the last ones."""
        self.twins.reset(episode)
        self.tracker.reset()
        self.rule.begin(self.facts)
        self.done, self.drift = [], None
        search_episode = self.plan.search_episode(episode)
        if search_episode is not None:
            self.controller.begin_episode(search_episode)

    def end_episode(self, episode: int) -> None:
        """Let the controller learn, or see how good its policy is."""
        search_episode = self.plan.search_episode(episode)
        earned = fmean(stage.reward for stage in self.done if stage.reward is not None)
        report = EpisodeReport(episode, search_episode, tuple(self.done), earned, self.drift, best=False)
        if search_episode is not None:
            self.remember(episode, self.tracker.state(self.stages, self.twins.learner.rate_share), done=True)
            self.controller.end_episode()
        else:
            self.round.append(report)
        if self.plan.closes_round(episode):
            report = replace(report, best=self.close_round())
        self.reports.append(report)
        if self.on_episode:
            self.on_episode(report)

    def close_round(self) -> bool:
        """Keep the policy if no round of validations earned as much; whether it was kept."""
        earned = fmean(report.reward for report in self.round)
        kept = self.best is None or earned > self.best.reward
        if kept:
            finest = max(self.round, key=lambda report: report.reward)
            actor = {key: tensor.detach().clone() for key, tensor in self.controller.actor.state_dict().items()}
            trace = tuple(Moment(stage.state, stage.action) for stage in finest.stages[self.warm_up :])
            self.best = BestPolicy(earned, actor, trace)
        self.round = []
        return kept

    # --- saving ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything: a search goes on at any step as if it had never stopped."""
        return {
            "step": self.step,
            "decision": list(self.decision),
            "weights_seen": self.weights_seen,
            "done": [asdict(stage) for stage in self.done],
            "drift": self.drift,
            "round": [report.to_dict() for report in self.round],
            "best": None if self.best is None else vars(self.best),
            "reports": [report.to_dict() for report in self.reports],
            "tracker": self.tracker.state_dict(),
            "rule": self.rule.state_dict(),
            "controller": self.controller.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.step = int(state["step"])
        self.decision = Decision(*state["decision"])
        self.rule.load_state_dict(state["rule"])
        self.weights_seen = self.device.put(state["weights_seen"])
        self.done = [stage_from(stage) for stage in state["done"]]
        self.drift = state["drift"]
        self.round = [EpisodeReport.from_dict(report) for report in state["round"]]
        self.reports = [EpisodeReport.from_dict(report) for report in state["reports"]]
        self.best = None if state["best"] is None else best_from(state["best"])
        self.tracker.load_state_dict(state["tracker"])
        self.controller.load_state_dict(state["controller"])


def best_from(table: Mapping[str, Any]) -> BestPolicy:
    """Undo ``vars``, also after JSON made lists of the tuples."""
    trace = tuple(Moment(tuple(state), tuple(action)) for state, action in table["trace"])
    return BestPolicy(table["reward"], table["actor"], trace)
