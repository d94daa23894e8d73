"""An ONNX file as a frozen network, run by onnxruntime (extra ``onnx``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekit.core.device import Device
from facekit.core.errors import CorruptFile, FacekitError, InputError, missing_extra
from facekit.core.files import sha256_file
from facekit.core.preprocess import Preprocess
from facekit.core.types import Outputs
from facekit.models import onnxgraph
from facekit.models.licences import UNKNOWN
from facekit.models.records import class_names

PREPROCESS, LICENCE, ARCHITECTURE, WEIGHTS = "preprocess", "licence", "architecture", "weights_sha256"
"""Metadata keys that ``facekit export`` writes."""
LOGITS = "logits"
"""The second output of an exported classifier, [N,C]."""


@dataclass(frozen=True)
class OnnxFacts:
    """What was read from the graph and from one trial run."""

    size: tuple[int, int]
    width: int
    normalised_output: bool
    preprocess: Preprocess | None
    """The table in the metadata of files written by us."""
    channels: str | None
    scaling: str | None
    """Sniffed from the graph's first steps."""
    licence: str
    architecture: dict[str, Any]
    parameters: int
    sha256: str
    size_bytes: int


class OnnxNetwork:
    """float [n,3,H,W] -> embedding [n,D], and logits [n,C] of a classifier of ours, by onnxruntime.

    On as many threads as torch has.
    """

    def __init__(self, path: Path, device: Device) -> None:
        self.path = path
        graph = read_graph(path)
        files = [path, *(_side_file(path, name) for name in onnxgraph.external_files(graph))]
        self.input, self.batch, size = onnxgraph.image_input(graph.graph)
        self.session = _session(path, device)
        self.dtype = _input_dtype(self.session.get_inputs()[0].type)
        stored = {p.key: p.value for p in graph.metadata_props}
        architecture = _stored_table(stored, ARCHITECTURE)
        self.outputs = [self._find_output(), *self._class_scores(architecture)]
        scaling = onnxgraph.scaling_of(onnxgraph.input_affine(graph.graph, self.input))
        width, normalised = self._try(size)
        self.facts = OnnxFacts(
            size=size,
            width=width,
            normalised_output=normalised,
            preprocess=_stored_preprocess(stored, size, path),
            # Graphs that begin with Sub and Mul come from the MXNet ArcFace zoo, which is RGB throughout.
            channels="rgb" if scaling == "raw" else None,
            scaling=scaling,
            licence=stored.get(LICENCE, UNKNOWN),
            architecture=architecture,
            parameters=onnxgraph.count_parameters(graph.graph),
            sha256=_hash(files),
            size_bytes=sum(f.stat().st_size for f in files),
        )

    def __call__(self, x: Tensor) -> Outputs:
        """A graph with a fixed batch size is fed in pieces of that size, the last one padded."""
        images = x.detach().to("cpu", self.dtype).contiguous().numpy()
        step = self.batch or max(1, len(images))
        # One piece also where there is no image: from what it gives the widths are known.
        pieces = [self._run(images[i : i + step], step) for i in range(0, max(1, len(images)), step)]
        embedding, *scores = (torch.from_numpy(np.concatenate(p)).to(x.device) for p in zip(*pieces, strict=True))
        return Outputs(embedding, logits=scores[0] if scores else None)

    def aligned(self, x: Tensor, output: str) -> np.ndarray:
        """Another output than the embedding, by name: float32 [n,...] of preprocessed images [n,3,H,W]."""
        images = x.detach().to("cpu", self.dtype).contiguous().numpy()
        return np.asarray(self.session.run([output], {self.input: images})[0], np.float32)

    def macs(self) -> int:
        """From the graph, read again: the session keeps its own copy of the weights."""
        return onnxgraph.count_macs(read_graph(self.path), self.facts.size)

    def _run(self, images: np.ndarray, step: int) -> list[np.ndarray]:
        """What each output gives for at most ``step`` images."""
        count = len(images)
        if count < step:
            images = np.concatenate([images, np.zeros((step - count, *images.shape[1:]), images.dtype)])
        try:
            results = self.session.run(self.outputs, {self.input: images})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"{self.path} failed in onnxruntime: {_first_line(error)}") from error
        return [np.asarray(result[:count], dtype=np.float32) for result in results]

    def _find_output(self) -> str:
        """The first [N,D] output with D > 1: AdaFace graphs also return the norm, as [N,1]."""
        for output in self.session.get_outputs():
            if len(output.shape) == 2 and output.shape[1] != 1:
                return str(output.name)
        shapes = [o.shape for o in self.session.get_outputs()]
        raise InputError(f"{self.path} has outputs of shape {shapes}, expected one [N,D] embedding")

    def _class_scores(self, architecture: Mapping[str, Any]) -> list[str]:
        """The output beside the embedding where the metadata names classes, as ``facekit export`` writes it."""
        try:
            classes = class_names(architecture)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        shapes = {o.name: o.shape for o in self.session.get_outputs()}
        if classes and shapes.get(LOGITS, ())[1:] != [len(classes)]:
            raise InputError(f"{self.path} names {len(classes)} classes, but has no output {LOGITS} of that width")
        return [LOGITS] if classes else []

    def _try(self, size: tuple[int, int]) -> tuple[int, bool]:
        """Embed two noise images: the width, and whether both embeddings have norm 1."""
        noise = np.random.default_rng(0).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
        images = torch.from_numpy(noise).to(self.dtype).numpy()
        step = self.batch or 2
        result = np.concatenate([self._run(images[i : i + step], step)[0] for i in range(0, 2, step)])
        if result.ndim != 2 or not np.isfinite(result).all():
            raise InputError(f"{self.path} does not return finite [N,D] embeddings for noise images")
        norms = np.linalg.norm(result, axis=1)
        return result.shape[1], bool(np.abs(norms - 1).max() < 1e-3)


def read_graph(path: Path) -> Any:
    """The ModelProto, side files left unread. Raises MissingExtra, CorruptFile."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise missing_extra("onnx", "onnx") from None
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise CorruptFile(f"{path} is truncated or not an ONNX file: {_first_line(error)}") from error
    if not model.graph.node:
        raise CorruptFile(f"{path} is not an ONNX file: it holds no graph")
    return model


def _session(path: Path, device: Device) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    kind = device.torch_device.type
    available = onnxruntime.get_available_providers()
    providers = [p for p in available if p.lower().startswith(kind) and not p.startswith("CPU")]
    try:
        return onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path} cannot be run by onnxruntime: {_first_line(error)}") from error


def _input_dtype(name: str) -> torch.dtype:
    known = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
    if name not in known:
        raise InputError(f"the ONNX input has type {name}, expected float or float16 images")
    return known[name]


def _side_file(path: Path, name: str) -> Path:
    """A weights file beside the graph; anything that leads elsewhere is refused."""
    file = path.parent / name
    if Path(name).name != name or name in (".", "..") or file.is_symlink():
        raise InputError(f"{path} keeps weights in {name!r}, outside its own folder: refused")
    if not file.is_file():
        raise InputError(f"{path} keeps weights in {name}, which is not beside it: move both files together")
    return file


def _hash(files: list[Path]) -> str:
    """The file's SHA-256; with side files, the SHA-256 of all their hashes in order."""
    hashes = [sha256_file(f) for f in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _stored_table(stored: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        table = json.loads(stored.get(key, "{}"))
    except json.JSONDecodeError:
        return {}
    return table if isinstance(table, dict) else {}


def _stored_preprocess(stored: Mapping[str, str], size: tuple[int, int], path: Path) -> Preprocess | None:
    """The table we wrote at export, None in files of others. Raises InputError where it is broken."""
    table = _stored_table(stored, PREPROCESS)
    if not {"channels", "scale", "shift"} <= table.keys():
        return None
    try:
        found = Preprocess.from_dict(table)
    except (TypeError, ValueError, KeyError, IndexError, FacekitError) as error:
        raise InputError(f"{path} has a broken preprocessing table in its metadata: {error}") from error
    if found.size != size:
        raise InputError(f"{path} has a preprocessing table that does not fit its graph: {found.describe()}")
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
