"""Learning curves: read what runs wrote, draw it, say what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, InputError, MissingExtra, MissingFile
from facekit.evaluation.figures import learning_curves, read_metric, style

pytest.importorskip("matplotlib")


def run_folder(path: Path, values: list[float]) -> Path:
    path.mkdir()
    rows = [{"step": 10 * i, "epoch": i, "loss": 5.0 / (i + 1)} for i in range(len(values))]
    rows += [{"step": 10 * i, "epoch": i, "dev": {"tar@far=0.001": x}} for i, x in enumerate(values)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_metrics_are_read_from_nested_rows(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a", [0.1, 0.5, 0.7])
    assert np.array_equal(read_metric(run, "dev/tar@far=0.001"), [[0, 0.1], [1, 0.5], [2, 0.7]])
    assert read_metric(run / "metrics.jsonl", "loss", "step")[:, 0].tolist() == [0, 10, 20]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_figure_of_several_runs(tmp_path: Path, suffix: str) -> None:
    runs = {f"run {i}": run_folder(tmp_path / str(i), [0.1 * i, 0.2 * i, 0.09 * i]) for i in range(1, 9)}
    out = learning_curves(runs, "dev/tar@far=0.001", tmp_path / f"curves{suffix}", label="TAR", percent=True)
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    if suffix == ".svg":
        assert all(f">run {i}</text>".encode() in content for i in range(1, 9))
        assert b">TAR, %</text>" in content


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a", [0.1])
    with pytest.raises(InputError, match="says nothing about 'speed'"):
        read_metric(run, "speed")
    with pytest.raises(MissingFile, match="folder of a training run"):
        read_metric(tmp_path / "none", "loss")
    (run / "metrics.jsonl").write_text('{"step": 1\n')
    with pytest.raises(CorruptFile, match="one JSON table per line"):
        read_metric(run, "loss")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"facekit\[report\]"), style():
        pass
