"""A codec in use: images to integers, integers to mixtures, integers to images. Bytes are made elsewhere."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from facekit.codec.folding import folded_analysis, folded_synthesis, to_bfloat16
from facekit.codec.hyper import Float64Hyper
from facekit.codec.mixture import FiniteError, Mixture
from facekit.codec.networks import Y_RANGE, Z_RANGE, Codec

Precision = Literal["fp32", "bf16"]
CPU = torch.device("cpu")


class Latents(NamedTuple):
    """What is coded of a batch of images whose padded size is HxW."""

    y: np.ndarray
    """int16 [B,M,H/16,W/16], -511..510."""
    z: np.ndarray
    """int16 [B,N,H/64,W/64], -127..127."""
    clipped: np.ndarray
    """int64 [B]: how many values lay outside these ranges and were cut."""


class Frozen:
    """Folded networks with channels last on ``place``; the hyper-decoder in float64 on ``hyper_place``.

    ``synthesis`` is the precision of the decoder's picture: bf16 changes it a little and no integer, and is fast only
    where the processor multiplies bfloat16. The analysis is always float32. ``codec`` is left as it is and may go.

    An encoder and a decoder whose ``hyper_place`` differ in kind were not compared: leave it on the CPU for files that
    go elsewhere.
    """

    def __init__(
        self, codec: Codec, place: torch.device = CPU, synthesis: Precision = "fp32", hyper_place: torch.device = CPU
    ) -> None:
        self.arch = codec.arch
        self.place = place
        self.dtype = torch.bfloat16 if synthesis == "bf16" else torch.float32
        self.hyper_synthesis = Float64Hyper(codec.hyper_synthesis, hyper_place)
        codec = copy.deepcopy(codec).requires_grad_(False)
        codec = codec.to(place, torch.float32)
        self.analysis = folded_analysis(codec.analysis)
        self.hyper_analysis = codec.hyper_analysis
        self.synthesis = folded_synthesis(codec.synthesis)
        self.enhancement = codec.enhancement
        for net in (self.analysis, self.hyper_analysis, self.synthesis, self.enhancement):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if synthesis == "bf16":
            to_bfloat16(self.synthesis)

    @torch.inference_mode()
    def encode_latents(self, images: Tensor) -> Latents:
        """Float [B,3,H,W] in 0..1, sides multiples of 64 -> integers. Raises FiniteError."""
        y = self.analysis(images.to(self.place, torch.float32, memory_format=torch.channels_last))
        z = self.hyper_analysis(y)
        y, y_clipped = whole(y, Y_RANGE)
        z, z_clipped = whole(z, Z_RANGE)
        return Latents(y.cpu().numpy(), z.cpu().numpy(), (y_clipped + z_clipped).cpu().numpy())

    def parameters(self, z: np.ndarray) -> Mixture:
        """int16 [N,h,w] of one image -> the mixture of its y, [K, M * 4h * 4w] in C order. Raises FiniteError."""
        return self.hyper_synthesis(z)

    @torch.inference_mode()
    def reconstruct(self, y: np.ndarray) -> np.ndarray:
        """int16 [B,M,h,w] -> RGB uint8 [B,16h,16w,3]."""
        latents = torch.from_numpy(y).to(self.place, self.dtype).contiguous(memory_format=torch.channels_last)
        image = self.synthesis(latents)
        with torch.autocast(self.place.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            image = self.enhancement(image)
        levels = image.clamp(0, 1).mul(255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def whole(latent: Tensor, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rounded and cut to the limits, int16 in the order channel, row, column; and how many values were cut, [B]."""
    if not latent.isfinite().all():
        raise FiniteError("the encoder computed a value that is not finite")
    rounded = latent.round()
    cut = rounded.clamp(*limits)
    return cut.to(torch.int16).contiguous(), (rounded != cut).flatten(1).sum(dim=1)
