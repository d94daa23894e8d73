"""``facekit export``, ``profile`` and ``embed`` of classifiers."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.configs import EmbedConfig, ExportConfig, ProfileConfig
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import InputError, UsageError
from facekit.core.files import write_json
from facekit.core.preprocess import Preprocess
from facekit.data.sources import open_source
from facekit.engines import embed, export, profile
from facekit.models import build_classifier
from facekit.models.loading import TorchNetwork, load_model
from facekit.models.records import classifier_record

NAMES = ("ant", "bee", "cat")
TABLE = Preprocess(
    size=(16, 16), scale=(0.01, 0.02, 0.03), shift=(-1.0, -2.0, -3.0), crop="none", flip="none", embedding=64
)


@pytest.fixture(scope="module", autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        (folder / NAMES[i // 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(folder / NAMES[i // 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    net = build_classifier("resnet8", 3)
    meta = {"architecture": classifier_record("resnet8", net, NAMES), "preprocess": TABLE.to_dict(), "step": 1}
    CheckpointStore(folder).save("last", net.state_dict(), meta)
    write_json(folder / "run.json", {"status": "done"})
    return folder


def needs_onnx() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the onnx extra is not installed")


def test_an_exported_classifier_gives_embeddings_scores_and_classes(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_onnx()
    import onnx

    out = tmp_path / "resnet8.onnx"
    export.run(ExportConfig(model=run, out=out, data=pictures))
    shown = capsys.readouterr()
    assert "embeddings, 6 images" in shown.out + shown.err and "class scores, 6 images" in shown.out + shown.err
    assert [o.name for o in onnx.load(out).graph.output] == ["embedding", "logits"]
    found, wanted = load_model(out), load_model(run)
    assert found.classes == NAMES and found.preprocess == TABLE and found.macs() == wanted.macs()
    images = torch.from_numpy(open_source(pictures).read(np.arange(6))).permute(0, 3, 1, 2)
    for count in (0, 1, 6):
        torch.testing.assert_close(found.embed(images[:count]), wanted.embed(images[:count]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.logits(images[:count]), wanted.logits(images[:count]), rtol=1e-4, atol=1e-4)
    outputs = found.outputs_on_device(images)
    assert outputs.features == () and outputs.logits is not None
    without_scores = onnx.load(out)
    del without_scores.graph.output[1]
    (tmp_path / "cut.onnx").write_bytes(without_scores.SerializeToString())
    with pytest.raises(InputError, match=r"cut.onnx names 3 classes, but has no output logits of that width"):
        load_model(tmp_path / "cut.onnx")


def test_the_gate_looks_at_both_outputs(run: Path, pictures: Path) -> None:
    source = open_source(pictures)
    model, other = load_model(run), load_model(run)
    assert isinstance(other.network, TorchNetwork)
    with torch.no_grad():
        other.network.net.fc.weight.mul_(1.5)  # type: ignore[union-attr]
    found = export.compare(model, other, source)
    assert list(found) == ["embeddings", "class scores"]
    assert found["embeddings"].fails(0.999999, 1e-9) is None and found["class scores"].fails(-1, 0.01) is not None


@pytest.mark.slow
def test_scores_that_differ_are_noticed_where_embeddings_agree(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_onnx()
    unharmed = export.write_onnx

    def harmed(model, path, opset):  # type: ignore[no-untyped-def]
        weight = model.module.fc.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.5)
            unharmed(model, path, opset)
            weight.copy_(kept)

    monkeypatch.setattr(export, "write_onnx", harmed)
    with pytest.raises(export.ParityFailed, match=r"the class scores of the exported file differ .* on 6 images"):
        export.run(ExportConfig(model=run, out=tmp_path / "x.onnx", data=pictures, min_cosine=-1))
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_is_for_faces(run: Path, pictures: Path, tmp_path: Path) -> None:
    config = ExportConfig(
        model=run, out=tmp_path / "x.onnx", data=pictures, with_estimator=tmp_path / "estimator.safetensors"
    )
    with pytest.raises(InputError, match="has classes; --with-estimator aligns the embeddings of faces"):
        export.run(config)


@pytest.mark.parametrize(
    ("name", "side", "classes", "parameters", "macs"),
    [
        ("resnet20", 32, 100, 278_324, 40_818_944),
        ("mobilenetv2_half", 32, 100, 812_836, 6_523_648),
        pytest.param("resnet18", 224, 1000, 11_689_512, 1_814_073_344, marks=pytest.mark.slow),
    ],
)
def test_profile_of_a_name(
    name: str, side: int, classes: int, parameters: int, macs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.run(ProfileConfig(model=name, repeats=3, json=True))
    result = json.loads(capsys.readouterr().out)
    assert (result["name"], result["parameters"], result["macs"]) == (name, parameters, macs)
    assert result["preprocess"]["size"] == [side, side] and result["classes"] == classes and result["latency_ms"] > 0


def test_profile_says_the_side_and_the_classes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.run(ProfileConfig(model=str(run), repeats=3))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["image", "16x16"] in rows and ["classes", "3"] in rows and ["embedding", "64"] in rows
    with pytest.raises(UsageError, match="--embedding is 128, and the width of resnet20 is fixed; leave it out"):
        profile.run(ProfileConfig(model="resnet20", embedding=128))


def test_embed_writes_the_pooled_features(run: Path, pictures: Path, tmp_path: Path) -> None:
    embed.run(EmbedConfig(model=run, data=pictures, out=tmp_path / "e.npz"))
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["embs"].shape == (6, 64) and "embs_f" not in stored
        assert Preprocess.from_dict(json.loads(str(stored["preprocess"]))) == TABLE
