"""Contract of every row of CLASSIFIERS, and what is special about some."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facekit.core.errors import UsageError
from facekit.core.types import Outputs
from facekit.models import BACKBONES, CLASSIFIERS, build_classifier
from facekit.models.folding import folded
from facekit.models.resnet import ResNet, Shape
from facekit.models.wrn import WIDE

# Name -> (classes, parameters with so many classes, MMAC of one image of its size). resnet18, 34 and 50 as published by
# torchvision, conv3 by arithmetic; the others agree with the counts in the CRD paper's tables where those give one, to
# its two digits.
COSTS = {
    "resnet8": (100, 83_892, 12.5),
    "resnet14": (100, 181_108, 26.7),
    "resnet20": (100, 278_324, 40.8),
    "resnet32": (100, 472_756, 69.1),
    "resnet44": (100, 667_188, 97.4),
    "resnet56": (100, 861_620, 125.8),
    "resnet110": (100, 1_736_564, 253.2),
    "resnet8x4": (100, 1_233_540, 177.1),
    "resnet32x4": (100, 7_433_860, 1083.0),
    "wrn16_1": (100, 180_916, 26.7),
    "wrn16_2": (100, 703_284, 101.1),
    "wrn40_1": (100, 569_780, 83.3),
    "wrn40_2": (100, 2_255_156, 327.6),
    "mobilenetv2_half": (100, 812_836, 6.5),
    "conv3": (10, 24_346, 2.8),
    "resnet18": (1000, 11_689_512, 1814.1),
    "resnet34": (1000, 21_797_672, 3663.8),
    "resnet50": (1000, 25_557_032, 4089.2),
}
QUICK = {"resnet8", "resnet20", "resnet8x4", "wrn16_1", "wrn16_2", "mobilenetv2_half", "conv3"}
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLASSIFIERS]
IMAGENET = {"resnet18", "resnet34", "resnet50"}


def test_the_table_is_complete_and_shares_no_name_with_the_backbones() -> None:
    assert tuple(CLASSIFIERS) == tuple(COSTS)
    assert not set(CLASSIFIERS) & set(BACKBONES)


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        net = build_classifier(name, COSTS[name][0])
    assert sum(p.numel() for p in net.parameters()) == COSTS[name][1]
    assert net.size == ((224, 224) if name in IMAGENET else (32, 32))


@pytest.mark.parametrize("name", NAMES)
def test_multiply_accumulates(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build_classifier(name, COSTS[name][0]).eval()
        net(torch.empty(1, 3, *net.size))
    assert counter.get_total_flops() / 2e6 == pytest.approx(COSTS[name][2], abs=0.06)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 9, 18])
def test_the_parameters_of_6n_plus_2_by_arithmetic(n: int) -> None:
    def stage(inputs: int, width: int) -> int:
        norm = 2 * width
        first = 9 * inputs * width + norm + 9 * width * width + norm
        shortcut = inputs * width + norm if inputs != width else 0
        return first + shortcut + (n - 1) * 2 * (9 * width * width + norm)

    stem, last = 9 * 3 * 16 + 2 * 16, 64 * 100 + 100
    assert COSTS[f"resnet{6 * n + 2}"][1] == stem + stage(16, 16) + stage(16, 32) + stage(32, 64) + last


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    torch.manual_seed(0)
    net = build_classifier(name, 7)
    side = 64 if name in IMAGENET else 24  # not the side it was made for
    outputs = net(torch.randn(3, 3, side, side))
    assert isinstance(outputs, Outputs) and outputs.logits is not None
    assert (net.classes, net.embedding) == (7, outputs.embedding.shape[1])
    assert outputs.embedding.shape[0] == 3 and outputs.logits.shape == (3, 7)
    assert outputs.embedding.dtype == outputs.logits.dtype == torch.float32
    sides = [f.shape[-1] for f in outputs.features]
    assert sides == sorted(set(sides), reverse=True), "one map for each side, shallow to deep"
    assert [f.shape[0] for f in outputs.features] == [3] * (4 if name in {*IMAGENET, "mobilenetv2_half"} else 3)
    (outputs.logits * torch.randn(3, 7)).sum().backward()
    gradients = {n: p.grad for n, p in net.named_parameters()}
    assert not [n for n, g in gradients.items() if g is None or not bool(torch.isfinite(g).all()) or not bool(g.any())]
    again = build_classifier(name, 7)
    again.load_state_dict(net.state_dict())
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        wanted, got = net(image).logits, again(image).logits
    assert wanted is not None and got is not None and torch.equal(wanted, got)


@pytest.mark.parametrize("name", ["resnet8", "wrn16_2", "mobilenetv2_half", "conv3"])
@pytest.mark.parametrize("side", [16, 45])
def test_any_side_is_accepted(name: str, side: int) -> None:
    net = build_classifier(name, 5).eval()
    with torch.no_grad():
        outputs = net(torch.randn(1, 3, side, side))
    assert outputs.logits.shape == (1, 5)
    first = side if name != "mobilenetv2_half" else -(-side // 2)
    assert outputs.features[0].shape[-1] == first


def test_the_embedding_is_what_the_class_layer_sees() -> None:
    net = build_classifier("resnet8", 4).eval()
    outputs = net(torch.randn(2, 3, 32, 32))
    assert torch.equal(outputs.embedding, outputs.features[-1].mean((2, 3)))
    assert torch.equal(outputs.logits, net.fc(outputs.embedding))
    assert all(bool((f >= 0).all()) for f in outputs.features), "maps of resnets come after the ReLU"


# --- dropout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_dropout_is_where_the_network_has_it_and_refused_elsewhere(name: str) -> None:
    if name not in WIDE:
        with pytest.raises(UsageError, match=r"--dropout 0.2: this network has no dropout; leave it at 0"):
            build_classifier(name, 3, dropout=0.2)
        return
    with torch.device("meta"):
        plain, dropping = build_classifier(name, 3), build_classifier(name, 3, dropout=0.5)
    assert list(plain.state_dict()) == list(dropping.state_dict())


def test_dropout_acts_in_training_only() -> None:
    plain, dropping = build_classifier("wrn16_1", 3), build_classifier("wrn16_1", 3, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain.eval()(image).embedding, dropping.eval()(image).embedding)
        dropping.train()
        assert not torch.equal(dropping(image).embedding, dropping(image).embedding)


# --- initialisation, precision, folding ------------------------------------------------------------------


def test_initialisation_is_kaimings_by_fan_out() -> None:
    torch.manual_seed(0)
    resnet, wide, mobile = (build_classifier(n, 50) for n in ("resnet8x4", "wrn16_2", "mobilenetv2_half"))
    assert resnet.layer3[0].conv2.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert wide.block3.layer[1].conv2.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    depthwise = mobile.blocks[6][0].conv[3]
    assert depthwise.groups == 480
    assert depthwise.weight.std().item() == pytest.approx((2 / (9 * 480)) ** 0.5, rel=0.05)
    assert mobile.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not wide.fc.bias.any() and not mobile.classifier[0].bias.any() and resnet.fc.bias.any()


def test_pooling_and_classes_stay_in_float32_under_autocast() -> None:
    net = build_classifier("resnet8", 4).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = net(torch.randn(1, 3, 16, 16))
    assert outputs.embedding.dtype == outputs.logits.dtype == torch.float32
    assert outputs.features[0].dtype == torch.bfloat16


def disturbed(net: nn.Module) -> nn.Module:
    """No BatchNorm at its start value."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return net


def tiny_bottleneck() -> nn.Module:
    return ResNet(Shape((1, 2, 1, 1), (4, 8, 8, 16), 8, 7, bottleneck=True), 5)


@pytest.mark.parametrize("name", ["resnet14", "resnet8x4", "wrn16_2", "mobilenetv2_half", "conv3", "bottleneck"])
def test_folding_changes_nothing_but_rounding(name: str) -> None:
    torch.manual_seed(0)
    net = disturbed(tiny_bottleneck() if name == "bottleneck" else build_classifier(name, 5)).eval()
    merged = folded(net)
    image = torch.randn(2, 3, 32, 32)

    def parts(outputs: Outputs) -> list[Tensor]:
        assert outputs.logits is not None
        return [outputs.embedding, outputs.logits, *outputs.features]

    with torch.no_grad():
        wanted, got = parts(net.double()(image.double())), parts(merged(image))
    for a, b in zip(wanted, got, strict=True):
        assert ((a - b).abs().max() / a.abs().max()).item() < 1e-5
    left = sum(isinstance(m, nn.BatchNorm2d) for m in merged.modules())
    assert left == (7 if name == "wrn16_2" else 0), "only what stands before a convolution is left: in wide networks"


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown classifier 'resnet21'. Did you mean 'resnet2?[0-9]'?"):
        build_classifier("resnet21", 10)
