"""Stored networks and training states: the only file that names safetensors or ``torch.load``.

A run folder holds ``run.json`` and ``checkpoints/<name>/`` with

- ``weights.safetensors``  the network, with the keys of its published layout;
- ``state.safetensors``    everything a bit-exact resume needs (optimiser, generators, progress), where kept;
- ``run.json``             architecture, preprocessing, licence, hashes. Written last: a folder that has it is whole.

A checkpoint is built under ``.<name>.new`` and swapped in by renames, so that a kill at any point leaves
one whole checkpoint behind; ``_recover`` finishes an interrupted swap.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.core.files import explain_write, plain, read_json, sha256_file, sync_folder, write_atomic, write_json

WEIGHTS, STATE, META = "weights.safetensors", "state.safetensors", "run.json"
ROUTE, ROUTE_LIST, ROUTE_SCHEMA = "route", "route.json", "facekit.route/1"
_MAX_EXPANSION = 1.05  # torch writes its zip entries uncompressed; more than this is a decompression bomb


@dataclass(frozen=True)
class Checkpoint:
    """A network as stored: its tensors, and what run.json says of them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path


def state_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and bytes: equal exactly where the states are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- reading strangers' files ----------------------------------------------------------------------


def read_tensors(path: Path | str) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors (maybe nested in dictionaries) and text metadata of a .safetensors, .pt, .pth or .ckpt file.

    Nothing in the file is executed: pickles load through torch's allow-list. Raises MissingFile,
    CorruptFile, or InputError naming what the file tried to load.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"{path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _refuse_bomb(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickle protocols; what fails is explained below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = str(error).split("\n")
        name = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
        raise InputError(
            f"{path} is not a plain file of weights and was not loaded: {name.strip()}. "
            "Save its state_dict() alone and give that file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CorruptFile(f"{path} is truncated or not a torch file: {reason}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return dict(content), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            return {key: stream.get_tensor(key) for key in stream.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CorruptFile(f"{path} is truncated or not a safetensors file: {error}") from error


def _refuse_bomb(path: Path) -> None:
    """A zip whose entries unpack to far more than the file's size is refused before anything is allocated."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptFile(f"{path} is a broken torch file: {error}") from error
    packed = path.stat().st_size
    if unpacked > packed * _MAX_EXPANSION:
        raise InputError(f"{path} unpacks to {unpacked} bytes from {packed}: refused, torch never compresses weights")


# --- trees of tensors and plain values ---------------------------------------------------------------


def split_tree(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Move the tensors of a nested state into ``tensors`` and return the JSON that is left."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"$tensor": path}
    if isinstance(tree, Mapping):
        # Optimiser states are keyed by integers, which JSON would turn into text: keep pairs.
        return {"$map": [[k, split_tree(v, tensors, f"{path}.{k}" if path else str(k))] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return [split_tree(v, tensors, f"{path}.{i}") for i, v in enumerate(tree)]
    return plain(tree)


def join_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo ``split_tree``."""
    if isinstance(tree, list):
        return [join_tree(v, tensors) for v in tree]
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        return {k: join_tree(v, tensors) for k, v in tree["$map"]}
    return tree


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, none sharing memory with another (safetensors stores no views)."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        result[name] = value
    return result


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write one safetensors file atomically."""
    return write_atomic(path, safetensors.torch.save(_storable(tensors), dict(metadata or {"format": "pt"})))


def write_torch(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a .pt file atomically, for tools that read nothing else: tensors and plain values only."""
    return write_atomic(path, lambda stream: torch.save(dict(content), stream))


# --- the store ---------------------------------------------------------------------------------------


def is_run(path: Path | str) -> bool:
    """True for a run folder or for one checkpoint folder inside it."""
    path = Path(path)
    return path.is_dir() and (path / META).is_file()


class CheckpointStore:
    """The checkpoints of one run folder: ``last``, ``best``, numbered states, and the route."""

    def __init__(self, run: Path | str) -> None:
        self.run = Path(run)
        self.folder = self.run / "checkpoints"

    def save(
        self, name: str, weights: Mapping[str, Tensor], meta: Mapping[str, Any], state: Any = None, keep: int = 0
    ) -> Path:
        """Store a checkpoint under ``name``, replacing the earlier one only when the new one is whole.

        ``keep`` > 0 also keeps it as a numbered state ``step_<meta['step']>`` and drops the oldest beyond that.
        """
        with explain_write(self.folder / name):
            self._recover(name)
            new = self.folder / f".{name}.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            hashes = {WEIGHTS: sha256_file(write_tensors(new / WEIGHTS, weights))}
            if state is not None:
                tensors: dict[str, Tensor] = {}
                tree = split_tree(state, tensors)
                hashes[STATE] = sha256_file(write_tensors(new / STATE, tensors, {"tree": json.dumps(tree)}))
            write_json(new / META, {**meta, "weights_sha256": state_hash(weights), "files": hashes})
            self._swap(name)
            if keep > 0:
                self._number(name, int(meta["step"]), keep)
        return self.folder / name

    def _swap(self, name: str) -> None:
        current, new, old = self.folder / name, self.folder / f".{name}.new", self.folder / f".{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if current.exists():
            os.rename(current, old)
        os.rename(new, current)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _recover(self, name: str) -> None:
        """Finish a swap that a kill cut between its two renames."""
        current = self.folder / name
        if current.exists():
            return
        for candidate in (self.folder / f".{name}.new", self.folder / f".{name}.old"):
            if (candidate / META).is_file():
                os.rename(candidate, current)
                return

    def _number(self, name: str, step: int, keep: int) -> None:
        target = self.folder / f"step_{step:08d}"
        if not target.exists():
            temporary = self.folder / ".numbered.new"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(self.folder / name, temporary)
            os.rename(temporary, target)
        for old in sorted(self.folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old)

    def has(self, name: str = "last") -> bool:
        """True where a whole checkpoint of that name exists."""
        self._recover(name)
        return (self.folder / name / META).is_file()

    def load(self, name: str = "last") -> Checkpoint:
        """The network of a checkpoint, its hash verified."""
        self._recover(name)
        return load_checkpoint(self.folder / name)

    def load_state(self, name: str = "last") -> Any:
        """The training state, read anew at every call (optimisers keep the tensors they are given)."""
        self._recover(name)
        folder = self.folder / name
        _verify(folder, STATE)
        tensors, metadata = _read_safetensors(folder / STATE)
        return join_tree(json.loads(metadata["tree"]), tensors)

    def save_route(
        self, epoch: int, weights: Mapping[str, Tensor], record: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Add a state to the route: ``route/epoch_NNNN.safetensors``, listed with its hash in route.json.

        ``about`` says of which training (``route_about``). Each file names its training too, so that a route cannot be
        put together of several. A kill between file and list loses nothing: the repeat writes the same bytes.
        """
        file = self.run / ROUTE / f"epoch_{epoch:04d}.safetensors"
        write_tensors(file, weights, {"about": json.dumps(plain(training_of(about)), sort_keys=True)})
        listing = self.run / ROUTE / ROUTE_LIST
        states = read_json(listing)["states"] if listing.is_file() else []
        states = [s for s in states if s["epoch"] != epoch]
        states.append({"epoch": epoch, "file": file.name, "sha256": sha256_file(file), **record})
        states.sort(key=lambda s: s["epoch"])
        write_json(listing, {"schema": ROUTE_SCHEMA, "about": dict(about), "states": states})

    def clean(self) -> None:
        """Remove what an interrupted save left behind."""
        for name in {p.name[1:-4] for p in self.folder.glob(".*.new")}:
            self._recover(name)
        for leftover in [*self.folder.glob(".*.new"), *self.folder.glob(".*.old")]:
            with contextlib.suppress(OSError):
                shutil.rmtree(leftover)


def route_about(meta: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """What a route says of its training, taken from what every checkpoint says; ``epochs`` is its planned end."""
    config = meta.get("config", {})
    return {
        **{key: meta.get(key) for key in ("architecture", "preprocess", "licence")},
        "config": config,
        "data_fingerprint": meta.get("data", {}).get("fingerprint"),
        "seed": config.get("seed"),
        "epochs": epochs,
    }


def training_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a route's ``about`` that all states of one training share; options such as --out may change."""
    return {key: about[key] for key in ("architecture", "preprocess", "data_fingerprint", "seed", "epochs")}


def load_checkpoint(path: Path | str) -> Checkpoint:
    """One call loads a run folder (its ``last``) or one checkpoint folder; refuses what fails its hash."""
    path = Path(path)
    if (path / "checkpoints").is_dir():
        return CheckpointStore(path).load("last")
    if not (path / META).is_file():
        raise MissingFile(f"{path} holds no checkpoint (no {META}); give a run folder or one of its checkpoints")
    meta = _verify(path, WEIGHTS)
    tensors, _ = _read_safetensors(path / WEIGHTS)
    return Checkpoint(tensors, meta, path)


def is_route_state(path: Path) -> bool:
    """True for a file of weights that lies beside the list of a route."""
    return path.suffix == ".safetensors" and (path.parent / ROUTE_LIST).is_file()


def load_route_state(path: Path) -> Checkpoint:
    """One state of a route as a network of its own, its hash verified; ``meta`` is what the route says of its training.

    Raises CorruptFile for another hash, InputError for a file or a list that does not say what it is.
    """
    listing = read_json(path.parent / ROUTE_LIST)
    try:
        (wanted,) = (state["sha256"] for state in listing["states"] if state["file"] == path.name)
        about = dict(listing["about"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path.parent / ROUTE_LIST} does not describe {path.name}; record the route again") from None
    if sha256_file(path) != wanted:
        raise CorruptFile(f"{path} differs from its hash in {ROUTE_LIST}: it is damaged or was replaced")
    return Checkpoint(read_tensors(path)[0], about, path)


def _verify(folder: Path, file: str) -> dict[str, Any]:
    if not (folder / META).is_file():
        raise MissingFile(f"{folder} holds no checkpoint; train first, or give another run folder")
    meta = read_json(folder / META)
    wanted = meta.get("files", {}).get(file) if isinstance(meta, dict) else None
    if wanted is None and isinstance(meta, dict) and "schema" in meta:  # the run.json of a run, not of a checkpoint
        raise MissingFile(f"{folder} holds no checkpoint yet (the run is {meta.get('status')}); let it save one first")
    if wanted is None:
        raise MissingFile(f"{folder / META} lists no {file}: this checkpoint cannot be used for that")
    if sha256_file(folder / file) != wanted:
        raise CorruptFile(f"{folder / file} differs from the hash in its {META}: the file is damaged or was replaced")
    return dict(meta)
