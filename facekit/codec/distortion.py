"""How far a decoded image is from its original: what a codec's training trades for bits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from facekit.core.msssim import ms_ssim

Distortion = Callable[[Tensor, Tensor], Tensor]
"""(decoded, original), float32 [B,3,H,W] in 0..1 -> [B]: 0 where they are equal, differentiable."""


def mse(decoded: Tensor, original: Tensor) -> Tensor:
    """Mean squared error of each image, [B]. A difference of .1 everywhere gives .01, which is 20 dB."""
    return (decoded - original).square().flatten(1).mean(dim=1)


def dissimilarity(decoded: Tensor, original: Tensor) -> Tensor:
    """1 - MS-SSIM of each image, [B]. Raises ValueError for sides below 11 pixels."""
    return 1 - ms_ssim(decoded, original)


DISTORTIONS: dict[str, Distortion] = {"mse": mse, "ms-ssim": dissimilarity}
