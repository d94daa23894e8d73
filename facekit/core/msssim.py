"""MS-SSIM (Wang, Simoncelli, Bovik, Asilomar 2003): one formula for the loss of a codec and for its measurement."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, fine to coarse."""
WINDOW, SIGMA = 11, 1.5
"""Side of the Gaussian window and its standard deviation, in pixels."""
C1, C2 = 0.01**2, 0.03**2
_FLOOR = 1e-6
"""Structure that is negative at a scale counts as this, not as 0: a power of 0 has no finite gradient."""


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Similarity [B] of float images [B,C,H,W] in 0..1: 1 where they are equal, differentiable in both.

    Each channel is judged alone, their mean is returned: RGB as published curves give it. The five scales need a
    shorter side of 161 pixels; smaller images take the finest scales that hold a whole window (an 11-pixel side
    holds one, 112 holds four), their weights raised to the sum of all. Such values do not compare with those of large
    images. Windows stay inside the image. Call it with autocast off: variances are small differences.
    Raises ValueError where shapes differ or a side is below 11.
    """
    if x.shape != y.shape:
        raise ValueError(f"MS-SSIM of two shapes, {tuple(x.shape)} and {tuple(y.shape)}")
    count = scales(x.shape[-2], x.shape[-1])
    weights = x.new_tensor(WEIGHTS[:count]) * (sum(WEIGHTS) / sum(WEIGHTS[:count]))
    parts = []
    for scale in range(count):
        if scale:
            # An odd last row is averaged alone: ceil_mode leaves what lies outside out of the mean.
            x, y = (F.avg_pool2d(image, 2, ceil_mode=True) for image in (x, y))
        luminance, structure = ssim_terms(x, y)
        parts.append((luminance * structure if scale == count - 1 else structure).mean(dim=(-2, -1)))
    of_channels = torch.stack(parts, dim=-1).clamp(min=_FLOOR) ** weights
    return of_channels.prod(dim=-1).mean(dim=-1)


def scales(height: int, width: int) -> int:
    """How many of the five scales hold a window. Raises ValueError where not even the first does."""
    side, count = min(height, width), 0
    while count < len(WEIGHTS) and side >= WINDOW:
        side, count = -(-side // 2), count + 1
    if not count:
        raise ValueError(f"MS-SSIM needs sides of at least {WINDOW} pixels, the image has {height}x{width}")
    return count


def ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every place of the window: [B,C,H-10,W-10] each."""
    mean_x, mean_y, square_x, square_y, product = blurred(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    return luminance, (2 * (product - mean_x * mean_y) + C2) / (variances + C2)


def blurred(maps: Tensor) -> Tensor:
    """Gaussian means [...,H-10,W-10] of maps [...,H,W], rows first, then columns."""
    offset = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    bell = torch.exp(-(offset**2) / (2 * SIGMA**2))
    bell = bell / bell.sum()
    # Maps as channels of one image, each with its own copy of the window: ten times as fast as maps as images.
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    count = flat.shape[1]
    for window in (bell.view(1, 1, 1, -1), bell.view(1, 1, -1, 1)):
        flat = F.conv2d(flat, window.repeat(count, 1, 1, 1), groups=count)
    return flat.reshape(*maps.shape[:-2], *flat.shape[-2:])
