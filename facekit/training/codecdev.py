"""Measure a codec in training on whole images: sizes as estimated, pictures as decoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from facekit.codec.distortion import Distortion, mse
from facekit.core.device import Device
from facekit.training.codec import padded

_LEAST_MSE = 1e-10
"""An image without any loss counts as 100 dB."""


class Estimate(NamedTuple):
    """What one image would take and what would come back."""

    bits_y: float
    bits_z: float
    decoded: Tensor
    """uint8 [1,3,H,W]."""


@torch.no_grad()
def estimated(codec: nn.Module, image: np.ndarray, device: Device) -> Estimate:
    """Rounded latents of uint8 [H,W,3], in full precision. A file's streams are within 1 % of the bits, plus 16 bytes.

    Waits for the device.
    """
    height, width, _ = image.shape
    coded = codec(padded(unit(device.put(pixels_of(image)))), "round")
    decoded = (coded.x_hat[..., :height, :width].clamp(0, 1) * 255).round().to(torch.uint8)
    return Estimate(float(coded.bits_y), float(coded.bits_z), decoded)


class CodecDev:
    """What is measured after an epoch: means over ``images``, any iterable of uint8 [H,W,3] that can be walked again.

    ``score`` is minus what training lowers, on pictures of 8 bits, so that the largest is the best; then ``bpp``, its
    part ``bpp_z``, and ``psnr`` in dB, the mean of the images' own.
    """

    def __init__(self, images: Iterable[np.ndarray], distortion: Distortion, lam: float, device: Device) -> None:
        self.images, self.distortion, self.lam, self.device = images, distortion, lam, device

    def __call__(self, codec: nn.Module) -> dict[str, float]:
        """The numbers by name."""
        rows = [self.measured(codec, image) for image in self.images]
        score, bpp, bpp_z, psnr = np.mean(rows, axis=0).tolist()
        return {"score": score, "bpp": bpp, "bpp_z": bpp_z, "psnr": psnr}

    def measured(self, codec: nn.Module, image: np.ndarray) -> tuple[float, float, float, float]:
        """Of one image."""
        found, area = estimated(codec, image, self.device), image.shape[0] * image.shape[1]
        bpp, bpp_z = (found.bits_y + found.bits_z) / area, found.bits_z / area
        decoded, original = unit(found.decoded), unit(self.device.put(pixels_of(image)))
        lost = float(self.distortion(decoded, original))
        error = max(float(mse(decoded, original)), _LEAST_MSE)
        return -bpp - self.lam * lost, bpp, bpp_z, -10 * float(np.log10(error))


def pixels_of(image: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> uint8 [1,3,H,W]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 0..1."""
    return pixels.float() / 255
