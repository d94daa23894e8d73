"""Crops of image batches on the device: shifted by a few pixels, cut out and resized, or the middle.

A random crop is a function of its key alone, in whole numbers: every device, batch and process cuts the same window.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from facekit.core.draws import between, draws
from facekit.core.errors import InputError

LEAST_AREA = 0.08
"""Share of the picture that the smallest random window has."""
ASPECT = 4 / 3
"""Width over height of a random window, or height over width, at most."""
AREAS, ASPECTS = 1024, 256
"""Steps in which areas and aspects are drawn: finer than a pixel of the window."""


def shift_crop(images: Tensor, keys: Tensor, pad: int) -> Tensor:
    """Move every image by up to ``pad`` pixels each way, all moves equally likely; black comes in from outside.

    uint8 [B,3,H,W] and int64 [B] -> uint8 [B,3,H,W] in channels_last memory. Raises InputError where an image could be
    moved out of sight.
    """
    count, _, height, width = images.shape
    if pad >= min(height, width):
        raise InputError(f"shifts of up to {pad} pixels move images of {height}x{width} out of sight; lower --crop")
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad)).contiguous()
    _, tall, wide, channels = padded.shape
    top, left = between(draws(keys, 2), 0, 2 * pad).split(1, dim=1)
    image, line = (torch.arange(n, device=keys.device) for n in (count, height))
    # A row of a crop is one span of the padded batch's memory: copied whole, not pixel by pixel.
    first = (image[:, None] * tall + top + line) * wide + left  # [B,H]
    spans = padded.flatten().unfold(0, width * channels, channels)
    rows = spans.index_select(0, first.flatten())
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def resized_crop(images: Tensor, keys: Tensor, side: int) -> Tensor:
    """Cut a random window out of every image and resize it to ``side`` x ``side``, bilinearly without a filter.

    Area and aspect as in torchvision's RandomResizedCrop: the area uniform from 8 to 100 %, the aspect log-uniform
    from 3/4 to 4/3, among the windows that fit. uint8 [B,3,H,W] and int64 [B] -> uint8 [B,3,side,side] in channels_last
    memory. Windows are equal on every device, pixels up to rounding.
    """
    _, _, height, width = images.shape
    top, left, tall, wide = drawn_windows(keys, height, width).unbind(1)
    y = centres(top, tall, height, side)[:, :, None].expand(-1, -1, side)
    x = centres(left, wide, width, side)[:, None, :].expand(-1, side, -1)
    pixels = F.grid_sample(images.float(), torch.stack((x, y), dim=3), padding_mode="border", align_corners=False)
    return pixels.round_().to(torch.uint8, memory_format=torch.channels_last)


def drawn_windows(keys: Tensor, height: int, width: int) -> Tensor:
    """The window of every key: int64 [B] -> int64 [B,4] (top, left, height, width) within ``height`` x ``width``."""
    sizes = window_sizes(height, width, keys.device)
    words = draws(keys, 3)
    tall, wide = sizes[between(words[:, 0], 0, len(sizes) - 1)].unbind(1)
    top = between(words[:, 1], 0, height - tall)
    left = between(words[:, 2], 0, width - wide)
    return torch.stack((top, left, tall, wide), dim=1)


@lru_cache(maxsize=8)
def window_sizes(height: int, width: int, device: torch.device) -> Tensor:
    """Heights and widths of equally likely windows, int64 [S,2]: all steps of area and aspect that fit.

    torchvision draws up to ten times until a window fits; drawing from those that do is the same without the end.
    """
    area = torch.linspace(LEAST_AREA, 1, 2 * AREAS + 1, dtype=torch.float64)[1::2] * (height * width)
    aspect = ASPECT ** torch.linspace(-1, 1, 2 * ASPECTS + 1, dtype=torch.float64)[1::2]
    tall, wide = (torch.sqrt(area[:, None] * a).round().long() for a in (1 / aspect, aspect))
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    if not fits.any():
        raise InputError(f"no window of aspect 3/4 to 4/3 and 8 % of the area fits into images of {height}x{width}")
    return torch.stack((tall[fits], wide[fits]), dim=1).to(device)


def centres(first: Tensor, length: Tensor, whole: int, side: int) -> Tensor:
    """Where the ``side`` pixels of a window lie, in grid_sample's -1..1 over ``whole`` pixels: int64 [B] -> [B,side].

    None lies beyond the centres of the window's outer pixels: what is cut off does not shine in.
    """
    step = (2 * torch.arange(side, device=first.device) + 1).float() / (2 * side)
    place = (length[:, None] * step - 0.5).clamp(min=0).minimum(length[:, None] - 1.0) + first[:, None]
    return (2 * place + 1) / whole - 1


def centre_crop(images: Tensor, side: int) -> Tensor:
    """The middle ``side`` x ``side`` pixels, for evaluation. uint8 [B,3,H,W] -> [B,3,side,side], memory format kept.

    Raises InputError where the images are smaller. Where a pixel is left over, it falls off at the bottom and right.
    """
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise InputError(f"images are {height}x{width}, and {side}x{side} were to be cut from their middle")
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]
