"""Distillation with banks, in-batch relations and AdaFace's statistics: two processes equal one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.loop import fit
from facekit.core.preprocess import Preprocess
from facekit.core.processes import processes_of_this_run
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch, Outputs
from facekit.data.batches import Batches
from facekit.losses import LOSSES, Dims
from facekit.models import HEADS
from facekit.training.classes import ClassTerm, MarginClasses
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.teachers import CachedTeacher
from tests.launch import Launched

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
CLASSES, IMAGES, BATCH = 5, 40, 8  # every batch repeats identities


class Noise:
    """Images of noise, eight of each identity."""

    size, identities, fingerprint = (4, 4), [str(i) for i in range(CLASSES)], "noise"
    names = tuple(str(i) for i in range(IMAGES))
    labels = np.arange(IMAGES) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGES, 4, 4, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class Net(nn.Module):
    """Without BatchNorm, in float64: what is left to differ is the order of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4)).double()

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.layers(images.double()))


class ExactTeacher(CachedTeacher):
    """The cache is float32; sums of it shall not be."""

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(super().__call__(batch).embedding.double())


def unit(rows: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def build(device: Device, local_relations: bool) -> Distill:
    torch.manual_seed(0)
    artefacts = {
        "prototypes": unit(CLASSES, 1),
        "student_prototypes": unit(CLASSES, 2),
        "neighbours": torch.tensor([[(i + 1) % CLASSES, (i + 3) % CLASSES] for i in range(CLASSES)]),
        "valid": torch.ones(CLASSES, dtype=torch.bool),
    }
    rad = {"relation": "st+ss", "slots": 2, "momentum": 0.3, "seed": 4}
    losses = {
        "fcd": WeightedLoss(LOSSES["fcd"](Dims(6, 6, CLASSES), {}, {}), 2.0),
        "rad": WeightedLoss(LOSSES["rad"](Dims(6, 6, CLASSES), rad, artefacts), 30.0),
        "rad.inbatch": WeightedLoss(LOSSES["rad.inbatch"](Dims(6, 6, CLASSES), {"relation": "ss"}, {}), 10.0),
    }
    head = HEADS["adaface"](4, CLASSES, None, 8.0, device.gather).double()
    table = unit(IMAGES * 2, 3).float().view(IMAGES, 2, 6).numpy()
    return Distill(
        Net(),
        ExactTeacher(table, device),
        losses,
        Preprocess(size=(4, 4), embedding=4),
        device,
        lambda modules: build_optimiser("sgd", modules, 0.05, 1e-3),
        ClassTerm(MarginClasses(head), 0.5),
        nn.Linear(4, 6, bias=False).double(),
        local_relations,
    )


def train(folder: Path, device: Device, local_relations: bool = False) -> None:
    task = build(device, local_relations)
    batches = Batches(
        Noise(), batch=BATCH, seed=3, flip=True, put=device.put, cache="ram", rank=device.rank, world=device.world
    )
    schedule = Schedule(epochs=3, steps_per_epoch=2, accumulate=2, clip=5.0)
    journal = Journal(folder if device.rank == 0 else None, schedule.total_steps, BATCH)
    fit(task, batches, schedule, CheckpointStore(folder), device, journal, meta={}, log_every=3)


def both(folder: Path) -> None:
    """In each of the two processes. ``fit`` compares the banks of the two after every epoch."""
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        train(folder / "two", device)
        train(folder / "local", device, local_relations=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relations")
    train(folder / "one", CPU)
    assert Launched(2, both, folder).finish() == [0, 0]
    return folder


def everything(folder: Path) -> dict[str, Any]:
    store = CheckpointStore(folder)
    modules = {"model": store.load().tensors, **store.load_state()["modules"]}
    return {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.items()}


def test_parameters_banks_and_statistics_equal_those_of_one_process(folder: Path) -> None:
    one, two = everything(folder / "one"), everything(folder / "two")
    assert one.keys() == two.keys() and "head.batch_mean" in one and "loss_rad.teacher_bank.rows" in one
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-10 if tensor.dtype == torch.float64 else 1e-6)
    changed = build(CPU, False)
    before = {f"{n}.{k}": t for n, m in changed.modules.items() for k, t in m.state_dict().items()}
    assert all(not torch.equal(before[name], one[name]) for name in one if name != "loss_rad.teacher_bank.pointer")


def test_the_teachers_bank_is_equal_bit_for_bit(folder: Path) -> None:
    banks = [
        {k: t for k, t in everything(folder / name).items() if "teacher_bank" in k or k.endswith("drawn")}
        for name in ("one", "two")
    ]
    assert len(banks[0]) == 3 and state_hash(banks[0]) == state_hash(banks[1])


def test_local_relations_are_another_loss(folder: Path) -> None:
    one, local = everything(folder / "one"), everything(folder / "local")
    assert float((one["adapter.weight"] - local["adapter.weight"]).abs().max()) > 1e-6
