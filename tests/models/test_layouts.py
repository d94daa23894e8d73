"""Import of foreign checkpoints. The TFace family is checked against an independent network of that layout."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facekit.core.errors import InputError
from facekit.models import build_backbone
from facekit.models.adopt import adopt
from facekit.models.iresnet import IResNet
from facekit.models.layouts import import_checkpoint, read_shape
from facekit.models.mbf import SHAPES, MobileFaceNet, Shape

TINY = Shape((8, 8, 12, 12), (6, 10, 14, 16, 18, 20), 8, (1, 2, 1, 1), 24)


# --- an independent MobileFaceNet with TFace's names ---------------------------------------------------


def conv_block(
    i: int, o: int, k: int = 1, s: int = 1, groups: int = 1, pad: int | None = None, act: bool = True
) -> nn.Module:
    parts = OrderedDict(
        conv=nn.Conv2d(i, o, k, s, k // 2 if pad is None else pad, groups=groups, bias=False), bn=nn.BatchNorm2d(o)
    )
    if act:
        parts["prelu"] = nn.PReLU(o)
    return nn.Sequential(parts)


class TFaceDepthWise(nn.Module):
    def __init__(self, i: int, o: int, hidden: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv = conv_block(i, hidden)
        self.conv_dw = conv_block(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_block(hidden, o, act=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class TFaceNet(nn.Module):
    """``head``: tface (output_layer, BatchNorm without weights), cavaface (with), zoo (at the top level)."""

    def __init__(self, head: str) -> None:
        super().__init__()

        def stage(width: int, hidden: int, n: int) -> nn.Module:
            blocks = (TFaceDepthWise(width, width, hidden, 1, True) for _ in range(n))
            return nn.Sequential(OrderedDict(model=nn.Sequential(*blocks)))

        self.conv1 = conv_block(3, 8, 3, 2)
        self.conv2_dw = conv_block(8, 8, 3, 1, groups=8)
        self.conv_23 = TFaceDepthWise(8, 8, 6, 2, False)
        self.conv_3 = stage(8, 10, 2)
        self.conv_34 = TFaceDepthWise(8, 12, 14, 2, False)
        self.conv_4 = stage(12, 16, 1)
        self.conv_45 = TFaceDepthWise(12, 12, 18, 2, False)
        self.conv_5 = stage(12, 20, 1)
        self.conv_6_sep = conv_block(12, 24)
        output = OrderedDict(
            conv_6_dw=conv_block(24, 24, 7, groups=24, pad=0, act=False),
            flatten=nn.Flatten(),
            linear=nn.Linear(24, 5, bias=False),
            bn=nn.BatchNorm1d(5, affine=head != "tface"),
        )
        if head == "zoo":
            for name, module in output.items():
                self.add_module(name, module)
        else:
            self.output_layer = nn.Sequential(output)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def disturbed(net: nn.Module) -> nn.Module:
    """No BatchNorm or PReLU is at its start value, so that a swapped tensor shows."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith(("var", "weight")) else (-0.3, 0.3)
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return net.eval()


@pytest.mark.parametrize("head", ["tface", "cavaface", "zoo"])
def test_the_tface_family_computes_the_same_embedding(head: str) -> None:
    torch.manual_seed(0)
    foreign = disturbed(TFaceNet(head)).double()
    found = import_checkpoint(foreign.float().state_dict())
    image = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    with torch.no_grad():
        wanted, got = foreign.double()(image), found.module.double().eval()(image).embedding
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert found.architecture["embedding"] == 5 and found.architecture["shape"]["hidden"] == (6, 10, 14, 16, 18, 20)


# --- shapes are read from tensors ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mbf_nano", "mbf_half", "mbf_s1", "mbf", "mbf_large", "r18", "r34", "r50"])
def test_every_row_is_recognised_by_its_tensors(name: str) -> None:
    net = build_backbone(name, 96)
    found = import_checkpoint(net.state_dict())
    assert found.architecture == {"name": name, "embedding": 96, "dropout": 0.0}
    assert (found.origin.channels, found.origin.scaling, found.origin.licence) == ("rgb", "symmetric", "unknown")
    wanted = net.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in found.module.state_dict().items())


@pytest.mark.parametrize(
    "shape",
    [
        TINY,
        Shape.scaled(2, (2, 8, 12, 4)),  # 3,349,888 parameters: w600k_mbf, not constructible from arcface_torch's names
        Shape((16, 24, 24, 40), (8, 8, 12, 12, 16, 16), 4, (3, 1, 2, 1), 48),
    ],
)
def test_foreign_widths_and_block_counts(shape: Shape) -> None:
    net = disturbed(MobileFaceNet(shape, 7))
    assert read_shape(net.state_dict()) == shape
    found = import_checkpoint(net.state_dict())
    image = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(found.module.eval()(image).embedding, net(image).embedding)


def test_parameters_of_the_known_mobilefacenets() -> None:
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in MobileFaceNet(s).parameters())
            for s in (Shape.scaled(1), Shape.scaled(2), Shape.scaled(2, (2, 8, 12, 4)), Shape.scaled(4, (2, 8, 12, 4)))
        ]
    assert counts == [1_200_512, 2_059_520, 3_349_888, 6_314_880]


def test_uncommon_iresnets() -> None:
    found = import_checkpoint(IResNet((1, 2, 1, 1), 8).state_dict())
    assert found.architecture == {"name": "iresnet", "embedding": 8, "dropout": 0.0, "blocks": [1, 2, 1, 1]}


# --- wrappers --------------------------------------------------------------------------------------------


def tiny_state() -> dict[str, Tensor]:
    return MobileFaceNet(TINY, 5).state_dict()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


HEAD = {"head.weight": torch.zeros(10, 5)}
WRAPPERS: dict[str, Any] = {
    "bare": lambda s: s,
    "parallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled inside parallel": lambda s: prefixed("module._orig_mod.", s),
    "arcface_torch": lambda s: {"epoch": 3, "global_step": 9, "state_dict_backbone": s, "state_dict_softmax_fc": HEAD},
    "state_dict": lambda s: {"state_dict": prefixed("backbone.", s) | HEAD, "epoch": 1},
    "nested": lambda s: {"model": {"state_dict": prefixed("module.backbone.", s) | HEAD}},
}


@pytest.mark.parametrize("wrapper", list(WRAPPERS))
def test_wrappers_and_prefixes(wrapper: str) -> None:
    state = tiny_state()
    found = import_checkpoint(WRAPPERS[wrapper](state)).module.state_dict()
    assert list(found) == list(state) and all(torch.equal(found[k], state[k]) for k in state)


def test_what_wrappers_say_about_the_input() -> None:
    zoo, cavaface = TFaceNet("zoo").state_dict(), TFaceNet("cavaface").state_dict()
    lightning = {"pytorch-lightning_version": "1.4", "state_dict": prefixed("model.", tiny_state()) | HEAD}
    origins = [
        import_checkpoint(c).origin
        for c in (zoo, {"state_dict": prefixed("backbone.", zoo)}, cavaface, lightning, prefixed("net.", tiny_state()))
    ]
    assert [(o.channels, o.scaling) for o in origins] == [
        (None, None),  # FaceX-Zoo's keys without its wrapper: face.evoLVe has them too, in RGB
        ("bgr", "128"),
        ("rgb", "symmetric"),
        ("bgr", "symmetric"),
        (None, "symmetric"),
    ]
    assert [o.licence.split(" (")[0] for o in origins[3:]] == ["non-commercial research only"] * 2
    assert all(o.licence == "unknown" for o in origins[:3])


# --- what is refused, and how ------------------------------------------------------------------------------


def with_keys(*keys: str, of: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return (of or {}) | {k: torch.zeros(4) for k in keys}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (with_keys("conv_23.attention_layer.fc1.weight", of=TFaceNet("tface").state_dict()), "attention layers"),
        (with_keys("conv1.conv.weight", "output_layer.bn1.running_mean"), "norm-aware pooling"),
        (with_keys("input_layer.0.weight", "body.0.res_layer.0.weight"), "IR or IR-SE network"),
        (with_keys("patch_embed.proj.weight"), "vision transformer"),
        (with_keys("encoder.weight", "decoder.weight"), r"not known \(first keys: encoder.weight, decoder.weight\)"),
        ({"epoch": 3, "names": ["a"]}, r"no dictionary of tensors \(keys: epoch, names\)"),
        ({}, "no dictionary of tensors"),
    ],
)
def test_refusals_name_the_reason(state: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        import_checkpoint(state)


def test_the_first_key_that_does_not_fit_is_named_with_both_shapes() -> None:
    state = tiny_state()
    state["layers.4.layers.1.layers.1.running_var"] = torch.ones(9)
    state["features.layers.3.bias"] = torch.ones(9)
    with pytest.raises(InputError, match=r"layers.4.layers.1.layers.1.running_var is \[9\] in the file.* needs \[14\]"):
        import_checkpoint(state)


def test_missing_and_surplus_keys_are_named() -> None:
    state = tiny_state()
    del state["layers.3.layers.1.layers.2.layers.1.bias"]
    with pytest.raises(InputError, match=r"layers.3.layers.1.layers.2.layers.1.bias \[8\] is missing"):
        import_checkpoint(state)
    with pytest.raises(InputError, match=r"the file has extra.weight \[4\], the network has not"):
        import_checkpoint(with_keys("extra.weight", of=tiny_state()))
    with pytest.raises(InputError, match="conv_sep.layers.0.weight is missing"):
        import_checkpoint({k: v for k, v in tiny_state().items() if not k.startswith("conv_sep")})


def test_a_gap_in_the_blocks_is_a_missing_key() -> None:
    state = {k.replace("layers.3.layers.1.", "layers.3.layers.99999999."): v for k, v in tiny_state().items()}
    with pytest.raises(InputError, match=r"layers.3.layers.1.layers.0.layers.0.weight .* is missing"):
        import_checkpoint(state)


def test_counters_may_be_absent() -> None:
    state = {k: v for k, v in tiny_state().items() if not k.endswith("num_batches_tracked")}
    assert import_checkpoint(state).architecture["embedding"] == 5


def test_a_tensor_that_claims_more_than_it_holds_is_refused_without_allocating() -> None:
    state = tiny_state()
    # One value seen through zero strides as 2^40 channels: 4 TB if anybody believed it.
    state["layers.0.layers.0.weight"] = torch.zeros(1).as_strided((2**40, 3, 3, 3), (0, 0, 0, 0))
    with pytest.raises(InputError):
        import_checkpoint(state)
    state = tiny_state()
    state["features.layers.2.weight"] = torch.zeros(1).as_strided((5, 24), (0, 0))
    with pytest.raises(InputError, match=r"features.layers.2.weight claims \[5, 24\] but holds fewer values"):
        import_checkpoint(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    state = tiny_state()
    state["conv_sep.layers.2.weight"][3] = bad
    with pytest.raises(InputError, match="conv_sep.layers.2.weight holds values that are not finite"):
        import_checkpoint(state)


@pytest.mark.parametrize("shape", [(), (0, 3, 3, 3), (8,)])
def test_degenerate_shapes_are_refused(shape: tuple[int, ...]) -> None:
    state = tiny_state()
    state["layers.0.layers.0.weight"] = torch.zeros(shape)
    with pytest.raises(InputError, match=r"layers.0.layers.0.weight"):
        import_checkpoint(state)


def test_sparse_and_half_tensors() -> None:
    state = tiny_state()
    state["features.layers.2.weight"] = state["features.layers.2.weight"].to_sparse()
    with pytest.raises(InputError, match="not a plain dense tensor"):
        import_checkpoint(state)
    half = {k: v.half() if v.is_floating_point() else v for k, v in tiny_state().items()}
    assert {p.dtype for p in import_checkpoint(half).module.parameters()} == {torch.float32}


def test_adopt_keeps_what_is_frozen_frozen() -> None:
    net = build_backbone("r18", 8)
    with torch.device("meta"):
        empty = build_backbone("r18", 8)
    adopted = adopt(empty, net.state_dict())
    assert [n for n, p in adopted.named_parameters() if not p.requires_grad] == ["features.weight"]
    assert len({SHAPES[n] for n in SHAPES}) == len(SHAPES), "two rows of one shape could not be told apart"
