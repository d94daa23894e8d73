"""``facekit data pairs`` from the command line: a set that a benchmark can be, and what is said about it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from facekit import cli
from facekit.data.pairs import open_benchmark
from facekit.data.synth import synthesise
from facekit.evaluation.evaluator import tar_by_far


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve people with five images each."""
    out = tmp_path_factory.mktemp("pairs") / "faces"
    synthesise(out, identities=12, per_identity=5, size=32)
    return out


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``facekit data pairs``, as the shell sees it."""
    monkeypatch.setattr(sys, "argv", ["facekit", "data", "pairs", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def pixels(images: Tensor) -> Tensor:
    """A poor embedding."""
    return images.double().flatten(1) - 128


def test_a_folder_becomes_a_benchmark(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    words = ("--data", drawn / "images", "--out", out, "--pairs", 60, "--folds", 3, "--bin")
    assert call(monkeypatch, *words) == 0
    said = capsys.readouterr().err
    assert "60 pairs, half of them of one person" in said and "cut it into tenths" in said
    assert "30 impostor pairs measure FAR down to 0.033, with 30 false accepts down to 1;" in said
    assert f"allpairs:{out}" in said
    bench = open_benchmark(str(out))
    assert len(bench.same) == 60 and bench.fold is not None and bench.identity is not None
    people = [set(bench.identity[np.stack([bench.left, bench.right])[:, bench.fold == k]].ravel()) for k in range(3)]
    assert sum(map(len, people)) == len(set.union(*people)) <= 12
    of_bin = open_benchmark(str(out / "mine.bin"))
    assert tar_by_far(pixels, bench, (0.1,)) == tar_by_far(pixels, of_bin, (0.1,)) != {}
    assert call(monkeypatch, *words) == 1
    assert "exists already" in capsys.readouterr().err


def test_fewer_pairs_than_asked_for_are_explained(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", drawn / "images", "--folds", 2)
    assert call(monkeypatch, *data, "--out", tmp_path / "a", "--per-person", 4) == 0
    said = capsys.readouterr().err
    assert (
        "96 of 6,000 pairs could be made: 12 people, 0 of them with one image only, have 48 same-person pairs" in said
    )
    assert "--per-person 4; raise it" in said
    assert call(monkeypatch, *data, "--out", tmp_path / "b", "--pairs", 31) == 0
    assert "31 pairs do not make 2 equal folds" in capsys.readouterr().err
    assert len(open_benchmark(str(tmp_path / "b")).same) == 28


def test_the_people_of_another_set_are_left_out(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = drawn / "pairs_test.txt"
    words = ("--data", drawn / "images", "--exclude", listed, "--pairs", 20, "--folds", 2, "--out", tmp_path / "dev")
    assert call(monkeypatch, *words) == 0
    assert "20 pairs" in capsys.readouterr().err
    people = {name.split("/")[0] for name in open_benchmark(str(tmp_path / "dev")).source.names}
    assert people and people.isdisjoint({"id_0002", "id_0005", "id_0009", "id_0012"})


def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "o")
    assert call(monkeypatch, "--data", drawn / "images", *out, "--pairs", 20, "--folds", 11) == 2
    assert call(monkeypatch, *out) == 2
    assert call(monkeypatch, "--data", drawn / "images", *out) == 1  # ten folds of twelve people
    flat = tmp_path / "flat"
    flat.mkdir()
    first = next((drawn / "images").rglob("*.jpg"))
    (flat / "a.jpg").write_bytes(first.read_bytes())
    assert call(monkeypatch, "--data", flat, *out) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("facekit: ")]
    assert len(said) == 4 and "too few for 10 folds" in said[2] and "has no labels" in said[3]
    assert not (tmp_path / "o").exists()
