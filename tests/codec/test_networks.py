"""Sizes and costs as specified, how each part starts, and what the codec's three ways of rounding hand on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.codec.arch import Arch, EnhancementName
from facekit.codec.attention import ChannelAttention
from facekit.codec.costs import costs
from facekit.codec.enhancement import enhancement
from facekit.codec.folding import SubPixel, sub_pixel_weight
from facekit.codec.layers import convolution, upsampling
from facekit.codec.networks import Codec, HyperSynthesis, Quantisation, quantised
from facekit.core.errors import UsageError

TINY = Arch(16, 24, reduction=2)


def tiny(arch: Arch = TINY) -> Codec:
    torch.manual_seed(0)
    return Codec(arch)


# --- sizes and costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "synthesis", "hyper", "parameters"),
    [
        (128, 192, "16.58", "1.47", (1_504_676, 1_504_487, 1_650_912)),
        (192, 192, "35.90", "1.97", (2_910_384, 2_910_195, 2_840_928)),
        (192, 320, "36.84", "3.84", (3_533_240, 3_532_923, 4_058_784)),
    ],
)
def test_costs_at_768x512(n: int, m: int, synthesis: str, hyper: str, parameters: tuple[int, ...]) -> None:
    found = costs(Arch(n, m), 512, 768)
    assert tuple(found[part].parameters for part in ("analysis", "synthesis", "hyper_synthesis")) == parameters
    giga = {part: f"{cost.macs / 1e9:.2f}" for part, cost in found.items()}
    assert (giga["analysis"], giga["synthesis"], giga["hyper_synthesis"]) == (synthesis, synthesis, hyper)
    assert found["enhancement"] == (0, 0)


def test_costs_of_enhancement_and_of_odd_sizes() -> None:
    light = costs(Arch(16, 24, enhancement="ps2-32x3"), 512, 768)["enhancement"]
    heavy = costs(Arch(16, 24, enhancement="full32x9"), 512, 768)["enhancement"]
    assert (f"{light.macs / 1e9:.2f}", f"{heavy.macs / 1e9:.1f}") == ("6.12", "65.9")
    assert costs(TINY, 65, 1) == costs(TINY, 128, 64)
    assert costs(TINY, 128, 64)["analysis"].macs > costs(TINY, 64, 64)["analysis"].macs


def test_the_parts_are_all_there_is() -> None:
    codec = tiny(Arch(16, 24, enhancement="ps2-32x3"))
    counted = sum(cost.parameters for cost in costs(codec.arch, 64, 64).values())
    prior = 11 * codec.arch.n  # four scales, four shifts and three bends a channel
    assert sum(p.numel() for p in codec.parameters()) == counted + prior


def test_a_codec_without_attention_has_none() -> None:
    with_it, without = tiny(), tiny(Arch(16, 24, attention=False))
    gates = [module for module in with_it.modules() if isinstance(module, ChannelAttention)]
    assert len(gates) == 8
    assert not any(isinstance(module, ChannelAttention) for module in without.modules())


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"m": 25}, {"m": 2048}, {"k": 0}, {"k": 1.5}, {"reduction": 0}, {"enhancement": "ps3"}],
)
def test_shapes_that_are_no_codec_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Arch(**{"n": 16, "m": 24, **wrong})  # type: ignore[arg-type]


# --- layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 64), (64, 64), (64, 48)])
def test_first_weights_have_the_released_code_s_spread(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    gain = math.sqrt((inputs + outputs) / inputs)
    expected = nn.init.xavier_normal_(torch.empty(outputs, inputs, 5, 5), gain).std().item()
    for layer in (convolution(inputs, outputs, 5, stride=2), upsampling(inputs, outputs)):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert layer.bias is not None and (layer.bias == 0.01).all()


def test_the_sub_pixel_layer_is_the_transposed_convolution() -> None:
    torch.manual_seed(0)
    trained, x = upsampling(16, 3), torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        assert (SubPixel(trained)(x) - trained(x)).abs().max() < 1e-4
        exact, x = trained.double(), x.double()
        bias = exact.bias.repeat_interleave(4)  # type: ignore[union-attr]
        shuffled = F.pixel_shuffle(F.conv2d(x, sub_pixel_weight(exact.weight), bias, padding=1), 2)
        assert (shuffled - exact(x)).abs().max() < 1e-13


def test_attention_weighs_channels_by_a_function_of_their_means() -> None:
    torch.manual_seed(0)
    attention, x = ChannelAttention(4, 2), torch.randn(2, 4, 3, 5)
    squeeze, excite = attention.squeeze, attention.excite
    for image, out in zip(x, attention(x), strict=True):
        hidden = (squeeze.weight @ image.mean((1, 2)) + squeeze.bias).clamp(min=0)
        gate = torch.sigmoid(excite.weight @ hidden + excite.bias)
        torch.testing.assert_close(out, image * gate[:, None, None])
        assert (gate > 0.6).all()  # starts open


@pytest.mark.parametrize("name", ["none", "ps2-32x3", "full32x9"])
def test_enhancement_starts_as_the_identity(name: EnhancementName) -> None:
    x = torch.rand(1, 3, 8, 12)
    assert torch.equal(enhancement(name)(x), x)


def test_the_head_s_channels_are_ordered_by_parameter_then_component() -> None:
    net = HyperSynthesis(Arch(4, 6, k=2))
    head = net.layers[-1]
    assert isinstance(head, nn.Conv2d) and head.bias is not None
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.arange(36))
    found = net(torch.zeros(1, 4, 1, 2))
    assert [values.shape for values in found] == [(1, 2, 6, 4, 8)] * 3
    for i, values in enumerate(found):
        assert (values == (12 * i + torch.arange(12)).reshape(2, 6, 1, 1)).all()


# --- the whole codec ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["noise", "ste"])
def test_every_parameter_learns(mode: Quantisation) -> None:
    codec = tiny(Arch(16, 24, enhancement="ps2-32x3", reduction=2))
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # off the zeros at which the enhancement starts
        codec.hyper_analysis[-1].weight *= 4  # or z would be rounded to 0 everywhere
    out = codec(torch.rand(2, 3, 64, 64), mode)
    assert (out.x_hat.shape, out.bits_y.shape, out.bits_z.shape) == ((2, 3, 64, 64), (2,), (2,))
    (out.x_hat.square().mean() + out.bits_y.mean() + out.bits_z.mean()).backward()
    still = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_what_each_mode_measures_and_shows() -> None:
    torch.manual_seed(0)
    latent = (3 * torch.randn(1, 2, 50, 50)).requires_grad_()
    measured, seen = quantised(latent, "noise", (-4, 4))
    assert measured is seen and 0.49 < (measured - latent).abs().max() <= 0.5
    measured, seen = quantised(latent, "ste", (-4, 4))
    assert 0.49 < (measured - latent).abs().max() <= 0.5
    assert torch.allclose(seen, latent.round())
    assert (torch.autograd.grad(seen.sum(), latent)[0] == 1).all()
    measured, seen = quantised(latent, "round", (-4, 4))
    assert measured is seen and torch.equal(seen, latent.round().clamp(-4, 4)) and seen.abs().max() == 4


def test_images_of_a_batch_do_not_mix() -> None:
    codec, images = tiny().double(), torch.rand(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        together, alone = codec(images, "round"), codec(images[1:2], "round")
    for all_of_them, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_of_them[1:2], one)


def test_only_the_picture_s_networks_run_in_reduced_precision() -> None:
    codec = tiny()
    kinds: dict[str, torch.dtype] = {}
    watched = {
        "analysis": codec.analysis[0], "h_a": codec.hyper_analysis[0], "h_s": codec.hyper_synthesis.layers[0],
        "head": codec.hyper_synthesis.layers[-1], "synthesis": codec.synthesis.layers[1], "last": codec.synthesis.last,
    }  # fmt: skip

    def note(name: str, result: Tensor) -> None:
        kinds[name] = result.dtype

    for name, module in watched.items():
        module.register_forward_hook(lambda _module, _inputs, result, name=name: note(name, result))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = codec(torch.rand(1, 3, 64, 64), "noise")
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"analysis", "synthesis"}
    assert {values.dtype for values in out} == {torch.float32}
