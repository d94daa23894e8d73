"""A teacher's recorded route: the states that ``train --save-route`` kept, read back and trusted only after checks.

``route/route.json`` lists the states of one training in the order of time with the hash of each file, and says of
which training they are. Every file says so too: a route put together of several trainings is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from facekit.core.checkpoints import ROUTE, ROUTE_LIST, ROUTE_SCHEMA, read_tensors, training_of
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, CorruptFile, InputError, MissingFile
from facekit.core.files import plain, read_json, sha256_file
from facekit.core.preprocess import Preprocess
from facekit.models.adopt import adopt
from facekit.models.licences import UNKNOWN
from facekit.models.loading import Model, frozen_model
from facekit.models.records import network_of

NO_ROUTE = "RCO needs a route; train the teacher with --save-route"
_FILE = re.compile(r"epoch_\d{4,}\.safetensors")
_HASH = re.compile(r"[0-9a-f]{64}")


class State(NamedTuple):
    """The teacher at the end of one epoch."""

    epoch: int
    file: str
    sha256: str
    val: dict[str, float]
    """Numbers on --dev, {} without."""
    lr: float | None
    ema: bool


@dataclass(frozen=True)
class Route:
    """The states of one training, oldest first; the last one is the converged teacher."""

    folder: Path
    about: dict[str, Any]
    states: tuple[State, ...]

    @property
    def epochs(self) -> tuple[int, ...]:
        """Of all states."""
        return tuple(state.epoch for state in self.states)

    @property
    def final(self) -> int:
        """The last epoch."""
        return self.states[-1].epoch

    @property
    def grid(self) -> int:
        """Epochs between two states: that of the first one."""
        return self.states[0].epoch

    @property
    def sha256(self) -> str:
        """Of the training and its states: a resume with another one is refused."""
        told = [training_of(self.about), [(state.epoch, state.sha256) for state in self.states]]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def state(self, epoch: int) -> State:
        """The state of a saved epoch."""
        return self.states[self.epochs.index(epoch)]


def open_route(path: Path) -> Route:
    """The route of a run folder, or of a ``route.json`` itself.

    Raises MissingFile where there is none, InputError for an ONNX graph, an unfinished or an older route,
    ArtefactMismatch for states that are not of one training, CorruptFile for a damaged list.
    """
    if path.suffix.lower() == ".onnx":
        raise InputError(f"{path} is one frozen graph: {NO_ROUTE}")
    listing = path if path.name == ROUTE_LIST else path / ROUTE / ROUTE_LIST
    if not listing.is_file():
        raise MissingFile(f"{path} has no {ROUTE}/{ROUTE_LIST}: {NO_ROUTE}")
    content = read_json(listing)
    if not isinstance(content, dict) or "about" not in content:
        raise InputError(f"{listing} is of an older facekit and does not say what its states are; record it again")
    if content.get("schema") != ROUTE_SCHEMA:
        raise InputError(f"{listing} has the schema {content.get('schema')!r}; this facekit reads {ROUTE_SCHEMA!r}")
    route = Route(listing.parent, described(content["about"], listing), listed(content.get("states"), listing))
    if route.final != route.about["epochs"]:
        raise InputError(
            f"{listing} ends at epoch {route.final} of {route.about['epochs']}: let the teacher finish (--resume) first"
        )
    return route


def described(about: Any, listing: Path) -> dict[str, Any]:
    """What the list says of the training, checked."""
    try:
        training_of(about)
        Preprocess.from_dict(about["preprocess"])
        fine = int(about["epochs"]) >= 1 and isinstance(about["architecture"], dict)
    except (KeyError, TypeError, ValueError, AttributeError):
        fine = False
    if not fine:
        raise CorruptFile(f"{listing} does not describe a network and its training; record the route again")
    return dict(about)


def listed(states: Any, listing: Path) -> tuple[State, ...]:
    """The states of a list, checked: files inside the folder, rising epochs, one kind of weights."""
    found: list[State] = []
    try:
        for entry in states:
            val, lr = dict(entry.get("val") or {}), entry.get("lr")
            found.append(State(int(entry["epoch"]), entry["file"], entry["sha256"], val, lr, bool(entry.get("ema"))))
            if not _FILE.fullmatch(found[-1].file) or not _HASH.fullmatch(found[-1].sha256) or found[-1].epoch < 1:
                raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CorruptFile(f"{listing} has a state that is not described as one; record the route again") from None
    epochs = [state.epoch for state in found]
    if not found or epochs != sorted(set(epochs)):
        raise CorruptFile(f"{listing} lists the epochs {epochs}: it needs some, each once, in rising order")
    if len({state.ema for state in found}) > 1:
        raise ArtefactMismatch(f"{listing} mixes averaged (ema) and plain weights; record one route of each")
    return tuple(found)


def anchor_model(route: Route, epoch: int, device: Device) -> Model:
    """The teacher at a saved epoch: frozen, in eval mode. The file's hash is checked first.

    Raises MissingFile, CorruptFile for another hash, ArtefactMismatch for a state of another training.
    """
    state = route.state(epoch)
    file = route.folder / state.file
    if sha256_file(file) != state.sha256:
        raise CorruptFile(f"{file} differs from its hash in {ROUTE_LIST}: it is damaged or was replaced")
    tensors, metadata = read_tensors(file)
    check_training(route, file, metadata)
    architecture = route.about["architecture"]
    try:
        module = adopt(network_of(architecture), tensors)
    except InputError as error:
        raise ArtefactMismatch(f"{file} is no {architecture.get('name')} as {ROUTE_LIST} says: {error}") from error
    preprocess = Preprocess.from_dict(route.about["preprocess"])
    licence = str(route.about.get("licence") or UNKNOWN)
    return frozen_model(module, architecture, preprocess, device, licence, file.as_posix())


def check_training(route: Route, file: Path, metadata: Mapping[str, str]) -> None:
    """A state must come from the training that the route is of."""
    try:
        told = json.loads(metadata["about"])
    except (KeyError, ValueError):
        raise ArtefactMismatch(f"{file} does not say of which training it is; record the route again") from None
    wanted = plain(training_of(route.about))
    other = sorted(key for key in wanted if not isinstance(told, dict) or told.get(key) != wanted[key])
    if other:
        raise ArtefactMismatch(f"{file} is of another training than its route ({', '.join(other)}); record it again")
