"""What an ONNX graph says about itself without being run: input scaling, parameters, multiply-accumulates.

Functions over ``onnx`` protobufs, which are imported where needed: the package is optional.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from facekit.core.errors import InputError

_SMALL = 4096  # values of a constant worth decoding: scales and means, never weights
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "BatchNormalization"}


def constants(graph: Any) -> dict[str, Any]:
    """Name -> TensorProto of initialisers and Constant nodes."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def uniform_value(tensor: Any) -> float | None:
    """The one value a small constant holds everywhere, else None (per-channel values, weights)."""
    from onnx import numpy_helper

    count = math.prod(tensor.dims)
    if not 0 < count <= _SMALL:
        return None
    values = np.asarray(numpy_helper.to_array(tensor), dtype=np.float64).reshape(-1)
    return float(values[0]) if bool((values == values[0]).all()) else None


def input_affine(graph: Any, name: str) -> tuple[float, float] | None:
    """(a, b) where the graph begins by computing ``a x + b`` of its input; None where it does not.

    Follows the input through Sub, Add, Mul, Div, Cast and Identity for as long as it has one consumer.
    Constant nodes may stand anywhere in the file and are not part of the way.
    """
    known = constants(graph)
    a, b, found = 1.0, 0.0, False
    for _ in range(len(graph.node)):
        consumers = [n for n in graph.node if name in n.input]
        if len(consumers) != 1 or not consumers[0].output:
            break
        node = consumers[0]
        if node.op_type not in ("Identity", "Cast"):
            step = _affine_step(node, name, known)
            if step is None:
                break
            a, b, found = step[0] * a, step[0] * b + step[1], True
        name = node.output[0]
    return (a, b) if found else None


def _affine_step(node: Any, name: str, known: Mapping[str, Any]) -> tuple[float, float] | None:
    """One node as (factor, offset), None where it is no multiplication or addition of one number."""
    if node.op_type not in ("Sub", "Add", "Mul", "Div") or len(node.input) != 2:
        return None
    first = node.input[0] == name
    other = known.get(node.input[1 if first else 0])
    value = None if other is None else uniform_value(other)
    if value is None or not math.isfinite(value):
        return None
    if node.op_type == "Add":
        return 1.0, value
    if node.op_type == "Mul":
        return value, 0.0
    if node.op_type == "Sub":
        return (1.0, -value) if first else (-1.0, value)
    return (1.0 / value, 0.0) if first and value != 0 else None


def scaling_of(affine: tuple[float, float] | None) -> str | None:
    """What the graph wants to be fed, judged by what its own first steps make of it.

    Steps that bring 0..255 into -3..3 want raw pixels, those that bring 0..1 there and spread it want the
    unit range. Anything else is not decided here.
    """
    if affine is None:
        return None
    a, b = affine

    def lands(top: float) -> bool:
        ends = (b, a * top + b)
        return min(ends) >= -3 and max(ends) <= 3 and max(ends) - min(ends) >= 0.5

    if lands(255.0):
        return "raw"
    return "unit" if lands(1.0) else None


def count_parameters(graph: Any) -> int:
    """Values of the constants that weighted operators use; of BatchNorm the scale and bias, as torch counts."""
    known = constants(graph)
    used: set[str] = set()
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            names = node.input[1:3] if node.op_type == "BatchNormalization" else node.input
            used.update(n for n in names if n in known)
    return sum(math.prod(known[n].dims) for n in used)


def count_macs(model: Any, size: tuple[int, int]) -> int:
    """Multiply-accumulates of Conv, Gemm and MatMul for one image of ``size``, by ONNX shape inference.

    Raises InputError where a shape stays unknown: an honest gap instead of a number that is too small.
    """
    import onnx

    dims = _network_input(model.graph).type.tensor_type.shape.dim
    for dim, value in zip(dims, (1, 3, *size), strict=True):
        dim.Clear()
        dim.dim_value = value
    del model.graph.value_info[:]
    for value in model.graph.output:  # declared shapes may carry the symbolic batch: infer them anew
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise InputError(f"the shapes inside the ONNX graph cannot be inferred: {error}") from error
    shapes = {v.name: _shape(v) for v in (*graph.value_info, *graph.input, *graph.output)}
    shapes.update({name: list(t.dims) for name, t in constants(graph).items()})
    return sum(_node_macs(node, shapes) for node in graph.node)


def _node_macs(node: Any, shapes: Mapping[str, list[int] | None]) -> int:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out, left, right = (shapes.get(n) for n in (node.output[0], node.input[0], node.input[1]))
    if out is None or left is None or right is None:
        raise InputError(
            f"the shape at {node.op_type} {node.name or node.output[0]} is unknown: MACs cannot be counted"
        )
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(out) * (left[0] if transposed else left[-1])


def _shape(value: Any) -> list[int] | None:
    """The dimensions of a ValueInfo, None where one is unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
    return dims if all(d >= 0 for d in dims) else None


def _network_input(graph: Any) -> Any:
    """The one input that is not an initialiser (old files list those as inputs too)."""
    named = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in named]
    if len(inputs) != 1:
        raise InputError(f"the ONNX graph has {len(inputs)} inputs, expected one batch of images")
    return inputs[0]


def image_input(graph: Any) -> tuple[str, int | None, tuple[int, int]]:
    """Name, fixed batch size (None where dynamic) and (height, width) of the image input.

    Raises InputError where it is not [N,3,H,W]; a dynamic side is taken as 112.
    """
    value = _network_input(graph)
    dims = [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[1] not in (3, None):
        shown = ["?" if d is None else d for d in dims]
        raise InputError(f"the ONNX input {value.name!r} is {shown}, expected [N,3,H,W] (channels first)")
    height, width = dims[2] or 112, dims[3] or 112
    if max(height, width) > 4096 or (dims[0] or 1) > 4096:
        raise InputError(f"the ONNX input {value.name!r} is {dims}: implausibly large for a face network")
    return value.name, dims[0], (height, width)


def external_files(model: Any) -> Iterator[str]:
    """Names of the side files in which the graph keeps weights, each once."""
    seen: set[str] = set()
    for tensor in constants(model.graph).values():
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value not in seen:
                seen.add(entry.value)
                yield entry.value
