"""Model files: the name that a model has by its content, and files that are not what they say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facekit.codec import tables
from facekit.codec.arch import Arch
from facekit.codec.modelfile import HASH, TEXT, CodecModel, content_hash, model_id, read_model, write_model
from facekit.core.checkpoints import read_tensors, write_tensors
from facekit.core.errors import ArtefactMismatch, CorruptFile, FacekitError, InputError, MissingFile

ARCH = Arch(n=4, m=6, enhancement="none")
DECODER = {
    "z_edges": torch.arange(6, dtype=torch.int64).reshape(2, 3).to(torch.uint32),
    "synthesis.weight": torch.tensor([[0.5, -2.0]]),
    "bias": torch.tensor(1.5, dtype=torch.float64),
}
ENCODER = {"analysis.weight": torch.tensor([3.0, 4.0])}
MODEL = CodecModel(ARCH, "f64", DECODER, ENCODER, {"lambda": 256, "metric": "mse", "psnr": 31.25})


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_a_model_comes_back_and_so_does_one_that_only_decodes(tmp_path: Path) -> None:
    found = read_model(write_model(tmp_path / "a.safetensors", MODEL))
    assert (found.arch, found.mode, found.about) == (ARCH, "f64", MODEL.about)
    assert equal(found.decoder, DECODER) and equal(found.encoder, ENCODER)
    decoder = dataclasses.replace(MODEL, encoder={}, about={})
    assert read_model(write_model(tmp_path / "b.safetensors", decoder)).model_id == MODEL.model_id


def test_the_model_id_is_the_documented_hash() -> None:
    settings = b'{"attention":true,"enhancement":"none","k":3,"m":6,"mode":"f64","n":4,"reduction":16}'
    digest = hashlib.sha256(settings)
    digest.update(b"LUT\0uint32[256]" + tables.LUT.astype("<u4").tobytes())
    digest.update(b"T\0uint32[170334]" + tables.T.astype("<u4").tobytes())
    digest.update(b"bias\0float64[]" + struct.pack("<d", 1.5))
    digest.update(b"synthesis.weight\0float32[1,2]" + struct.pack("<2f", 0.5, -2))
    digest.update(b"z_edges\0uint32[2,3]" + struct.pack("<6I", *range(6)))
    assert MODEL.model_id == digest.digest()[:8]


def test_everything_that_decoding_depends_on_changes_the_model_id() -> None:
    weight = DECODER["synthesis.weight"]
    nudged = torch.nextafter(weight, torch.tensor(9.0))
    others = [
        model_id(dataclasses.replace(ARCH, reduction=8), "f64", DECODER),
        model_id(ARCH, "int", DECODER),
        model_id(ARCH, "f64", DECODER | {"synthesis.weight": nudged}),
        model_id(ARCH, "f64", DECODER | {"synthesis.weight": weight.reshape(2)}),
        model_id(ARCH, "f64", DECODER | {"synthesis.weight": weight.view(torch.int32)}),
        model_id(ARCH, "f64", DECODER | {"more": weight}),
        model_id(ARCH, "f64", {("other" if name == "bias" else name): t for name, t in DECODER.items()}),
    ]
    assert len({MODEL.model_id, *others}) == len(others) + 1
    assert model_id(ARCH, "f64", dict(reversed(DECODER.items()))) == MODEL.model_id
    assert model_id(ARCH, "f64", DECODER | {"synthesis.weight": weight.T.contiguous().T}) == MODEL.model_id
    with pytest.raises(ValueError, match="tables"):
        model_id(ARCH, "f64", DECODER | {"LUT": weight})


def test_a_damaged_file_is_never_used(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "a.safetensors", MODEL).read_bytes()
    path = tmp_path / "b.safetensors"
    for place in (*range(0, len(whole), 29), *range(len(whole) - 44, len(whole))):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(FacekitError):
            read_model(path)
    for size in range(0, len(whole), 53):
        path.write_bytes(whole[:size])
        with pytest.raises(FacekitError):
            read_model(path)


def rewritten(folder: Path, change: object, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A model file whose text was changed by somebody who knows how to compute its hash."""
    stored, metadata = read_tensors(write_model(folder / "a.safetensors", MODEL))
    text = change if isinstance(change, str) else json.dumps(json.loads(metadata[TEXT]) | change)  # type: ignore[operator]
    stored = dict(tensors) if tensors is not None else stored
    return write_tensors(folder / "b.safetensors", stored, {TEXT: text, HASH: content_hash(text, stored)})


SETTINGS = {**dataclasses.asdict(ARCH), "mode": "f64"}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("[" * 100_000, CorruptFile),
        ("no JSON", CorruptFile),
        ("[]", InputError),
        ({"schema": "facekit.codec/2"}, InputError),
        ({"more": 1}, InputError),
        ({"arch": []}, InputError),
        ({"about": "text"}, InputError),
        ({"arch": SETTINGS | {"n": 10**9}}, InputError),
        ({"arch": SETTINGS | {"n": 4.0}}, InputError),
        ({"arch": SETTINGS | {"attention": 1}}, InputError),
        ({"arch": SETTINGS | {"enhancement": ["none"]}}, InputError),
        ({"arch": SETTINGS | {"mode": "bf16"}}, InputError),
        ({"arch": SETTINGS | {"mode": ["f64"]}}, InputError),
        ({"arch": SETTINGS | {"more": 1}}, InputError),
        ({"arch": {"mode": "f64"}}, InputError),
        ({"tables_sha256": "0" * 64}, ArtefactMismatch),
        ({"model_id": "0" * 16}, CorruptFile),
        ({"arch": SETTINGS | {"reduction": 8}}, CorruptFile),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(tmp_path: Path, change: object, wanted: type[FacekitError]) -> None:
    with pytest.raises(wanted, match="b.safetensors"):
        read_model(rewritten(tmp_path, change))


def test_other_files_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        read_model(rewritten(tmp_path, {}, {"weight": torch.ones(2)}))
    with pytest.raises(InputError, match="no codec"):
        read_model(write_tensors(tmp_path / "c.safetensors", DECODER))
    torch.save(DECODER, tmp_path / "c.pt")
    with pytest.raises(InputError, match="nothing else is opened"):
        read_model(tmp_path / "c.pt")
    with pytest.raises(MissingFile):
        read_model(tmp_path / "none.safetensors")


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, about={"psnr": math.inf})
    assert read_model(write_model(tmp_path / "a.safetensors", model)).about == {"psnr": None}
