"""Contract of every row of BACKBONES, and what is special about some."""

import typing

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facekit import configs
from facekit.core.errors import UsageError
from facekit.core.types import Outputs
from facekit.models import BACKBONES, build_backbone
from facekit.models.folding import folded

# Name -> (parameters at 512, parameters at 128, MMAC of one 112x112 image at 512 with its allowed error).
COSTS = {
    "mbf_nano": (521_648, 324_272, 14.4, 0.1),
    "mbf_half": (549_056, 351_680, 60.0, 1.0),
    "mbf_s1": (1_200_512, 1_003_136, 221.0, 1.0),
    "mbf": (2_059_520, 1_862_144, 437.5, 1.0),
    "mbf_large": (6_314_880, 6_117_504, 1800.0, 400.0),
    "r18": (24_025_600, 14_390_656, 2620.0, 30.0),
    "r34": (34_139_328, 24_504_384, 4480.0, 30.0),
    "r50": (43_590_848, 33_955_904, 6330.0, 60.0),
    "r100": (65_156_160, 55_521_216, 12_120.0, 60.0),
    "r200": (118_833_920, 109_198_976, 23_470.0, 200.0),
}
HEAVY = {"mbf_large", "r34", "r50", "r100", "r200"}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in BACKBONES]


def test_the_table_is_what_configs_offers() -> None:
    assert tuple(BACKBONES) == typing.get_args(configs.Backbone) == tuple(COSTS)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build_backbone(name, d).parameters()) for d in (512, 128)]
    assert counts == [*COSTS[name][:2]]


@pytest.mark.parametrize("name", NAMES)
def test_multiply_accumulates(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_backbone(name).eval()(torch.empty(1, 3, 112, 112))
    assert counter.get_total_flops() / 2e6 == pytest.approx(COSTS[name][2], abs=COSTS[name][3])


def test_nano_is_as_small_as_promised() -> None:
    net = build_backbone("mbf_nano")
    stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert stem.stride == (4, 4)
    assert COSTS["mbf_nano"][2] + COSTS["mbf_nano"][3] <= 15.0


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    torch.manual_seed(0)
    net = build_backbone(name, 64)
    assert net.embedding_size == 64
    outputs = net(torch.randn(2, 3, 112, 112))
    assert isinstance(outputs, Outputs) and outputs.logits is None
    assert outputs.embedding.shape == (2, 64) and outputs.embedding.dtype == torch.float32
    assert [f.shape[0] for f in outputs.features] == [2] * 4
    sides = [f.shape[-1] for f in outputs.features]
    assert sides == sorted(sides, reverse=True) and sides[-1] == 7
    (outputs.embedding * torch.randn(2, 64)).sum().backward()
    trained = {n: p.grad for n, p in net.named_parameters() if p.requires_grad}
    assert not [n for n, g in trained.items() if g is None or not bool(torch.isfinite(g).all())]
    # A bias that only shifts the input of a BatchNorm has gradient 0 by mathematics.
    assert not [n for n, g in trained.items() if g is not None and not n.endswith("bias") and not bool(g.any())]
    again = build_backbone(name, 64)
    again.load_state_dict(net.state_dict())
    image = torch.randn(2, 3, 112, 112)
    with torch.no_grad():  # in training mode: an untrained r200 overflows where BatchNorm uses stored statistics
        assert torch.equal(net(image).embedding, again(image).embedding)


@pytest.mark.parametrize("name", ["mbf_nano", "r18"])
def test_dropout_acts_in_training_only_and_leaves_the_keys(name: str) -> None:
    plain, dropping = build_backbone(name, 32), build_backbone(name, 32, dropout=0.5)
    assert list(plain.state_dict()) == list(dropping.state_dict())
    dropping.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(plain.eval()(image).embedding, dropping.eval()(image).embedding)
        dropping.train()
        assert not torch.equal(dropping(image).embedding, dropping(image).embedding)


def test_only_the_scale_of_the_last_norm_of_iresnet_is_frozen() -> None:
    frozen = [n for n, p in build_backbone("r18").named_parameters() if not p.requires_grad]
    assert frozen == ["features.weight"]
    assert all(p.requires_grad for p in build_backbone("mbf_half").parameters())


def test_initialisation_is_arcface_torchs() -> None:
    torch.manual_seed(0)
    residual = build_backbone("r18").layer4[1].conv1.weight
    assert residual.std().item() == pytest.approx(0.1, rel=0.01)
    expand = build_backbone("mbf").conv_sep.layers[0].weight  # kaiming, fan out: sqrt(2 / 512)
    assert expand.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["mbf_nano", "r18"])
def test_the_embedding_layer_stays_in_float32_under_autocast(name: str) -> None:
    net = build_backbone(name, 32).eval()
    seen: list[torch.dtype] = []
    linear = next(m for m in net.modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = net(torch.randn(1, 3, 112, 112))
    assert seen == [torch.float32] and outputs.embedding.dtype == torch.float32
    assert outputs.features[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["mbf_nano", "mbf_large", "r18"])
def test_folding_changes_nothing_but_rounding(name: str) -> None:
    torch.manual_seed(0)
    net = build_backbone(name, 32)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    merged = folded(net)
    image = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        wanted, got = net.double().eval()(image.double()).embedding, merged.double()(image.double()).embedding
    assert ((wanted - got).abs().max() / wanted.abs().max()).item() < 1e-5
    assert sum(isinstance(m, nn.BatchNorm2d) for m in merged.modules()) < 0.4 * sum(
        isinstance(m, nn.BatchNorm2d) for m in net.modules()
    )
    assert all(torch.equal(before[k], v.to(before[k].dtype)) for k, v in net.state_dict().items())


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'mbf_haf'. Did you mean 'mbf_half'?"):
        build_backbone("mbf_haf")
