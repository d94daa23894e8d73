"""Classifiers as models: stored, loaded, imported, used; and what an embedder says when it is asked for classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facekit.core.checkpoints import CheckpointStore, write_tensors
from facekit.core.device import Device
from facekit.core.errors import InputError, UsageError
from facekit.core.files import write_json
from facekit.core.preprocess import Preprocess
from facekit.models import Classifier, build_backbone, build_classifier
from facekit.models.adopt import adopt
from facekit.models.loading import as_classifier, frozen_model, load_model, load_weights
from facekit.models.records import class_names, classifier_input, classifier_record, network_of
from tests.models.published import mobilenet_state, resnet, resnet_state, wrn_state

NAMES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def net() -> Classifier:
    torch.manual_seed(0)
    return build_classifier("resnet8", 3).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def save_run(folder: Path, net: Classifier, **changes: Any) -> Path:
    meta = {
        "architecture": {**classifier_record("resnet8", net, NAMES), **changes},
        "preprocess": classifier_input(net.embedding, (16, 16)).to_dict(),
        "step": 1,
    }
    CheckpointStore(folder).save("last", net.state_dict(), meta)
    write_json(folder / "run.json", {"status": "done"})
    return folder


def exact(net: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return net(x)


def test_a_stored_classifier_gives_scores_maps_and_its_classes(net: Classifier, images: Tensor, tmp_path: Path) -> None:
    model = load_model(save_run(tmp_path / "run", net))
    assert model.classes == NAMES and model.name == "resnet8"
    table = model.preprocess
    assert (table.crop, table.flip, table.size, table.embedding) == ("none", "none", (16, 16), 64)
    wanted = exact(net, images.float() / 127.5 - 1)
    got = model.outputs_on_device(images)
    torch.testing.assert_close(got.embedding, wanted.embedding, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(got.features, wanted.features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.logits(images), got.logits) and torch.equal(model.embed(images), got.embedding)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outputs_are_plain_float32_that_autograd_takes(net: Classifier, images: Tensor, precision: str) -> None:
    record = classifier_record("resnet8", net, NAMES)
    model = frozen_model(net, record, classifier_input(64, (16, 16)), Device(torch.device("cpu"), precision))
    embedding, maps, logits = model.outputs_on_device(images)
    assert logits is not None and len(maps) == 3
    for tensor in (embedding, logits, *maps):
        assert tensor.dtype == torch.float32 and not tensor.requires_grad and not tensor.is_inference()
        (gradient,) = torch.autograd.grad((tensor * (w := torch.ones(1, requires_grad=True))).sum(), w)
        assert bool(torch.isfinite(gradient).all())


def test_an_embedder_has_no_classes(images: Tensor) -> None:
    record = {"name": "mbf_nano", "embedding": 8, "dropout": 0.0}
    device = Device(torch.device("cpu"), "fp32")
    model = frozen_model(build_backbone("mbf_nano", 8), record, Preprocess(embedding=8), device)
    face = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    assert model.classes == ()
    outputs = model.outputs_on_device(face)
    assert outputs.logits is None and [f.shape[-1] for f in outputs.features] == [28, 14, 7, 7]
    with pytest.raises(InputError, match="mbf_nano embeds faces and has no classes; give a closed-set network"):
        model.logits(face)
    with pytest.raises(InputError, match="has no classes"):
        as_classifier(build_backbone("mbf_nano", 8), Preprocess(embedding=8), device)(face)


def test_scores_of_a_network_in_training(images: Tensor) -> None:
    torch.manual_seed(0)
    trained = build_classifier("wrn16_1", 3, dropout=0.3).train()
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    scores = as_classifier(trained, classifier_input(64, (16, 16)), Device(torch.device("cpu"), "bf16"))(images)
    assert trained.training and all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    torch.testing.assert_close(scores, exact(trained.eval(), images / 127.5 - 1).logits, rtol=1e-4, atol=1e-4)


# --- records ----------------------------------------------------------------------------------------------


def test_a_record_describes_the_network_it_was_made_of(net: Classifier) -> None:
    record = classifier_record("resnet8", net, NAMES)
    assert record == {"name": "resnet8", "embedding": 64, "dropout": 0.0, "classes": ["ant", "bee", "cat"]}
    laid_out = network_of(record)
    assert {p.device.type for p in laid_out.parameters()} == {"meta"}
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in adopt(laid_out, net.state_dict()).state_dict().items())
    with pytest.raises(ValueError, match="2 class names for a network of 3 classes"):
        classifier_record("resnet8", net, ("ant", "bee"))
    backbone = network_of({"name": "mbf_nano", "embedding": 8, "dropout": 0.0})
    assert sum(p.numel() for p in backbone.parameters()) == sum(
        p.numel() for p in build_backbone("mbf_nano", 8).parameters()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": "abc"},
        {"classes": ["ant", "ant", "cat"]},
        {"classes": ["ant", "", "cat"]},
        {"classes": ["ant", 5, "cat"]},
        {"classes": {"0": "ant"}},
        {"embedding": 128},
        {"embedding": None},
    ],
)
def test_records_that_describe_no_network(net: Classifier, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="run: its architecture does not describe a network"):
        load_model(save_run(tmp_path / "run", net, **changes))


def test_a_record_with_more_classes_than_weights(net: Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fc.weight is \[3, 64\] in the file, the network needs \[4, 64\]"):
        load_model(save_run(tmp_path / "run", net, classes=[*NAMES, "dog"]))


def test_a_name_of_neither_table(net: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown classifier 'resnet9'"):
        load_model(save_run(tmp_path / "run", net, name="resnet9"))
    with pytest.raises(UsageError, match="unknown backbone 'resnet8'"):
        load_model(save_run(tmp_path / "bare", net, classes=[]))
    assert class_names({}) == ()


# --- files of others ----------------------------------------------------------------------------------------


def test_repdistillers_file_needs_no_flags(tmp_path: Path) -> None:
    state = resnet_state((1, 1, 1), (16, 32, 64), 16, 3, 100, 1)
    torch.save({"epoch": 240, "model": state, "accuracy": torch.tensor(70.0)}, tmp_path / "ckpt_epoch_240.pth")
    model = load_model(tmp_path / "ckpt_epoch_240.pth")
    assert model.name == "resnet8" and len(model.classes) == 100 and model.classes[-1] == "99"
    assert model.preprocess.size == (32, 32) and model.preprocess.crop == "none" and model.preprocess.flip == "none"
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    x = (images.double() / 255 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(model.logits(images).double(), resnet(state, x)[1], rtol=1e-4, atol=1e-4)


def test_torchvisions_file_needs_no_flags(tmp_path: Path) -> None:
    state = resnet_state((1, 1, 1, 1), (4, 8, 8, 16), 8, 7, 6, 4)
    torch.save(state, tmp_path / "resnet.pth")
    model = load_model(tmp_path / "resnet.pth")
    assert model.preprocess.size == (224, 224) and model.classes == tuple("012345")
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images.double() / 255 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(model.logits(images).double(), resnet(state, x)[1], rtol=1e-4, atol=1e-4)


def test_files_that_do_not_say_what_they_are_fed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "wide.safetensors", wrn_state(2, 1, 10))
    with pytest.raises(InputError, match=r"does not say what input it expects: add --channels and --scaling"):
        load_model(tmp_path / "wide.safetensors")
    model = load_model(tmp_path / "wide.safetensors", channels="rgb", scaling="cifar100")
    assert model.name == "wrn16_1" and model.preprocess.scale == pytest.approx(
        (1 / (255 * 0.2675), 1 / (255 * 0.2565), 1 / (255 * 0.2761))
    )


# --- --init --------------------------------------------------------------------------------------------------


def test_load_weights_takes_a_run_or_a_published_file(net: Classifier, tmp_path: Path) -> None:
    published = mobilenet_state(3)
    torch.save({"model": published}, tmp_path / "mobile_half.pth")
    for path, name, wanted in (
        (save_run(tmp_path / "run", net), "resnet8", net.state_dict()),
        (tmp_path / "mobile_half.pth", "mobilenetv2_half", published),
    ):
        student = build_classifier(name, 3)
        load_weights(student, path)
        assert all(torch.equal(v, wanted[k]) for k, v in student.state_dict().items())
    with pytest.raises(InputError, match=r"\(resnet8\): the weights do not fit: fc.weight is \[3, 64\] in the file"):
        load_weights(build_classifier("resnet8", 10), tmp_path / "run")
    with pytest.raises(InputError, match=r"\(resnet8\): the weights do not fit: layer1.1.conv1.weight"):
        load_weights(build_classifier("resnet14", 3), tmp_path / "run")
