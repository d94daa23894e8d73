"""Import of other people's classifiers, against functions written from the published names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from facekit.core.errors import InputError
from facekit.models import CLASSIFIERS, build_classifier
from facekit.models.layouts import import_checkpoint
from tests.models.published import (
    mobilenet,
    mobilenet_state,
    resnet,
    resnet_state,
    wrn,
    wrn_state,
)

Computes = Callable[[dict[str, Tensor], Tensor], tuple[list[Tensor], Tensor]]
SMALL = (16, 32, 64)
FILES: dict[str, tuple[Callable[[], dict[str, Tensor]], Computes, str]] = {
    "resnet14": (lambda: resnet_state((2, 2, 2), SMALL, 16, 3, 10, 1), resnet, "resnet14"),
    "resnet8x4": (lambda: resnet_state((1, 1, 1), (64, 128, 256), 32, 3, 10, 1), resnet, "resnet8x4"),
    "wrn_16_1": (lambda: wrn_state(2, 1, 10), wrn, "wrn16_1"),
    "wrn_16_2": (lambda: wrn_state(2, 2, 10), wrn, "wrn16_2"),
    "mobile_half": (lambda: mobilenet_state(10), mobilenet, "mobilenetv2_half"),
    "bottlenecks": (lambda: resnet_state((1, 2, 1, 1), (4, 8, 8, 8), 8, 7, 10, 4), resnet, "resnet"),
    "basic blocks": (lambda: resnet_state((2, 1, 1, 1), (8, 8, 16, 16), 8, 7, 10, 1), resnet, "resnet"),
}


@pytest.mark.parametrize("file", list(FILES))
def test_a_published_file_computes_the_same_maps_and_scores(file: str) -> None:
    make, compute, name = FILES[file]
    state = make()
    found = import_checkpoint(state)
    assert found.architecture["name"] == name and found.architecture["classes"] == list("0123456789")
    assert list(found.module.state_dict()) == list(state), "the keys in the order of the published network"
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = found.module.double().eval()(image)
        maps, scores = compute(state, image)
    torch.testing.assert_close(outputs.logits, scores, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(outputs.features, maps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


QUICK = {"resnet8", "resnet20", "resnet8x4", "wrn16_1", "wrn16_2", "mobilenetv2_half", "conv3"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLASSIFIERS])
def test_every_row_is_recognised_by_its_tensors(name: str) -> None:
    net = build_classifier(name, 12)
    found = import_checkpoint(net.state_dict())
    classes = [str(i) for i in range(12)]
    assert found.architecture == {"name": name, "embedding": net.embedding, "dropout": 0.0, "classes": classes}
    wanted = net.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in found.module.state_dict().items())
    assert found.origin.licence == "unknown"


@pytest.mark.parametrize(
    ("name", "blocks", "wide"),
    [("resnet18", (2, 2, 2, 2), 1), ("resnet34", (3, 4, 6, 3), 1), ("resnet50", (3, 4, 6, 3), 4)],
)
def test_torchvisions_names_and_shapes(name: str, blocks: tuple[int, ...], wide: int) -> None:
    narrow = resnet_state(blocks, (4, 8, 16, 32), 4, 7, 1000, wide)  # a sixteenth of the width, the same names
    with torch.device("meta"):
        state = build_classifier(name, 1000).state_dict()
    assert list(state) == list(narrow)
    for key, tensor in state.items():
        factors = {a // b for a, b in zip(tensor.shape, narrow[key].shape, strict=True)}
        assert factors <= {1, 16}, key


# --- what the file says of its input -----------------------------------------------------------------------


def test_what_the_wrapper_says_about_the_input() -> None:
    hundred = resnet_state((1, 1, 1), SMALL, 16, 3, 100, 1)
    ten = resnet_state((1, 1, 1), SMALL, 16, 3, 10, 1)
    vision = resnet_state((1, 1, 1, 1), (4, 4, 4, 4), 4, 7, 10, 1)
    lightning = {"state_dict": {f"model.{k}": v for k, v in vision.items()}, "pytorch-lightning_version": "2"}
    files: list[Any] = [
        {"epoch": 240, "model": hundred, "accuracy": torch.tensor(72.0), "optimizer": {"state": {}}},
        {"epoch": 240, "model": ten},
        hundred,
        vision,
        {"state_dict": {f"module.{k}": v for k, v in vision.items()}},
        lightning,
    ]
    origins = [import_checkpoint(file).origin for file in files]
    assert [(o.channels, o.scaling) for o in origins] == [
        ("rgb", "cifar100"),
        (None, None),
        (None, None),
        ("rgb", "imagenet"),
        ("rgb", "imagenet"),
        ("rgb", "imagenet"),
    ]
    assert {o.licence for o in origins} == {"unknown"}


def test_other_depths_and_widths_are_described() -> None:
    found = import_checkpoint(resnet_state((1, 2, 2), (8, 8, 24), 4, 3, 5, 1)).architecture
    assert found["name"] == "resnet" and found["embedding"] == 24
    assert found["shape"] == {"blocks": (1, 2, 2), "widths": (8, 8, 24), "stem": 4, "kernel": 3, "bottleneck": False}


# --- near misses --------------------------------------------------------------------------------------------


def without(state: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith(starts)}


def small() -> dict[str, Tensor]:
    return resnet_state((2, 2, 2), SMALL, 16, 3, 10, 1)


def changed(**tensors: Tensor) -> dict[str, Tensor]:
    return small() | {k.replace("__", "."): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda: without(small(), "layer2.0.downsample"), r"layer2.0.downsample.0.weight \[32, 16, 1, 1\] is missing"),
        (lambda: without(small(), "fc"), "not complete: fc.weight is missing"),
        (lambda: without(small(), "layer2"), r"not complete: layer2.0.conv1.weight is missing"),
        (lambda: without(small(), "layer3"), r"filters of side 3 and has 2 stages; known are"),
        (lambda: resnet_state((1,) * 4, (8,) * 4, 8, 3, 10, 1), r"filters of side 3 and has 4 stages"),
        (lambda: resnet_state((1,) * 4, (8,) * 4, 8, 5, 10, 1), r"filters of side 5 and has 4 stages"),
        (lambda: {k.replace("layer1.1", "layer1.99999999"): v for k, v in small().items()}, "layer1.1.conv1.weight"),
        (lambda: changed(layer1__0__se__weight=torch.ones(3)), r"the file has layer1.0.se.weight \[3\]"),
        (lambda: changed(layer2__1__bn2__bias=torch.ones(3)), r"layer2.1.bn2.bias is \[3\] in the file, .* \[32\]"),
        (lambda: changed(layer3__0__conv2__weight=torch.ones(64, 2, 3, 3)), r"the network needs \[64, 64, 3, 3\]"),
        (lambda: changed(fc__weight=torch.full((10, 64), torch.nan)), "fc.weight holds values that are not finite"),
        (lambda: changed(linear__weight=torch.ones(10, 64)), "the class layer called linear"),
        (lambda: without(wrn_state(2, 2, 10), "block2.layer.0.convShortcut"), r"convShortcut.weight .* is missing"),
        (lambda: without(wrn_state(2, 2, 10), "block3.layer.1"), r"block3.layer.1.bn1.weight \[128\] is missing"),
        (lambda: without(mobilenet_state(10), "blocks.6"), r"blocks.6.0.conv.0.weight \[480, 80, 1, 1\] is missing"),
    ],
)
def test_near_misses(state: Callable[[], dict[str, Tensor]], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        import_checkpoint(state())


@pytest.mark.parametrize("key", ["fc.weight", "conv1.weight", "layer1.0.conv1.weight", "layer2.1.conv2.weight"])
def test_a_tensor_that_claims_more_than_it_holds_is_refused_without_allocating(key: str) -> None:
    state = small()
    # One value seen through zero strides: terabytes if anybody believed it.
    shape = (2**40, *state[key].shape[1:])
    state[key] = torch.zeros(1).as_strided(shape, (0,) * len(shape))
    with pytest.raises(InputError, match=key):
        import_checkpoint(state)
