"""A codec's model file: safetensors with one JSON text, and the 8 bytes that tell one model's files from another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facekit.codec import tables
from facekit.codec.arch import Arch
from facekit.codec.framing import FLAG_OF, Mode
from facekit.core.checkpoints import read_tensors, state_hash, write_tensors
from facekit.core.errors import ArtefactMismatch, CorruptFile, InputError, UsageError
from facekit.core.files import plain

TEXT, HASH, SCHEMA = "facekit.codec", "sha256", "facekit.codec/1"
FIELDS = {"schema", "arch", "about", "tables_sha256", "model_id"}
DECODER, ENCODER = "decoder.", "encoder."
Setting = str | int | bool


@dataclass(frozen=True)
class CodecModel:
    """All that encoding and decoding need. Without the encoder's half a file decodes, under the same model_id."""

    arch: Arch
    mode: Mode
    decoder: Mapping[str, Tensor]
    """h_s, the tables of z, g_s, the enhancement"""
    encoder: Mapping[str, Tensor] = field(default_factory=dict)
    """g_a, h_a, the prior that the tables of z were made from"""
    about: Mapping[str, Any] = field(default_factory=dict)
    """lambda, metric, training, licence: what decoding does not depend on"""

    @property
    def model_id(self) -> bytes:
        """8 bytes, in the header of every file that this model makes."""
        return model_id(self.arch, self.mode, self.decoder)


def model_id(arch: Arch, mode: Mode, decoder: Mapping[str, Tensor]) -> bytes:
    """The first 8 bytes of SHA-256 over the settings and the decoder's tensors, the coder's shared tables among them.

    The fields of ``arch`` and ``mode`` as UTF-8 JSON with sorted keys and no spaces. Then for each tensor in the order
    of the names: name, NUL, dtype, shape as JSON (``float32[3,4]``), bytes in little endian.
    """
    shared = {"T": torch.tensor(tables.T), "LUT": torch.tensor(tables.LUT)}
    if shared.keys() & decoder.keys():
        raise ValueError(f"{' and '.join(shared)} are names of the coder's tables")
    digest = hashlib.sha256(compact(settings(arch, mode)).encode())
    for name, tensor in sorted((shared | dict(decoder)).items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{str(value.dtype).removeprefix('torch.')}{compact(list(value.shape))}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:8]


def write_model(path: Path, model: CodecModel) -> Path:
    """Write a model file, atomically."""
    halves = ((DECODER, model.decoder), (ENCODER, model.encoder))
    tensors = {prefix + name: tensor for prefix, half in halves for name, tensor in half.items()}
    text = compact(
        {
            "schema": SCHEMA,
            "arch": settings(model.arch, model.mode),
            "about": plain(model.about),
            "tables_sha256": tables.SHA256,
            "model_id": model.model_id.hex(),
        }
    )
    return write_tensors(path, tensors, {TEXT: text, HASH: content_hash(text, tensors)})


def read_model(path: Path) -> CodecModel:
    """Read a model file; its model_id is computed anew.

    Raises MissingFile, CorruptFile (damaged, or changed), InputError (no codec model), and
    ArtefactMismatch (made for other coder tables than this facekit's).
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no codec model: those are .safetensors files, and nothing else is opened as one")
    tensors, metadata = read_tensors(path)
    text = metadata.get(TEXT)
    if text is None:
        raise InputError(f"{path} holds weights, but no codec; export one with facekit compress")
    if metadata.get(HASH) != content_hash(text, tensors):
        raise CorruptFile(f"{path} differs from the hash that it holds: it is damaged or was changed")
    said = read_said(path, text)
    if any(not name.startswith((DECODER, ENCODER)) for name in tensors):
        raise InputError(f"{path} holds tensors that belong neither to a decoder nor to an encoder; export it again")
    decoder, encoder = (
        {name.removeprefix(half): tensor for name, tensor in tensors.items() if name.startswith(half)}
        for half in (DECODER, ENCODER)
    )
    model = CodecModel(*read_settings(path, said["arch"]), decoder, encoder, said["about"])
    if model.model_id.hex() != said["model_id"]:
        raise CorruptFile(f"{path} is not the model {said['model_id']} that it says it is; export it again")
    return model


def content_hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a whole model file's content, the encoder too, which no model_id covers."""
    return hashlib.sha256((text + state_hash(tensors)).encode()).hexdigest()


def read_said(path: Path, text: str) -> dict[str, Any]:
    """The JSON of a model file, its fields checked."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} does not say what it is: {error}") from None
    if not isinstance(said, dict) or said.get("schema") != SCHEMA or said.keys() != FIELDS:
        raise InputError(f"{path} is no codec model of {SCHEMA}; export it with this version of facekit")
    if not isinstance(said["arch"], dict) or not isinstance(said["about"], dict):
        raise InputError(f"{path} does not say how its networks are built; export it again")
    if said["tables_sha256"] != tables.SHA256:
        raise ArtefactMismatch(
            f"{path} was made for other coder tables than those of this facekit; use the version that wrote it"
        )
    return said


def settings(arch: Arch, mode: Mode) -> dict[str, Setting]:
    """What decoding depends on besides tensors."""
    return {**asdict(arch), "mode": mode}


def read_settings(path: Path, content: Mapping[str, Any]) -> tuple[Arch, Mode]:
    """Undo ``settings``; InputError for a field that is missing, unknown or out of range."""
    mode, sizes = content.get("mode"), {name: value for name, value in content.items() if name != "mode"}
    if sizes.keys() != {field.name for field in fields(Arch)} or not isinstance(sizes["attention"], bool):
        raise InputError(f"{path} does not say how its networks are built; export it again")
    if mode not in ("f64", "int"):
        raise InputError(f"{path} is of the numeric mode {mode!r}; this facekit has {', '.join(FLAG_OF)}")
    try:
        return Arch(**sizes), mode
    except UsageError as error:
        raise InputError(f"{path} cannot be used: {error}") from None


def compact(value: Any) -> str:
    """JSON in one spelling: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
