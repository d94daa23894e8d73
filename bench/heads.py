"""The chunked margin softmax: its time against bare matrix products, its memory at a million identities."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.timing import Row, at_most, interleave
from facekit.core.device import Device
from facekit.models import HEADS
from facekit.training.optimisers import build_optimiser

BATCH, WIDTH = 128, 512


class HeadAlone:
    """A task that trains nothing but a margin head, on the same random embeddings at every step."""

    def __init__(self, classes: int, device: Device) -> None:
        torch.manual_seed(0)
        self.head = HEADS["arcface"](WIDTH, classes)
        self.modules: dict[str, nn.Module] = {"head": device.module(self.head)}
        self.optimisers = {"main": build_optimiser("sgd", [self.head], 0.1, 5e-4)}
        self.embedding = torch.randn(BATCH, WIDTH, requires_grad=True)
        self.labels = torch.randint(0, classes, (BATCH,))

    def phases(self, batch: object) -> Iterator[tuple[str, Callable[[], dict[str, Tensor]]]]:
        """One update."""
        yield "main", lambda: {"cls": self.head.loss(self.embedding, self.labels).mean()}

    def measured(self) -> dict[str, Tensor]:
        """One term: nothing to tell apart."""
        return {}


def four_products(unit: Tensor, weight: Tensor) -> Callable[[], object]:
    """What no margin softmax of this size can do without, once cosines are computed again for the gradient."""

    def multiply() -> None:
        logits = unit @ weight.T
        logits = unit @ weight.T
        logits @ weight
        logits.T @ unit

    return multiply


def head_chunked() -> Row:
    """Forward and backward of ``head.loss`` against four matrix products of the same sizes."""
    classes = 50_000
    task = HeadAlone(classes, Device.pick("cpu", "fp32", threads=1))

    def step() -> None:
        task.head.weight.grad = task.embedding.grad = None
        task.head.loss(task.embedding, task.labels).mean().backward()

    products = four_products(normalize(task.embedding.detach()), task.head.weight.detach())
    paired = interleave(step, products)
    note = f"{classes:,} classes x {WIDTH}, batch {BATCH}, one thread; the products make whole [B,C] logits"
    return at_most("margin softmax in chunks, forward and backward / its matrix products", paired, 1.4, note)


# Whole optimiser steps of the loop. Peak memory is reset when weight and momentum exist (Linux: writing 5 to
# clear_refs); it grows by the gradient, and by what the head needs to work.
MILLION_CHILD = """
import sys, time
import torch
from bench.heads import HeadAlone
from facekit.core.device import Device
from facekit.core.loop import Guard, Progress, update
from facekit.core.schedule import Schedule
device = Device.pick("cpu", "fp32", threads=1)
task = HeadAlone(int(sys.argv[1]), device)
def status(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open("/proc/self/clear_refs", "w").write("5")
base = status("VmRSS")
schedule = Schedule(epochs=1, steps_per_epoch=2, clip=5.0)
started = time.perf_counter()
for _ in range(2):
    update(task, [None], schedule, device, device.scaler(), Guard(), Progress())
seconds = (time.perf_counter() - started) / 2
print(status("VmHWM") - base - 4 * task.modules["head"].weight.numel(), status("VmHWM"), seconds)
"""


def head_million() -> Row:
    """A million identities on one device: memory beyond weight, momentum and gradient."""
    classes = 1_000_000
    command = [sys.executable, "-c", MILLION_CHILD, str(classes)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, peak, seconds = (float(x) for x in out.split())
    value = grown / 1e9
    note = (
        f"{classes:,} classes x {WIDTH}, batch {BATCH}, SGD with momentum, one thread: {seconds:.1f} s a step, "
        f"{peak / 1e9:.1f} GB in all; logits of all classes would be {4 * BATCH * classes / 1e9:.1f} GB"
    )
    return Row("a million identities, memory beyond weight, momentum and gradient", value, None, None, "< 0.3",
               value < 0.3, "GB", note)  # fmt: skip
