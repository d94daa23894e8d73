"""The recorded route: what its list says, a kill between file and list, a resume that writes the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.core import checkpoints, files
from facekit.core.checkpoints import CheckpointStore, read_tensors, route_about
from facekit.core.loop import Saving
from tests.core.test_loop import Toy, run

META = {
    "architecture": {"name": "toy"},
    "preprocess": {"size": [8, 8]},
    "licence": "yours",
    "config": {"seed": 3, "out": "a"},
    "data": {"fingerprint": "f00d"},
}
ABOUT = route_about(META, epochs=20)


def everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "route").iterdir())}


def test_the_list_says_of_which_training_the_states_are(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for epoch in (20, 10):
        store.save_route(epoch, {"w": torch.full((2,), float(epoch))}, {"lr": 0.1, "ema": False}, ABOUT)
    route = json.loads((tmp_path / "route" / "route.json").read_text())
    assert route["schema"] == "facekit.route/1"
    assert route["about"] == {
        "architecture": {"name": "toy"},
        "preprocess": {"size": [8, 8]},
        "licence": "yours",
        "config": {"seed": 3, "out": "a"},
        "data_fingerprint": "f00d",
        "seed": 3,
        "epochs": 20,
    }
    assert [(state["epoch"], state["file"], state["lr"]) for state in route["states"]] == [
        (10, "epoch_0010.safetensors", 0.1),
        (20, "epoch_0020.safetensors", 0.1),
    ]
    tensors, metadata = read_tensors(tmp_path / "route" / "epoch_0010.safetensors")
    told = json.loads(metadata["about"])
    assert tensors["w"].tolist() == [10.0, 10.0]
    assert told == {k: ABOUT[k] for k in ("architecture", "preprocess", "data_fingerprint", "seed", "epochs")}


def test_a_kill_between_file_and_list_leaves_the_old_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, weights = CheckpointStore(tmp_path), {"w": torch.ones(2)}
    store.save_route(10, weights, {}, ABOUT)
    before = everything(tmp_path)["route.json"]

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, "write_json", killed)
        store.save_route(20, weights, {}, ABOUT)
    assert everything(tmp_path)["route.json"] == before
    assert {"epoch_0010.safetensors", "epoch_0020.safetensors"} < set(everything(tmp_path))
    store.save_route(20, weights, {}, ABOUT)
    assert [s["epoch"] for s in json.loads(everything(tmp_path)["route.json"])["states"]] == [10, 20]


def test_a_training_killed_after_a_state_writes_it_again_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = Saving(steps=4, route_epochs=1)  # epochs of 6 steps: states lie between two saves
    run(tmp_path / "whole", Toy(), saving=saving)

    class Killed(BaseException):
        pass

    real = files.write_json

    def dying(path: Path, value: Any) -> Path:
        if path.name == "route.json" and len(value["states"]) == 2:
            raise Killed
        return real(path, value)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, "write_json", dying)
        run(tmp_path / "cut", Toy(), saving=saving)
    assert len(everything(tmp_path / "cut")) == 3
    run(tmp_path / "cut", Toy(), saving=saving, resume=True)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
