"""Relations within a batch: our losses against torchdistill's, their memory, and what CCKD adds to a step of KD."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.children import extra_peak, in_child
from bench.environments import beside
from bench.steps import image_batch, stepper
from bench.timing import Paired, Row, at_most, interleave
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.types import Outputs
from facekit.losses import LOSSES, Dims
from facekit.losses.cc_presets import TORCHDISTILL, TorchDistill
from facekit.models import HEADS, build_backbone, build_classifier
from facekit.training.classes import Classes, ClassTerm, MarginClasses, OwnClasses
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.teachers import CachedTeacher, ScoredTeacher, centred_scores

BATCH, WIDTH = 512, 512
VERSION = "1.1.5"
"""Of torchdistill."""
UNLIKE = {"sp": ": SPKDLoss divides rows by the sum of their absolute values, sp.gram by their length"}
"""Where the same name is another formula: both are timed, and why they differ is told."""
Gradients = tuple[Tensor, ...]


# --- against torchdistill ---------------------------------------------------------------------------------------


def cc_torchdistill() -> Row:
    """``cc.torchdistill`` against CCKDLoss: the same formula, its two linear maps included."""
    return compared("cc", repeats=30, bar=20)


def rkd_torchdistill() -> Row:
    """``rkd.distance`` + 2 ``rkd.angle`` against RKDLoss."""
    return compared("rkd", repeats=6)


def sp_torchdistill() -> Row:
    """``sp.gram`` against SPKDLoss."""
    return compared("sp", repeats=30)


def compared(name: str, repeats: int, bar: float | None = None) -> Row:
    """Forward and backward of both, in turn in one process that has both packages."""
    found = in_child("bench.congruence", name, repeats, python=beside("torchdistill", VERSION))
    note = (
        f"B = D = {BATCH}, fp32, one thread: {found['theirs']:.3g} and {found['ours']:.3g} CPU s, in turn {repeats} "
        f"times; torchdistill {VERSION}; relative difference of values {found['value']:.0e}, of gradients "
        f"{found['gradient']:.0e}{UNLIKE.get(name, '')}"
    )
    value, passed = found["ratio"], bar is None or found["ratio"] >= bar
    shown = "none" if bar is None else f">= {bar:g}"
    title = f"{name} of a batch, torchdistill / ours"
    return Row(title, value, found["low"], found["high"], shown, passed, "x", note)


def side_by_side(name: str, repeats: int) -> dict[str, float]:
    """In the peer's environment: median ratio of theirs to ours with its interval, and by how much results differ."""
    Device.pick("cpu", "fp32", threads=1)
    theirs, ours = {"cc": cc_pair, "rkd": rkd_pair, "sp": sp_pair}[name](*some_embeddings())
    expected, got = theirs(), ours()
    off = [float((a - b).norm() / a.norm()) for a, b in zip(expected, got, strict=True)]
    if max(off) > 1e-3 and name not in UNLIKE:
        raise SystemExit(f"{name}: ours and torchdistill's differ, relative errors of value and gradients {off}")
    paired = interleave(theirs, ours, repeats, warm=1)
    ratio, low, high = paired.ratio()
    seconds = {"theirs": float(np.median(paired.a)), "ours": float(np.median(paired.b))}
    return {"ratio": ratio, "low": low, "high": high, **seconds, "value": off[0], "gradient": max(off[1:])}


def some_embeddings() -> tuple[Tensor, Tensor]:
    """Student, with gradient, and teacher [B,D]: 64 identities, 8 images each."""
    generator = torch.Generator().manual_seed(0)
    people, own, between = (torch.randn(n, WIDTH, generator=generator) for n in (BATCH // 8, BATCH, BATCH))
    teacher = people.repeat_interleave(8, 0) + 0.6 * own
    return (teacher + 0.4 * between).requires_grad_(), teacher


def cc_pair(student: Tensor, teacher: Tensor) -> tuple[Callable[[], Gradients], Callable[[], Gradients]]:
    """Theirs and ours, behind the same maps. Each gives the value, then the gradients of student and maps."""
    from torchdistill.losses.mid_level import CCKDLoss

    torch.manual_seed(0)
    ours = TorchDistill(Dims(WIDTH, WIDTH), {}, {})
    kernel = {"type": "gaussian", "gamma": TORCHDISTILL.gamma, "max_p": TORCHDISTILL.order}
    theirs = CCKDLoss("linear", "linear", kernel, "batchmean")
    inputs = (student, *ours.parameters())

    def their_value() -> Tensor:
        rows = ours.project.student(student), ours.project.teacher(teacher)
        return theirs(*(output_of("linear", side) for side in rows))

    return with_gradients(their_value, inputs), with_gradients(partial(value_of, ours, student, teacher), inputs)


def rkd_pair(student: Tensor, teacher: Tensor) -> tuple[Callable[[], Gradients], Callable[[], Gradients]]:
    """Theirs and ours, distances and angles with torchdistill's weights 1 and 2."""
    from torchdistill.losses.mid_level import RKDLoss

    theirs = RKDLoss("net", "net", 1.0, 2.0, "mean")
    distance, angle = (LOSSES[name](Dims(WIDTH, WIDTH), {}, {}) for name in ("rkd.distance", "rkd.angle"))

    def our_value() -> Tensor:
        return value_of(distance, student, teacher) + 2.0 * value_of(angle, student, teacher)

    return (
        with_gradients(lambda: theirs(output_of("net", student), output_of("net", teacher)), (student,)),
        with_gradients(our_value, (student,)),
    )


def sp_pair(student: Tensor, teacher: Tensor) -> tuple[Callable[[], Gradients], Callable[[], Gradients]]:
    """Theirs and ours."""
    from torchdistill.losses.mid_level import SPKDLoss

    theirs, ours = SPKDLoss("net", "net", "batchmean"), LOSSES["sp.gram"](Dims(WIDTH, WIDTH), {}, {})
    return (
        with_gradients(lambda: theirs(output_of("net", student), output_of("net", teacher)), (student,)),
        with_gradients(partial(value_of, ours, student, teacher), (student,)),
    )


def output_of(path: str, tensor: Tensor) -> dict[str, dict[str, Tensor]]:
    """What torchdistill's hooks would have kept of a module."""
    return {path: {"output": tensor}}


def value_of(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """One of our relational losses, called as a task calls it; it reads nothing of a batch."""
    value: Tensor = loss(Outputs(student), Outputs(teacher), None)
    return value


def with_gradients(value: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], Gradients]:
    """Forward and backward as a call: the value and the gradients at ``inputs``."""

    def both() -> Gradients:
        loss = value()
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    return both


# --- memory -----------------------------------------------------------------------------------------------------

RELATIONAL = ("cc.taylor", "rkd.angle", "rkd.distance", "sp.gram")


def relations_memory() -> Row:
    """Peak memory of forward and backward beyond the embeddings, of the loss that needs most."""
    mib = {name: grown / 2**20 for name, grown in in_child("bench.congruence", "memory").items()}
    value = max(mib.values())
    note = f"B = D = {BATCH}, fp32, forward and backward: " + ", ".join(f"{k} {v:.1f}" for k, v in mib.items())
    return Row("relational losses, memory beyond the embeddings", value, None, None, "<= 64", value <= 64, "MiB", note)


def memory() -> dict[str, float]:
    """Bytes of each loss."""
    Device.pick("cpu", "fp32", threads=1)
    student, teacher = some_embeddings()
    found: dict[str, float] = {}
    for name in RELATIONAL:
        value = partial(value_of, LOSSES[name](Dims(WIDTH, WIDTH), {}, {}), student, teacher)
        found[name] = extra_peak(with_gradients(value, (student,)))
    return found


# --- a training step --------------------------------------------------------------------------------------------

STEP_BATCH = 128
KD = ("kd",)
CCKD = ("kd", "cc.taylor")
"""Beside ``cls``."""


def step_cckd() -> Row:
    """The smallest network of the CIFAR profile, where what a term costs weighs most."""

    def step(terms: tuple[str, ...]) -> Callable[[], None]:
        torch.manual_seed(0)
        return learning_step(build_classifier("resnet8", 10), OwnClasses(), 10, 64, 16, terms)

    return added_by_cckd(step, "resnet8, 16x16, 10 classes")


def step_cckd_faces() -> Row:
    """The student of the LFW profile: people with four images or more, a margin head."""

    def step(terms: tuple[str, ...]) -> Callable[[], None]:
        torch.manual_seed(0)
        head = MarginClasses(HEADS["arcface"](128, 369))
        return learning_step(build_backbone("mbf_half", 128), head, 369, 128, 112, terms)

    return added_by_cckd(step, "mbf_half, 112x112, 369 identities")


def added_by_cckd(step: Callable[[tuple[str, ...]], Callable[[], None]], what: str) -> Row:
    """A step of cls+kd+cc.taylor against one of cls+kd."""
    paired: Paired = interleave(step(CCKD), step(KD))
    note = f"{what}, batch {STEP_BATCH}, cached teacher, one thread; a KD step takes {np.median(paired.b):.3f} CPU s"
    return at_most("cls+kd+cc.taylor step / cls+kd step", paired, 1.05, note)


def learning_step(
    student: nn.Module, classes: Classes, count: int, width: int, side: int, terms: tuple[str, ...]
) -> Callable[[], None]:
    """A step of ``cls`` and these terms for ``count`` classes; the teacher's outputs are looked up."""
    device = Device.pick("cpu", "auto", threads=1)
    table = np.random.default_rng(0).normal(size=(STEP_BATCH, 2, width)).astype(np.float32)
    centres = normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(1)))
    dims = Dims(width, width, count)
    task = Distill(
        student.train(),
        ScoredTeacher(CachedTeacher(table, device), centred_scores(centres, 64.0)),
        {name: WeightedLoss(LOSSES[name](dims, {}, {}), 1.0) for name in terms},
        Preprocess(size=(side, side), embedding=width),
        device,
        lambda modules: build_optimiser("sgd", modules, 1e-3, 5e-4),
        ClassTerm(classes, 1.0),
    )
    return stepper(task, image_batch(STEP_BATCH, side), device)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps(memory() if what == "memory" else side_by_side(what, *map(int, arguments))))
