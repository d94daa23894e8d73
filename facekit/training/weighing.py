"""From losses of samples to a loss of the batch, as a weighter says: between ``weighting`` and the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekit.core.device import Device
from facekit.core.types import Batch, Outputs
from facekit.training.replay import CleanBatches, Learner, StepReplay
from facekit.training.weightrecord import WeightRecord
from facekit.weighting.base import LEAST_SUM, Facts, View, Weighter


class Weighing:
    """A weighter at work in one training.

    ``clean`` where the weighter needs clean images. The number of processes changes nothing: they exchange weights, and
    the average of their gradients is that of the global weighted mean.
    """

    def __init__(self, weighter: Weighter, facts: Facts, device: Device, clean: CleanBatches | None = None) -> None:
        weighter.begin(facts)
        self.weighter, self.device, self.clean = weighter, device, clean
        self.steps_per_epoch = facts.steps_per_epoch
        self.record = WeightRecord(facts)
        self.step = 0
        self.views: list[View] = []  # of the batches of the step, for after_step

    def shares(self, losses: Tensor, outputs: Outputs, batch: Batch, learner: Learner) -> Tensor:
        """Ask the weighter, once for every batch: losses [B] -> what ``reduced`` multiplies them with, float32 [B]."""
        view = self.view(losses.detach().float(), outputs, batch, learner)
        self.views.append(view)
        weights = self.weighter.weights(view).float()
        every = self.device.gather(weights)
        self.record.add(self.step // self.steps_per_epoch, self.device.gather(batch.index), every)
        self.step += 1
        return weights if self.weighter.reduction == "batch_mean" else mean_one(weights, every)

    def view(self, losses: Tensor, outputs: Outputs, batch: Batch, learner: Learner) -> View:
        """The batch as weighters see it."""
        begin = self.device.rank * len(losses)
        with torch.no_grad():
            logits = learner.classes.logits(outputs).detach().float()  # a network's own come with their gradient
        return View(
            loss=losses,
            logits=logits,
            labels=batch.labels,
            index=batch.index,
            step=self.step,
            rate=learner.rate_share,
            gather=self.device.gather,
            own=slice(begin, begin + len(losses)),
            replay=StepReplay(learner, batch, self.clean.at(self.step)) if self.clean else None,
        )

    def after_step(self) -> None:
        """After the update, once for every batch of it."""
        self.weighter.after_step(self.views.pop(0))

    def table(self) -> dict[str, np.ndarray]:
        """Mean weights of every image (``WeightRecord.table``)."""
        return self.record.table()

    def summary(self) -> dict[str, Any]:
        """Mean weights of every epoch (``WeightRecord.summary``)."""
        return self.record.summary()

    def state_dict(self) -> dict[str, Any]:
        """Equal on all processes."""
        return {"step": self.step, "weighter": self.weighter.state_dict(), "record": self.record.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.step = state["step"]
        self.weighter.load_state_dict(state["weighter"])
        self.record.load_state_dict(state["record"])


def mean_one(weights: Tensor, every: Tensor) -> Tensor:
    """Weights [B] over the mean of ``every``, those of the global batch.

    A weighted mean is the plain mean of losses times such shares; equal weights change no bit of it.
    """
    return weights * (len(every) / every.sum().clamp_min(LEAST_SUM))


def reduced(losses: Tensor, shares: Tensor | None) -> Tensor:
    """Mean of losses [B]; of losses times shares where there are some."""
    return losses.mean() if shares is None else (shares.to(losses.dtype) * losses).mean()
