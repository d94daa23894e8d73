"""``facekit data pack | check | synth`` from the command line: outputs, exit codes, one sentence on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from facekit import cli
from facekit.data.sources import open_source


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from facekit.configs import SynthConfig
    from facekit.engines.data import synth

    out = tmp_path_factory.mktemp("verbs") / "demo"
    synth(SynthConfig(out=out, identities=10, per_identity=3, size=32))
    return out


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``facekit data ...``, as the shell sees it."""
    monkeypatch.setattr(sys, "argv", ["facekit", "data", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_synth_tells_what_it_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("synth", "--out", tmp_path / "d", "--identities", 10, "--per-identity", 2, "--size", 32)
    assert call(monkeypatch, *words) == 0
    assert len(list((tmp_path / "d" / "images").rglob("*.jpg"))) == 20
    assert call(monkeypatch, *words) == 1
    assert "exists already" in capsys.readouterr().err
    assert call(monkeypatch, "synth", "--out", tmp_path / "e", "--identities", 1) == 2


def test_pack_writes_what_open_source_reads(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", drawn / "images")
    assert call(monkeypatch, "pack", *data, "--out", tmp_path / "p", "--exclude", drawn / "pairs_test.txt") == 0
    assert len(open_source(tmp_path / "p").identities) == 7
    assert call(monkeypatch, "pack", *data, "--out", tmp_path / "q", "--kind", "uint8", "--size", 16) == 0
    assert open_source(tmp_path / "q").size == (16, 16)
    capsys.readouterr()
    assert call(monkeypatch, "pack", *data, "--out", tmp_path / "p") == 1
    assert call(monkeypatch, "pack", *data, "--out", tmp_path / "r", "--size", 16) == 2
    assert call(monkeypatch, "pack", *data, "--out", tmp_path / "r", "--kind", "png") == 2
    assert call(monkeypatch, "pack", "--out", tmp_path / "r") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4 and all(line.startswith("facekit: ") for line in errors)
    assert not (tmp_path / "r").exists()


def test_check_is_quiet_about_good_data_and_fails_on_broken_or_shared_people(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ("check", "--data", drawn / "images", "--size", 32)
    assert call(monkeypatch, *data, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 30 and answer["broken"] == {} and answer["duplicates"] == []
    assert call(monkeypatch, *data, "--test-list", drawn / "pairs_test.txt") == 1
    screen = capsys.readouterr()
    assert "people of the test lists" in screen.out and "3 people are also in the test list" in screen.err
    assert len([line for line in screen.err.splitlines() if line.startswith("facekit: ")]) == 1
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "a" / "1.jpg").write_bytes(b"x")
    assert call(monkeypatch, "check", "--data", tmp_path / "d", "--json") == 1
    screen = capsys.readouterr()
    assert list(json.loads(screen.out)["broken"]) == ["a/1.jpg"] and "1 images are broken" in screen.err
    assert call(monkeypatch, "check", "--data", tmp_path / "none") == 1


def test_a_long_table_shows_a_few_examples(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", "--data", drawn / "images") == 0
    screen = capsys.readouterr().out
    assert "and 25 more" in screen and "tiny (below 56)" in screen
