"""``facekit export`` and what is left on disk after it succeeded or failed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.alignment.estimator import (
    Estimator,
    EstimatorStatistics,
    LearnedEstimator,
    Lesson,
    read_estimator,
    write_estimator,
)
from facekit.configs import ExportConfig
from facekit.core.errors import ArtefactMismatch, InputError, UsageError
from facekit.data.sources import open_source
from facekit.engines import export
from facekit.models import build_backbone
from facekit.models.loading import load_model

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")


@pytest.fixture(scope="module", autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for i in range(6):
        (folder / f"person{i // 2}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((112, 112)).save(folder / f"person{i // 2}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.pth"
    torch.save(build_backbone("mbf_nano", 24).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "deep" / "nano.onnx"
    export.run(ExportConfig(model=weights, out=out, data=faces, channels="bgr", scaling="128"))
    return out


def test_the_file_stands_alone_and_loads_without_flags(exported: Path, weights: Path, faces: Path) -> None:
    assert [p.name for p in exported.parent.iterdir()] == ["nano.onnx"]
    found, wanted = load_model(exported), load_model(weights, channels="bgr", scaling="128")
    assert found.preprocess == wanted.preprocess
    assert (found.name, found.licence) == ("mbf_nano", "unknown")
    images = torch.from_numpy(open_source(faces).read(np.arange(6))).permute(0, 3, 1, 2)
    for count in (1, 6):  # the batch is dynamic
        a, b = found.embed(images[:count]), wanted.embed(images[:count])
        assert torch.cosine_similarity(a, b).min() > 0.99999
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert found.macs() == wanted.macs()


def test_the_graph_is_plain(exported: Path, root: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["data"] and len(model.graph.output) == 1
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims][1:] == [3, 112, 112]
    assert {t.data_location for t in model.graph.initializer} == {onnx.TensorProto.DEFAULT}
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}, "all are merged into what comes before"
    stored = {p.key: p.value for p in model.metadata_props}
    assert json.loads(stored["preprocess"])["channels"] == "bgr" and len(stored["weights_sha256"]) == 64
    assert str(root).encode() not in exported.read_bytes(), "no path of the exporting machine is shipped"


def test_a_missed_limit_leaves_nothing_and_keeps_an_earlier_file(weights: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "nano.onnx"
    out.write_bytes(b"an earlier export")
    with pytest.raises(
        export.ParityFailed, match=r"the largest relative difference is .* the limit is 1e-30"
    ) as caught:
        export.run(ExportConfig(model=weights, out=out, data=faces, max_difference=1e-30, count=2))
    assert caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["nano.onnx"] and out.read_bytes() == b"an earlier export"


def test_what_cannot_be_exported(exported: Path, weights: Path, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an ONNX file already"):
        export.run(ExportConfig(model=exported, out=tmp_path / "again.onnx", data=faces))
    with pytest.raises(UsageError, match=r"must end in .onnx"):
        export.run(ExportConfig(model=weights, out=tmp_path / "model.pth", data=faces))
    assert list(tmp_path.iterdir()) == []


def test_the_gate_takes_images_from_all_over_the_data(faces: Path) -> None:
    source = export.spread(open_source(faces), 3)
    assert [n.split("/")[0] for n in source.names] == ["person0", "person1", "person2"]
    assert len(export.spread(open_source(faces), 100)) == 6


@pytest.fixture(scope="module")
def estimator(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An estimator of the network, with numbers of its own instead of learned ones."""
    torch.manual_seed(1)
    model = load_model(weights, channels="rgb", scaling="symmetric")
    network = Estimator(24, torch.tensor([0.25, -2.0]), torch.tensor([0.2, 0.3]))
    torch.nn.init.normal_(network.last.weight, std=0.2)
    lesson = Lesson(
        neighbours=50, statistic="mean", tau=0.05, reduce="single", dbar=0.25, vbar=0.1, model_sha=model.sha256,
        preproc_sha=model.preprocess.hash(), bank_sha="b", r2=0.5, spearman=0.7, people=100, images=400,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("estimator") / "e.safetensors"
    return write_estimator(path, LearnedEstimator(network.eval().requires_grad_(False), lesson))


@pytest.mark.slow
def test_aligned_outputs_are_the_operator(weights: Path, faces: Path, estimator: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "aligned.onnx"
    words = {"channels": "rgb", "scaling": "symmetric"}
    export.run(ExportConfig(model=weights, out=out, data=faces, with_estimator=estimator, alpha=0.8, **words))  # type: ignore[arg-type]
    model = load_model(weights, channels="rgb", scaling="symmetric")
    images = torch.from_numpy(open_source(faces).read(np.arange(6))).permute(0, 3, 1, 2)
    fused = (model.embed(images) + model.embed(images.flip(3))).double().numpy()
    f = fused / np.linalg.norm(fused, axis=1, keepdims=True)
    d = EstimatorStatistics(read_estimator(estimator))(f).d
    session = onnxruntime.InferenceSession(out)
    embedding, enrolled, probe = session.run(None, {"data": model.preprocess(images).numpy()})
    assert np.std(d) > 0.01, "the faces must differ in discrepancy, or nothing is tested"
    wanted = f @ f.T - 0.8 * ((d[:, None] + d[None]) / 2 - 0.25)
    np.testing.assert_allclose(enrolled @ probe.T, wanted, atol=1e-6)
    np.testing.assert_allclose(embedding, model.embed(images).numpy(), rtol=1e-3, atol=1e-4)
    assert load_model(out).embed(images).shape == (6, 24), "the embedding is still what the file is loaded for"


def test_an_estimator_of_another_network_is_refused(estimator: Path, faces: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = tmp_path / "other.pth"
    torch.save(build_backbone("mbf_nano", 24).state_dict(), other)
    config = ExportConfig(
        model=other, out=tmp_path / "x.onnx", data=faces, with_estimator=estimator, channels="rgb", scaling="symmetric"
    )
    with pytest.raises(ArtefactMismatch, match="the estimator was made with model"):
        export.run(config)
    assert not (tmp_path / "x.onnx").exists()
