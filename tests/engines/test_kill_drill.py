"""SIGKILL at random points, saves included, and resume: the run must equal one that was never touched.

Of two processes one is killed; the other must end by itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.configs import Config, DistillConfig, TrainConfig, build
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.data.synth import synthesise
from tests.launch import Launched

COMMON: dict[str, Any] = {
    "epochs": 3, "batch": 8, "accumulate": 2, "lr": 0.05, "warmup": 0.2, "precision": "fp32", "device": "cpu",
    "threads": 1, "dropout": 0.2, "save_steps": 1, "log_every": 2, "seed": 5, "embedding": 32,
}  # fmt: skip


def run_verb(config: Config, die_at_fsync: int | None) -> None:
    """In the child: run the verb; at the n-th fsync (inside a save) kill the process that saves the hard way."""
    if die_at_fsync is not None and os.environ.get("RANK", "0") == "0":
        real, count = os.fsync, [0]

        def counting(handle: int) -> None:
            count[0] += 1
            if count[0] == die_at_fsync:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        os.fsync = counting
    if isinstance(config, DistillConfig):
        from facekit.engines.distill import run as distill

        distill(config)
    else:
        from facekit.engines.train import run as train

        assert isinstance(config, TrainConfig)
        train(config)


def run_whole(config: Config, world: int) -> None:
    assert Launched(world, run_verb, config, None).finish() == [0] * world


def everything(folder: Path) -> tuple[str, str, list[Any]]:
    """Hashes of network, other modules, momentum and what each process has of its own, and the rows."""
    store = CheckpointStore(folder)
    state = store.load_state()
    tensors = {}
    for kind in ("rng", "statistics"):
        for rank, own in enumerate(state[kind]):
            tensors |= {f"{kind}.{rank}.{k}": v for k, v in own.items()}
    for name, module in state["modules"].items():
        tensors |= {f"{name}.{k}": v for k, v in module.items()}
    for key, moments in state["optimisers"]["main"]["state"].items():
        tensors |= {f"opt.{key}.{k}": v for k, v in moments.items()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state_hash(store.load().tensors), state_hash(tensors), rows


def drill(config: Config, folder: Path, kills: int, world: int = 1) -> None:
    """Run once whole, then again under ``kills`` kills, half of them inside a save; compare."""
    began = time.monotonic()
    run_whole(dataclasses.replace(config, out=folder / "whole"), world)
    duration = time.monotonic() - began
    rng = random.Random(7)
    resumed = dataclasses.replace(config, out=folder / "killed", resume=True)
    died = 0
    for attempt in range(20 * kills):
        if died == kills:
            break
        in_save = attempt % 2 == 0
        run = Launched(world, run_verb, resumed, rng.randrange(1, 30) if in_save else None)
        victim, moment = rng.randrange(world), rng.uniform(0.3, 0.9) * duration
        if not in_save and not run.join(moment):
            run.kill(victim)
        codes = run.finish()
        if codes == [0] * world:  # it got through: begin another victim
            assert everything(folder / "killed") == everything(folder / "whole")
            (folder / "killed").rename(folder / f"finished{attempt}")
        else:
            # A survivor explains itself and leaves with 1, or SIGTERM ends it before the training has begun.
            assert codes.count(-signal.SIGKILL) == 1 and set(codes) <= {-signal.SIGKILL, 1, -signal.SIGTERM}
            died += 1
    assert died == kills
    run_whole(resumed, world)
    assert everything(folder / "killed") == everything(folder / "whole")
    leftovers = [p for p in (folder / "killed").rglob(".*") if p.name.endswith((".new", ".old"))]
    assert not leftovers


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faces")
    synthesise(folder, identities=8, per_identity=8, seed=0)
    return folder / "images"


def test_training_survives_three_kills(faces: Path, tmp_path: Path) -> None:
    drill(build(TrainConfig, {**COMMON, "data": faces, "model": "mbf_nano"}), tmp_path, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "kills"), [(1, 24), (2, 16)])
def test_training_survives_many_kills(faces: Path, tmp_path: Path, world: int, kills: int) -> None:
    drill(build(TrainConfig, {**COMMON, "data": faces, "model": "mbf_nano"}), tmp_path, kills, world)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "kills"), [(1, 20), (2, 12)])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "cls+kd"},
        {"method": "cls+coupleface", "head": "adaface", "relation": "st+ss", "slots": "2", "neighbours": "4"},
    ],
    ids=lambda options: options["method"],
)
def test_distillation_survives_many_kills(
    faces: Path, tmp_path: Path, options: dict[str, Any], world: int, kills: int
) -> None:
    run_whole(build(TrainConfig, {**COMMON, "data": faces, "model": "mbf_nano", "out": tmp_path / "teacher"}), 1)
    values = {k: v for k, v in COMMON.items() if k != "embedding"} | options
    given = {**values, "data": faces, "teacher": tmp_path / "teacher", "student": "mbf_nano"}
    drill(build(DistillConfig, {**given, "cache_dir": tmp_path / "cache"}), tmp_path, kills, world)
