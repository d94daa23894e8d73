"""How long the parts of a codec take on one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekit.codec.coder import Coder, Stream

SPAN = 16
"""Pixels between the points of the picture's random relief."""


def sample_picture(height: int, width: int) -> np.ndarray:
    """A smooth picture with some grain, uint8 [H,W,3], always the same: noise alone would be no picture to code."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // SPAN + 2, width // SPAN + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    grain = 0.02 * torch.randn(1, 3, height, width, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).byte()[0].permute(1, 2, 0).contiguous().numpy()


@torch.inference_mode()
def part_ms(coder: Coder, picture: np.ndarray, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part on a picture, after one pass to warm up.

    ``enhancement`` is what lies between the synthesis and a picture of 8 bits: rounding alone where there is none.
    """
    frozen = coder.frozen
    image = coder.batch([picture]).contiguous(memory_format=torch.channels_last)
    latent = coder.latents([picture])[0]
    begun = coder.begun(Stream(latent.shape, coder.entry(latent).data, None, None))
    y = frozen.analysis(image).contiguous(memory_format=torch.channels_last)

    def synthesis() -> Tensor:
        return frozen.synthesis(y.to(frozen.dtype, copy=True))  # it changes what it is given

    parts: dict[str, Callable[[], Any]] = {
        "analysis": lambda: arrived(frozen.analysis(image)),
        "hyper_analysis": lambda: arrived(frozen.hyper_analysis(y)),
        "hyper_synthesis": lambda: frozen.parameters(latent.z),
        "entropy_encode": lambda: coder.entry(latent),
        "entropy_decode": lambda: coder.latent(begun),
        "synthesis": lambda: arrived(synthesis()),
        "enhancement": lambda: frozen.reconstruct(latent.y[None]),
    }
    found = {name: median_ms(call, repeats) for name, call in parts.items()}
    found["enhancement"] = max(0.0, found["enhancement"] - found["synthesis"])
    return found


def arrived(tensor: Tensor) -> float:
    """Wait until a tensor is computed: one of its numbers is read."""
    return float(tensor.flatten()[0])


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Of ``repeats`` calls after a first one."""
    call()
    return statistics.median(once_ms(call) for _ in range(repeats))


def added_ms(whole: Coder, lesser: Coder, picture: np.ndarray, repeats: int) -> float:
    """How many milliseconds longer ``whole`` takes through all its networks: median of differences of neighbours.

    By turns, since a machine's speed changes while it measures.
    """
    calls = [network_pass(coder, picture) for coder in (whole, lesser)]
    for call in calls:
        call()
    return statistics.median(once_ms(calls[0]) - once_ms(calls[1]) for _ in range(repeats))


def network_pass(coder: Coder, picture: np.ndarray) -> Callable[[], Any]:
    """From a picture to its latents, to their distributions, and to a picture."""
    batch = coder.batch([picture])

    def call() -> None:
        found = coder.frozen.encode_latents(batch)
        coder.frozen.parameters(found.z[0])
        coder.frozen.reconstruct(found.y)

    return call


def once_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)
