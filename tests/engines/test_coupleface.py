"""``facekit distill --method coupleface`` through the command line: its arms, what it logs, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from facekit import cli
from facekit.configs import DistillConfig
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import UsageError
from facekit.data.synth import synthesise
from facekit.engines.distilling import DEFAULT_WEIGHTS, choose_weights

TINY = ["--batch", "8", "--epochs", "1", "--precision", "fp32", "--threads", "1", "--log-every", "1", "--lr", "0.01"]
STUDENT = ["--student", "mbf_nano", *TINY]


def facekit(*arguments: object) -> int:
    """Run facekit; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["facekit", *map(str, arguments)])
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with four images each, and a teacher of 16-d embeddings."""
    folder = tmp_path_factory.mktemp("coupleface")
    synthesise(folder / "faces", identities=6, per_identity=4, seed=1)
    data = folder / "faces" / "images"
    assert facekit("train", "--model", "mbf_nano", "--embedding", 16, "--data", data, "--out", folder / "t", *TINY) == 0
    return folder


def distill(base: Path, name: str, *options: object) -> list[dict[str, Any]]:
    """Train a student as ``name``; its rows."""
    out = base / name
    common = ("--teacher", base / "t", "--cache-dir", base / "cache", "--out", out)
    assert facekit("distill", *common, *STUDENT, *options) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(base: Path) -> list[dict[str, Any]]:
    return distill(base, "plain", "--method", "coupleface", "--weights", "rad=100")


def test_terms_gradients_and_artefacts_are_on_record(base: Path, plain: list[dict[str, Any]]) -> None:
    assert set(plain[0]["terms"]) == {"fcd", "rad", "gradient.fcd", "gradient.rad", "gradient"}
    assert all(value > 0 for row in plain for value in row["terms"].values())
    run = json.loads((base / "plain" / "run.json").read_text())
    assert run["weights"] == {"fcd": 32.0, "rad": 100.0} and run["config"]["method"] == ["coupleface"]
    manifest = json.loads((Path(run["artefacts"]["folder"]) / "manifest.json").read_text())
    assert manifest["files"] == run["artefacts"]["files"]
    assert manifest["sizes"] == {"identities": 6, "width": 16, "neighbours": 5, "images": 24}
    assert manifest["teacher_sha256"] == run["teacher"]["sha256"]
    assert run["bank_moved"] == 1.0
    state = CheckpointStore(base / "plain").load_state()["modules"]["loss_rad"]
    assert state["teacher_bank.rows"].shape == (6, 16) and int(state["drawn"]) == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--neighbours", "2"],
        ["--no-refresh"],
        ["--relation", "ss"],
        ["--relation", "st+ss"],
        ["--rad-norm", "l1"],
        ["--slots", "2"],
        ["--slots", "3", "--slot", "all"],
        ["--bank-momentum", "0.5"],
    ],
)
def test_every_option_of_rad_changes_what_is_learned(
    base: Path, plain: list[dict[str, Any]], options: list[str]
) -> None:
    rows = distill(base, "_".join(options), "--method", "coupleface", "--weights", "rad=100", *options)
    assert rows[-1]["terms"]["rad"] != plain[-1]["terms"]["rad"]
    moved = json.loads((base / "_".join(options) / "run.json").read_text())["bank_moved"]
    assert moved == (0.0 if options == ["--no-refresh"] else 1.0)


def test_random_neighbours_are_another_arm(base: Path) -> None:
    common = ("--method", "coupleface", "--neighbours", "2")
    mined, random = (distill(base, f"two-{m}", *common, "--mining", m) for m in ("topk", "random"))
    assert (
        mined[0]["terms"]["fcd"] == random[0]["terms"]["fcd"] and mined[0]["terms"]["rad"] != random[0]["terms"]["rad"]
    )


def test_in_batch_relations_and_a_margin_head_go_with_it(base: Path) -> None:
    rows = distill(base, "inbatch", "--method", "fcd+rad.inbatch", "--relation", "ss")
    assert {"fcd", "rad.inbatch", "gradient.rad.inbatch"} <= set(rows[0]["terms"])
    rows = distill(base, "head", "--method", "cls+coupleface", "--embedding", 8, "--head", "cosface")
    assert {"fcd", "rad", "cls", "gradient.cls"} <= set(rows[0]["terms"])
    assert "linear 8 to 16" in json.loads((base / "head" / "run.json").read_text())["adapter"]


def test_changed_artefacts_are_refused_before_training_goes_on(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    distill(base, "victim", "--method", "coupleface", "--neighbours", "3")
    run = json.loads((base / "victim" / "run.json").read_text())
    folder = Path(run["artefacts"]["folder"])
    run["status"] = "interrupted"
    (base / "victim" / "run.json").write_text(json.dumps(run))
    common = ("distill", "--teacher", base / "t", "--cache-dir", base / "cache", "--out", base / "victim", "--resume")
    arguments = (*common, *STUDENT, "--method", "coupleface", "--neighbours", "3")
    neighbours = folder / "neighbours.safetensors"
    neighbours.write_bytes(neighbours.read_bytes()[:-1] + b"\x01")
    assert facekit(*arguments) == 1
    told = capfd.readouterr().err
    assert run["artefacts"]["files"]["neighbours.safetensors"] in told and f"rm -r {folder}" in told
    run["artefacts"]["manifest"] = "0" * 64
    (base / "victim" / "run.json").write_text(json.dumps(run))
    for file in folder.iterdir():
        file.unlink()
    assert facekit(*arguments) == 1
    assert "was started with another artefacts (manifest 000000000000 then" in capfd.readouterr().err


def test_weights_and_presets() -> None:
    assert choose_weights(["coupleface"], []) == choose_weights(["fcd", "rad"], [])
    assert choose_weights(["cls", "coupleface"], ["rad=2.5", "cls=1"]) == {"cls": 1.0, "fcd": 32.0, "rad": 2.5}
    assert list(choose_weights(["fcd", "rad"], ["rad=0"])) == ["fcd"]


def test_the_help_tells_the_default_weights() -> None:
    (field,) = (f for f in dataclasses.fields(DistillConfig) if f.name == "weights")
    told = field.metadata["help"].split("default ")[1]
    assert {k: float(v) for k, v in (part.split() for part in told.split(", "))} == DEFAULT_WEIGHTS


@pytest.mark.parametrize(
    "method, weights, message",
    [
        (["coupleface", "fcd"], [], "'fcd' twice"),
        (["fcd", "cc.paper"], [], "cc.paper has no default weight"),
        (["fcd", "cc.mmd"], ["fcd=1"], "add --weights cc.mmd=X"),
        (["fcd"], ["rad=1"], "unknown term in --weights 'rad'"),
        (["fcd"], ["fcd"], "write it as fcd=30"),
        (["fcd"], ["fcd=-1"], "out of range"),
        (["fcd"], ["fcd=nan"], "out of range"),
        (["fcd"], ["fcd=0"], "all --weights are 0"),
    ],
)
def test_unusable_weights_are_named(method: list[str], weights: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_weights(method, weights)


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--method", "fcd", "--neighbours", "3"], 2, "--neighbours belongs to rad, and the terms of this run are fcd"),
        (["--method", "fcd", "--relation", "ss"], 2, "--relation belongs to rad or rad.inbatch"),
        (["--method", "coupleface", "--head", "cosface"], 2, "--head belongs to cls or kd"),
        (["--method", "cls+fcd", "--tau", "2"], 2, "--tau belongs to kd"),
        (["--method", "coupleface", "--slot", "all"], 2, "--slots 2 or more"),
        (["--method", "fcd+rad.inbatch", "--relation", "st+ss"], 2, "unknown relation of rad.inbatch"),
        (["--method", "coupleface", "--neighbours", "6"], 1, "6 neighbours .* from 1 to 5"),
        (["--method", "fcd+raad"], 2, "unknown method 'raad'. Did you mean 'rad'?"),
    ],
)
def test_unusable_options_are_explained(
    base: Path, options: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = base / "never"
    arguments = ("--teacher", base / "t", "--cache-dir", base / "cache", "--out", out, *STUDENT, *options)
    assert facekit("distill", *arguments) == code
    assert re.search(message, capfd.readouterr().err) and not out.exists()
