"""Fit the discrepancy estimator: half of the people are the bank that sets the targets, the others are learned from.

A tenth of the people, in neither, decides which epoch is kept and how good it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.alignment.estimator import Estimator, estimate
from facekit.alignment.statistics import Stats
from facekit.core.device import Device
from facekit.core.errors import InputError
from facekit.core.loop import Phase, Terms, fit
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.data.batches import epoch_order

LEAST_PEOPLE = 40
"""So that twenty are the bank, and four judge."""
LEAST_DEVIATION = 1e-4
"""Deviations below are taken for this one: the operator z clamps them so too."""
_HELD_OUT = 0.1
_DEVIATION_WEIGHT = 0.5
_SEED_OF_SPLIT = 0x5111


class Split(NamedTuple):
    """Rows of a data set, int64, by what their people are for."""

    bank: np.ndarray
    """half of the people: neighbours behind the targets"""
    learn: np.ndarray
    held: np.ndarray
    """a tenth of the people: choose the epoch, and measure it"""


def split_people(labels: np.ndarray, seed: int) -> Split:
    """Cut the people of int64 labels [N] into bank, learn and held by a seeded order.

    Raises InputError for fewer than 40 people.
    """
    people = np.unique(labels)
    if len(people) < LEAST_PEOPLE:
        raise InputError(
            f"the data has {len(people)} people, and an estimator needs at least {LEAST_PEOPLE}: half of them are the "
            "bank behind its targets; add people, or align with a cohort"
        )
    shuffled = people[epoch_order(seed ^ _SEED_OF_SPLIT, 0, len(people))]
    half, tenth = len(people) // 2, round(_HELD_OUT * len(people))
    parts = np.split(shuffled, [half, len(people) - tenth])
    return Split(*(np.flatnonzero(np.isin(labels, part)) for part in parts))


def targets_of(stats: Stats) -> Tensor:
    """d and log v, float32 [N,2]."""
    pair = np.stack([stats.d, np.log(np.maximum(stats.v, LEAST_DEVIATION))], axis=1)
    return torch.from_numpy(pair.astype(np.float32))


def usual(targets: Tensor) -> Tensor:
    """Mean d and the log of the mean v, [2]: what an untrained estimator says of every face."""
    return torch.stack([targets[:, 0].mean(), targets[:, 1].exp().mean().log()])


class Lessons(NamedTuple):
    """Unit embeddings [N,D] and what is to be said of them [N,2], float32 both."""

    vectors: Tensor
    targets: Tensor


class Fitted(NamedTuple):
    """The best network of a fit, and its R2 on people it has not seen."""

    network: Estimator
    r2: float


@dataclass(frozen=True)
class FitSettings:
    """How an estimator is fitted."""

    epochs: int = 20
    batch: int = 512
    seed: int = 0


def fit_estimator(
    learn: Lessons,
    held: Lessons,
    optimiser: Callable[[list[nn.Module]], Optimizer],
    device: Device,
    settings: FitSettings,
) -> Fitted:
    """Fit on ``learn``, keep the epoch that is best on ``held``; a constant where none beats a constant.

    The network starts from torch's global generator.
    """
    spread = learn.targets.std(dim=0).clamp(min=LEAST_DEVIATION)
    network = Estimator(learn.vectors.shape[1], usual(learn.targets), spread)
    task = EstimateDiscrepancy(network, learn, optimiser, device)
    batches = RowBatches(len(learn.vectors), settings.batch, settings.seed, device)
    schedule = Schedule(epochs=settings.epochs, steps_per_epoch=batches.steps_per_epoch)
    best = BestEpoch(held)
    journal = Journal(None, schedule.total_steps, settings.batch)
    fit(task, batches, schedule, None, device, journal, meta={}, validate=best, seed=settings.seed)
    network.load_state_dict(best.weights)
    if best.r2 <= 0:
        network.forget()
    return Fitted(network.cpu().eval().requires_grad_(False), best.r2)


class EstimateDiscrepancy:
    """Smooth L1 of the standardised discrepancy, and half of that of the log deviation."""

    def __init__(
        self, network: Estimator, learn: Lessons, optimiser: Callable[[list[nn.Module]], Optimizer], device: Device
    ) -> None:
        self.modules: dict[str, nn.Module] = {"model": device.module(network)}
        self.optimisers = {"main": optimiser([network])}
        self.vectors, self.targets = device.put(learn.vectors), device.put(learn.targets)
        self.spread = network.spread[0]

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update on the rows of the batch."""

        def terms() -> Terms:
            said = self.modules["model"](self.vectors[batch.index])
            return discrepancy_terms(said, self.targets[batch.index], self.spread)

        yield "main", terms

    def measured(self) -> Mapping[str, Tensor]:
        """Not measured."""
        return {}

    def after_step(self, batch: Batch) -> None:
        """Nothing is remembered between steps."""

    def state_dict(self) -> dict[str, Any]:
        """Modules and optimisers are all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def discrepancy_terms(said: Tensor, wanted: Tensor, spread: Tensor) -> Terms:
    """The two weighted terms of [B,2] against [B,2]. Off by one ``spread`` in d and by 2 in log v: 0.5 and 0.75."""
    d = F.smooth_l1_loss(said[:, 0] / spread, wanted[:, 0] / spread)
    return {"d": d, "log_v": _DEVIATION_WEIGHT * F.smooth_l1_loss(said[:, 1], wanted[:, 1])}


class RowBatches:
    """Seeded batches of rows that the task keeps itself: ``index`` is all they hold. An epoch's last may be short."""

    def __init__(self, rows: int, batch: int, seed: int, device: Device) -> None:
        self.rows, self.batch, self.seed, self.device = rows, batch, seed, device
        self.steps_per_epoch = -(-rows // batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on."""
        order = self.device.put(torch.from_numpy(epoch_order(self.seed, epoch, self.rows)))
        for rows in order.split(self.batch)[start:]:
            nothing = torch.zeros_like(rows)
            yield Batch(rows.new_empty(len(rows), 0), nothing, rows, nothing, torch.arange(len(rows)))


class BestEpoch:
    """Measures a network on people it does not learn from, after each epoch, and keeps the best one's weights."""

    def __init__(self, held: Lessons) -> None:
        self.vectors, self.targets = held.vectors.numpy(), held.targets.double().numpy()
        self.r2 = -np.inf
        self.weights: dict[str, Tensor] = {}

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """R2 of d."""
        assert isinstance(network, Estimator)
        r2 = explained(estimate(network, self.vectors)[:, 0], self.targets[:, 0])
        if r2 > self.r2:
            self.r2, self.weights = r2, copy.deepcopy(network.state_dict())
        return {"r2": r2}


def explained(said: np.ndarray, true: np.ndarray) -> float:
    """R2: the share of the variance of ``true`` that is explained. Saying its mean gives 0, saying worse less."""
    spread = np.sum((true - true.mean()) ** 2)
    return float(1 - np.sum((said - true) ** 2) / spread) if spread > 0 else 0.0
