"""Bad input through the command line: one clear sentence, the right exit code, earlier files intact."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit import cli
from facekit.core import files
from facekit.core.checkpoints import CheckpointStore
from facekit.data.synth import synthesise
from facekit.models import build_backbone

TINY = [
    "--model",
    "mbf_nano",
    "--embedding",
    "16",
    "--batch",
    "8",
    "--epochs",
    "1",
    "--precision",
    "fp32",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "faces"
    synthesise(folder, identities=6, per_identity=4, seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "t"
    succeed("train", "--data", faces / "images", "--out", out, *TINY)
    return out


def succeed(*arguments: object) -> None:
    """Run facekit, which must leave with 0."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["facekit", *map(str, arguments)])
        cli.main()
    assert left.value.code == 0


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run facekit; return its exit code and its last line, which must be the one sentence."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        text = capsys.readouterr().err
        assert "Traceback" not in text
        last = [line for line in text.splitlines() if line.strip()][-1]
        assert last.startswith("facekit: ")
        code = left.value.code
        return (code if isinstance(code, int) else 1), last

    return call


def noise(path: Path, side: int = 112) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)


def test_missing_folder(refuse: Any, tmp_path: Path) -> None:
    code, said = refuse("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "o", *TINY)
    assert code == 1 and "nowhere" in said and not (tmp_path / "o").exists()


def test_no_data_given(refuse: Any, tmp_path: Path) -> None:
    code, said = refuse("train", "--out", tmp_path / "o", *TINY)
    assert code == 2 and "--data" in said and "FACEKIT_DATA" in said


def test_one_identity_only(refuse: Any, tmp_path: Path) -> None:
    for i in range(10):
        noise(tmp_path / "d" / "alone" / f"{i}.png")
    code, said = refuse("train", "--data", tmp_path / "d", "--out", tmp_path / "o", *TINY)
    assert code == 1 and "identit" in said


def test_zero_images(refuse: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    code, said = refuse("train", "--data", tmp_path / "d", "--out", tmp_path / "o", *TINY)
    assert code == 1 and "image" in said


def test_a_dev_list_too_small_to_choose_by(refuse: Any, faces: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nid_0001\t1\t2\nid_0001\t1\tid_0002\t1\n")
    options = ("--dev", tmp_path / "pairs.txt", "--dev-images", faces / "images", "--out", tmp_path / "o")
    code, said = refuse("train", "--data", faces / "images", *options, *TINY)
    assert code == 1 and "too small to choose by" in said and "at least 100 impostor pairs" in said


def test_a_corrupt_image_is_named(refuse: Any, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces / "images", tmp_path / "d")
    victim = sorted((tmp_path / "d").rglob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:300])
    code, said = refuse("train", "--data", tmp_path / "d", "--out", tmp_path / "o", *TINY)
    assert code == 1 and victim.name in said


def test_kd_without_labels(refuse: Any, faces: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(sorted((faces / "images").rglob("*.jpg"))):
        shutil.copy(image, tmp_path / "flat" / f"{i}.jpg")
    code, said = refuse(
        "distill", "--teacher", trained, "--method", "kd", "--data", tmp_path / "flat", "--out", tmp_path / "o"
    )
    assert code == 1 and ("label" in said or "identit" in said)


def test_fewer_images_than_a_step(refuse: Any, faces: Path, tmp_path: Path) -> None:
    code, said = refuse("train", "--data", faces / "images", "--out", tmp_path / "o", *TINY, "--batch", "512")
    assert code == 1 and "24 images" in said and "--batch 512" in said


def test_wrong_layout_names_the_first_key(refuse: Any, faces: Path, tmp_path: Path) -> None:
    state = build_backbone("mbf_nano", 16).state_dict()
    first = next(k for k in state if k.endswith("weight"))
    state[first] = torch.zeros(7, 3, 5, 5)
    torch.save(state, tmp_path / "odd.pt")
    code, said = refuse(
        "distill", "--teacher", tmp_path / "odd.pt", "--data", faces / "images", "--out", tmp_path / "o"
    )
    assert code == 1 and "odd.pt" in said


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch facekit_was_here",)


def test_foreign_globals_in_weights_and_bin(
    refuse: Any, faces: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    code, said = refuse(
        "distill", "--teacher", tmp_path / "evil.pt", "--data", faces / "images", "--out", tmp_path / "o"
    )
    assert code == 1 and "system" in said
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(([Evil()], [True])))
    code, said = refuse("align-eval", "--model", trained, "--benchmark", tmp_path / "evil.bin")
    assert code == 1 and "system" in said
    assert not (tmp_path / "facekit_was_here").exists()


def test_truncated_files(refuse: Any, faces: Path, trained: Path, tmp_path: Path) -> None:
    whole = pickle.dumps(([b"x" * 200] * 4, [True, False]))
    (tmp_path / "cut.bin").write_bytes(whole[:-40])
    code, said = refuse("align-eval", "--model", trained, "--benchmark", tmp_path / "cut.bin")
    assert code == 1 and "cut.bin" in said
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "last" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, said = refuse("export", "--model", tmp_path / "run", "--out", tmp_path / "x.onnx", "--data", faces / "images")
    assert code == 1 and "weights.safetensors" in said and not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["distill", "--teacher", "t.pt", "--student", "mfb"], "mbf"),
        (["distill", "--teacher", "t.pt", "--method", "fdc"], "fcd"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--epochs", "0"], "out of range"),
        (["train", "--lr", "-1"], "out of range"),
    ],
)
def test_wrong_flags_are_exit_code_2_with_the_right_word(refuse: Any, arguments: list[str], meant: str) -> None:
    code, said = refuse(*arguments)
    assert code == 2 and meant in said


def test_a_run_begun_with_init_resumes_without_naming_it(trained: Path, faces: Path, tmp_path: Path) -> None:
    common = ("train", "--data", faces / "images", *TINY, "--lr", "0.000001")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    succeed(*common, "--out", whole, "--init", trained)
    for never_saved in (False, True):
        succeed(*common, "--out", cut, "--init", trained)
        run = json.loads((cut / "run.json").read_text())
        (cut / "run.json").write_text(json.dumps({**run, "status": "interrupted"}))
        if never_saved:
            shutil.rmtree(cut / "checkpoints")
        succeed(*common, "--out", cut, "--resume")
        hashes = [CheckpointStore(folder).load().meta["weights_sha256"] for folder in (cut, whole)]
        assert hashes[0] == hashes[1]
        shutil.rmtree(cut)


def test_resume_and_init_exclude_each_other(refuse: Any, faces: Path, trained: Path, tmp_path: Path) -> None:
    code, said = refuse(
        "train", "--data", faces / "images", "--out", tmp_path / "o", *TINY, "--resume", "--init", trained
    )
    assert code == 2 and "--resume" in said and "--init" in said


def test_an_existing_run_is_not_overwritten_nor_changed(refuse: Any, faces: Path, trained: Path) -> None:
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    code, said = refuse("train", "--data", faces / "images", "--out", trained, *TINY)
    assert code == 1 and "--resume" in said
    code, said = refuse("train", "--data", faces / "images", "--out", trained, *TINY, "--lr", "0.2", "--resume")
    assert code == 1 and "lr: 0.1 then, 0.2 now" in said
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_a_finished_run_resumes_to_nothing(faces: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "run.json").read_bytes()
    succeed("train", "--data", faces / "images", "--out", trained, *TINY, "--resume")
    assert "finished already" in capsys.readouterr().err
    assert (trained / "run.json").read_bytes() == before


def test_a_budget_ends_with_3_and_resumes(refuse: Any, faces: Path, tmp_path: Path) -> None:
    argv = ["train", "--data", faces / "images", "--out", tmp_path / "o", *TINY]
    code, said = refuse(*argv, "--budget-s", "0.001")
    assert code == 3 and "--resume" in said
    succeed(*argv, "--resume")
    assert CheckpointStore(tmp_path / "o").load().meta["step"] == 3


def test_a_diverging_loss_is_named_and_the_last_state_kept(refuse: Any, faces: Path, tmp_path: Path) -> None:
    argv = ["train", "--data", faces / "images", "--out", tmp_path / "o", *TINY, "--epochs", "40", "--save-steps", "1"]
    code, said = refuse(*argv, "--lr", "1e30", "--clip", "0", "--log-every", "1000")
    assert code == 1 and "became NaN or infinite at step" in said
    tensors = CheckpointStore(tmp_path / "o").load().tensors
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def test_a_full_disk_keeps_the_earlier_run(
    refuse: Any, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["train", "--data", faces / "images", "--out", tmp_path / "o", *TINY]
    refuse(*argv, "--budget-s", "0.001")
    kept = (tmp_path / "o" / "checkpoints" / "last" / "weights.safetensors").read_bytes()
    real, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    code, said = refuse(*argv, "--resume")
    monkeypatch.undo()
    assert code == 1 and "disk is full" in said
    assert (tmp_path / "o" / "checkpoints" / "last" / "weights.safetensors").read_bytes() == kept
