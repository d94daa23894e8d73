"""``facekit head merge | slice`` and ``--init-head`` from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from facekit import cli
from facekit.core.checkpoints import CheckpointStore, read_tensors, write_tensors
from facekit.data.synth import synthesise


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``facekit ...``, as the shell sees it."""
    monkeypatch.setattr(sys, "argv", ["facekit", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one explained error on stderr."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("facekit: ")]
    return line


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Shards of 10 classes as arcface_torch leaves them on 3 GPUs."""
    weight = torch.arange(40.0).reshape(10, 4)
    paths = [tmp_path / f"softmax_fc_gpu_{rank}.pt" for rank in range(3)]
    for path, rows in zip(paths, weight.split([4, 3, 3]), strict=True):
        torch.save({"weight": rows.clone()}, path)
    return paths


def test_merge_and_slice_and_merge(
    monkeypatch: pytest.MonkeyPatch, three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, folder, again = tmp_path / "head.safetensors", tmp_path / "eight", tmp_path / "again.safetensors"
    assert call(monkeypatch, "head", "merge", *three[::-1], "--out", head) == 0
    assert "10 classes x 4, no optimiser state, from 3 shards" in capsys.readouterr().err
    assert call(monkeypatch, "head", "slice", head, "--world", 8, "--out", folder) == 0
    assert "8 shards of 10 classes x 4" in capsys.readouterr().err
    assert call(monkeypatch, "head", "merge", *folder.glob("*.pt"), "--out", again) == 0
    assert head.read_bytes() == again.read_bytes()
    assert torch.equal(read_tensors(head)[0]["weight"], torch.arange(40.0).reshape(10, 4))


def test_wrong_words_and_files_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, folder = tmp_path / "head.safetensors", tmp_path / "shards"
    assert call(monkeypatch, "head", "merge", "--out", head) == 2
    assert "SHARD is required" in sentence(capsys)
    assert call(monkeypatch, "head", "merge", *three, "--out", tmp_path / "head.pt") == 2
    assert "must end in .safetensors" in sentence(capsys)
    assert call(monkeypatch, "head", "merge", *three[1:], "--out", head) == 1
    assert "not rank 0" in sentence(capsys) and not head.exists()
    assert call(monkeypatch, "head", "merge", *three, "--out", head) == 0
    assert call(monkeypatch, "head", "slice", head, "--world", 0, "--out", folder) == 2
    assert call(monkeypatch, "head", "slice", head, "--world", 11, "--out", folder) == 1
    assert not folder.exists()
    capsys.readouterr()
    assert call(monkeypatch, "head", "slice", head, "--world", 2, "--checkpoint", three[0], "--out", folder) == 1
    assert "--checkpoint holds no state_dict_softmax_fc" in sentence(capsys)
    assert call(monkeypatch, "head", "slice", head, "--world", 2, "--out", tmp_path) == 1
    assert "is in use" in sentence(capsys)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four identities of four images."""
    out = tmp_path_factory.mktemp("heads") / "demo"
    synthesise(out, identities=4, per_identity=4)
    return out / "images"


def test_train_starts_its_head_from_a_file(
    monkeypatch: pytest.MonkeyPatch, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    head, wrong = tmp_path / "head.safetensors", tmp_path / "wrong.safetensors"
    write_tensors(head, {"weight": rows, "momentum_buffer": rows})
    write_tensors(wrong, {"weight": rows[:3].clone()})
    options = ("--data", people, "--model", "mbf_nano", "--embedding", 32, "--head", "adaface", "--device", "cpu")
    # A rate that changes no float32: what is stored at the end is what training began with.
    steps = ("--epochs", 1, "--batch", 8, "--lr", 1e-30, "--precision", "fp32")
    assert call(monkeypatch, "train", *options, *steps, "--init-head", head, "--out", tmp_path / "run") == 0
    state = CheckpointStore(tmp_path / "run").load_state("last")["modules"]["head"]
    assert torch.equal(state["weight"], rows)
    assert 0 < float(state["batch_mean"]) != 20.0 and float(state["batch_std"]) < 100.0
    capsys.readouterr()
    assert call(monkeypatch, "train", *options, *steps, "--init-head", wrong, "--out", tmp_path / "other") == 1
    assert "holds 3 classes of width 32, but this run has 4 identities" in sentence(capsys)
