"""``examples/sweep.sh``: its decisions against a stand-in for facekit, and once for real, cut and run again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from facekit.configs import TrainConfig, build
from facekit.data.synth import synthesise
from facekit.engines.train import run as train

ARMS = "one: --method fcd\ntwo:  --method fcd --weights fcd=4\n"
STAND_IN = """#!/usr/bin/env bash
# Notes how it was called; "distill" leaves with the code in codes/<run>, 0 without one.
echo "$*" >> calls
while [ $# -gt 1 ] && [ "$1" != --out ]; do verb=${verb:-$1}; shift; done
case $verb in
    distill) mkdir -p "$2"; exit "$(cat "codes/$(basename "$2")" 2>/dev/null || echo 0)" ;;
    align-eval) mkdir -p "$2"; touch "$2/results.json" ;;
esac
"""

Sweep = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def sweep(tmp_path: Path, root: Path) -> Sweep:
    """Run the script with the stand-in: (exit code, the calls of facekit, stderr)."""
    (tmp_path / "facekit").write_text(STAND_IN)
    (tmp_path / "facekit").chmod(0o755)
    (tmp_path / "codes").mkdir()

    def call(codes: dict[str, int] | None = None, **variables: str) -> tuple[int, list[str], str]:
        for file in (tmp_path / "codes").iterdir():
            file.unlink()
        (tmp_path / "calls").write_text("")
        for name, code in (codes or {}).items():
            (tmp_path / "codes" / name).write_text(str(code))
        environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ARMS": ARMS}
        done = subprocess.run(
            ["bash", str(root / "examples" / "sweep.sh"), "t.onnx", "faces", "dev.txt", "out"],
            env={**environment, "SEEDS": "0 1", **variables}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, (tmp_path / "calls").read_text().splitlines(), done.stderr

    return call


def trained(calls: list[str]) -> list[str]:
    return [match[1] for call in calls if (match := re.match(r"distill .*--out out/(\S+)", call))]


def measured(calls: list[str]) -> list[str]:
    return [match[1] for call in calls if (match := re.match(r"align-eval --model out/(\S+)", call))]


def test_every_arm_with_every_seed_is_trained_measured_once_and_compared(sweep: Sweep) -> None:
    code, calls, _ = sweep(OPTIONS="--batch 32 --clip 0", EPOCHS="7")
    runs = ["one-0", "one-1", "two-0", "two-1"]
    assert code == 0 and trained(calls) == measured(calls) == runs
    assert calls[0] == (
        "distill --teacher t.onnx --student mbf_half --epochs 7 --seed 0 --data faces --exclude dev.txt "
        "--out out/one-0 --resume --batch 32 --clip 0 --method fcd"
    )
    assert "--seed 1" in calls[6] and calls[6].endswith("--method fcd --weights fcd=4")
    assert calls[1] == "align-eval --model out/one-0 --benchmark allpairs:dev.txt --out out/one-0/results"
    assert calls[8:] == [
        "runs list out",
        "runs compare out/one-0 out/one-1 out/two-0 out/two-1 --benchmark allpairs:dev.txt --gallery t.onnx "
        "--out out/compare",
    ]
    code, calls, _ = sweep()
    assert code == 0 and trained(calls) == runs and measured(calls) == []


def test_a_failed_arm_does_not_stop_the_others(sweep: Sweep) -> None:
    code, calls, err = sweep({"two-0": 1, "one-1": 2})
    assert code == 1
    assert trained(calls) == ["one-0", "one-1", "two-0", "two-1"]
    assert measured(calls) == ["one-0", "two-1"]
    assert calls[-1].startswith("runs compare out/one-0 out/two-1 ")
    assert "failed: out/one-1 (exit code 2)\nfailed: out/two-0 (exit code 1)\n" in err


@pytest.mark.parametrize("code", [3, 130, 143])
def test_a_cut_run_stops_the_sweep_and_another_call_goes_on(code: int, sweep: Sweep) -> None:
    left, calls, err = sweep({"two-0": code})
    assert left == code
    assert trained(calls) == ["one-0", "one-1", "two-0"]
    assert "runs list out" in calls
    assert any(call.startswith("runs compare") for call in calls) == (code == 3), "who stops it does not wait"
    assert "unfinished: out/two-0\nunfinished: out/two-1\n" in err
    left, calls, _ = sweep()
    assert left == 0 and measured(calls) == ["two-0", "two-1"]


def test_without_the_control_nothing_is_compared(sweep: Sweep) -> None:
    code, calls, _ = sweep({"one-0": 1, "one-1": 1})
    assert code == 1 and measured(calls) == ["two-0", "two-1"]
    assert calls[-1] == "runs list out"


def test_the_budget_is_that_of_the_whole_sweep(sweep: Sweep) -> None:
    code, calls, err = sweep(BUDGET_S="0")
    assert (code, calls) == (3, []) and err.count("unfinished: ") == 4
    code, calls, _ = sweep(BUDGET_S="1000")
    left = [int(match[1]) for call in calls if (match := re.search(r"--budget-s (\d+)", call))]
    assert code == 0 and len(left) == 4
    assert all(900 < seconds <= 1000 for seconds in left) and left == sorted(left, reverse=True)


def test_a_missing_argument_is_said(root: Path) -> None:
    done = subprocess.run(["bash", str(root / "examples" / "sweep.sh")], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "usage: bash examples/sweep.sh TEACHER FACES LIST" in done.stderr


@pytest.mark.slow
def test_a_sweep_that_is_cut_and_run_again_ends_as_one(root: Path, tmp_path: Path) -> None:
    """Small networks on synthetic people: SIGTERM in the middle of the second arm, then once more."""
    torch.set_num_threads(1)
    synthesise(tmp_path / "faces", identities=20, per_identity=6, seed=0)
    common = {"data": tmp_path / "faces" / "images", "model": "mbf_nano", "embedding": 32, "epochs": 1, "batch": 8}
    train(build(TrainConfig, {**common, "threads": 1, "out": tmp_path / "teacher"}))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ARMS": ARMS + "bad: --method fcd --lr 1e20 --clip 0\n",
        "SEEDS": "0",
        "EPOCHS": "3",
        "STUDENT": "mbf_nano",
        "OPTIONS": "--batch 8 --threads 1 --save-steps 1",
    }
    command = ["bash", str(root / "examples" / "sweep.sh"), "teacher", "faces/images", "faces/pairs_test.txt", "out"]
    out = tmp_path / "out"
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not (out / "two-0" / "checkpoints" / "last").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "unfinished: out/two-0" in err
    cut = json.loads((out / "two-0" / "run.json").read_text())
    assert (cut["status"], cut["error"]) == ("interrupted", "Interrupted")
    measured_at = (out / "one-0" / "results" / "results.json").stat().st_mtime_ns

    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "failed: out/bad-0 (exit code 1)" in done.stderr and "out/one-0 is finished already" in done.stderr
    assert (out / "one-0" / "results" / "results.json").stat().st_mtime_ns == measured_at, "measured once"
    assert json.loads((out / "two-0" / "run.json").read_text())["status"] == "done"
    assert "2 done, 1 failed" in done.stdout and "became NaN or infinite" in done.stdout
    content = json.loads((out / "compare" / "compare.json").read_text())
    assert [arm["runs"] for arm in content["arms"]] == [["out/one-0"], ["out/two-0"]]
    assert content["arms"][1]["name"] == "weights=fcd=4"
