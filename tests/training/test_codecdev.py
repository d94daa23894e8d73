"""What a codec in training is measured by, with codecs whose sizes and pictures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.codec.arch import Arch
from facekit.codec.distortion import mse
from facekit.codec.networks import Codec, CodecOutputs
from facekit.core.device import Device
from facekit.training.codec import padded
from facekit.training.codecdev import CodecDev, estimated

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)


class Darker(nn.Module):
    """Takes 20.4 of 255 levels off the picture and says that it spends 1000 and 24 bits on it."""

    def forward(self, images: Tensor, mode: str) -> CodecOutputs:
        assert mode == "round" and images.shape[-2] % 64 == images.shape[-1] % 64 == 0
        return CodecOutputs(images - 0.08, torch.tensor([1000.0]), torch.tensor([24.0]))


GREY = np.full((40, 64, 3), 204, np.uint8)


def test_numbers_by_hand() -> None:
    lost = (20 / 255) ** 2  # 183.6 is shown as 184
    found = CodecDev([GREY], mse, 30.0, CPU)(Darker())
    bpp = 1024 / (40 * 64)
    wanted = {"score": -bpp - 30 * lost, "bpp": bpp, "bpp_z": 24 / (40 * 64), "psnr": -10 * math.log10(lost)}
    assert found == pytest.approx(wanted, rel=1e-5) and next(iter(found)) == "score"


def test_images_count_alike_whatever_their_size() -> None:
    black = np.zeros((64, 80, 3), np.uint8)
    found = CodecDev([GREY, black], mse, 0.0, CPU)(Darker())
    # Below black there is nothing: the second image comes back exactly, and counts 100 dB.
    assert found["psnr"] == pytest.approx((-20 * math.log10(20 / 255) + 100) / 2, rel=1e-5)
    assert found["bpp"] == pytest.approx((1024 / 2560 + 1024 / 5120) / 2)


def test_an_estimate_is_that_of_the_padded_image() -> None:
    torch.manual_seed(0)
    codec, image = Codec(Arch(4, 4)), np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    found = estimated(codec, image, CPU)
    with torch.no_grad():
        coded = codec(padded(torch.from_numpy(image).permute(2, 0, 1)[None] / 255), "round")
    assert (found.bits_y, found.bits_z) == (float(coded.bits_y), float(coded.bits_z))
    assert found.decoded.shape == (1, 3, 50, 70) and found.decoded.dtype == torch.uint8
    exact = coded.x_hat[..., :50, :70].clamp(0, 1) * 255
    assert float((found.decoded - exact).abs().max()) <= 0.501 and float(exact.std()) > 0
