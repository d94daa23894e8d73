"""The verbs, with toy models on real image files: what goes to stdout, what is written, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekit import cli
from facekit.evaluation.results import COLUMNS

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, toy_model: type[Any]) -> dict[str, Any]:
    """``--model NAME`` loads one of these instead of a file."""
    table = {
        "teacher": toy_model("teacher"),
        "student": toy_model("student", seed=1, blur=0.2),
        "narrow": toy_model("narrow", seed=2, width=100),
    }

    def load(path: Path, *, device: Any, channels: str | None, scaling: str | None) -> Any:
        assert device.precision == "fp32"
        return table[Path(path).name]

    monkeypatch.setattr("facekit.engines.align_eval.load_model", load)
    monkeypatch.setattr("facekit.engines.swap.load_model", load)
    return table


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_folder: Path, models: dict[str, Any]
) -> Cli:
    """Run the command line inside this process; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(image_folder)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", "align-eval", *words, "--draws", "100", "--device", "cpu"])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_json_alone_goes_to_stdout(run: Cli, image_folder: Path) -> None:
    code, out, _ = run("--model", "teacher", "--benchmark", "pairs.txt,allpairs:pairs.txt", "--json", "--out", "res")
    assert code == 0
    content = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert content["schema"] == "facekit.results/1"
    assert content["command"].startswith("facekit align-eval --model teacher")
    assert {row["benchmark"] for row in content["rows"]} == {image_folder.name, f"allpairs:{image_folder.name}"}
    assert all(tuple(row) == COLUMNS for row in content["rows"])
    assert {row["model"] for row in content["rows"]} == {"teacher@" + "00".ljust(12, "0")}
    assert json.loads(Path("res/results.json").read_text()) == content
    assert Path("res/results.csv").read_text().count("\n") == len(content["rows"]) + 1


def test_table_for_people(run: Cli) -> None:
    code, out, _ = run("--model", "teacher", "--benchmark", "pairs.txt", "--far", "0.1,1e-3")
    assert code == 0
    for text in ("TAR@0.1", "unmeasurable", "smallest", "FAR 0.001 needs at least 1,000 impostor pairs", "LFW ± S_E"):
        assert text in out
    assert "people drawn with replacement" in out and "24 people" in out


def test_a_second_run_embeds_nothing(run: Cli, models: dict[str, Any]) -> None:
    run("--model", "teacher", "--benchmark", "allpairs:pairs.txt", "--cache-dir", "cache")
    assert models["teacher"].calls == 96
    run("--model", "teacher", "--benchmark", "allpairs:pairs.txt", "--cache-dir", "cache", "--far", "0.5")
    assert models["teacher"].calls == 96


def test_missing_benchmark_is_one_sentence(run: Cli) -> None:
    code, out, err = run("--model", "teacher", "--benchmark", "nowhere.txt")
    assert (code, out) == (1, "") and "nowhere.txt does not exist" in err and "Traceback" not in err


def test_swap_writes_page_document_and_verdict(run: Cli, models: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    words = ("swap", "--old", "teacher", "--new", "student", "--benchmark", "allpairs:pairs.txt", "--far", "0.01")
    code, out, _ = run(*words, "--report", "swap.html", "--out", "res", "--json", "--cache-dir", "cache")
    assert code == 0
    content = json.loads(out)
    assert content["swap"]["verdict"] in ("swap", "swap_at", "no", "undecided")
    assert [m["name"] for m in content["models"]] == ["teacher", "student"]
    assert [c["macs"] for c in content["swap"]["costs"]] == [12_345, 12_345]
    assert json.loads(Path("res/results.json").read_text()) == content
    page = Path("swap.html").read_text()
    assert "facekit align-eval swap --old teacher" in page and "http" not in page
    # Every image once by each model: the cross comparison embeds no gallery image again.
    assert models["teacher"].calls == models["student"].calls == 96
    code, out, _ = run(*words, "--cache-dir", "cache")
    assert code == 0 and out.strip().startswith(content["swap"]["sentence"][:20]) and "impostors pass" in out
    assert models["teacher"].calls == models["student"].calls == 96


def test_swap_refuses_what_cannot_be_compared(run: Cli, models: dict[str, Any]) -> None:
    common = ("--benchmark", "allpairs:pairs.txt", "--far", "0.01")
    code, _, err = run("swap", "--old", "teacher", "--new", "narrow", *common)
    assert code == 1 and "--embedding 192" in err
    code, _, err = run("swap", "--old", "teacher", "--new", "student", "--benchmark", "pairs.txt,allpairs:pairs.txt")
    assert code == 2 and "one benchmark, 2 were given" in err
    code, _, err = run("swap", "--old", "teacher", "--new", "student", "--benchmark", "pairs.txt", "--far", "1e-5")
    assert code == 1 and "needs at least 100,000 impostor pairs" in err
    code, _, err = run("swap", "--old", "teacher", "--new", "student", *common, "--threshold", "0.3")
    assert code == 2 and "give one of them" in err


def test_a_page_without_matplotlib_is_refused_before_the_work(
    run: Cli, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ("swap", "--old", "teacher", "--new", "student", "--benchmark", "pairs.txt", "--report", "swap.html")
    code, _, err = run(*words)
    assert code == 1 and "facekit[report]" in err
    assert models["teacher"].calls == 0
