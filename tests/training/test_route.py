"""A recorded route is read back as it was, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.core.checkpoints import CheckpointStore, state_hash, write_tensors
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, CorruptFile, FacekitError, InputError, MissingFile
from facekit.core.files import sha256_file
from facekit.core.preprocess import Preprocess
from facekit.models import build_backbone
from facekit.training.route import anchor_model, open_route

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
ABOUT = {
    "architecture": {"name": "mbf_nano", "embedding": 16, "dropout": 0.0},
    "preprocess": Preprocess(embedding=16).to_dict(),
    "licence": "yours",
    "config": {"data": "faces"},
    "data_fingerprint": "f00d",
    "seed": 0,
    "epochs": 4,
}


def net(epoch: int) -> torch.nn.Module:
    torch.manual_seed(epoch)
    return build_backbone("mbf_nano", 16)


def record(run: Path, about: dict[str, Any] = ABOUT, epochs: tuple[int, ...] = (2, 4)) -> Path:
    for epoch in epochs:
        CheckpointStore(run).save_route(
            epoch, net(epoch).state_dict(), {"val": {"tar": epoch / 10}, "lr": 0.1, "ema": False}, about
        )
    return run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Callable[[Any], object]], Path]:
    """A copy of the list, changed by hand."""
    run = record(tmp_path)

    def edit(change: Callable[[Any], object]) -> Path:
        file = run / "route" / "route.json"
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))
        return run

    return edit


def test_states_come_back_as_they_were(recorded: Path) -> None:
    route = open_route(recorded)
    assert route == open_route(recorded / "route" / "route.json")
    assert (route.epochs, route.final, route.grid) == ((2, 4), 4, 2)
    assert route.state(2).val == {"tar": 0.2} and route.state(2).lr == 0.1
    for epoch in route.epochs:
        model = anchor_model(route, epoch, CPU)
        assert model.sha256 == state_hash(net(epoch).state_dict())
        assert model.preprocess == Preprocess(embedding=16) and model.licence == "yours"
        assert model.module is not None and not model.module.training
        assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_the_hash_of_a_route_sees_states_and_training_but_not_where_it_was_written(tmp_path: Path) -> None:
    first = open_route(record(tmp_path / "a"))
    moved = open_route(record(tmp_path / "b", {**ABOUT, "config": {"out": "elsewhere"}}))
    other_data = open_route(record(tmp_path / "c", {**ABOUT, "data_fingerprint": "beef"}))
    other_state = open_route(record(tmp_path / "d", epochs=(3, 4)))
    assert first.sha256 == moved.sha256
    assert len({first.sha256, other_data.sha256, other_state.sha256}) == 3


def test_a_teacher_without_a_route_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="RCO needs a route; train the teacher with --save-route"):
        open_route(tmp_path)
    with pytest.raises(InputError, match=r"t\.onnx is one frozen graph: RCO needs a route"):
        open_route(tmp_path / "t.onnx")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda c: {"states": c["states"]}, InputError, "older facekit"),
        (lambda c: [1], InputError, "older facekit"),
        (lambda c: c.update(schema="facekit.route/9"), InputError, "schema 'facekit.route/9'"),
        (lambda c: c["about"].update(architecture=None), CorruptFile, "does not describe a network"),
        (lambda c: c.update(about=3), CorruptFile, "does not describe a network"),
        (lambda c: c.update(states=c["states"][:1]), InputError, "ends at epoch 2 of 4"),
        (lambda c: c["states"].reverse(), CorruptFile, r"epochs \[4, 2\]"),
        (lambda c: c.update(states=[]), CorruptFile, "needs some"),
        (lambda c: c["states"][0].update(file="../../secret"), CorruptFile, "not described as one"),
        (lambda c: c["states"][0].update(file=["x"]), CorruptFile, "not described as one"),
        (lambda c: c["states"][0].update(sha256="1"), CorruptFile, "not described as one"),
        (lambda c: c["states"][0].update(epoch="two"), CorruptFile, "not described as one"),
        (lambda c: c["states"][0].update(ema=True), ArtefactMismatch, "mixes averaged"),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(
    edited: Callable[[Callable[[Any], object]], Path],
    change: Callable[[Any], object],
    kind: type[FacekitError],
    said: str,
) -> None:
    with pytest.raises(kind, match=said):
        open_route(edited(change))


def test_a_changed_state_is_refused_before_it_is_used(tmp_path: Path) -> None:
    route = open_route(record(tmp_path))
    file = tmp_path / "route" / "epoch_0002.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match="epoch_0002.safetensors differs from its hash"):
        anchor_model(route, 2, CPU)
    file.unlink()
    with pytest.raises(MissingFile, match=r"epoch_0002\.safetensors does not exist"):
        anchor_model(route, 2, CPU)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"architecture": {"name": "mbf_nano", "embedding": 32, "dropout": 0.0}}, "architecture"),
        ({"architecture": {**ABOUT["architecture"], "classes": ["a", "b"]}}, "architecture"),  # type: ignore[dict-item]
        ({"data_fingerprint": "beef"}, "data_fingerprint"),
        ({"seed": 1}, "seed"),
    ],
)
def test_a_route_of_several_trainings_is_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    record(tmp_path, {**ABOUT, **other}, epochs=(2,))
    route = open_route(record(tmp_path, epochs=(4,)))  # the list now tells of the second training only
    anchor_model(route, 4, CPU)
    with pytest.raises(ArtefactMismatch, match=rf"of another training than its route \({said}\)"):
        anchor_model(route, 2, CPU)


TRAINING = {key: value for key, value in ABOUT.items() if key not in ("config", "licence")}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [(None, "does not say of which training"), ({"about": json.dumps(TRAINING)}, "is no mbf_nano as route.json says")],
)
def test_a_state_that_no_training_wrote_is_refused(tmp_path: Path, metadata: dict[str, str] | None, said: str) -> None:
    run = record(tmp_path)
    file, listing = run / "route" / "epoch_0002.safetensors", run / "route" / "route.json"
    write_tensors(file, {"w": torch.ones(2)}, metadata)
    content = json.loads(listing.read_text())
    content["states"][0]["sha256"] = sha256_file(file)
    listing.write_text(json.dumps(content))
    with pytest.raises(ArtefactMismatch, match=said):
        anchor_model(open_route(run), 2, CPU)
