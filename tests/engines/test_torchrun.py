"""``torchrun -m facekit``: one run folder, one voice, one end, whatever happens to one of the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.configs import AlignEvalConfig, TrainConfig, build
from facekit.core.checkpoints import CheckpointStore
from facekit.core.device import Device
from facekit.core.processes import processes_of_this_run
from facekit.data.embeddings import embed_source
from facekit.data.sources import open_source
from facekit.data.synth import synthesise
from facekit.engines.align_eval import run as measure
from facekit.engines.fitting import shared
from facekit.engines.train import run
from facekit.models import build_backbone
from tests.launch import Launched

OPTIONS: dict[str, Any] = {
    "model": "mbf_nano", "embedding": 16, "batch": 8, "epochs": 2, "lr": 0.05, "precision": "fp32", "device": "cpu",
    "save_steps": 2, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faces")
    synthesise(folder, identities=20, per_identity=5, seed=0)
    return folder


def train_command(faces: Path, out: Path, **options: Any) -> list[str]:
    """``torchrun -m facekit train`` on two processes."""
    given = {**OPTIONS, "data": faces / "images", "out": out, **options}
    flags = [f"--{k.replace('_', '-')}" if v is True else f"--{k.replace('_', '-')}={v}" for k, v in given.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*torchrun, "-m", "facekit", "train", *flags]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def explained(errors: str) -> list[str]:
    """Our sentences among what torchrun prints."""
    return [line for line in errors.splitlines() if line.startswith("facekit: ")]


def record(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "run.json").read_text())
    return content


def test_torchrun_leaves_one_run_told_once(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(train_command(faces, out, dev=f"allpairs:{faces / 'pairs_dev.txt'}"))
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert printed == "" and errors.count("wrote ") == errors.count("data ") == 1
    found = record(out)
    assert found["status"] == "done" and found["environment"]["processes"] == 2 and found["images_seen"] == 192
    assert found["weights_sha256"] == CheckpointStore(out).load().meta["weights_sha256"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert found["best_dev"] == max(next(iter(row["dev"].values())) for row in rows if "dev" in row)


def test_a_process_that_dies_in_mid_run(faces: Path, tmp_path: Path) -> None:
    config = build(
        TrainConfig, {**OPTIONS, "data": faces / "images", "epochs": 500, "threads": 1, "out": tmp_path / "r"}
    )
    pair = Launched(2, run, config, errors=tmp_path / "errors")
    saved = tmp_path / "r" / "checkpoints" / "last" / "run.json"
    end = time.monotonic() + 60
    while not saved.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    pair.kill(0)
    died = time.monotonic()
    assert pair.finish() == [-signal.SIGKILL, 1]
    assert time.monotonic() - died < 10
    (said,) = pair.said()
    assert "process 0 of 2 ended or cannot be reached" in said
    assert f"the last saved state is in {tmp_path / 'r'}; run again with --resume" in said
    step = CheckpointStore(tmp_path / "r").load().meta["step"]
    more = build(TrainConfig, {**config.to_dict(), "resume": True, "budget_s": 0.1})
    alone = Launched(1, run, more, errors=tmp_path / "alone")
    assert alone.finish() == [3]
    assert CheckpointStore(tmp_path / "r").load().meta["step"] == step + 1
    assert "another number of processes" in (tmp_path / "alone" / "0.txt").read_text()


def work_together(faces: Path, cache: Path, out: Path) -> None:
    """In each of two processes: embed with one cache, and share the work without one."""
    source = open_source(faces / "images")
    calls = 0

    def embed(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        time.sleep(0.1)
        return images.float().mean((2, 3))

    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        cached = embed_source(embed, source, batch=16, key="k", cache_dir=cache)
        calls_cached, calls = calls, 0
        images = torch.from_numpy(source.read(np.arange(5))).permute(0, 3, 1, 2)
        assert torch.equal(shared(embed, device)(images), embed(images))
        assert torch.equal(shared(embed, device)(images[:1]), embed(images[:1]))
        np.savez(out / f"{device.rank}.npz", cached=cached, calls=calls_cached)


def test_embedding_is_done_once_by_all(faces: Path, tmp_path: Path) -> None:
    assert Launched(2, work_together, faces, tmp_path / "cache", tmp_path).finish() == [0, 0]
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert np.array_equal(first["cached"], second["cached"]) and first["cached"].shape == (100, 1, 3)
    assert sorted([int(first["calls"]), int(second["calls"])]) == [0, 7]  # one worked, the other waited


def test_what_cannot_be_sliced_is_refused_once(faces: Path, tmp_path: Path) -> None:
    config = build(TrainConfig, {**OPTIONS, "data": faces / "images", "batch": 7, "out": tmp_path / "r"})
    pair = Launched(2, run, config, errors=tmp_path / "errors")
    assert pair.finish() == [2, 2]
    (said,) = pair.said()
    assert "--batch 7" in said and "2 processes" in said and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_folder_in_use_is_refused_once(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    process = start(train_command(faces, tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (said,) = explained(errors)
    assert "exists already" in said and "Traceback" not in errors.split(said)[0]


def wait_for_a_state(out: Path) -> None:
    end = time.monotonic() + 90
    while not (out / "checkpoints" / "last" / "run.json").is_file():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_and_resumes(faces: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    process = start(train_command(faces, out, epochs=500, save_steps=1))
    wait_for_a_state(out)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    (said,) = explained(errors)
    assert f"stopped by {signal.Signals(number).name}" in said
    assert record(out)["status"] == "interrupted" and record(out)["error"] == "Interrupted"
    step = CheckpointStore(out).load().meta["step"]
    assert f"step {step} of" in said
    process = start(train_command(faces, out, epochs=500, save_steps=1, resume=True, budget_s=0.1))
    _, errors = process.communicate(timeout=60)
    (said,) = explained(errors)
    assert f"step {step + 1} of" in said and "time budget" in said


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_torchrun(faces: Path, tmp_path: Path, victim: int) -> None:
    out = tmp_path / "run"
    process = start(train_command(faces, out, epochs=500))
    wait_for_a_state(out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"facekit" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    began = time.monotonic()
    os.kill(sorted(workers)[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - began < 15
    (said,) = explained(errors)
    assert "of 2 ended or cannot be reached" in said and str(out) in said
    assert CheckpointStore(out).load().meta["step"] > 0


def evaluate_here(model: Path, faces: Path, out: Path) -> None:
    """What ``align-eval`` does in one of the processes."""
    flags = {
        "model": model, "benchmark": (f"allpairs:{faces / 'pairs_test.txt'}",), "scores": ("raw", "dao"),
        "support": ("noise",), "candidates": 50, "condition": ("mask",), "far": (0.1,), "draws": 100, "out": out,
        "cache_dir": out / "cache", "threads": 1, "channels": "rgb", "scaling": "symmetric", "device": "cpu",
    }  # fmt: skip
    measure(build(AlignEvalConfig, flags))


@pytest.mark.slow
def test_two_processes_measure_what_one_does(faces: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tmp_path / "nano.pth"
    torch.save(build_backbone("mbf_nano", 16).state_dict(), model)
    found = []
    for world in (1, 2):
        out = tmp_path / str(world)
        assert Launched(world, evaluate_here, model, faces, out).join(90)
        found.append(json.loads((out / "results.json").read_text()))
    assert found[0]["rows"] == found[1]["rows"] and len(found[0]["rows"]) > 40
    assert [content["environment"]["processes"] for content in found] == [1, 2]
