"""Stages: decided one by one, kept on disk, read back; what a changed teacher takes along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.device import Device
from facekit.core.errors import CorruptFile
from facekit.core.files import write_json
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.losses import Dims, Loss
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.greedy import Greedy
from facekit.training.handover import Segments, hand_over, take_teacher
from facekit.training.optimisers import build_optimiser
from facekit.training.stages import (
    Finished,
    FixedStages,
    SearchedStages,
    Stage,
    StageLog,
    StagePlan,
    finished_of,
    read_log,
    stage_seed,
)

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
EPOCHS = (10, 20, 30, 40, 50)


def walk(plan: StagePlan, measure: Any) -> list[Finished]:
    finished: list[Finished] = []
    while (stage := plan.following(finished)) is not None:
        finished.append(Finished(stage, "sha", measure(stage.anchors[-1])))
    return finished


def test_fixed_stages_come_one_after_the_other() -> None:
    stages = (Stage((10,), 3), Stage((50,), 3))
    assert [done.stage for done in walk(FixedStages(stages), lambda anchor: None)] == list(stages)


def test_a_search_is_asked_between_the_stages() -> None:
    plan = SearchedStages(Greedy(5, 2.01), EPOCHS, 7)
    done = walk(plan, lambda anchor: [0.1 + 0.005 * (epoch - anchor) for epoch in EPOCHS])
    assert [f.stage for f in done] == [Stage((10,), 7), Stage((30,), 7), Stage((50,), 7)]


def test_the_log_comes_back_as_it_was(tmp_path: Path) -> None:
    assert finished_of(read_log(tmp_path)) == []
    finished = [Finished(Stage((10, 50), 9), "a1", [0.25, 1 / 3]), Finished(Stage((50,), 2), "b2", None)]
    StageLog({"strategy": "eei"}, finished).write(tmp_path)
    content = read_log(tmp_path)
    assert content["strategy"] == "eei" and content["stages"][0]["bounds"] == [0, 4, 9]
    assert finished_of(content) == finished


@pytest.mark.parametrize("content", [[1], {"schema": "x", "stages": []}, {"schema": "facekit.anchors/1"}])
def test_another_file_is_no_log(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "anchors.json", content)
    with pytest.raises(CorruptFile, match="is not the anchors.json of a route-train run"):
        read_log(tmp_path)


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(CorruptFile, match="not described as one"):
        finished_of({"stages": [{"anchors": 3}]})


def test_the_first_stage_has_the_seed_of_a_plain_run() -> None:
    assert stage_seed(7, 1) == 7
    assert len({stage_seed(seed, number) for seed in range(10) for number in range(1, 9)}) == 80


# --- what goes on, what is made anew ----------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.norm(images).mean(dim=(2, 3)))


class Layer(Loss):
    """Learns a layer."""

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.layer = nn.Linear(3, 3)


class Bank(Loss):
    """Remembers what was made from the teacher."""

    rows: Tensor

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.register_buffer("rows", artefacts["rows"])

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch) -> None:
        self.rows += 1


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 0.0)


def task(seed: int, student: nn.Module | None = None) -> Distill:
    """With a teacher, a layer, a bank and an adapter that all depend on the seed."""
    torch.manual_seed(seed)
    losses = {
        "layer": WeightedLoss(Layer(Dims(3, 3), {}, {}), 1.0),
        "bank": WeightedLoss(Bank(Dims(3, 3), {}, {"rows": torch.rand(2, 3)}), 2.0),
    }
    outputs = torch.rand(1, 3)
    adapter = nn.Linear(3, 3)
    student = student or Net()
    return Distill(student, lambda batch: Outputs(outputs), losses, Preprocess(embedding=3), CPU, sgd, adapter=adapter)


def test_a_new_stage_gets_what_was_trained_and_not_the_bank() -> None:
    old, new = task(0), task(1)
    fresh_bank = new.modules["loss_bank"].state_dict()["rows"].clone()
    hand_over(new, {name: module.state_dict() for name, module in old.modules.items() if name != "model"})
    assert torch.equal(new.modules["adapter"].state_dict()["weight"], old.modules["adapter"].state_dict()["weight"])
    layer = "layer.weight"
    assert torch.equal(new.modules["loss_layer"].state_dict()[layer], old.modules["loss_layer"].state_dict()[layer])
    assert torch.equal(new.modules["loss_bank"].state_dict()["rows"], fresh_bank)


def test_another_teacher_brings_its_bank_and_leaves_what_learns() -> None:
    old, new = task(0), task(1)
    layer, adapter, optimiser = old.modules["loss_layer"], old.modules["adapter"], old.optimisers["main"]
    take_teacher(old, new)
    assert old.teacher is new.teacher
    assert old.modules["loss_layer"] is layer is old.losses["layer"].loss
    assert old.modules["adapter"] is adapter and old.optimisers["main"] is optimiser
    assert old.modules["loss_bank"] is old.losses["bank"].loss is new.losses["bank"].loss
    assert old.refreshed == [new.losses["bank"].loss] and list(old.losses) == ["layer", "bank"]


class Days:
    """Batches that only tell their epoch."""

    steps_per_epoch = 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The same number twice."""
        yield from (epoch for _ in range(start, self.steps_per_epoch))


def test_the_teacher_changes_when_the_first_batch_of_its_epoch_is_asked_for() -> None:
    seen: list[Any] = []
    batches = Segments(Days(), (0, 1, 3), 0, lambda segment: seen.append(f"teacher {segment}"))
    for epoch in range(3):
        seen += batches.epoch(epoch)
    assert seen == [0, 0, "teacher 1", 1, 1, 2, 2]


def test_a_resume_in_the_middle_of_a_segment_changes_nothing() -> None:
    swapped: list[int] = []
    batches = Segments(Days(), (0, 1, 3), 1, swapped.append)
    rest: list[Any] = [*batches.epoch(2, start=1)]
    assert rest == [2] and swapped == []
