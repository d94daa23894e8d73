"""Several processes against one: exchanges, gradients, saved states, and what happens when one of them is in trouble.

All runs of two processes happen in one pair, which leaves what it saw in files; the tests compare.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.errors import FacekitError, UsageError
from facekit.core.loop import Phase, Progress, Saving, Terms, fit
from facekit.core.processes import buckets, processes_of_this_run
from facekit.core.replicas import averaged_statistics, check_alike, running_statistics
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.data.batches import Batches
from facekit.training.optimisers import build_optimiser
from tests.launch import Launched

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
BATCH, EPOCHS, ACCUMULATE = 8, 3, 2
TOTAL = 9


class Noise:
    """48 images of 4x4 noise."""

    size, names, identities, fingerprint = (4, 4), [str(i) for i in range(48)], ["a", "b", "c"], "noise"
    labels = np.arange(48) % 3
    pixels = np.random.default_rng(0).integers(0, 255, (48, 4, 4, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return 48

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class Toy:
    """A net in float64; a term of the own rows, and one of the relations among all rows of the batch."""

    def __init__(self, device: Device, exact: bool = True) -> None:
        torch.manual_seed(0)
        inner = [nn.Tanh()] if exact else [nn.BatchNorm1d(16), nn.PReLU(), nn.Dropout(0.5)]
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 16), *inner, nn.Linear(16, 5)).double()
        self.modules: dict[str, nn.Module] = {"model": device.module(net)}
        self.optimisers = {"main": build_optimiser("sgd", [net], 0.3, 1e-3)}
        self.device, self.steps = device, 0
        self.poison_at = self.signal_at = self.die_at = None

    def phases(self, batch: Batch) -> Iterator[Phase]:
        def terms() -> Terms:
            out = self.modules["model"](batch.images.double() / 255)
            rows = self.device.gather_with_gradient(out)
            index = self.device.gather(batch.index).double()
            wanted = torch.cos(index[:, None] - index[None, :])
            own = (out[:, 0] - torch.sin(batch.index.double()) - batch.position / 10).square().mean()
            if self.poison_at == self.steps:
                own = own * float("nan")
            return {"own": own, "relation": 0.3 * (rows @ rows.T - wanted).square().mean()}

        yield "main", terms

    def measured(self) -> dict[str, Tensor]:
        return {"own": torch.tensor(1.0 + self.device.rank)}

    def after_step(self, batch: Batch) -> None:
        self.steps += 1
        for at, number in ((self.signal_at, signal.SIGTERM), (self.die_at, signal.SIGKILL)):
            if at == self.steps:
                os.kill(os.getpid(), number)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(folder: Path, device: Device, task: Toy, **options: Any) -> Progress:
    batches = Batches(
        Noise(), batch=BATCH, seed=3, flip=True, put=device.put, cache="ram", rank=device.rank, world=device.world
    )
    schedule = Schedule(epochs=EPOCHS, steps_per_epoch=3, accumulate=ACCUMULATE, clip=0.5)
    journal = Journal(folder if device.rank == 0 else None, schedule.total_steps, BATCH * ACCUMULATE)
    saving = options.pop("saving", Saving())
    store = CheckpointStore(folder)
    return fit(task, batches, schedule, store, device, journal, meta={}, saving=saving, log_every=2, seed=5, **options)


def refused(folder: Path, device: Device, task: Toy, **options: Any) -> list[Any]:
    """Kind, text and exit code of the error a run ends with, and the network it leaves in memory."""
    with pytest.raises(FacekitError) as caught:
        train(folder, device, task, **options)
    left = {k: t for k, t in task.modules["model"].state_dict().items() if "running" not in k}
    return [type(caught.value).__name__, str(caught.value), caught.value.exit_code, state_hash(left)]


def exchanges(device: Device) -> dict[str, Any]:
    """What each kind of exchange gives this process."""
    rank = device.rank
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64) * (rank + 1)
    mine = rows.clone().requires_grad_()
    weight = torch.arange(8.0, dtype=torch.float64).view(4, 2) * (1 + 10 * rank)
    (device.gather_with_gradient(mine) * weight).sum().backward()
    mixed = [
        torch.full((3,), float(rank)),
        torch.full((2, 3, 4, 4), float(rank), dtype=torch.float64).contiguous(memory_format=torch.channels_last),
        torch.tensor(float("nan") if rank else 1.0),
    ]
    device.average(mixed)
    return {
        "rows": device.gather(rows),
        "whole numbers": device.gather(torch.tensor([rank, 7])),
        "flags": device.gather(torch.tensor([rank == 1])),
        "gradient": mine.grad,
        "averages": mixed,
        "layout kept": mixed[1].is_contiguous(memory_format=torch.channels_last),
        "largest": device.largest([rank, -rank, 5]),
        "told": device.tell({"of": rank, "text": "é", "list": [0.1, None]}),
        "nothing told": device.tell(None),
        "collected": device.collect({"a": torch.tensor([rank])}),
    }


def replicas(device: Device) -> dict[str, Any]:
    """Statistics that may differ, parameters that may not."""
    task = Toy(device, exact=False)
    statistics = running_statistics(task.modules)
    for tensor in statistics.values():
        tensor += device.rank
    before = {name: tensor.clone() for name, tensor in statistics.items()}
    with averaged_statistics(task.modules, device):
        inside = {name: tensor.clone() for name, tensor in statistics.items()}
    check_alike(task.modules, device)
    if device.rank == 1:
        next(task.modules["model"].parameters()).data[0] += 1e-9
    with pytest.raises(FacekitError, match="no longer hold the same"):
        check_alike(task.modules, device)
    return {"before": before, "inside": inside, "after": dict(statistics)}


def step_zero(device: Device) -> Tensor:
    """The terms of the first batch in eval mode, before any update."""
    task = Toy(device, exact=False)
    task.modules["model"].eval()
    batches = Batches(Noise(), batch=8, seed=3, flip=True, put=device.put, rank=device.rank, world=device.world)
    ((_, closure),) = task.phases(next(batches.epoch(0)))
    values = [term.detach() for term in closure().values()]
    device.average(values)
    return torch.stack(values)


def both(folder: Path) -> None:
    """In each of the two processes: everything that needs two."""
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        second = device.rank == 1
        seen: dict[str, Any] = {"exchanges": exchanges(device), "replicas": replicas(device)}
        seen["step zero"], seen["processes"] = step_zero(device), device.describe()["processes"]
        seen["images"] = train(folder / "two", device, Toy(device)).images
        train(folder / "cut_at_two", device, Toy(device), max_steps=4)
        train(folder / "cut_at_one", device, Toy(device), resume=True)

        task = Toy(device, exact=False)
        train(folder / "norms", device, task)
        seen["left in memory"] = task.modules["model"].state_dict()
        train(folder / "norms_cut", device, Toy(device, exact=False), max_steps=4, saving=Saving(steps=1))
        device.seed(99)
        train(folder / "norms_cut", device, Toy(device, exact=False), resume=True)

        task = Toy(device)
        task.poison_at = 4 if second else None  # the first batch of step 3
        seen["nan"] = refused(folder / "nan", device, task, max_steps=3)
        task = Toy(device)
        train(folder / "until_nan", device, task, max_steps=2)
        seen["until nan"] = state_hash(task.modules["model"].state_dict())
        task = Toy(device)
        task.signal_at = 6 if second else None
        seen["signal"] = refused(folder / "signal", device, task)
        late = Saving(deadline=time.monotonic() - 1 if second else None)
        seen["deadline"] = refused(folder / "deadline", device, Toy(device), saving=late)
        often = Saving(minutes=0.0 if second else 1e9)
        train(folder / "minutes", device, Toy(device), saving=often, max_steps=2)
        torch.save(seen, folder / f"{device.rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, and what the two saw: ``0.pt`` and ``1.pt``."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pair")
    train(folder / "one", CPU, Toy(CPU))
    train(folder / "cut_at_one", CPU, Toy(CPU), max_steps=4)
    assert Launched(2, both, folder).finish() == [0, 0]
    train(folder / "cut_at_two", CPU, Toy(CPU), resume=True)
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def network(folder: Path) -> dict[str, Tensor]:
    return CheckpointStore(folder).load().tensors


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_exchanges(seen: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(s["exchanges"] for s in seen):
        assert found["rows"].tolist() == [[1, 2], [3, 4], [2, 4], [6, 8]] and found["rows"].dtype == torch.float64
        assert found["whole numbers"].tolist() == [0, 7, 1, 7] and found["flags"].tolist() == [False, True]
        # Process 0 weighs row i by (2i, 2i+1), process 1 by eleven times that: the own rows get twelve times.
        assert found["gradient"].tolist() == [[[0, 12], [24, 36]], [[48, 60], [72, 84]]][rank]
        plain, wide, poisoned = found["averages"]
        assert plain.tolist() == [0.5] * 3 and (wide == 0.5).all() and wide.dtype == torch.float64
        assert poisoned.isnan() and found["layout kept"]
        assert found["largest"] == [1, 0, 5]
        assert found["told"] == {"of": 0, "text": "é", "list": [0.1, None]} and found["nothing told"] is None
        assert [part["a"].tolist() for part in found["collected"]] == [[0], [1]]


def test_without_torchrun_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with processes_of_this_run() as processes:
        assert processes is None
    tensor = torch.ones(2)
    assert CPU.gather(tensor) is tensor and CPU.gather_with_gradient(tensor) is tensor
    assert (CPU.rank, CPU.world, CPU.tell([1]), CPU.largest([3])) == (0, 1, [1], [3])


def test_half_an_environment_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="torchrun"), processes_of_this_run():
        pass


def test_tensors_are_averaged_in_a_few_buckets() -> None:
    tensors = [torch.zeros(n) for n in (3, 1, 4)] + [torch.zeros(2, dtype=torch.float64)]
    sizes = [[t.numel() for t in bucket] for bucket in buckets(tensors, 16)]
    assert sizes == [[3, 1], [4], [2]]


def test_two_processes_learn_what_one_learns(folder: Path, seen: list[dict[str, Any]]) -> None:
    one, two = network(folder / "one"), network(folder / "two")
    assert largest_difference(one, two) < 1e-10
    assert largest_difference(one, Toy(CPU).modules["model"].state_dict()) > 1e-2  # it did learn
    rows = [(folder / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 5
    states = [CheckpointStore(folder / name).load_state() for name in ("one", "two")]
    moments = [s["optimisers"]["main"]["state"] for s in states]
    for key in moments[0]:
        torch.testing.assert_close(moments[0][key], moments[1][key], rtol=0, atol=1e-9)
    assert seen[0]["images"] == seen[1]["images"] == TOTAL * BATCH * ACCUMULATE
    assert seen[0]["processes"] == 2


def test_logged_numbers_are_means_over_processes(folder: Path) -> None:
    one, two = (
        [json.loads(line)["terms"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        assert [a.pop("gradient.own"), b.pop("gradient.own")] == [2.0, 3.0]  # 1 and 2, in each of two batches
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("name", ["cut_at_one", "cut_at_two"])
def test_a_run_goes_on_with_another_number_of_processes(folder: Path, name: str) -> None:
    assert largest_difference(network(folder / "one"), network(folder / name)) < 1e-10


def test_norms_start_alike_and_resume_bit_for_bit(folder: Path, seen: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(step_zero(CPU), seen[0]["step zero"], rtol=0, atol=1e-12)
    whole, cut = (CheckpointStore(folder / name) for name in ("norms", "norms_cut"))
    assert whole.load().tensors.keys() == cut.load().tensors.keys()
    assert state_hash(whole.load().tensors) == state_hash(cut.load().tensors)
    for key in ("rng", "statistics"):
        for a, b in zip(whole.load_state()[key], cut.load_state()[key], strict=True):
            assert state_hash(a) == state_hash(b)
    rows = [(folder / name / "metrics.jsonl").read_bytes() for name in ("norms", "norms_cut")]
    assert rows[0] == rows[1]


def test_what_is_saved_has_the_mean_of_the_running_statistics(folder: Path, seen: list[dict[str, Any]]) -> None:
    store = CheckpointStore(folder / "norms")
    saved, (a, b) = store.load().tensors, store.load_state()["statistics"]
    for name in a:
        assert not torch.equal(a[name], b[name])
        torch.testing.assert_close(saved[name.removeprefix("model.")], (a[name] + b[name]) / 2)
    for process in seen:
        assert state_hash(process["left in memory"]) == state_hash(saved)
        found = process["replicas"]
        for name, mean in found["inside"].items():
            torch.testing.assert_close(mean, seen[0]["replicas"]["before"][name] + 0.5)
            assert torch.equal(found["before"][name], found["after"][name])
    generators = store.load_state()["rng"]
    assert not torch.equal(generators[0]["cpu"], generators[1]["cpu"])  # dropout differs between processes


def test_one_nan_skips_the_step_of_both(seen: list[dict[str, Any]]) -> None:
    for process in seen:
        kind, text, _, left = process["nan"]
        assert kind == "NonFinite" and "own became NaN or infinite at step 3." in text
        assert left == process["until nan"] == seen[0]["until nan"]


def test_both_stop_and_save_at_the_same_step(folder: Path, seen: list[dict[str, Any]]) -> None:
    for process in seen:
        assert process["signal"][0] == "Interrupted" and process["signal"][2] == 143
        assert "SIGTERM at step 3 of 9" in process["signal"][1]
        assert process["deadline"][0] == "Unfinished" and "step 1 of 9" in process["deadline"][1]
    steps = {name: CheckpointStore(folder / name).load().meta["step"] for name in ("signal", "deadline", "minutes")}
    assert steps == {"signal": 3, "deadline": 1, "minutes": 2}


def lonely(folder: Path) -> None:
    """In each of two processes: a run in which the second dies at step 5, between two exchanges."""
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        task = Toy(device)
        task.die_at = 10 if device.rank == 1 else None
        train(folder / "run", device, task, saving=Saving(steps=2))


def test_a_death_ends_the_other_with_one_sentence(folder: Path, tmp_path: Path) -> None:
    pair = Launched(2, lonely, tmp_path, errors=tmp_path / "errors")
    assert pair.finish(30) == [1, -signal.SIGKILL]
    (said,) = pair.said()
    assert "process 1 of 2 ended or cannot be reached" in said
    assert CheckpointStore(tmp_path / "run").load().meta["step"] == 4
    train(tmp_path / "run", CPU, Toy(CPU), resume=True)
    assert largest_difference(network(tmp_path / "run"), network(folder / "one")) < 1e-10


def quarrel(folder: Path, speaker: int) -> None:
    """In each of two processes: one has an explained error, the other waits for it in an exchange."""
    with processes_of_this_run() as processes:
        assert processes is not None
        if processes.rank == speaker:
            raise UsageError("the one sentence")
        processes.tell(None)


@pytest.mark.parametrize("speaker", [0, 1])
def test_an_error_of_one_ends_both_and_is_said_once(tmp_path: Path, speaker: int) -> None:
    pair = Launched(2, quarrel, tmp_path, speaker, errors=tmp_path)
    assert pair.finish(30) == [2, 2]
    assert pair.said() == ["facekit: the one sentence"]
