from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import resource
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from facekit import __version__, cli, configs
from facekit.core.errors import Interrupted, MissingFile, Unfinished, UsageError

HEAVY = {"torch", "numpy", "pandas", "matplotlib", "PIL", "safetensors", "simplejpeg", "onnx", "scipy"}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the entry point as a shell would: (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """Stands in for every engine: keeps the settings it was given, then does what ``then`` says."""
    stub = types.SimpleNamespace(settings=None, then=lambda: None)

    def accept(settings: configs.Config) -> None:
        stub.settings = settings
        stub.then()

    class Engine(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return accept

    for name in {path.stem for path in Path(cli.__file__).parent.glob("engines/*.py")} | {"train", "profile", "data"}:
        monkeypatch.setitem(sys.modules, f"facekit.engines.{name}", Engine(name))
    yield stub


def verbs() -> dict[str, type[configs.Config]]:
    """Every registered verb with its dataclass, learnt by calling it."""

    class Seen(Exception):
        pass

    def note(kind: type[configs.Config], given: object, file: object) -> None:
        raise Seen(kind)

    def walk(command: Any, name: str) -> Iterator[str]:
        children = getattr(command, "commands", {})
        if not children or command.invoke_without_command:
            yield name
        for child, inner in children.items():
            yield from walk(inner, f"{name} {child}".strip())

    found, real, root = {}, configs.build, typer.main.get_command(cli.build_app())
    configs.build = note  # type: ignore[assignment]
    try:
        for verb in walk(root, ""):
            with pytest.raises(Seen) as seen:
                root.main(verb.split(), standalone_mode=False)
            found[verb] = seen.value.args[0]
    finally:
        configs.build = real
    return found


VERBS = verbs()
each_verb = pytest.mark.parametrize(("verb", "kind"), VERBS.items(), ids=list(VERBS))


def required(kind: type[configs.Config]) -> dict[str, str]:
    """Something for every option that has no default: a name, a path and a number."""
    return {f.name: "1" for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}


def is_one_sentence(text: str) -> bool:
    return text.startswith("facekit: ") and text.count("\n") == 1 and "Traceback" not in text


# --- help ------------------------------------------------------------------------------------------


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh ``facekit ...`` imports."""
    command = [sys.executable, "-X", "importtime", "-m", "facekit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(cli.__file__).parent.parent)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = imported_by(*arguments)
    assert {"typer", "facekit"} <= loaded, "the list of imports was not read"
    assert not loaded & HEAVY


def test_help_takes_at_most_300_ms_of_cpu() -> None:
    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "facekit", "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=Path(cli.__file__).parent.parent,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) <= 0.3


def test_every_verb_of_the_readme_is_there() -> None:
    assert {"train", "distill", "align-eval", "align-eval swap", "embed", "export", "profile", "doctor"} <= set(VERBS)


@each_verb
def test_help_names_every_option_with_its_choices(verb: str, kind: type[configs.Config], run: Run) -> None:
    code, out, err = run(*verb.split(), "--help")
    words = set(re.split(r"[][,\s]+", out))
    hints = typing.get_type_hints(kind)
    assert (code, err) == (0, "")
    assert "--config" in words
    for field in dataclasses.fields(kind):
        assert {configs.flag_name(field), *configs.choices_of(hints[field.name])} <= words, field.name
        assert " ".join(field.metadata["help"].split()[:3]) in " ".join(out.split())


@each_verb
def test_help_lists_a_verbs_own_options_first(verb: str, kind: type[configs.Config], run: Run) -> None:
    _, out, _ = run(*verb.split(), "--help")
    places = {f.name: place(configs.flag_name(f), out) for f in dataclasses.fields(kind)}
    groups = {g.__name__: set(inspect.get_annotations(g)) for g in kind.__mro__ if g.__name__.endswith("Options")}
    groups = {name: own for name, own in groups.items() if own}  # not one that only joins others
    own = set(places) - set().union(*groups.values())
    first_heading = min((out.index(f"{name.removesuffix('Options')} options:") for name in groups), default=len(out))
    assert own
    assert all(places[name] < first_heading for name in own)
    for group, names in groups.items():
        heading = out.index(f"{group.removesuffix('Options')} options:")
        assert all(places[name] > heading for name in names - set(kind.__annotations__)), "below its heading"


def place(flag: str, text: str) -> int:
    """Where the help speaks of this option."""
    found = re.search(rf"^  {re.escape(flag)} ", text, re.MULTILINE)
    assert found, f"{flag} has no line of its own"
    return found.start()


def test_the_list_of_verbs_shows_whole_sentences(run: Run) -> None:
    _, out, _ = run("--help")
    text = " ".join(out.replace("-\n", "-").split())
    assert configs.DoctorConfig.__doc__ in text
    assert "..." not in out.partition("Commands:")[2]


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"facekit {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["data"]], ids=str)
def test_no_verb_shows_the_help(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: facekit")
    assert "Commands:" in err


# --- bad flags: exit 2 and one sentence ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("trian", "Did you mean 'train'?"),
        ("data pakc", "Did you mean 'pack'?"),
        ("train --modle r50", "Did you mean '--model'?"),
        ("distill --techer t.pt", "Did you mean '--teacher'?"),
        ("--verison", "Did you mean '--version'?"),
        ("train --zzz 1", "No such option: --zzz. See: facekit train --help"),
        ("train --model mbx", "unknown model 'mbx'. Did you mean 'mbf'? Choose from: mbf_nano, mbf_half,"),
        ("train --head arcfase", "unknown head 'arcfase'. Did you mean 'arcface'?"),
        ("train --device gpu", "unknown device 'gpu'."),
        ("train --epochs 0", "--epochs is 0, out of range: it must be >= 1"),
        ("train --epochs 1.5", "--epochs is '1.5', expected a value of type int"),
        ("train --epochs ten", "--epochs is 'ten', expected a value of type int"),
        ("train --epochs", "requires an argument"),
        ("train --lr nan", "--lr is nan, out of range: it must be > 0"),
        ("train --lr inf", "--lr is inf, out of range: it must be > 0"),
        ("train --milestones 0.5,2", "--milestones is 2, out of range: it must be >= 0 and <= 1"),
        ("train --milestones 0.5,x", "--milestones is 'x', expected a value of type float"),
        ("train extra", "Got unexpected extra argument"),
        ("train --resume=yes", "does not take a value"),
        ("distill", "--teacher is required: run folder, .pt/.pth/.safetensors, or .onnx"),
        ("profile", "MODEL is required: network name"),
        ("align-eval --model m", "nothing to measure on: give --benchmark"),
        ("align-eval --model m --benchmark ,", "nothing to measure on: give --benchmark"),
        ("align-eval --far 0.1 swap --old a", "options of 'swap' belong behind its name"),
    ],
)
def test_bad_flags_are_refused_in_one_sentence(arguments: str, says: str, run: Run) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    assert is_one_sentence(err), err
    assert says in err


@each_verb
def test_every_bound_holds_and_its_edge_is_allowed(verb: str, kind: type[configs.Config]) -> None:
    for field in dataclasses.fields(kind):
        low, high, above = (field.metadata[k] for k in ("low", "high", "above"))
        outside = (None if low is None else low - 1, None if high is None else high + 1, above)
        for value in (v for v in outside if v is not None):
            with pytest.raises(UsageError, match=f"^{configs.flag_name(field)} is .* out of range"):
                configs.build(kind, {**required(kind), field.name: str(value)})
        for value in (v for v in (low, high) if v is not None):
            configs.build(kind, {**required(kind), field.name: str(value)})


@each_verb
def test_every_choice_is_accepted_and_another_is_not(verb: str, kind: type[configs.Config]) -> None:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for name in (allowed := configs.choices_of(hints[field.name])):
            built = configs.build(kind, {**required(kind), field.name: name})
            assert getattr(built, field.name) in (name, (name,))  # the second where several may be given
        if allowed:
            with pytest.raises(UsageError, match=f"Did you mean '{allowed[0]}'"):
                configs.build(kind, {**required(kind), field.name: allowed[0] + "_"})


# --- flags, file, default -----------------------------------------------------------------------------


def test_flags_beat_the_file_and_the_file_beats_the_default(
    run: Run, engine: types.SimpleNamespace, tmp_path: Path
) -> None:
    file = tmp_path / "train.toml"
    file.write_text('epochs = 3\nbatch = 7\nmodel = "r18"\nweight-decay = 0\nflip = false\nmilestones = [0.25, 0.5]\n')
    code, _, err = run("train", "--config", str(file), "--batch", "9", "--data", "faces")
    assert (code, err) == (0, "")
    given = engine.settings
    assert (given.batch, given.data) == (9, Path("faces")), "a flag beats the file and the default"
    assert (given.epochs, given.model, given.weight_decay) == (3, "r18", 0.0), "the file beats the default"
    assert (given.flip, given.milestones) == (False, (0.25, 0.5))
    assert (given.lr, given.seed) == (configs.TrainConfig().lr, 0), "the default is left"


def test_a_switch_can_be_turned_both_ways(run: Run, engine: types.SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "off.toml"
    file.write_text("flip = false\n")
    run("train", "--config", str(file), "--flip", "--no-deterministic")
    assert (engine.settings.flip, engine.settings.deterministic, engine.settings.resume) == (True, False, False)
    run("train", "--no-flip")
    assert (engine.settings.flip, engine.settings.deterministic) == (False, None)


def test_an_earlier_run_is_repeated_but_not_written_over(
    run: Run, engine: types.SimpleNamespace, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    record = {
        "schema": "facekit.run/1",
        "config": {**configs.TrainConfig(epochs=4, out=Path("a")).to_dict(), "resume": True},
    }
    file.write_text(json.dumps(record))
    run("train", "--config", str(file), "--seed", "5")
    assert (engine.settings.epochs, engine.settings.seed) == (4, 5)
    assert (engine.settings.out, engine.settings.resume) == (None, False)


def test_a_written_file_may_name_the_output(run: Run, engine: types.SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "synth.toml"
    file.write_text('out = "demo"\nidentities = 3\n')
    assert run("data", "synth", "--config", str(file))[0] == 0
    assert (engine.settings.out, engine.settings.identities) == (Path("demo"), 3)


@each_verb
def test_a_configuration_survives_its_json_form(verb: str, kind: type[configs.Config], tmp_path: Path) -> None:
    config = configs.build(kind, required(kind))
    file = tmp_path / "options.json"
    file.write_text(json.dumps(config.to_dict()))
    assert configs.build(kind, {}, file) == config


@pytest.mark.parametrize(
    ("name", "text", "code", "says"),
    [
        ("a.toml", "epocs = 3", 2, "Did you mean 'epochs'?"),
        ("a.toml", "epochs = 0", 2, "--epochs is 0, out of range"),
        ("a.toml", "epochs = 2.5", 2, "--epochs is 2.5, expected a value of type int"),
        ("a.toml", "epochs = true", 2, "--epochs is True, expected a value of type int"),
        ("a.toml", "flip = 1", 2, "--flip is 1, expected a value of type bool"),
        ("a.toml", 'data = ["a"]', 2, "--data is ['a'], expected a value of type Path"),
        ("a.toml", 'dev = ["a"]', 2, "--dev is ['a'], expected a value of type str"),
        ("a.toml", 'model = "mbx"', 2, "Did you mean 'mbf'?"),
        ("a.toml", "epochs = ", 1, "is neither TOML nor JSON"),
        ("a.json", "[1, 2]", 1, "must hold a table of options"),
        ("a.json", "{", 1, "is neither TOML nor JSON"),
        ("a.json", '{"epochs": NaN}', 2, "--epochs is nan"),
        ("none.toml", None, 1, "does not exist"),
    ],
)
def test_a_bad_config_file_is_refused_in_one_sentence(
    name: str, text: str | None, code: int, says: str, run: Run, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    status, out, err = run("train", "--config", str(tmp_path / name))
    assert (status, out) == (code, "")
    assert is_one_sentence(err), err
    assert says in err


def test_null_in_a_file_means_not_given(run: Run, engine: types.SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"epochs": null, "data": null}')
    assert run("train", "--config", str(tmp_path / "a.json"))[0] == 0
    assert engine.settings == configs.TrainConfig()


# --- what an engine raises ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MissingFile("x.pt does not exist"), 1),
        (UsageError("--out must end in .onnx"), 2),
        (Unfinished("saved, run again with --resume"), 3),
        (Interrupted("saved", 2), 130),
        (Interrupted("saved", 15), 143),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_explained_error_is_one_sentence_and_its_exit_code(
    error: Exception, code: int, run: Run, engine: types.SimpleNamespace
) -> None:
    def fail() -> None:
        raise error

    engine.then = fail
    assert run("train") == (code, "", f"facekit: {error}\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, engine: types.SimpleNamespace) -> None:
    engine.then = lambda: int("a bug")
    monkeypatch.setattr(sys, "argv", ["facekit", "train"])
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


def test_ctrl_c_before_a_run_started_is_quiet(run: Run, engine: types.SimpleNamespace) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    engine.then = interrupt
    assert run("train") == (130, "", "")


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_a_reader_that_leaves_is_no_error(size: int) -> None:
    program = (
        "import sys, types\n"
        "from facekit import cli\n"
        f"sys.modules['facekit.engines.train'] = types.SimpleNamespace(run=lambda settings: print('x' * {size}))\n"
        "sys.argv = ['facekit', 'train']\n"
        "cli.main()\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=Path(cli.__file__).parent.parent,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    assert done.returncode in (1, 141)
    assert done.stderr == ""


def test_every_engine_of_a_registered_verb_exists() -> None:
    """The lazy ``module:function`` names of cli.py resolve, one for each verb."""
    tree = ast.parse(Path(cli.__file__).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    engines = [text for text in texts if re.fullmatch(r"[a-z_]+:[a-z_]+", text)]
    assert len(engines) == len(VERBS)
    for module, _, function in (engine.partition(":") for engine in engines):
        assert callable(getattr(importlib.import_module(f"facekit.engines.{module}"), function)), f"{module}:{function}"
