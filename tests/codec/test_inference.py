"""The codec in use against the codec as trained; equal integers whatever computes them; files that hold it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from facekit.codec import rans
from facekit.codec.arch import Arch
from facekit.codec.export import edges, exported, restored
from facekit.codec.hyper import Float64Hyper
from facekit.codec.inference import CPU, Frozen
from facekit.codec.mixture import FiniteError, Mixture, bits
from facekit.codec.modelfile import CodecModel
from facekit.codec.networks import Codec
from facekit.core.errors import InputError


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Its weights are off their start, so that nothing is 0 or alike by construction."""
    torch.manual_seed(0)
    net = Codec(Arch(16, 24, enhancement="ps2-32x3", reduction=2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 128)


@pytest.fixture(scope="module")
def frozen(codec: Codec) -> Frozen:
    return Frozen(codec)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Without oneDNN. Its own context manager sets more than that, and warns of it."""
    torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(True)


def same(a: Mixture, b: Mixture) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# --- the codec in use is the codec as trained -----------------------------------------------------------------


def test_latents_are_the_rounded_outputs(codec: Codec, frozen: Frozen, images: torch.Tensor) -> None:
    latents = frozen.encode_latents(images)
    assert (latents.y.dtype, latents.y.shape, latents.z.dtype, latents.z.shape) == (
        np.int16, (2, 24, 4, 8), np.int16, (2, 16, 1, 2),
    )  # fmt: skip
    with torch.no_grad():
        y = codec.analysis(images)
        z = codec.hyper_analysis(y)
    assert np.abs(latents.y - y.numpy()).max() < 0.5001 and np.abs(latents.z - z.numpy()).max() < 0.5001
    assert latents.y.std() > 0.5 and latents.clipped.tolist() == [0, 0]


def test_pictures_and_estimates_are_those_of_training(codec: Codec, frozen: Frozen, images: torch.Tensor) -> None:
    latents = frozen.encode_latents(images)
    with torch.no_grad():
        expected = codec(images, "round")
    picture = frozen.reconstruct(latents.y)
    assert (picture.dtype, picture.shape) == (np.uint8, (2, 64, 128, 3))
    levels = 255 * expected.x_hat.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(picture - levels).max() < 0.51 and levels.std() > 10
    integers = [bits(frozen.parameters(z), y.ravel()) for y, z in zip(latents.y, latents.z, strict=True)]
    assert integers == pytest.approx(expected.bits_y.tolist(), rel=0.01)


def test_decoding_repeats_bit_for_bit(frozen: Frozen, images: torch.Tensor) -> None:
    y, z, _ = frozen.encode_latents(images)
    picture, mixture = frozen.reconstruct(y), frozen.parameters(z[0])
    assert np.array_equal(frozen.reconstruct(y), picture) and same(frozen.parameters(z[0]), mixture)
    assert np.array_equal(rans.decode(rans.encode(y[0].ravel(), mixture), mixture), y[0].ravel())


def test_freezing_leaves_the_codec_as_it_is(codec: Codec, images: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    fresh = Frozen(codec, synthesis="bf16")
    fresh.reconstruct(fresh.encode_latents(images).y)
    after = codec.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in codec.parameters())


def test_bfloat16_changes_the_picture_a_little_and_no_integer(
    codec: Codec, frozen: Frozen, images: torch.Tensor
) -> None:
    reduced = Frozen(codec, synthesis="bf16")
    latents = frozen.encode_latents(images)
    assert all(np.array_equal(a, b) for a, b in zip(reduced.encode_latents(images), latents, strict=True))
    assert same(reduced.parameters(latents.z[0]), frozen.parameters(latents.z[0]))
    difference = np.abs(reduced.reconstruct(latents.y).astype(int) - frozen.reconstruct(latents.y))
    assert 0 < difference.mean() < 2


def test_values_out_of_range_are_cut_and_counted(codec: Codec, images: torch.Tensor) -> None:
    loud = Codec(codec.arch)
    loud.load_state_dict(codec.state_dict())
    with torch.no_grad():
        last = loud.analysis[-1].excite
        last.weight.zero_()
        last.bias.fill_(30)  # attention is open: y is the last convolution's
        loud.analysis[-2].weight.zero_()
        loud.analysis[-2].bias.fill_(0)
        loud.analysis[-2].bias[:3] = torch.tensor([600.0, -600.0, 505.0])
        loud.hyper_analysis[-1].weight.zero_()
        loud.hyper_analysis[-1].bias.fill_(0)
        loud.hyper_analysis[-1].bias[0] = 200.0
    y, z, clipped = Frozen(loud).encode_latents(images)
    assert [np.unique(y[:, c]).tolist() for c in range(4)] == [[510], [-511], [505], [0]]
    assert np.unique(z[:, 0]).tolist() == [127]
    assert clipped.tolist() == [2 * 4 * 8 + 1 * 2] * 2


def test_numbers_that_are_not_finite_are_refused(codec: Codec, frozen: Frozen, images: torch.Tensor) -> None:
    broken = images.clone()
    broken[0, 0, 5, 5] = torch.nan
    with pytest.raises(FiniteError, match="encoder"):
        frozen.encode_latents(broken)
    sick = Codec(codec.arch)
    with torch.no_grad():
        sick.hyper_synthesis.layers[-1].bias[40] = torch.inf  # type: ignore[index]
    with pytest.raises(FiniteError, match="mixture"):
        Frozen(sick).parameters(np.ones((16, 1, 2), np.int16))


# --- one set of integers --------------------------------------------------------------------------------------


def test_the_mixture_does_not_depend_on_threads_layout_or_library(codec: Codec) -> None:
    hyper = Float64Hyper(codec.hyper_synthesis, CPU)
    z = np.random.default_rng(0).integers(-9, 10, (16, 3, 4)).astype(np.int16)
    expected = hyper(z)
    assert len({*expected.mean.ravel().tolist()}) > 30
    with threads(2):
        assert same(hyper(z), expected)
    with plain_convolutions():
        assert same(hyper(z), expected)
    hyper.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert same(hyper(z), expected)
    trained = copy.deepcopy(codec.hyper_synthesis).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert same(Float64Hyper(trained, CPU)(z), expected)


def test_variants_differ_far_less_than_the_grid(codec: Codec) -> None:
    hyper = Float64Hyper(codec.hyper_synthesis, CPU)
    z = torch.from_numpy(np.random.default_rng(1).integers(-9, 10, (1, 16, 4, 4))).double()
    with torch.no_grad():
        plain = torch.stack(hyper.net(z))
        hyper.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with threads(2):
            other = torch.stack(hyper.net(z.contiguous(memory_format=torch.channels_last)))
        reduced = torch.stack(hyper.net.float()(z.float()))
    assert (other - plain).abs().max() < 1e-12
    assert (reduced - plain).abs().max() > 1e-9  # what float32 would risk


def test_autocast_does_not_reach_the_mixture(frozen: Frozen) -> None:
    z = np.random.default_rng(2).integers(-9, 10, (16, 2, 2)).astype(np.int16)
    expected = frozen.parameters(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(frozen.parameters(z), expected)


# --- model files ----------------------------------------------------------------------------------------------


def test_a_restored_model_is_the_exported_one(codec: Codec, frozen: Frozen, images: torch.Tensor) -> None:
    model = exported(codec, {"lambda": 256})
    again = Frozen(restored(model))
    y, z, _ = frozen.encode_latents(images)
    assert all(np.array_equal(a, b) for a, b in zip(again.encode_latents(images), (y, z, [0, 0]), strict=True))
    assert same(again.parameters(z[0]), frozen.parameters(z[0]))
    assert np.array_equal(again.reconstruct(y), frozen.reconstruct(y))
    table = edges(model)
    assert np.array_equal(rans.decode_static(rans.encode_static(z[0], table), table, z[0].shape), z[0])


def test_a_decoder_alone_decodes(codec: Codec, frozen: Frozen, images: torch.Tensor) -> None:
    y, z, _ = frozen.encode_latents(images)
    alone = Frozen(restored(dataclasses.replace(exported(codec, {}), encoder={})))
    assert np.array_equal(alone.reconstruct(y), frozen.reconstruct(y))
    assert same(alone.parameters(z[0]), frozen.parameters(z[0]))
    with pytest.raises(InputError, match="decoder alone"):
        alone.encode_latents(images)


def wrong_models(model: CodecModel) -> Iterator[CodecModel]:
    decoder, encoder = dict(model.decoder), dict(model.encoder)
    yield dataclasses.replace(model, arch=Arch(1024, 1024, k=16))
    yield dataclasses.replace(model, mode="int")
    yield dataclasses.replace(model, encoder={**encoder, "more": torch.zeros(1)})
    yield dataclasses.replace(model, encoder={name: encoder[name] for name in list(encoder)[1:]})
    yield dataclasses.replace(model, decoder={**decoder, "synthesis.last.bias": torch.zeros(4)})
    yield dataclasses.replace(model, decoder={**decoder, "synthesis.last.bias": torch.zeros(3, dtype=torch.int64)})


def test_models_that_do_not_fit_their_architecture_are_refused(codec: Codec) -> None:
    for model in wrong_models(exported(codec, {})):
        with pytest.raises(InputError, match="architecture|mode"):
            restored(model)


@pytest.mark.parametrize("place", [(0, 0), (3, 100), (15, 255)])
def test_tables_that_no_coder_can_use_are_refused(codec: Codec, place: tuple[int, int]) -> None:
    model = exported(codec, {})
    table = edges(model).copy()
    table[place] += np.uint32(1 << 23)
    decoder = {**model.decoder, "z_edges": torch.from_numpy(table)}
    with pytest.raises(InputError, match="rise"):
        edges(dataclasses.replace(model, decoder=decoder))
    with pytest.raises(InputError, match="no table"):
        edges(dataclasses.replace(model, decoder={}))


def test_a_codec_that_is_not_finite_is_not_exported(codec: Codec) -> None:
    sick = Codec(codec.arch)
    with torch.no_grad():
        sick.synthesis.last.bias[0] = torch.nan  # type: ignore[index]
    with pytest.raises(FiniteError, match="weight"):
        exported(sick, {})
