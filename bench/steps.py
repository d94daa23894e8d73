"""Training steps: our defaults against the plain fp32 step, the matmul rate, and what distillation adds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.timing import Paired, Row, at_least, at_most, cpu_seconds, interleave
from facekit.core.device import Device
from facekit.core.loop import Guard, Progress, Task, update
from facekit.core.preprocess import Preprocess
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.data.batches import Batches
from facekit.data.sources import open_source
from facekit.data.synth import synthesise
from facekit.losses import LOSSES, Dims
from facekit.models import build_backbone
from facekit.models.prelu import PReLU
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.teachers import CachedTeacher

SCHEDULE = Schedule(epochs=1, steps_per_epoch=1, clip=5.0)


def image_batch(count: int, side: int = 112) -> Batch:
    """Random uint8 images in channels_last, as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    index = torch.arange(count)
    return Batch(images, index % 7, index, index % 2, index)


class FixedTarget:
    """The plain student step: same network and optimiser, a cosine loss to a fixed target."""

    def __init__(self, model: nn.Module, width: int, count: int, device: Device) -> None:
        self.modules: dict[str, nn.Module] = {"model": device.module(model)}
        self.optimisers = {"main": build_optimiser("sgd", [model], 1e-3, 5e-4)}
        self.target = normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(1)))
        self.device, self.preprocess = device, Preprocess(embedding=width)

    def phases(self, batch: Batch) -> Iterator[tuple[str, Callable[[], dict[str, Tensor]]]]:
        """One update."""

        def terms() -> dict[str, Tensor]:
            with self.device.autocast():
                embedding = self.modules["model"](self.preprocess(batch.images)).embedding
            return {"cos": 1 - (normalize(embedding.float()) * self.target).sum(1).mean()}

        yield "main", terms

    def measured(self) -> dict[str, Tensor]:
        """One term: nothing to tell apart."""
        return {}


def stepper(task: Task, batch: Batch, device: Device) -> Callable[[], None]:
    """One whole optimiser step of the loop as a callable."""
    guard, progress, scaler = Guard(), Progress(), device.scaler()
    return lambda: update(task, [batch], SCHEDULE, device, scaler, guard, progress)


def plain_prelu(model: nn.Module) -> nn.Module:
    """Put torch's own PReLU back, for the plain side."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PReLU):
                setattr(module, name, nn.PReLU(child.weight.numel()))
    return model


def plain_step(name: str, width: int, batch: Batch) -> Callable[[], None]:
    """The textbook eager step: fp32, NCHW, torch's PReLU and optimiser."""
    torch.manual_seed(0)
    model = plain_prelu(build_backbone(name, width)).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    target = normalize(torch.randn(len(batch.images), width, generator=torch.Generator().manual_seed(1)))
    images = batch.images.contiguous()

    def step() -> None:
        optimiser.zero_grad()
        embedding = model(images.float().div(127.5).sub(1)).embedding
        loss = 1 - (normalize(embedding) * target).sum(1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()

    return step


def our_step(name: str, width: int, batch: Batch, precision: str = "auto") -> Callable[[], None]:
    """The loop's step with facekit's defaults."""
    device = Device.pick("cpu", precision, threads=1)
    torch.manual_seed(0)
    model = build_backbone(name, width).train()
    return stepper(FixedTarget(model, width, len(batch.images), device), batch, device)  # type: ignore[arg-type]


def mbf_step() -> Row:
    """mbf_s1: defaults against the plain step."""
    batch = image_batch(32)
    paired = interleave(plain_step("mbf_s1", 128, batch), our_step("mbf_s1", 128, batch))
    return at_least(
        "mbf_s1 training step, plain fp32 / ours", paired, 1.3, "batch 32, one thread, whole optimiser step"
    )


def r18_step() -> Row:
    """r18: share of the machine's bf16 matmul rate that a training step reaches."""
    count = 16
    step = our_step("r18", 512, image_batch(count))
    flop = 3 * 5.22e9 * count  # forward 2 x MAC, backward twice that
    size = 4096
    a = torch.randn(size, size, dtype=torch.bfloat16)
    matmul_flop = 2 * size**3
    paired = interleave(lambda: a @ a, step)
    # (matmul seconds per flop) / (step seconds per flop): 1 would be a step at the matmul rate.
    scaled = Paired(paired.a / matmul_flop, paired.b / flop)
    return at_least(
        "r18 training step, share of the bf16 matmul rate", scaled, 0.6, "batch 16, one thread, 15.7 GFLOP/image"
    )


def distill_step() -> Row:
    """FCD with cached teacher outputs against the plain student step of the same network."""
    count, width = 128, 128
    batch = image_batch(count)
    device = Device.pick("cpu", "auto", threads=1)
    torch.manual_seed(0)
    table = np.random.default_rng(0).normal(size=(9272, 2, width)).astype(np.float32)
    losses = {"fcd": WeightedLoss(LOSSES["fcd"](Dims(width, width), {}, {}), 1.0)}
    student = build_backbone("mbf_nano", width).train()

    def optimiser(modules: list[nn.Module]) -> torch.optim.Optimizer:
        return build_optimiser("sgd", modules, 1e-3, 5e-4)

    task = Distill(student, CachedTeacher(table, device), losses, Preprocess(embedding=width), device, optimiser)
    paired = interleave(stepper(task, batch, device), our_step("mbf_nano", width, batch))
    note = "batch 128, mbf_nano: the smallest network, where what distillation adds weighs most"
    return at_most("fcd step with cached teacher / plain student step", paired, 1.05, note)


def input_pipeline() -> Row:
    """Order, flip views, gather and hand-over of a batch against one mbf step."""
    count = 128
    with tempfile.TemporaryDirectory() as folder:
        synthesise(Path(folder) / "faces", identities=40, per_identity=20)
        source = open_source(Path(folder) / "faces" / "images")
        batches = Batches(source, batch=count, seed=0, flip=True, put=lambda x: x, cache="ram")
        state = {"epoch": 0, "stream": batches.epoch(0)}
        for _ in batches.epoch(0):  # fill the cache
            pass

        def load() -> None:
            try:
                next(state["stream"])  # type: ignore[call-overload]
            except StopIteration:
                state["epoch"] += 1  # type: ignore[operator]
                state["stream"] = batches.epoch(state["epoch"])  # type: ignore[arg-type]
                next(state["stream"])  # type: ignore[call-overload]

        load_times = np.array([cpu_seconds(load) for _ in range(60)])
        step = our_step("mbf", 512, image_batch(32))
        step()
        step_times = np.array([cpu_seconds(step) for _ in range(10)]) * (count / 32)
    value = float(np.median(load_times) / np.median(step_times))
    note = f"{np.median(load_times) * 1e3:.1f} ms of {np.median(step_times) * 1e3:.0f} ms for 128 images"
    return Row("input pipeline, share of an mbf step", value, None, None, "<= 0.03", value <= 0.03, "x", note)
