"""ONNX files as frozen networks: graphs made by hand, hostile ones, and the real teacher where it is at hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekit.core.checkpoints import state_hash
from facekit.core.errors import CorruptFile, InputError
from facekit.core.preprocess import Preprocess
from facekit.models import onnxgraph
from facekit.models.loading import load_model

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Node = Any
RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
LINEAR = RNG.normal(size=(6, 4)).astype(np.float32)


def constant(name: str, value: Any) -> Node:
    tensor = numpy_helper.from_array(np.asarray(value, dtype=np.float32))
    return helper.make_node("Constant", [], [name], value=tensor)


def step(op: str, source: str, value: Any, to: str, reverse: bool = False) -> list[Node]:
    """A Constant and an operator that uses it."""
    inputs = [f"{to}_c", source] if reverse else [source, f"{to}_c"]
    return [constant(f"{to}_c", value), helper.make_node(op, inputs, [to])]


def body(source: str) -> list[Node]:
    """Conv (stride 2) -> mean -> Gemm: [N,6]."""
    return [
        helper.make_node("Conv", [source, "conv"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear"], ["embedding"], transB=1),
    ]


def graph(
    first: Sequence[Node] = (),
    source: str = "data",
    shape: Sequence[int | str] = ("n", 3, 112, 112),
    extra_outputs: Sequence[Any] = (),
    more: Sequence[Node] = (),
    props: dict[str, str] | None = None,
) -> Any:
    nodes = [
        *(n for n in first if n.op_type == "Constant"),
        *(n for n in first if n.op_type != "Constant"),
        *body(source),
        *more,
    ]
    outputs = [*extra_outputs, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [shape[0], 6])]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, list(shape))],
        outputs,
        [numpy_helper.from_array(CONV, "conv"), numpy_helper.from_array(LINEAR, "linear")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, props or {})
    return model


def save(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def reference(images: torch.Tensor, a: float, b: float) -> torch.Tensor:
    x = images.double() * a + b
    maps = torch.nn.functional.conv2d(x, torch.from_numpy(CONV).double(), stride=2, padding=1)
    return maps.mean((2, 3)) @ torch.from_numpy(LINEAR).double().T


def some_images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


MXNET = [*step("Sub", "data", 127.5, "centred"), *step("Mul", "centred", 0.0078125, "scaled")]


# --- what the graph says about its input ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "source", "affine", "scaling"),
    [
        (MXNET, "scaled", (1 / 128, -127.5 / 128), "raw"),
        ([*step("Div", "data", 127.5, "a"), *step("Add", "a", -1.0, "b")], "b", (1 / 127.5, -1.0), "raw"),
        ([*step("Mul", "data", [[[[2.0]]]], "a"), *step("Sub", "a", 1.0, "b")], "b", (2.0, -1.0), "unit"),
        ([*step("Sub", "data", 64.0, "a", reverse=True), *step("Mul", "a", 1 / 64, "b")], "b", (-1 / 64, 1.0), "raw"),
        ([helper.make_node("Identity", ["data"], ["i"]), *step("Mul", "i", 1 / 255, "b")], "b", (1 / 255, 0.0), "raw"),
        (step("Mul", "data", 3.5, "b"), "b", (3.5, 0.0), None),
        (step("Sub", "data", np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1), "b"), "b", None, None),
        (step("Div", "data", 0.0, "b"), "b", None, None),
        ([], "data", None, None),
    ],
)  # fmt: skip
def test_the_input_is_followed_through_the_graph(
    first: list[Node], source: str, affine: tuple[float, float] | None, scaling: str | None
) -> None:
    found = onnxgraph.input_affine(graph(first, source).graph, "data")
    assert found == (None if affine is None else pytest.approx(affine))
    assert onnxgraph.scaling_of(found) == scaling


def test_an_input_used_twice_is_not_followed() -> None:
    model = graph(MXNET, "scaled", more=[helper.make_node("Relu", ["data"], ["unused"])])
    assert onnxgraph.input_affine(model.graph, "data") is None


def test_a_cyclic_graph_ends() -> None:
    nodes = [helper.make_node("Identity", ["data"], ["a"]), helper.make_node("Identity", ["a"], ["data"])]
    assert onnxgraph.input_affine(helper.make_graph(nodes, "g", [], []), "data") is None


def test_a_graph_that_scales_raw_pixels_needs_no_flags(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m.onnx", graph(MXNET, "scaled")))
    table = model.preprocess
    assert (table.channels, table.scale, table.shift, table.embedding) == ("rgb", 1.0, 0.0, 6)
    images = some_images()
    wanted = reference(images, 1 / 128, -127.5 / 128)
    torch.testing.assert_close(model.embed(images).double(), wanted, rtol=1e-4, atol=1e-4)
    assert model.module is None and model.state_hash() == model.sha256 and model.cache_key().endswith("-fp32")


def test_other_graphs_need_both_flags_and_the_error_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", graph())
    with pytest.raises(InputError, match=r"m.onnx does not say what input it expects: add --channels and --scaling"):
        load_model(path)
    with pytest.raises(InputError, match=r"add --scaling as"):
        load_model(path, channels="bgr")
    model = load_model(path, channels="bgr", scaling="symmetric")
    images = some_images()
    wanted = reference(images.flip(1), 1 / 127.5, -1.0)
    torch.testing.assert_close(model.embed(images).double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_unit_range_still_needs_the_colour_order(tmp_path: Path) -> None:
    first = [*step("Mul", "data", 2.0, "a"), *step("Sub", "a", 1.0, "b")]
    path = save(tmp_path / "m.onnx", graph(first, "b"))
    with pytest.raises(InputError, match="add --channels as"):
        load_model(path)
    assert load_model(path, channels="rgb").preprocess.scale == pytest.approx(1 / 255)


def test_our_metadata_is_believed_and_flags_beat_it(tmp_path: Path) -> None:
    table = Preprocess(channels="bgr", scale=0.5, shift=3.0, flip="none", embedding=6)
    props = {"preprocess": json.dumps(table.to_dict()), "licence": "ours", "architecture": json.dumps({"name": "net"})}
    path = save(tmp_path / "m.onnx", graph(props=props))
    model = load_model(path)
    assert model.preprocess == table and model.licence == "ours" and model.name == "net"
    given = load_model(path, scaling="raw").preprocess
    assert (given.channels, given.scale, given.shift, given.flip) == ("bgr", 1.0, 0.0, "none")


@pytest.mark.parametrize(
    "table",
    [
        {"channels": "rgb", "scale": "big", "shift": 0},
        {"channels": "cmyk", "scale": 1, "shift": 0},
        {"channels": "rgb", "scale": 1e999, "shift": 0},
        {"channels": "rgb", "scale": 1, "shift": 0, "size": [96, 112]},
        {"channels": "rgb", "scale": 1, "shift": 0, "size": 5},
    ],
)
def test_broken_metadata_is_refused(tmp_path: Path, table: dict[str, Any]) -> None:
    path = save(tmp_path / "m.onnx", graph(props={"preprocess": json.dumps(table)}))
    with pytest.raises(InputError, match="preprocessing table"):
        load_model(path)


# --- shapes, outputs, counts -----------------------------------------------------------------------------


def test_costs_by_hand(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m.onnx", graph(MXNET, "scaled")))
    assert model.macs() == 56 * 56 * 4 * 27 + 4 * 6
    assert model.parameters == 4 * 27 + 4 * 6
    assert model.size_bytes == (tmp_path / "m.onnx").stat().st_size
    assert model.latency_ms(3) > 0


def test_matmul_and_batchnorm_are_counted_as_torch_counts() -> None:
    ones = numpy_helper.from_array(np.ones(6, np.float32), "ones")
    square = numpy_helper.from_array(np.ones((6, 5), np.float32), "square")
    more = [
        helper.make_node("BatchNormalization", ["embedding", "ones", "ones", "ones", "ones"], ["normed"]),
        helper.make_node("MatMul", ["normed", "square"], ["last"]),
    ]
    model = graph(more=more)
    model.graph.initializer.extend([ones, square])
    assert onnxgraph.count_parameters(model.graph) == 4 * 27 + 4 * 6 + 6 + 30  # one tensor used four times is one
    assert onnxgraph.count_macs(model, (112, 112)) == 56 * 56 * 4 * 27 + 4 * 6 + 6 * 5


def test_a_fixed_batch_is_fed_in_pieces(tmp_path: Path) -> None:
    images = some_images(5)
    free = load_model(save(tmp_path / "free.onnx", graph(MXNET, "scaled")))
    for batch in (1, 2):
        fixed = load_model(save(tmp_path / f"{batch}.onnx", graph(MXNET, "scaled", shape=(batch, 3, 112, 112))))
        torch.testing.assert_close(fixed.embed(images), free.embed(images))
        assert fixed.embed(images[:0]).shape == (0, 6)


def test_the_norm_that_adaface_returns_is_not_taken_for_the_embedding(tmp_path: Path) -> None:
    norm = helper.make_tensor_value_info("norm", TensorProto.FLOAT, ["n", 1])
    more = [helper.make_node("ReduceL2", ["embedding"], ["norm"], axes=[1])]
    model = load_model(save(tmp_path / "m.onnx", graph(MXNET, "scaled", extra_outputs=[norm], more=more)))
    assert model.embed(some_images()).shape == (3, 6)


def test_a_normalised_output_is_recorded(tmp_path: Path) -> None:
    unit = graph(MXNET, "scaled")
    unit.graph.node.append(helper.make_node("LpNormalization", ["embedding"], ["unit"], axis=1))
    unit.graph.output[0].name = "unit"
    assert load_model(save(tmp_path / "unit.onnx", unit)).preprocess.normalised_output
    assert not load_model(save(tmp_path / "plain.onnx", graph(MXNET, "scaled"))).preprocess.normalised_output


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (("n", 112, 112, 3), "channels first"),
        (("n", 3, 112), r"expected \[N,3,H,W\]"),
        (("n", 3, 100_000, 100_000), "implausibly large"),
        ((10_000_000, 3, 112, 112), "implausibly large"),
    ],
)
def test_inputs_that_are_no_faces_are_refused(tmp_path: Path, shape: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_model(save(tmp_path / "m.onnx", graph(shape=shape)), channels="rgb", scaling="raw")


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    model = graph()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    with pytest.raises(InputError, match="has 2 inputs"):
        load_model(save(tmp_path / "m.onnx", model))


# --- hostile and broken files ------------------------------------------------------------------------------


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    whole = graph().SerializeToString()
    for name, content in (("cut", whole[: len(whole) // 2]), ("noise", b"not a graph" * 50), ("empty", b"")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises((CorruptFile, InputError), match=f"{name}.onnx"):
            load_model(tmp_path / f"{name}.onnx")


def external(model: Any, location: str) -> Any:
    for tensor in model.graph.initializer:
        if tensor.name == "linear":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location)
    return model


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "deep/w.bin", ".."])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(LINEAR.tobytes())
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError, match="outside its own folder: refused"):
        load_model(save(tmp_path / "inner" / "m.onnx", external(graph(MXNET, "scaled"), location)))


def test_side_files_are_needed_hashed_and_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", external(graph(MXNET, "scaled"), "m.onnx.data"))
    with pytest.raises(InputError, match=r"m.onnx.data, which is not beside it: move both files together"):
        load_model(path)
    (tmp_path / "m.onnx.data").write_bytes(LINEAR.tobytes())
    first = load_model(path)
    assert first.size_bytes == path.stat().st_size + LINEAR.nbytes
    (tmp_path / "m.onnx.data").write_bytes((2 * LINEAR).tobytes())
    assert load_model(path).sha256 != first.sha256


def test_an_operator_nobody_has_is_explained(tmp_path: Path) -> None:
    model = graph([helper.make_node("Nonsense", ["data"], ["x"])], "x")
    with pytest.raises(InputError, match="m.onnx cannot be run by onnxruntime"):
        load_model(save(tmp_path / "m.onnx", model), channels="rgb", scaling="raw")


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = graph([*step("Mul", "data", float("inf"), "x")], "x")
    with pytest.raises(InputError, match="does not return finite"):
        load_model(save(tmp_path / "m.onnx", model), channels="rgb", scaling="raw")


# --- the real one ----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (Path(__file__).parents[2] / "../shared/data/teacher/mobilefacenet_y1.onnx").is_file(),
    reason="needs ../shared/data/teacher/mobilefacenet_y1.onnx",
)
def test_insightfaces_mobilefacenet_y1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(root / "../shared/data/teacher/mobilefacenet_y1.onnx")
    assert "non-commercial research only" in capsys.readouterr().err
    table = model.preprocess
    assert (table.channels, table.scale, table.shift, table.embedding) == ("rgb", 1.0, 0.0, 128)
    assert model.licence == "non-commercial research only (InsightFace MobileFaceNet y1; recognised by SHA-256)"
    assert model.macs() == 220_965_376  # what mbf_s1 with 128 outputs has
    assert model.parameters == 993_600
    assert state_hash({"e": model.embed(some_images())}) == state_hash({"e": model.embed(some_images())})
