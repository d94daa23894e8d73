"""SIGKILL at random points, saves included, and resume: the run must equal one that was never touched."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
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

# The server imports torch once; every killed run is a cheap fork of it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["facekit.engines.train", "facekit.engines.distill", "facekit.data.synth"])

COMMON: dict[str, Any] = {
    "epochs": 3, "batch": 8, "accumulate": 2, "lr": 0.05, "warmup": 0.2, "precision": "fp32", "device": "cpu",
    "threads": 1, "dropout": 0.2, "save_steps": 1, "log_every": 2, "seed": 5, "embedding": 32,
}  # fmt: skip


def run_verb(config: Config, die_at_fsync: int | None) -> None:
    """In the child: run the verb; at the n-th fsync (inside a save) kill the process the hard way."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    if die_at_fsync is not None:
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


def start(config: Config, die_at_fsync: int | None = None) -> Any:
    process = CONTEXT.Process(target=run_verb, args=(config, die_at_fsync))
    process.start()
    return process


def everything(folder: Path) -> tuple[str, str, list[Any]]:
    """Hashes of network, head, momentum and generators, and the rows."""
    store = CheckpointStore(folder)
    state = store.load_state()
    tensors = {f"rng.{k}": v for k, v in state["rng"].items()}
    for name, module in state["modules"].items():
        tensors |= {f"{name}.{k}": v for k, v in module.items()}
    for key, moments in state["optimisers"]["main"]["state"].items():
        tensors |= {f"opt.{key}.{k}": v for k, v in moments.items()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state_hash(store.load().tensors), state_hash(tensors), rows


def drill(config: Config, folder: Path, kills: int) -> None:
    """Run once whole, then again under ``kills`` kills, half of them inside a save; compare."""
    began = time.monotonic()
    whole = start(dataclasses.replace(config, out=folder / "whole"))
    whole.join()
    duration = time.monotonic() - began
    assert whole.exitcode == 0
    rng = random.Random(7)
    resumed = dataclasses.replace(config, out=folder / "killed", resume=True)
    died = 0
    for attempt in range(20 * kills):
        if died == kills:
            break
        in_save = attempt % 2 == 0
        process = start(resumed, die_at_fsync=rng.randrange(1, 30) if in_save else None)
        if not in_save:
            process.join(timeout=rng.uniform(0.3, 0.9) * duration)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:  # it got through: begin another victim
            assert everything(folder / "killed") == everything(folder / "whole")
            (folder / "killed").rename(folder / f"finished{attempt}")
        else:
            assert process.exitcode == -signal.SIGKILL
            died += 1
    assert died == kills
    last = start(resumed)
    last.join()
    assert last.exitcode == 0
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
def test_training_survives_many_kills(faces: Path, tmp_path: Path) -> None:
    drill(build(TrainConfig, {**COMMON, "data": faces, "model": "mbf_nano"}), tmp_path, kills=24)


@pytest.mark.slow
def test_distillation_survives_many_kills(faces: Path, tmp_path: Path) -> None:
    teacher = start(build(TrainConfig, {**COMMON, "data": faces, "model": "mbf_nano", "out": tmp_path / "teacher"}))
    teacher.join()
    assert teacher.exitcode == 0
    values = {k: v for k, v in COMMON.items() if k != "embedding"}
    options = {**values, "data": faces, "teacher": tmp_path / "teacher", "student": "mbf_nano", "method": "kd"}
    drill(build(DistillConfig, {**options, "cache_dir": tmp_path / "cache"}), tmp_path, kills=20)
