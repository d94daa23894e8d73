"""Every facekit command in README, docs and examples is accepted by the command line; the demo really runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facekit import cli, configs

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {
    "student": "mbf_half",
    "epochs": "3",
    "identities": "4",
    "teacher_epochs": "1",
    "student_epochs": "1",
    "from": "4",
    "network": "resnet14",
    "seed": "0",
    "side": "16",
}


def script_variables(text: str) -> dict[str, list[str]]:
    """Bash arrays of a script: ``common=(--a b)``."""
    return {name: shlex.split(body) for name, body in re.findall(r"^(\w+)=\((.*?)\)$", text, re.M | re.S)}


def commands(path: Path) -> list[list[str]]:
    """The facekit commands of a page's sh blocks or of a script, variables replaced by plausible words."""
    text = path.read_text(encoding="utf-8")
    source = text if path.suffix == ".sh" else "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    arrays = script_variables(source)
    found = []
    for line in source.replace("\\\n", " ").splitlines():
        match = re.search(r"(?:^|\|\| )\s*facekit (.*)", line)
        if not match:
            continue
        words: list[str] = []
        for word in shlex.split(match[1], comments=True):
            if word in (">", "|", "||", "&&"):
                break
            array = re.fullmatch(r"\$\{(\w+|@)(?:\[@\]|:\d+)?\}", word)
            if array is None:
                words.append(word)
            elif array[1] != "@":  # what a function is given is not known here
                words += arrays.get(array[1], [array[1]])
        found.append([re.sub(r"\$\{?(\w+)[^/\s,}]*\}?", lambda m: NAMES.get(m[1], m[1]), w) for w in words])
    return found


ALL = [
    pytest.param(words, id=f"{path.name}:{' '.join(words)[:60]}")
    for path in [*PAGES, *SCRIPTS]
    for words in commands(path)
]


@pytest.mark.parametrize("words", ALL)
def test_a_shown_command_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[configs.Config] = []

    class Engine:
        def __getattr__(self, function: str) -> Any:
            return seen.append

    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=lambda name: Engine()))
    monkeypatch.setattr(sys, "argv", ["facekit", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert seen or {"--help", "--version"} & set(words)


@pytest.mark.parametrize(
    "script", sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("bench/[a-z]*.py")]), ids=lambda p: str(p.name)
)
def test_a_script_finds_what_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.syspath_prepend(str(ROOT))
    importlib.import_module(f"bench.{script.stem}" if script.parent.name == "bench" else script.stem)


def test_readme_shows_every_verb() -> None:
    shown = {" ".join(w for w in words[:2] if not w.startswith("-")) for words in commands(ROOT / "README.md")}
    for verb in (
        "train", "distill", "align-eval", "align-eval swap", "align-eval bank", "align-eval fit-estimator",
        "align-eval fit-generator", "embed", "export", "profile", "doctor", "data pack", "data check", "data synth",
        "data pairs", "head merge", "head slice", "runs list", "runs show", "runs compare",
    ):  # fmt: skip
        assert any(s == verb or s.startswith(verb + " ") for s in shown), f"README shows no 'facekit {verb}'"


@pytest.mark.slow
def test_the_demo_runs_end_to_end_and_learns(tmp_path: Path) -> None:
    """A smaller demo: fewer people, the same steps; it exits 1 by itself if training did not help."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DEMO_IDENTITIES": "60",
        "DEMO_TEACHER_EPOCHS": "10",
        "DEMO_STUDENT_EPOCHS": "20",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "demo.sh"), str(tmp_path / "demo")],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "demo" / "results" / "results.json").read_text())
    assert len({row["model"] for row in results["rows"]}) == 4
    page = (tmp_path / "demo" / "swap.html").read_text()
    assert "<svg" in page and not re.search(r'(?:src|href)="?https?:', page)
    assert (tmp_path / "demo" / "learning_curves.svg").stat().st_size > 1000
