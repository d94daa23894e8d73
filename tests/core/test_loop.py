"""The loop: exact resume, accumulation, the guard, stopping. Proven on a toy task with dropout."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.errors import Interrupted, NonFinite, Unfinished
from facekit.core.loop import Guard, Phase, Progress, Saving, Terms, fit, update
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch
from facekit.training.optimisers import build_optimiser

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)


class ToyBatches:
    """24 samples in batches of 4, shuffled by (seed, epoch)."""

    steps_per_epoch = 6

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        for k in range(start, self.steps_per_epoch):
            index = order[4 * k : 4 * k + 4]
            images = torch.stack([torch.full((3, 2, 2), int(i), dtype=torch.uint8) for i in index])
            yield Batch(images, index % 2, index, index * 0, torch.arange(4))


class Toy:
    """Regression of the index through a conv net with dropout, plus a term that can be poisoned."""

    def __init__(self, dropout: float = 0.5, lr: float = 0.01, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 2), nn.Flatten(), nn.Linear(8, 8), nn.PReLU(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        self.modules: dict[str, nn.Module] = {"model": CPU.module(net)}
        self.optimisers = {"main": build_optimiser("sgd", [net], lr, 1e-3)}
        self.poison_at, self.calls = poison_at, 0

    def phases(self, batch: Batch) -> Iterator[Phase]:
        def terms() -> Terms:
            self.calls += 1
            out = self.modules["model"](batch.images.float() / 24).squeeze(1)
            fit_term = (out - batch.index.float() / 24).square().mean()
            other = out.square().mean() * 1e-3
            if self.poison_at == self.calls:
                other = other * float("nan")
            return {"fit": fit_term, "size": other}

        yield "main", terms

    def measured(self) -> dict[str, torch.Tensor]:
        return {}

    def after_step(self, batch: Batch) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def run(folder: Path | None, task: Toy, **options: Any) -> Progress:
    accumulate = options.pop("accumulate", 1)
    schedule = Schedule(epochs=3, steps_per_epoch=6 // accumulate, accumulate=accumulate, clip=1.0)
    store = CheckpointStore(folder) if folder else None
    journal = Journal(folder, schedule.total_steps, 4)
    return fit(task, ToyBatches(), schedule, store, CPU, journal, meta={"toy": True}, log_every=4, **options)


def everything(folder: Path) -> tuple[str, list[Any], bytes]:
    """Weights, momentum and rows of a finished run."""
    store = CheckpointStore(folder)
    state = store.load_state()
    momentum = [m["momentum_buffer"].tolist() for m in state["optimisers"]["main"]["state"].values()]
    return state_hash(store.load().tensors), momentum, (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_cut_at_every_step_equals_the_uninterrupted_one(tmp_path: Path, accumulate: int) -> None:
    run(tmp_path / "whole", Toy(), accumulate=accumulate)
    whole = everything(tmp_path / "whole")
    total = 18 // accumulate
    for cut in range(1, total):
        # The deadline stop at a step is simulated by max_steps, which saves; every resume builds a new task.
        run(tmp_path / f"cut{cut}", Toy(), accumulate=accumulate, max_steps=cut)
        torch.manual_seed(1234 + cut)  # whatever the process did before must not matter
        run(tmp_path / f"cut{cut}", Toy(), accumulate=accumulate, resume=True)
        assert everything(tmp_path / f"cut{cut}") == whole


def test_resuming_twice_from_one_state_gives_the_same(tmp_path: Path) -> None:
    run(tmp_path, Toy(), max_steps=7)
    keep = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    run(tmp_path, Toy(), resume=True)
    first = everything(tmp_path)
    for path, content in keep.items():
        path.write_bytes(content)
    run(tmp_path, Toy(), resume=True)
    assert everything(tmp_path) == first


def test_accumulating_two_batches_equals_one_of_both(tmp_path: Path) -> None:
    class Pairs(ToyBatches):
        steps_per_epoch = 3

        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            halves = list(ToyBatches().epoch(epoch))
            for k in range(start, 3):
                pairs = zip(halves[2 * k], halves[2 * k + 1], strict=True)
                yield Batch(*(None if first is None else torch.cat((first, second)) for first, second in pairs))

    run(tmp_path / "a", Toy(dropout=0.0), accumulate=2)
    schedule = Schedule(epochs=3, steps_per_epoch=3, clip=1.0)
    fit(Toy(dropout=0.0), Pairs(), schedule, CheckpointStore(tmp_path / "b"), CPU, Journal(None, 9, 8), meta={})
    a, b = CheckpointStore(tmp_path / "a").load().tensors, CheckpointStore(tmp_path / "b").load().tensors
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


def test_a_nan_term_is_named_with_its_step_and_never_saved(tmp_path: Path) -> None:
    task = Toy(poison_at=6)
    with pytest.raises(NonFinite, match=r"size became NaN or infinite at step 6\b"):
        run(tmp_path, task, saving=Saving(steps=1))
    saved = CheckpointStore(tmp_path).load()
    assert saved.meta["step"] == 5
    assert all(torch.isfinite(t).all() for t in saved.tensors.values())


def test_the_poisoned_step_is_skipped_on_the_device(tmp_path: Path) -> None:
    task = Toy(poison_at=1)
    before = state_hash(task.modules["model"].state_dict())
    with pytest.raises(NonFinite):
        run(tmp_path, task, max_steps=1)
    assert state_hash(task.modules["model"].state_dict()) == before


def test_a_deadline_saves_and_resumes(tmp_path: Path) -> None:
    run(tmp_path / "whole", Toy())
    with pytest.raises(Unfinished) as stopped:
        run(tmp_path / "cut", Toy(), saving=Saving(deadline=time.monotonic() - 1))
    assert stopped.value.exit_code == 3
    assert CheckpointStore(tmp_path / "cut").load().meta["step"] == 1
    run(tmp_path / "cut", Toy(), resume=True)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(tmp_path: Path, number: int) -> None:
    class Signalled(Toy):
        def after_step(self, batch: Batch) -> None:
            if self.calls == 5:
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, Signalled())
    assert stopped.value.exit_code == 128 + number
    assert CheckpointStore(tmp_path).load().meta["step"] == 5


def test_best_follows_the_first_validated_number(tmp_path: Path) -> None:
    values = iter([0.2, 0.9, 0.5])
    run(tmp_path, Toy(), validate=lambda model: {"tar": next(values), "other": 1.0})
    assert CheckpointStore(tmp_path).load("best").meta["epoch"] == 2


def test_route_and_numbered_states_are_kept(tmp_path: Path) -> None:
    run(tmp_path, Toy(), saving=Saving(steps=3, keep=2, route_epochs=2))
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*")) == ["step_00000015", "step_00000018"]
    assert sorted(p.name for p in (tmp_path / "route").glob("*.safetensors")) == [
        "epoch_0002.safetensors",
        "epoch_0003.safetensors",
    ]


def test_schedule_shapes() -> None:
    def at(shape: str, steps: list[int], **kw: Any) -> list[float]:
        s = Schedule(epochs=1, steps_per_epoch=100, shape=shape, **kw)
        return [round(s.factor(k), 6) for k in steps]

    assert at("cosine", [0, 50, 100]) == [1.0, 0.5, 0.0]
    assert at("linear", [0, 25, 100]) == [1.0, 0.75, 0.0]
    assert at("step", [39, 40, 70, 85]) == [1.0, 0.1, 0.01, 0.001]
    assert at("linear", [0, 4, 9, 10, 55], warmup=0.1) == [0.1, 0.5, 1.0, 1.0, 0.5]


def test_a_step_never_waits_for_the_device() -> None:
    """Reading a value on the host is ``_local_scalar_dense``; a step between two logged rows must not do it."""
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    task, guard, progress = Toy(), Guard(), Progress()
    batches = ToyBatches().epoch(0)
    scaler = CPU.scaler()
    schedule = Schedule(epochs=1, steps_per_epoch=6, clip=1.0)
    update(task, [next(batches)], schedule, CPU, scaler, guard, progress)
    batch = next(batches)
    with Watch():
        update(task, [batch], schedule, CPU, scaler, guard, progress)
    assert seen and not [name for name in seen if "_local_scalar_dense" in name or "is_nonzero" in name]
    with Watch():
        guard.check()
    assert any("_local_scalar_dense" in name for name in seen)  # the watch sees what it looks for
