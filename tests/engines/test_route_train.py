"""``facekit route-train``: what equals what bit for bit, what a kill may cost, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from facekit import cli
from facekit.core.checkpoints import CheckpointStore, read_tensors, state_hash
from facekit.core.device import Device
from facekit.data.sources import open_source
from facekit.data.synth import synthesise
from facekit.engines import fitting, route_train
from facekit.models.loading import load_model
from facekit.training.answers import answers_of
from facekit.training.greedy import Greedy
from facekit.training.hardness import hardness
from facekit.training.route import anchor_model, open_route
from facekit.training.stages import StageLog
from tests.launch import Launched

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
TINY = ["--batch", "4", "--precision", "fp32", "--threads", "1", "--log-every", "1", "--save-steps", "1", "--lr", 0.02]
STUDENT = ["--student", "mbf_nano", "--dropout", "0.1", *TINY]


def facekit(*arguments: object) -> int:
    """Run facekit; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["facekit", *map(str, arguments)])
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with four images each, three others held out, and a teacher that kept all of its four epochs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("route")
    synthesise(folder / "faces", identities=2, per_identity=4, seed=1)
    synthesise(folder / "others", identities=3, per_identity=2, seed=2)
    data = folder / "faces" / "images"
    options = ["--model", "mbf_nano", "--embedding", 16, "--data", data, "--epochs", 4, *TINY]
    assert facekit("route-train", "record", *options, "--save-route", 1, "--out", folder / "t") == 0
    return folder


@pytest.fixture(scope="module")
def run(base: Path) -> Callable[..., Path]:
    """run(name, options...) trains a student along the route, one epoch a stage; its folder."""

    def call(name: str, *options: object, code: int = 0, route: str = "t", epochs: int = 1) -> Path:
        common = ["--route", base / route, "--cache-dir", base / "cache", "--out", base / name, "--epochs", epochs]
        assert facekit("route-train", "run", *common, *STUDENT, *options) == code
        return base / name

    return call


def weights(folder: Path) -> str:
    return state_hash(CheckpointStore(folder).load().tensors)


def rows(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes()


def everything(folder: Path) -> dict[str, Any]:
    """All that a repeat must reproduce: networks and rows of every stage, the log, the run's own network."""
    stages = sorted(folder.glob("stage_*"))
    states = {stage.name: CheckpointStore(stage).load_state()["optimisers"] for stage in stages}
    return {
        "log": (folder / "anchors.json").read_bytes(),
        "student": weights(folder),
        "momentum": str({name: state["main"]["param_groups"] for name, state in states.items()}),
        **{stage.name: (weights(stage), rows(stage)) for stage in stages},
    }


# --- identities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cls+coupleface"])
def test_the_final_teacher_alone_is_plain_distillation(base: Path, run: Callable[..., Path], method: str) -> None:
    routed = run("alone", "--interval", 99, "--method", method)
    common = ["--teacher", base / "t", "--cache-dir", base / "cache", "--out", base / "plain", "--epochs", 1]
    assert facekit("distill", *common, *STUDENT, "--method", method) == 0
    assert weights(routed) == weights(routed / "stage_1") == weights(base / "plain")
    assert rows(routed / "stage_1") == rows(base / "plain")


@pytest.fixture(scope="module")
def standing(base: Path) -> str:
    """A route whose states are all the converged teacher."""
    final, _ = read_tensors(base / "t" / "route" / "epoch_0004.safetensors")
    about = json.loads((base / "t" / "route" / "route.json").read_text())["about"]
    for epoch in (1, 2, 3, 4):
        CheckpointStore(base / "standing").save_route(epoch, final, {"lr": 0.1, "ema": False}, about)
    return "standing"


def test_a_route_that_stands_still_is_the_restart_control(run: Callable[..., Path], standing: str) -> None:
    still = run("still", "--interval", 2, "--method", "cls+fcd", route=standing)
    with starts() as begun:
        control = run("restart", "--interval", 2, "--method", "cls+fcd", "--control", "restart")
    for stage in ("stage_1", "stage_2"):
        assert weights(still / stage) == weights(control / stage) and rows(still / stage) == rows(control / stage)
    record = json.loads((control / "run.json").read_text())
    assert record["anchors"] == [4, 4] and record["cost"]["student_epochs"] == 2
    # A stage begins with the student and the head of the one before it, at rest and at the first learning rate.
    modules = CheckpointStore(control / "stage_1").load_state()["modules"]
    assert begun[1] == Start(weights(control / "stage_1"), state_hash(modules["head"]), 0.0, 0.02)
    assert begun[1].student != begun[0].student and begun[1].head != begun[0].head
    first, second = (json.loads(rows(control / stage).splitlines()[0]) for stage in ("stage_1", "stage_2"))
    assert first["lr"] == second["lr"] == 0.02 and first["terms"] != second["terms"]


class Start(NamedTuple):
    """A task before its first step: hashes include BatchNorm's statistics."""

    student: str
    head: str
    momentum: float
    lr: float


@contextmanager
def starts() -> Iterator[list[Start]]:
    """Inside, every stage that begins is noted."""
    begun: list[Start] = []
    real = fitting.train_to_end

    def noted(*arguments: Any) -> Any:
        modules, (optimiser,) = arguments[2].modules, arguments[2].optimisers.values()
        moved = max(float(state["momentum_buffer"].abs().max()) for state in optimiser.state.values())
        student, head = (state_hash(modules[name].state_dict()) for name in ("model", "head"))
        begun.append(Start(student, head, moved, optimiser.param_groups[0]["lr"]))
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route_train, "train_to_end", noted)
        yield begun


@pytest.mark.slow
def test_one_stage_on_a_route_that_stands_still_is_plain_distillation(
    base: Path, run: Callable[..., Path], standing: str
) -> None:
    routed = run("one-still", "--strategy", "one-stage", "--interval", 2, route=standing, epochs=2)
    common = ["--teacher", base / "t", "--cache-dir", base / "cache", "--out", base / "two", "--epochs", 2]
    assert facekit("distill", *common, *STUDENT) == 0
    assert weights(routed) == weights(base / "two") and rows(routed / "stage_1") == rows(base / "two")


# --- kills ----------------------------------------------------------------------------------------------------------

SEARCH = ["--strategy", "gs", "--max-anchors", 2, "--method", "cls+fcd"]
ONE_STAGE = ["--strategy", "one-stage", "--interval", 2, "--method", "cls+coupleface"]


class Killed(BaseException):
    pass


@contextmanager
def killed_at(point: int) -> Iterator[None]:
    """Inside, work ends right after the n-th save of a network, or before the n-th log for a negative number."""
    saves, logs = 0, 0
    real_save, real_log = CheckpointStore.save, StageLog.write

    def save(*arguments: Any, **named: Any) -> Any:
        nonlocal saves
        result = real_save(*arguments, **named)
        saves += 1
        if saves == point:
            raise Killed
        return result

    def log(*arguments: Any) -> None:
        nonlocal logs
        logs += 1
        if logs == -point:
            raise Killed
        real_log(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointStore, "save", save)
        patch.setattr(StageLog, "write", log)
        yield


def drill(run: Callable[..., Path], whole: Path, options: list[object], epochs: int, points: Sequence[int]) -> None:
    """Kill a run at each point and resume it: it must equal the whole one."""
    wanted = everything(whole)
    for point in points:
        name = f"{whole.name}{point}"
        with killed_at(point):
            run(name, *options, epochs=epochs)
        torch.manual_seed(99)  # whatever the process did before must not matter
        assert everything(run(name, *options, "--resume", epochs=epochs)) == wanted, point


@pytest.fixture(scope="module")
def searched(base: Path, run: Callable[..., Path]) -> Path:
    return run("searched", *SEARCH, "--val", base / "others" / "images")


@pytest.fixture(scope="module")
def one_stage(run: Callable[..., Path]) -> Path:
    return run("one", *ONE_STAGE, epochs=2)


def test_a_search_killed_inside_a_stage_ends_as_if_it_was_not(
    base: Path, run: Callable[..., Path], searched: Path
) -> None:
    """Two steps a stage: the kill is after the first one of stage 2."""
    drill(run, searched, [*SEARCH, "--val", base / "others" / "images"], 1, [3])


@pytest.mark.slow
def test_one_stage_killed_around_the_change_of_its_teacher_ends_as_if_it_was_not(
    run: Callable[..., Path], one_stage: Path
) -> None:
    drill(run, one_stage, ONE_STAGE, 2, [1, 2, 3, 4, -1])


@pytest.mark.slow
def test_kills_at_every_save_and_before_every_log(base: Path, run: Callable[..., Path], searched: Path) -> None:
    drill(run, searched, [*SEARCH, "--val", base / "others" / "images"], 1, [1, 2, 4, 5, -1, -2])
    options: list[object] = ["--interval", 2, "--method", "cls+rad", "--relation", "st+ss"]
    drill(run, run("related", *options), options, 1, [1, 2, 3, 4, -1])


@pytest.mark.slow
def test_the_budget_is_that_of_all_stages(base: Path, run: Callable[..., Path]) -> None:
    cut = run("budget", "--interval", 2, "--budget-s", 0.001, code=3)
    assert json.loads((cut / "run.json").read_text())["status"] == "interrupted"
    assert everything(run("budget", "--interval", 2, "--resume")) == everything(run("whole", "--interval", 2))
    assert facekit("runs", "show", cut) == 0
    assert run("budget", "--interval", 2, "--resume") == cut  # done: at once


# --- search, measurements, controls ---------------------------------------------------------------------------


def test_a_search_obeys_its_rule_and_publishes_what_it_saw(searched: Path) -> None:
    log = json.loads((searched / "anchors.json").read_text())
    assert log["strategy"] == "gs" and log["states"] == [1, 2, 3, 4] and log["val"]["images"] == 6
    assert log["cosine_to_final"][-1] == pytest.approx(1.0) and max(log["cosine_to_final"][:-1]) < 1.0
    assert all(len(stage["hardness"]) == 4 and min(stage["hardness"]) > 0 for stage in log["stages"])
    search, used = Greedy(4, 1.5, most=2), [0]
    for stage in log["stages"]:
        assert stage["anchors"] == [log["states"][used[-1]]]
        if (following := search.following(used, stage["hardness"])) is not None:
            used.append(following)
    assert len(used) == len(log["stages"]) == 2 and log["states"][used[-1]] == 4


def test_the_record_says_what_it_cost_and_how_near_it_came(searched: Path) -> None:
    record = json.loads((searched / "run.json").read_text())
    log = json.loads((searched / "anchors.json").read_text())
    stages = len(log["stages"])
    assert record["status"] == "done" and record["verb"] == "route-train run"
    # 8 images in two views for each anchor, 6 held-out ones for each of 4 states.
    assert record["cost"]["student_epochs"] == stages
    assert record["cost"]["teacher_images"] == 16 * stages + 24
    assert record["congruence"]["kd"] is None
    assert record["congruence"]["mimic"] == pytest.approx(log["stages"][-1]["hardness"][-1])
    assert record["weights_sha256"] == weights(searched) == weights(searched / f"stage_{stages}")
    assert record["stages"][str(stages)]["stage"] == {"number": stages, "anchors": [4], "epochs": 1}
    assert record["teacher"]["sha256"] == weights(searched.parent / "t")


def test_the_student_is_loaded_as_any_other_run(searched: Path) -> None:
    student = load_model(searched)
    assert student.sha256 == weights(searched) and student.licence.startswith("distilled from a teacher")


@pytest.mark.slow
def test_orders_and_lengths_of_the_controls(run: Callable[..., Path]) -> None:
    def stages(name: str, *options: object) -> list[tuple[list[int], int]]:
        log = json.loads((run(name, "--anchors", "1,2", *options) / "anchors.json").read_text())
        return [(stage["anchors"], stage["epochs"]) for stage in log["stages"]]

    assert stages("reversed", "--control", "reversed") == [([2], 1), ([1], 1), ([4], 1)]
    assert stages("long", "--control", "long") == [([4], 3)]


def test_classifiers_are_measured_by_the_divergence_of_their_scores(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The route of a closed-set net, its student and held-out images of the same classes."""
    synthesise(base / "classes", identities=3, per_identity=6, size=32, seed=4)
    data = base / "classes" / "images"
    common = ["--data", data, "--batch", 6, "--precision", "fp32", "--threads", 1]
    teacher, student = base / "resnet14", base / "resnet8"
    kept = ["--take", ":4", "--epochs", 2, "--save-route", 1, "--out", teacher]
    assert facekit("route-train", "record", "--model", "resnet14", *common, *kept) == 0
    held_out = ["--val", data, "--val-take", "4:", "--hardness", "kl_st", "--cache-dir", base / "cache"]
    taught = ["--take", ":4", "--epochs", 1, "--method", "cls+kd", "--strategy", "gs", *held_out, "--out", student]
    assert facekit("route-train", "run", "--route", teacher, "--student", "resnet8", *common, *taught) == 0
    log = json.loads((student / "anchors.json").read_text())
    assert log["hardness"] == {"measure": "kl_st", "tau": 4.0} and log["val"]["images"] == 6
    congruence = json.loads((student / "run.json").read_text())["congruence"]
    assert set(congruence) == {"kd", "hint", "mimic"} and all(value > 0 for value in congruence.values())
    capsys.readouterr()
    assert facekit("route-train", "plan", "--route", teacher, *held_out, "--json") == 0
    first, last = json.loads(capsys.readouterr().out)["states"]
    assert last["divergence_to_final"] == 0.0 and first["divergence_to_final"] > 0.0


def test_plan_and_status_speak_json(base: Path, searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = ["--val", base / "others" / "images", "--cache-dir", base / "cache"]
    capsys.readouterr()
    assert facekit("route-train", "plan", "--route", base / "t", *val, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["anchors"] == [1, 2, 3, 4] and [state["epoch"] for state in plan["states"]] == [1, 2, 3, 4]
    assert plan["states"][-1]["cosine_to_final"] == pytest.approx(1.0)
    assert facekit("route-train", "plan", "--route", base / "t", "--strategy", "gs", "--first-anchor", 2) == 0
    assert "candidates 2, 3, 4" in capsys.readouterr().out
    assert facekit("route-train", "status", searched, "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["status"] == "done" and status["anchors"]["stages"][0]["anchors"] == [1]
    assert facekit("route-train", "status", searched) == 0
    shown = capsys.readouterr().out
    assert "H 4" in shown and "congruence: kd none, hint" in shown and "student_epochs" in shown


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--strategy", "gs"], 2, "give held-out images as --val"),
        (["--strategy", "gs", "--interval", 2], 2, "--interval is not read by --strategy gs"),
        (["--delta", 2.0], 2, "--delta is not read by --strategy eei"),
        (["--strategy", "gs", "--control", "restart"], 2, "--strategy eei --anchors 10,30 --control restart"),
        (["--strategy", "one-stage", "--control", "long"], 2, "facekit distill"),
        (["--anchors", "1", "--interval", 2], 2, "give one of them"),
        (["--anchors", "3,1"], 2, "in rising order"),
        (["--hardness", "kl_st"], 2, "--hardness belongs to --val"),
        (["--anchors", "1,9"], 1, "no state of epoch 9; saved are 1, 2, 3, 4"),
        (["--strategy", "one-stage", "--interval", 1], 2, "1 epochs cannot be shared among 4 anchors"),
        (["--control", "reversed", "--interval", 2], 2, "at least 3 anchors"),
        (["--route", "teacher.onnx"], 1, "RCO needs a route; train the teacher with --save-route"),
    ],
)
def test_refused_in_one_sentence(
    base: Path, capsys: pytest.CaptureFixture[str], options: list[object], code: int, said: str
) -> None:
    capsys.readouterr()
    given = ["--route", base / "t", "--out", base / "refused", *STUDENT, "--epochs", 1, *options]
    assert facekit("route-train", "run", *given) == code
    assert said in capsys.readouterr().err
    assert not (base / "refused").exists()


def test_held_out_images_that_are_trained_on_are_counted(
    base: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run("overlap", "--val", base / "faces" / "images", "--val-take", "0:3", code=1)
    assert "6 of the 6 images" in capsys.readouterr().err


def test_a_changed_route_is_refused(
    base: Path, run: Callable[..., Path], standing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with killed_at(1):
        run("changed", "--interval", 2)
    listing = base / "t" / "route" / "route.json"
    before = listing.read_text()
    content = json.loads(before)
    content["states"] = content["states"][1:]
    listing.write_text(json.dumps(content))
    try:
        run("changed", "--interval", 2, "--resume", code=1)
    finally:
        listing.write_text(before)
    assert "was started with another route" in capsys.readouterr().err


# --- several processes --------------------------------------------------------------------------------------------


def launched(*arguments: object) -> None:
    from facekit.configs import RouteRunConfig, build

    route_train.run(build(RouteRunConfig, dict(arguments)))  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_measure_and_decide_as_one(base: Path) -> None:
    """BatchNorm makes other students of two processes; of these students one process measures and decides the same."""
    given = {
        "route": base / "t", "strategy": "gs", "delta": 3.0, "val": str(base / "others" / "images"), "epochs": 1,
        "student": "mbf_nano", "batch": 4, "precision": "fp32", "threads": 1, "device": "cpu",
        "cache_dir": base / "cache", "out": base / "pair",
    }  # fmt: skip
    assert Launched(2, launched, *given.items()).finish() == [0, 0]
    log = json.loads((base / "pair" / "anchors.json").read_text())
    route, source = open_route(base / "t"), open_source(base / "others" / "images")
    states = [answers_of(anchor_model(route, epoch, CPU), source, CPU) for epoch in route.epochs]
    search, used = Greedy(4, 3.0), [0]
    for number, stage in enumerate(log["stages"], 1):
        own = answers_of(load_model(base / "pair" / f"stage_{number}"), source, CPU)
        row = [hardness(own, state) for state in states]
        assert stage["hardness"] == pytest.approx(row, rel=1e-5) and stage["anchors"] == [route.epochs[used[-1]]]
        if (following := search.following(used, row)) is not None:
            used.append(following)
    assert len(used) == len(log["stages"]) and used[-1] == 3
    assert json.loads((base / "pair" / "run.json").read_text())["status"] == "done"
