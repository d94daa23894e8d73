"""``facekit runs list`` and ``show``: every state a folder can be in, strangers' files, one real cut run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from facekit import cli, configs
from facekit.configs import DistillConfig, TrainConfig
from facekit.core.errors import CorruptFile, InputError, MissingFile, Unfinished
from facekit.core.runfolder import STATUSES, find_runs, metric_rows, read_run, status_of, summary
from facekit.data.synth import synthesise
from facekit.engines import runs
from facekit.engines.train import run as train

Cli = Callable[..., tuple[int, str, str]]
NOW = "2026-11-20T13:39:20+0000"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """``facekit runs ...`` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", "runs", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


def make_run(folder: Path, status: str = "done", seed: int = 0, **record: Any) -> Path:
    """A distillation as ``distill`` leaves it, without its networks."""
    config = DistillConfig(teacher=Path("t.onnx"), student="mbf_nano", epochs=4, seed=seed, out=folder).to_dict()
    about = {"schema": "facekit.run/1", "verb": "distill", "status": status, "config": config, "updated": NOW, **record}
    write(folder / "run.json", about)
    rows = [{"step": 10, "epoch": 1, "terms": {"fcd": 9.5}}, {"step": 10, "epoch": 1, "dev": {"tar@far=0.01": 0.1}},
            {"step": 20, "epoch": 2, "lr": 0.1, "terms": {"fcd": 8.5}},
            {"step": 20, "epoch": 2, "dev": {"tar@far=0.01": 0.3}}]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def give_network(folder: Path, name: str, sha: str, dev: float) -> None:
    meta = {"files": {}, "weights_sha256": sha, "epoch": 2, "dev": {"tar@far=0.01": dev}, "config": {}}
    write(folder / "checkpoints" / name / "run.json", meta)


def give_results(folder: Path, sha: str, value: float, at: float = 1e-3) -> None:
    row = {"benchmark": "lfw", "variant": "flip-none", "score": "raw", "metric": "tar@far", "at": at, "value": value,
           "low": value - 0.1, "high": value + 0.1, "status": "ok"}  # fmt: skip
    accuracy = {**row, "metric": "accuracy_10fold", "at": None}
    document = {"schema": "facekit.results/1", "models": [{"sha256": sha}], "rows": [accuracy, row]}
    write(folder / "results" / "results.json", document)


def listed(run: Cli, *words: str) -> dict[str, dict[str, Any]]:
    code, out, _ = run("list", "runs", *words, "--json")
    assert code == 0
    document = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert document["schema"] == "facekit.runs/1"
    return {Path(facts["path"]).name: facts for facts in document["runs"]}


# --- what became of a run -------------------------------------------------------------------------------


def test_the_states_that_can_be_asked_for_are_those_there_are() -> None:
    assert typing.get_args(configs.RunStatus) == STATUSES


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"status": "done"}, "done"),
        ({"status": "interrupted", "error": "Unfinished", "reason": "the time budget ended"}, "unfinished"),
        ({"status": "interrupted", "error": "Interrupted", "reason": "stopped by SIGTERM"}, "interrupted"),
        ({"status": "interrupted", "error": "KeyboardInterrupt", "reason": ""}, "interrupted"),
        ({"status": "interrupted", "error": "NonFinite", "reason": "fcd became NaN"}, "failed"),
        ({"status": "interrupted", "reason": "written by an older facekit"}, "interrupted"),
        ({"status": "running"}, "running"),
        ({"status": "dancing"}, "broken"),
        ({"status": ["done"]}, "broken"),
        ({"schema": "facekit.run/2"}, "broken"),
        ({"schema": None}, "broken"),
    ],
)
def test_the_state_of_a_run(record: dict[str, Any], expected: str, tmp_path: Path) -> None:
    status, reason = status_of(read_run(make_run(tmp_path / "a", **record)), time.time())
    assert status == expected
    if expected == "broken":
        assert "run.json has" in reason
    else:
        assert reason == record.get("reason", "")


def test_running_is_believed_for_three_save_intervals(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "running")  # --save-minutes 5
    seen = 1_700_000_000.0
    for file in ("run.json", "metrics.jsonl"):
        os.utime(folder / file, (seen, seen))
    stored = read_run(folder)
    assert status_of(stored, seen + 899)[0] == "running"
    assert status_of(stored, seen + 901)[0] == "silent"
    (folder / "train.log").touch()
    os.utime(folder / "train.log", (seen + 600, seen + 600))
    assert status_of(stored, seen + 1400)[0] == "running", "any file of the run is a sign"


def test_the_age_of_an_ended_run_is_that_of_its_end(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")  # its files are of now, as those of a copy are
    facts = summary(read_run(folder), 1_795_181_960.0 + 60)
    assert facts["age_s"] == 60.0


# --- list ------------------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_and_networks_are_no_runs(tmp_path: Path) -> None:
    for name in ("a", "deep/er/b", "a/inner", "checkpoints/c"):
        make_run(tmp_path / name)
    give_network(tmp_path / "a", "last", "1", 0.1)
    write(tmp_path / "a" / "route" / "0001" / "run.json", {"files": {}})
    write(tmp_path / "copied" / "run.json", {"files": {}, "config": {}})
    write(tmp_path / ".hidden" / "run.json", {})
    found, refused = find_runs(tmp_path)
    names = [run.path.relative_to(tmp_path).as_posix() for run in found]
    assert names == ["a", "a/inner", "checkpoints/c", "deep/er/b"]
    assert refused == []
    with pytest.raises(MissingFile, match="is no folder"):
        find_runs(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "holds no table"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"{}" + b" " * (17 << 20), "more than 16,777,216 are not read"),
        (b"{}", "has the schema None"),
    ],
    ids=["cut", "list", "bytes", "deep", "digits", "huge", "empty"],
)
def test_a_broken_file_is_listed_with_the_reason(content: bytes, says: str, run: Cli) -> None:
    make_run(Path("runs/good"))
    Path("runs/bad").mkdir()
    Path("runs/bad/run.json").write_bytes(content)
    facts = listed(run)
    assert facts["good"]["status"] == "done"
    assert facts["bad"]["status"] == "broken" and says in facts["bad"]["reason"]
    code, out, _ = run("list")
    assert code == 0 and "broken" in out and says in out and "1 done, 1 broken" in out


def test_values_of_the_wrong_kind_are_left_out(run: Cli) -> None:
    config = {"seed": "x", "epochs": [1], "student": 5, "method": {"a": 1}, "save_minutes": "y"}
    folder = make_run(Path("runs/odd"), config=config, updated=7, reason=[1], verb=3)
    (folder / "metrics.jsonl").write_text('{"step": 1e400, "epoch": "z"}\nnot JSON\n[1]\n{"step": 5}\n{"step": 7')
    write(folder / "checkpoints/best/run.json", {"dev": {"tar": "high"}, "epoch": {}, "files": {}})
    row = {"score": "raw", "metric": "tar@far", "at": [1], "value": 0.5, "low": {}, "benchmark": 3}
    write(folder / "results.json", {"schema": "facekit.results/1", "rows": [row, 4], "models": [1]})
    facts = listed(run)["odd"]
    assert [facts[name] for name in ("seed", "epochs", "network", "method", "verb", "step")] == [None] * 5 + [5]
    assert facts["dev"]["value"] is None and facts["test"]["value"] == 0.5
    for words in (("list",), ("show", "runs/odd"), ("show", "runs/odd", "--json"), ("list", "--sort", "dev")):
        assert run(*words)[0] == 0, words


def test_escape_codes_and_markup_of_strangers_reach_no_terminal(run: Cli) -> None:
    make_run(Path("runs/[red]a"), "interrupted", error="NonFinite", reason="x\x1b[31mred\nline", command="\x1b]0;t\x07")
    for words in (("list",), ("show", "runs/[red]a")):
        code, out, _ = run(*words)
        assert code == 0 and "\x1b" not in out and "\x07" not in out
        assert "[red]a" in out and "x·[31mred·line" in out


def test_a_run_in_a_line(run: Cli) -> None:
    folder = make_run(Path("runs/one"), seed=3)
    give_network(folder, "last", "aa", 0.2)
    give_network(folder, "best", "bb", 0.3)
    give_results(folder, "aa", 0.7254)
    facts = listed(run)["one"]
    assert {name: facts[name] for name in ("verb", "method", "network", "seed", "epoch", "epochs", "step")} == {
        "verb": "distill", "method": "fcd", "network": "mbf_nano", "seed": 3, "epoch": 2, "epochs": 4, "step": 20,
    }  # fmt: skip
    assert facts["dev"] == {"metric": "tar@far=0.01", "value": 0.3, "epoch": 2}
    assert facts["test"]["value"] == 0.7254 and facts["test"]["weights"] == "last"
    _, out, _ = run("list")
    assert "dev: tar@far=0.01" in out and "test: tar@far=0.001 on lfw, flip-none" in out
    line = next(line for line in out.splitlines() if line.strip().startswith("one"))
    assert line.split()[:9] == ["one", "distill", "fcd", "mbf_nano", "3", "done", "2/4", "30.0", "72.5"]


def test_a_classifier_is_listed_by_its_accuracy(run: Cli) -> None:
    folder = make_run(Path("runs/one"), architecture={"name": "resnet8", "embedding": 64, "classes": ["cat", "dog"]},
                      data={"images": 40, "identities": 2}, parameters=7)  # fmt: skip
    rows = [{"step": 10 * k, "epoch": k, "dev": {"top1": 0.4 + k / 10}} for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {"files": {}, "weights_sha256": "aa", "epoch": 2, "dev": {"top1": 0.6, "top5": 0.9}, "config": {}}
    write(folder / "checkpoints" / "best" / "run.json", meta)
    row = {"benchmark": "classes:test", "variant": "plain", "score": "raw", "metric": "top1", "at": None, "value": 0.61,
           "low": 0.55, "high": 0.66, "status": "ok"}  # fmt: skip
    document = {"schema": "facekit.results/1", "models": [{"sha256": "aa"}], "rows": [row, {**row, "metric": "ece"}]}
    write(folder / "results.json", document)
    facts = listed(run)["one"]
    assert facts["dev"] == {"metric": "top1", "value": 0.6, "epoch": 2}
    assert (facts["test"]["metric"], facts["test"]["value"]) == ("top1", 0.61)
    _, out, _ = run("list")
    assert "dev: top1" in out and "test: top1 on classes:test, plain" in out and "61.0 (55.0..66.0)b" in out
    _, out, _ = run("show", "runs/one")
    for text in ("40 images of 2 classes", "top1 ▁█ last 60.0 %, best 60.0 % in epoch 2", "top1 61.0 (55.0..66.0)"):
        assert text in out
    assert "people" not in out and "ece" not in out


@pytest.mark.parametrize(("sha", "mark"), [("aa", ""), ("bb", "b"), ("cc", "*")])
def test_results_of_other_weights_are_marked(sha: str, mark: str, run: Cli) -> None:
    folder = make_run(Path("runs/one"))
    give_network(folder, "last", "aa", 0.2)
    give_network(folder, "best", "bb", 0.3)
    give_results(folder, sha, 0.5)
    _, out, _ = run("list")
    assert f"50.0 (40.0..60.0){mark} " in out
    assert ("no longer has" in out) == (mark == "*")


def test_the_newest_results_count_and_a_swap_is_none(run: Cli) -> None:
    folder = make_run(Path("runs/one"))
    give_results(folder, "aa", 0.5)
    os.utime(folder / "results" / "results.json", (1e9, 1e9))
    write(folder / "results.json", {"schema": "facekit.results/1", "rows": [], "swap": {}})
    assert listed(run)["one"]["test"] is None
    os.utime(folder / "results.json", (1e8, 1e8))
    assert listed(run)["one"]["test"]["value"] == 0.5
    (folder / "results" / "results.json").write_text("{")
    assert "not valid JSON" in listed(run)["one"]["test"]["fault"]
    assert "its results are not shown" in run("list")[1]


def test_a_list_does_not_wait_for_torch() -> None:
    program = "import sys; import facekit.engines.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_filters_and_orders(run: Cli) -> None:
    for i, (name, status) in enumerate((("a", "done"), ("b", "interrupted"), ("c", "done"), ("d", "done"))):
        folder = make_run(Path("runs") / name, status, updated=f"2025-11-2{i}T13:39:20+0000", error="Unfinished")
        if name != "d":
            give_network(folder, "best", "x", {"a": 0.1, "b": 0.3, "c": 0.2}[name])
    give_results(Path("runs/c"), "x", 0.5)
    give_results(Path("runs/a"), "x", 0.6)
    assert list(listed(run)) == ["a", "b", "c", "d"]
    assert list(listed(run, "--sort", "age")) == ["d", "c", "b", "a"]
    assert list(listed(run, "--sort", "dev")) == ["b", "c", "a", "d"]
    assert list(listed(run, "--sort", "test")) == ["a", "c", "b", "d"]
    assert list(listed(run, "--status", "unfinished,failed")) == ["b"]
    assert list(listed(run, "--status", "broken")) == []
    code, out, err = run("list", "--status", "broken,failed")
    assert (code, out) == (0, "") and "runs holds no runs that are broken or failed" in err
    assert run("list", "nowhere")[0] == 1


def test_a_sweep_fits_into_eighty_columns() -> None:
    base = {"verb": "distill", "method": "fcd+rad", "network": "mbf_half", "epoch": 15, "epochs": 20, "reason": None,
            "dev": {"metric": "tar@far=0.001", "value": 0.726}, "age_s": 7200.0,
            "test": {"metric": "tar@far", "at": 1e-3, "benchmark": "allpairs:dev", "variant": "flip-none",
                     "value": 0.725, "low": 0.69, "high": 0.757, "weights": "last"}}  # fmt: skip
    facts = [{**base, "path": f"runs/couple30-{seed}", "seed": seed, "status": "interrupted"} for seed in range(3)]
    screen = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    runs.show_list(screen, Path("runs"), facts)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.strip().startswith("couple30-")]
    assert len(rows) == 3 and all("72.5 (69.0..75.7)" in row and "interrupted" in row for row in rows)
    assert "runs: 3 runs, distill fcd+rad, mbf_half" in lines, "what all have in common is said once"


# --- show ---------------------------------------------------------------------------------------------------------


def test_show_tells_the_run_in_full(run: Cli) -> None:
    command = "facekit distill --teacher t.onnx --student mbf_nano --epochs 4"
    data = {"images": 200, "identities": 20, "fingerprint": "f" * 64}
    folder = make_run(Path("runs/one"), command=command, data=data,
                      images_seen=800, seconds=90.0, parameters=291376, environment={"device": "cpu"})  # fmt: skip
    give_network(folder, "last", "a" * 64, 0.2)
    give_results(folder, "a" * 64, 0.5, at=1e-4)
    code, out, _ = run("show", "runs/one")
    assert code == 0
    for text in (f"$ {command}\n", "student mbf_nano", "epochs 4", "200 images of 20 people, ffffffffffff",
                 "epoch 2/4, step 20; 800 images in 1.5 min", "step 20: fcd 8.5, lr 0.1",
                 "tar@far=0.01 ▁█ last 30.0 %, best 30.0 % in epoch 2", "tar@far=0.0001 50.0 (40.0..60.0)",
                 "metrics.jsonl 1 kB"):  # fmt: skip
        assert text in out, text
    assert "weight-decay" not in out, "it is as by default"
    document = json.loads(run("show", "runs/one", "--json")[1])
    assert document["schema"] == "facekit.run-report/1"
    assert document["options"] == {"teacher": "t.onnx", "student": "mbf_nano", "epochs": 4, "out": "runs/one"}
    assert document["dev_curve"] == [{"epoch": 1, "tar@far=0.01": 0.1}, {"epoch": 2, "tar@far=0.01": 0.3}]
    assert document["last_row"]["terms"] == {"fcd": 8.5}
    assert document["files"]["checkpoints/"] > 0


def test_show_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="holds no run.json"):
        runs.open_stored(tmp_path)
    folder = make_run(tmp_path / "a")
    give_network(folder, "best", "x", 0.1)
    with pytest.raises(InputError, match="is a checkpoint"):
        runs.open_stored(folder / "checkpoints" / "best")
    (folder / "run.json").write_text("{")
    with pytest.raises(CorruptFile, match="not valid JSON"):
        runs.open_stored(folder)


def test_a_sparkline_ends_with_the_last_value() -> None:
    assert runs.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert runs.sparkline([0.3]) == "▁"
    assert runs.sparkline([0.2, 0.2]) == "▁▁"
    long = runs.sparkline([*([0.0] * 99), 1.0])
    assert len(long) <= 40 and long.endswith("▁█")


def test_rows_being_written_are_not_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"step": step}) + "\n" for step in range(1000))
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 1000')
    assert [row["step"] for row in metric_rows(tmp_path)] == list(range(1000))
    tail = metric_rows(tmp_path, last_bytes=100)
    assert tail[-1] == {"step": 999} and 1 < len(tail) < 10
    assert metric_rows(tmp_path / "none") == []


# --- a real run ----------------------------------------------------------------------------------------------------


def test_a_run_cut_by_its_budget_is_unfinished_and_then_done(run: Cli) -> None:
    synthesise(Path("faces"), identities=4, per_identity=4, seed=0)
    options = {"data": "faces/images", "model": "mbf_nano", "embedding": 16, "epochs": 2, "batch": 4,
               "threads": 1, "out": "runs/cut", "resume": True}  # fmt: skip
    with pytest.raises(Unfinished):
        train(configs.build(TrainConfig, {**options, "budget_s": 1e-3}))
    cut = listed(run)["cut"]
    assert cut["status"] == "unfinished" and "the time budget ended at step 1" in cut["reason"]
    train(configs.build(TrainConfig, options))
    done = listed(run)["cut"]
    assert (done["status"], done["reason"], done["epoch"], done["step"]) == ("done", None, 2, 8)
    code, out, _ = run("show", "runs/cut")
    assert code == 0 and "model mbf_nano" in out and "epoch 2/2, step 8" in out
