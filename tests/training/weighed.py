"""A training small enough to be weighed in a test: images of noise, and a network without BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.checkpoints import CheckpointStore
from facekit.core.device import Device
from facekit.core.loop import Task, fit
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Outputs
from facekit.data.batches import Batches
from facekit.training.classes import OwnClasses
from facekit.training.classify import Classify
from facekit.training.optimisers import build_optimiser
from facekit.training.weighing import Weighing
from facekit.weighting.base import Facts, View, Weighter

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
CLASSES, IMAGES, BATCH = 5, 42, 7
PREPROCESS = Preprocess(size=(4, 4), embedding=6)


class Noise:
    """Images of noise; ``names`` of identities in the order of their labels."""

    size, fingerprint = (4, 4), "noise"

    def __init__(self, images: int = IMAGES, identities: tuple[str, ...] = tuple("abcde")) -> None:
        self.identities = list(identities)
        self.names = tuple(map(str, range(images)))
        self.labels = np.arange(images) % len(identities)
        self.pixels = np.random.default_rng(0).integers(0, 255, (images, 4, 4, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class Net(nn.Module):
    """With classes of its own; in float64 what differs between numbers of processes is the order of sums."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 6)).double()
        self.fc = nn.Linear(6, CLASSES).double()

    def forward(self, images: Tensor) -> Outputs:
        embedding = self.layers(images.double())
        return Outputs(embedding, logits=self.fc(embedding))


class Hard(Weighter):
    """1 + tanh(-z of the loss): from 0 to 2, by statistics of the global batch; remembers a sum of what it saw."""

    def begin(self, facts: Facts) -> None:
        self.seen = torch.zeros((), device=facts.device)

    def weights(self, view: View) -> Tensor:
        every = view.gather(view.loss)
        faded = 1 / (1 + self.seen)
        return 1 + torch.tanh(-faded * (view.loss - every.mean()) / (every.std() + 1e-5))

    def after_step(self, view: View) -> None:
        self.seen = self.seen + view.gather(view.loss).mean()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Any) -> None:
        self.seen = state["seen"]


def facts(truth: Tensor | None = None, epochs: int = 3, images: int = IMAGES) -> Facts:
    return Facts(images, torch.full((CLASSES,), images // CLASSES), epochs, images // BATCH, 0, CPU.torch_device, truth)


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 1e-3)


def classify(weighing: Weighing | None, device: Device = CPU, net: Callable[[], nn.Module] = Net) -> Classify:
    return Classify(net(), OwnClasses(), PREPROCESS, device, sgd, weighing=weighing)


def train(
    task: Task,
    folder: Path | None = None,
    device: Device = CPU,
    *,
    batch: int = BATCH,
    accumulate: int = 2,
    steps: int | None = None,
    resume: bool = False,
) -> None:
    batches = Batches(
        Noise(), batch=batch, seed=3, flip=True, put=device.put, cache="ram", rank=device.rank, world=device.world
    )
    schedule = Schedule(epochs=3, steps_per_epoch=batches.steps_per_epoch // accumulate, accumulate=accumulate)
    journal = Journal(None, schedule.total_steps, batch)
    store = CheckpointStore(folder) if folder else None
    fit(task, batches, schedule, store, device, journal, meta={}, max_steps=steps, resume=resume)
