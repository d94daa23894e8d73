"""What is computed once before training and must not change under it: one folder, one manifest, every hash in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from facekit import __version__
from facekit.core.checkpoints import read_tensors, write_tensors
from facekit.core.errors import ArtefactMismatch, FacekitError
from facekit.core.files import locked, read_json, sha256_file, write_json

Files = Mapping[str, Mapping[str, Tensor]]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefacts:
    """Tensors of an artefact folder, and the hashes of its files."""

    folder: Path
    tensors: dict[str, Tensor]
    hashes: dict[str, str]
    manifest: str

    def describe(self) -> dict[str, Any]:
        """For run.json: a resume is refused where these differ."""
        return {"folder": self.folder.as_posix(), "manifest": self.manifest, "files": self.hashes}


def open_artefacts(root: Path, about: Mapping[str, Any], build: Callable[[], Files]) -> Artefacts:
    """The artefacts made from ``about`` (teacher, data, options, sizes), built if they are not there yet.

    The folder is named by the hash of ``about``. ``build`` gives file name -> named tensors; the manifest with all
    hashes is written last, so that a folder without one is built again. Raises ArtefactMismatch where a file differs
    from its manifest, or the manifest from ``about``.
    """
    folder = root / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    manifest = folder / MANIFEST
    with locked(root / f"{folder.name}.lock"):
        if not manifest.is_file():
            hashes = {name: sha256_file(write_tensors(folder / name, tensors)) for name, tensors in build().items()}
            write_json(manifest, {"facekit": __version__, **about, "files": hashes})
    return load_artefacts(folder, about)


def load_artefacts(folder: Path, about: Mapping[str, Any]) -> Artefacts:
    """Read and check a folder that has its manifest."""
    try:
        stored = read_json(folder / MANIFEST)
        hashes = {str(name): str(value) for name, value in stored["files"].items()}
        told = {k: stored[k] for k in about}
    except (FacekitError, KeyError, TypeError, AttributeError):
        raise ArtefactMismatch(f"{folder / MANIFEST} is damaged; {rebuild(folder)}") from None
    if told != json.loads(json.dumps(about)):
        changed = sorted(k for k in about if told[k] != json.loads(json.dumps(about[k])))
        raise ArtefactMismatch(f"{folder} was made from other things ({', '.join(changed)}); {rebuild(folder)}")
    tensors: dict[str, Tensor] = {}
    for name, wanted in hashes.items():
        found = sha256_file(folder / name) if (folder / name).is_file() else "no such file"
        if found != wanted:
            raise ArtefactMismatch(f"{folder / name} has hash {found}, its manifest says {wanted}; {rebuild(folder)}")
        tensors |= read_tensors(folder / name)[0]
    return Artefacts(folder, tensors, hashes, sha256_file(folder / MANIFEST))


def rebuild(folder: Path) -> str:
    """What to do about a folder that cannot be trusted."""
    return f"remove it and run the same command again, which makes it anew: rm -r {folder}"
