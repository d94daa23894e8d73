"""Small networks on small images: images a second on an accelerator, several seeds at once, what cropping costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from bench.steps import image_batch, stepper
from bench.timing import Paired, Row, interleave, reported
from facekit.core.augment import Augment
from facekit.core.device import Device
from facekit.core.loop import Task, TrainingBatches, fit
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal, hush
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.data.batches import Batches, SideBySide, apart
from facekit.models import build_classifier
from facekit.training.classes import OwnClasses
from facekit.training.classify import Classify
from facekit.training.optimisers import build_optimiser
from facekit.training.together import Together

SIDE, CLASSES = 32, 10


@dataclass(frozen=True)
class Noise:
    """As many images as CIFAR has, of its size, read from nowhere."""

    count: int
    identities: tuple[str, ...] = tuple(map(str, range(CLASSES)))
    size: tuple[int, int] = (SIDE, SIDE)
    fingerprint: str = "0" * 64
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """``12``."""
        return list(map(str, range(self.count)))

    @property
    def labels(self) -> np.ndarray:
        """Equally many of each class."""
        return np.arange(self.count) % CLASSES

    def __len__(self) -> int:
        return self.count

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,32,32,3]"""
        return np.random.default_rng(index[0]).integers(0, 256, (len(index), *self.size, 3), np.uint8)


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 5e-4)


def classifying(name: str, device: Device, seed: int, side: int, pad: int) -> Classify:
    """A run of the CIFAR recipe: shifted crops, mirroring, cross-entropy."""
    torch.manual_seed(seed)
    network, preprocess = build_classifier(name, CLASSES), Preprocess(size=(side, side), embedding=64)
    return Classify(network, OwnClasses(), preprocess, device, sgd, Augment(pad=pad))


# --- images a second --------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """How much is trained."""

    images: int  # of an epoch of one run
    batch: int  # of one run
    epochs: int


ON_GPU, ON_CPU = Size(50_000, 512, 7), Size(256, 64, 3)
"""On a CPU enough to see that it runs: the bars are for a GPU."""

Runs = Callable[[Device, Batches], tuple[Task, TrainingBatches]]
"""What is trained, and on what, from the batches of one run."""


def resnet20_run() -> Row:
    """One run."""

    def one(device: Device, batches: Batches) -> tuple[Task, TrainingBatches]:
        return classifying("resnet20", device, 0, SIDE, pad=4), batches

    return images_a_second("resnet20 training, one run", one, 1, bar=60_000)


def resnet20_together(seeds: int = 8) -> Row:
    """Seeds as one stacked network, each with its own order and crops; images of all of them count."""

    def several(device: Device, batches: Batches) -> tuple[Task, TrainingBatches]:
        members = [classifying("resnet20", device, seed, SIDE, pad=4) for seed in range(seeds)]
        return Together(members, device, sgd), SideBySide([batches.reseeded(seed) for seed in range(seeds)])

    return images_a_second(f"resnet20 training, {seeds} seeds together", several, seeds, bar=200_000)


def images_a_second(name: str, runs: Runs, seeds: int, bar: int) -> Row:
    """Plain, and on an accelerator also compiled: the row is the faster one, the note has both."""
    device = Device.pick("auto", threads=1)
    accelerated = device.torch_device.type != "cpu"
    size = ON_GPU if accelerated else ON_CPU
    speeds = {"plain": epoch_speeds(device, size, runs, seeds)}
    if accelerated:
        speeds["compiled"] = epoch_speeds(replace(device, compile=True), size, runs, seeds)
    best = max(speeds.values(), key=lambda each: float(np.median(each)))
    value, low, high = Paired(best, np.ones(len(best))).ratio()
    note = (
        f"{device.describe()['device']}, {device.precision}, batch {size.batch} a run, {SIDE}x{SIDE} uint8 images, "
        f"crops and flips on the device; {size.epochs} epochs by the wall clock: "
        + ", ".join(f"{how} {np.median(each):,.0f}" for how, each in speeds.items())
    )
    if not accelerated:
        return Row(name, value, low, high, "none", True, "img/s", f"{note}; the bar, {bar:,}, is for a GPU")
    return Row(name, value, low, high, f">= {bar:,}", value >= bar, "img/s", note)


def epoch_speeds(device: Device, size: Size, runs: Runs, seeds: int) -> np.ndarray:
    """Images a second, of all seeds, in whole epochs of the training loop, one before them left out."""
    hush()
    source = Noise(size.images)
    own = Batches(source, batch=size.batch, seed=0, flip=True, put=device.put, cache="device", crops=True)
    task, batches = runs(device, own)
    schedule, images = Schedule(epochs=1, steps_per_epoch=batches.steps_per_epoch), seeds * size.batch
    seconds = []
    for _ in range(1 + size.epochs):
        device.wait()
        start = time.perf_counter()
        fit(task, batches, schedule, None, device, Journal(None, schedule.total_steps, images), meta={})
        device.wait()
        seconds.append(time.perf_counter() - start)
    return images * schedule.total_steps / np.array(seconds[1:])


# --- on a CPU ---------------------------------------------------------------------------------------------------


def cropped_batch(count: int, side: int) -> Batch:
    """Random images with views and crop keys."""
    batch = image_batch(count, side)
    return batch._replace(crop=torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(1)))


def seeds_on_cpu(seeds: int = 3, batch: int = 128, side: int = 16) -> Row:
    """A step of each of three runs, one after the other, against one step of all together."""
    device = Device.pick("cpu", "auto", threads=1)
    joined = cropped_batch(seeds * batch, side)
    alone, members = ([classifying("resnet8", device, k, side, pad=2) for k in range(seeds)] for _ in range(2))
    steps = [stepper(task, own, device) for task, own in zip(alone, apart(joined, seeds), strict=True)]
    together = stepper(Together(members, device, sgd), joined, device)

    def one_after_the_other() -> None:
        for step in steps:
            step()

    note = f"resnet8, {side}x{side}, batch {batch} each, one thread: below 1, stacking loses; it is meant for a GPU"
    return reported(f"{seeds} seeds on a CPU, in turn / together", interleave(one_after_the_other, together), note)


def crop_share() -> Row:
    """Shifted crops and flips beside the whole step that they are part of."""
    device = Device.pick("cpu", "auto", threads=1)
    batch, augment = cropped_batch(128, SIDE), Augment(pad=4)
    step = stepper(classifying("resnet20", device, 0, SIDE, pad=4), batch, device)
    note = f"batch 128, {SIDE}x{SIDE}, padding 4, one thread"
    return reported("crops and flips, share of a resnet20 step", interleave(lambda: augment(batch), step), note)
