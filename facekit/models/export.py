"""Write a network as one ONNX file, and measure how well the file agrees with it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facekit import __version__
from facekit.core.errors import InputError, missing_extra
from facekit.core.files import write_atomic
from facekit.models.folding import folded
from facekit.models.loading import Model
from facekit.models.onnxfile import ARCHITECTURE, LICENCE, LOGITS, PREPROCESS, WEIGHTS


class _WithoutMaps(nn.Module):
    """The embedding, and the logits of a classifier; the argument's name becomes the ONNX input's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        embedding, _, logits = self.net(data)
        return (embedding,) if logits is None else (embedding, logits)


def write_onnx(
    model: Model,
    path: Path,
    opset: int = 18,
    wrap: Callable[[nn.Module], nn.Module] = _WithoutMaps,
    outputs: Sequence[str] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write ``model`` as ONNX: input ``data`` [N,3,H,W] as the model's table says, output ``embedding`` [N,D].

    A classifier has a second output, ``logits`` [N,C]. N is dynamic, weights are float32 and inline, BatchNorms
    merged; preprocessing, licence, architecture and weights hash go into the metadata, and further ``facts``. ``wrap``
    makes of the network a module with other ``outputs`` after the embedding. Raises InputError for a model that is an
    ONNX file already.
    """
    if model.module is None:
        raise InputError(f"{model.path} is an ONNX file already; export takes a run folder or a file of weights")
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx") from None
    if outputs is None:
        outputs = (LOGITS,) if model.classes else ()
    net = wrap(folded(model.module).cpu().float()).eval()
    example = torch.zeros(2, 3, *model.preprocess.size)
    with torch.no_grad(), _known_noise_off():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            input_names=["data"],
            output_names=["embedding", *outputs],
            dynamic_shapes={"data": {0: torch.export.Dim("n")}},
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _forget_origin(proto)
    proto.producer_name, proto.producer_version = "facekit", __version__
    known = {
        PREPROCESS: json.dumps(model.preprocess.to_dict()),
        LICENCE: model.licence,
        ARCHITECTURE: json.dumps(model.architecture),
        WEIGHTS: model.sha256,
    }
    onnx.helper.set_model_props(proto, {**known, **(facts or {})})
    return write_atomic(path, proto.SerializeToString())


@contextmanager
def _known_noise_off() -> Iterator[None]:
    """Silence two messages of torch's exporter that concern nobody here: absent torchvision, its own pytree use."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _forget_origin(proto: Any) -> None:
    """Drop the exporter's notes: they hold source paths of this machine and half the size of a small graph."""
    graph = proto.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]


@dataclass(frozen=True)
class Parity:
    """How two models' embeddings, or class scores, of the same images agree."""

    images: int
    min_cosine: float
    max_difference: float
    """Largest absolute difference, relative to the largest absolute value of the first model's."""

    def fails(self, min_cosine: float, max_difference: float) -> str | None:
        """The sentence to print where a limit is missed, else None. NaN misses every limit."""
        if not self.min_cosine >= min_cosine:
            return f"the least cosine is {self.min_cosine:.6f}, the limit is {min_cosine:g}"
        if not self.max_difference <= max_difference:
            return f"the largest relative difference is {self.max_difference:.2e}, the limit is {max_difference:g}"
        return None


def parity(first: np.ndarray, second: np.ndarray) -> Parity:
    """Compare two tables [N,D], of embeddings or of class scores: rows in the same order.

    [[1,0]] against [[1,0.1]] gives cosine 0.995 and difference 0.1.
    """
    if first.shape != second.shape:
        raise InputError(f"outputs of shape {first.shape} and {second.shape} cannot be compared")
    a, b = first.astype(np.float64), second.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero embedding gives NaN, which no limit passes
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        difference = np.abs(a - b).max() / np.abs(a).max()
    return Parity(len(a), float(cosine.min()), float(difference))
