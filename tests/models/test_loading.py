"""``load_model`` on run folders and weight files, and what a Model promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facekit.core.checkpoints import CheckpointStore, write_tensors
from facekit.core.device import Device
from facekit.core.errors import CorruptFile, InputError, MissingFile, UsageError
from facekit.core.files import write_json
from facekit.core.preprocess import Preprocess
from facekit.models import build_backbone
from facekit.models.loading import TorchNetwork, as_embedder, load_model, load_weights

PREPROCESS = Preprocess(scale=1 / 255, shift=0.0, channels="bgr", flip="none", embedding=16)


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("mbf_nano", 16).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def save_run(folder: Path, net: nn.Module, **changes: Any) -> Path:
    meta = {
        "architecture": {"name": "mbf_nano", "embedding": 16, "dropout": 0.2},
        "preprocess": PREPROCESS.to_dict(),
        "licence": "ours",
        "step": 1,
    }
    CheckpointStore(folder).save("last", net.state_dict(), {**meta, **changes})
    write_json(folder / "run.json", {"status": "done"})
    return folder


def exact(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        embedding: Tensor = net(x).embedding
    return embedding


def test_a_run_folder_its_checkpoint_and_its_weights_are_the_same_model(
    net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    run = save_run(tmp_path / "run", net)
    last = run / "checkpoints" / "last"
    models = [load_model(p) for p in (run, last, last / "weights.safetensors", str(run))]
    assert len({m.sha256 for m in models}) == 1
    model = models[0]
    assert model.preprocess == PREPROCESS and model.licence == "ours" and model.name == "mbf_nano"
    assert model.parameters == sum(p.numel() for p in net.parameters())
    assert model.size_bytes == sum(t.nbytes for t in net.state_dict().values())
    wanted = exact(net, images.flip(1).float() / 255)  # the table says BGR in 0..1
    for m in models:
        torch.testing.assert_close(m.embed(images), wanted, rtol=1e-4, atol=1e-4)


def test_embeddings_are_plain_float32_on_the_cpu_and_not_normalised(
    net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    model = load_model(save_run(tmp_path / "run", net))
    embedding = model.embed(images)
    assert embedding.dtype == torch.float32 and embedding.shape == (3, 16) and embedding.device.type == "cpu"
    assert not embedding.requires_grad and not embedding.is_inference()
    assert not torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=0.05)
    assert torch.equal(model.embed(images.contiguous(memory_format=torch.channels_last)), embedding)
    torch.testing.assert_close(model.embed(images[1:2]), embedding[1:2], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="images are 96x112, the model expects 112x112"):
        model.embed(images[:, :, :96])


def test_the_model_is_frozen_and_its_hash_notices_changes(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    model = load_model(save_run(tmp_path / "run", net))
    assert model.module is not None and not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    before = model.state_hash()
    model.embed(images)
    assert model.state_hash() == before
    assert isinstance(model.network, TorchNetwork)
    with torch.no_grad():
        next(model.network.net.parameters()).add_(1e-3)
    assert model.state_hash() != before


def test_costs(net: nn.Module, tmp_path: Path) -> None:
    model = load_model(save_run(tmp_path / "run", net))
    assert 14e6 < model.macs() < 15e6
    assert 0 < model.latency_ms(3) < 10_000


def test_reduced_precision_is_used_where_the_device_says_so(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", net)
    full = load_model(run, device=Device(torch.device("cpu"), "fp32"))
    half = load_model(run, device=Device(torch.device("cpu"), "bf16"))
    assert not torch.equal(full.embed(images), half.embed(images))
    assert torch.cosine_similarity(full.embed(images), half.embed(images)).min() > 0.99
    assert full.cache_key() != half.cache_key()


def test_cache_keys_tell_models_apart(net: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = load_model(save_run(tmp_path / "b", build_backbone("mbf_nano", 16)))
    flipped = load_model(save_run(tmp_path / "c", net, preprocess=Preprocess(embedding=16).to_dict()))
    keys = {load_model(save_run(tmp_path / "a", net)).cache_key(), other.cache_key(), flipped.cache_key()}
    assert len(keys) == 3 and all(set(k) <= set("0123456789abcdef-fp") for k in keys)


def test_as_embedder_follows_training_without_disturbing_it(net: nn.Module, images: Tensor) -> None:
    torch.manual_seed(0)
    trained = build_backbone("mbf_nano", 16).train()
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    table = Preprocess(embedding=16)
    embed = as_embedder(trained, table, Device(torch.device("cpu"), "bf16"))
    got = embed(images)
    assert trained.training and all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    torch.testing.assert_close(got, exact(trained.eval(), table(images)), rtol=1e-4, atol=1e-4)


# --- weight files ----------------------------------------------------------------------------------------


def test_pth_and_safetensors_of_a_known_layout(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    write_tensors(tmp_path / "b.safetensors", state)
    first, second = load_model(tmp_path / "a.pth"), load_model(tmp_path / "b.safetensors")
    assert first.sha256 == second.sha256 and first.licence == "unknown"
    assert first.preprocess == Preprocess(embedding=16)
    torch.testing.assert_close(first.embed(images), exact(net, images.float() / 127.5 - 1), rtol=1e-4, atol=1e-4)


def test_what_is_given_overrules_what_the_layout_implies(net: nn.Module, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "a.pth")
    table = load_model(tmp_path / "a.pth", channels="bgr", scaling="128").preprocess
    assert (table.channels, table.scale, table.shift) == ("bgr", 1 / 128, -127.5 / 128)
    with pytest.raises(UsageError, match="unknown scaling 'symetric'. Did you mean 'symmetric'"):
        load_model(tmp_path / "a.pth", scaling="symetric")


def test_an_input_that_is_not_known_must_be_given(net: nn.Module, tmp_path: Path) -> None:
    torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, tmp_path / "cvl.pt")
    with pytest.raises(InputError, match=r"cvl.pt does not say what input it expects: add --channels as"):
        load_model(tmp_path / "cvl.pt")
    assert load_model(tmp_path / "cvl.pt", channels="bgr").preprocess.channels == "bgr"


def test_terms_of_known_weights_are_recorded_and_printed(
    net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}, "pytorch-lightning_version": "1"}
    torch.save(state, tmp_path / "ada.ckpt")
    model = load_model(tmp_path / "ada.ckpt")
    printed = capsys.readouterr()
    assert model.licence.startswith("non-commercial research only (AdaFace") and model.preprocess.channels == "bgr"
    assert "ada.ckpt: non-commercial research only" in printed.err and printed.out == ""
    torch.save(net.state_dict(), tmp_path / "w600k_mbf.pth")
    assert load_model(tmp_path / "w600k_mbf.pth").licence.endswith("recognised by file name)")


# --- refusals ----------------------------------------------------------------------------------------------


def test_missing_and_broken_files(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"nothing.pth does not exist; give a run folder"):
        load_model(tmp_path / "nothing.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x80\x04 this is no checkpoint")
    with pytest.raises((CorruptFile, InputError), match="noise.pth"):
        load_model(tmp_path / "noise.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFile, match="empty"):
        load_model(tmp_path / "empty")


def test_errors_name_the_file(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: this layout of weights is not known"):
        load_model(tmp_path / "other.pth")


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"name": "mbf_nano"}},
        {"architecture": "mbf_nano"},
        {"architecture": {"name": "mbf_nano", "embedding": "wide", "dropout": 0}},
        {"preprocess": None},
        {"preprocess": {"size": 112}},
    ],
)
def test_a_run_that_does_not_describe_its_network(net: nn.Module, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="does not describe a network"):
        load_model(save_run(tmp_path / "run", net, **changes))


def test_a_run_whose_weights_are_of_another_network(net: nn.Module, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", net, architecture={"name": "mbf_nano", "embedding": 32, "dropout": 0.0})
    with pytest.raises(
        InputError, match=r"features.layers.2.weight is \[16, 512\] in the file, the network needs \[32, 512\]"
    ):
        load_model(run)


# --- --init ------------------------------------------------------------------------------------------------


def test_load_weights_takes_a_run_or_a_file_of_the_same_architecture(net: nn.Module, tmp_path: Path) -> None:
    torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, tmp_path / "cvl.pt")  # needs no input table here
    for path in (save_run(tmp_path / "run", net), tmp_path / "cvl.pt"):
        torch.manual_seed(5)
        student = build_backbone("mbf_nano", 16)
        load_weights(student, path)
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in student.state_dict().items())
        assert all(p.requires_grad for p in student.parameters())


def test_load_weights_refuses_another_architecture(net: nn.Module, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", net)
    with pytest.raises(InputError, match=r"run \(mbf_nano\): the weights do not fit: layers.0.layers.0.weight"):
        load_weights(build_backbone("mbf_half", 16), run)
    with pytest.raises(InputError, match="frozen graph and cannot be trained"):
        load_weights(build_backbone("mbf_half", 16), tmp_path / "x.onnx")
