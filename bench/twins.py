"""What a step of a policy search costs: both twins, features and weights, against a plain training step."""

from __future__ import annotations

import torch
from torch import nn

from bench.small_nets import CLASSES, classifying, cropped_batch, sgd
from bench.steps import SCHEDULE, stepper
from bench.timing import Row, at_most, interleave
from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.loop import Guard, Progress, update
from facekit.core.preprocess import Preprocess
from facekit.models import build_classifier
from facekit.training.classes import Classes, OwnClasses
from facekit.training.episodes import EpisodePlan
from facekit.training.policysearch import PolicySearch
from facekit.weighting.agent import Controller
from facekit.weighting.base import Facts
from facekit.weighting.features import DEFAULT_FEATURES
from facekit.weighting.profiles import PROFILES

NETWORK, SIDE, BATCH, PAD = "conv3", 16, 100, 2
STEPS = 1_000_000
"""Of a stage: none ends while it is timed."""


def searching(device: Device) -> PolicySearch:
    """A search in its first stage, which the controller decides; the truth is known."""

    def fresh(episode: int) -> tuple[nn.Module, Classes]:
        torch.manual_seed(episode)
        return build_classifier(NETWORK, CLASSES), OwnClasses()

    counts, truth = torch.full((CLASSES,), BATCH // CLASSES), torch.arange(BATCH) % 3 > 0
    controller = Controller(PROFILES["short"], 2, len(DEFAULT_FEATURES) + 1, 1, seed=0)
    return PolicySearch(
        fresh,
        lambda network, episode: 0.0,
        Facts(BATCH, counts, 1, 2 * STEPS, 0, device.torch_device, truth),
        Preprocess(size=(SIDE, SIDE), embedding=64),
        device,
        sgd,
        controller,
        features=DEFAULT_FEATURES,
        hidden=0,
        stages=2,
        warm_up=0,
        steps_per_stage=STEPS,
        plan=EpisodePlan(1),
        augment=Augment(pad=PAD),
    )


def twin_step() -> Row:
    """The whole optimiser step of both, in turn."""
    device = Device.pick("cpu", "auto", threads=1)
    batch = cropped_batch(BATCH, SIDE)
    batch = batch._replace(labels=batch.index % CLASSES)
    search, guard, progress, scaler = searching(device), Guard(), Progress(), device.scaler()

    def both() -> None:
        update(search, [batch], SCHEDULE, device, scaler, guard, progress)
        search.after_step(batch)

    plain = stepper(classifying(NETWORK, device, 0, SIDE, PAD), batch, device)
    note = f"{NETWORK}, the smallest network, {SIDE}x{SIDE}, batch {BATCH}, one thread, {device.precision}"
    return at_most("step of a policy search / plain step", interleave(both, plain), 2.1, note)
