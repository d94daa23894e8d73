"""Transforms of training images on the device: drawn face masks, mirroring, and all of them in one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facekit.core.crops import resized_crop, shift_crop
from facekit.core.draws import between, draws
from facekit.core.errors import UsageError
from facekit.core.types import Batch

SIDE = 112
"""Lengths below are pixels of the 112 x 112 crop aligned by five points: eyes at height 51.6, nose tip (56, 71.7),
mouth corners (41.5, 92.4) and (70.7, 92.2). Other sizes are scaled by height, other widths stay centred."""
OUTLINE = ((56, 61), (84, 67), (93, 78), (88, 100), (72, 116), (40, 116), (24, 100), (19, 78), (28, 67))
"""A mask from the bridge of the nose over the cheeks to below the chin, clockwise as seen; convex, also when moved."""
LEAST_SIDE = 32
"""Pixels below which the outline is no outline any more."""
UNIT = 16
"""Sub-pixels of a pixel. Whole numbers: the outline falls on the same pixels on every device."""
MOVE, JITTER = 40, 24
"""The whole mask moves by up to 2.5 pixels each way, and each corner by up to 1.5 more (in sub-pixels)."""
DARKEST, LIGHTEST = 24, 231
"""Range of each colour channel of the fabric."""
SHADE = 16
"""The light falls off linearly, by up to 16/64 from the middle of the picture to each border."""


@dataclass(frozen=True)
class Augment:
    """Training images as a network sees them: masks on, then cropped, then mirrored, all as the batch's keys say.

    ``pad``: shift by up to so many pixels each way, black outside. ``resized``: cut a random window and resize it to
    this side. Neither: the whole image. Raises UsageError where both are given.
    """

    pad: int = 0
    resized: int = 0

    def __post_init__(self) -> None:
        if self.pad and self.resized:
            raise UsageError(f"--crop {self.pad} and --resized-crop {self.resized} exclude each other; give one")

    @property
    def crops(self) -> bool:
        """Whether batches must carry crop keys; cached teacher outputs, of whole images, then fit no batch."""
        return self.pad > 0 or self.resized > 0

    def __call__(self, batch: Batch, masks: bool = True) -> Tensor:
        """uint8 [B,3,H,W] in channels_last memory; without ``masks`` the same view of the bare faces."""
        images = wear_mask(batch.images, batch.mask) if masks and batch.mask is not None else batch.images
        return mirror(self.cropped(images, batch.crop), batch.view)

    def cropped(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """The crop of every image that its key names."""
        if not self.crops:
            return images
        if keys is None:
            raise ValueError("the batch has no crop keys: its Batches were made without crops=True")
        return shift_crop(images, keys, self.pad) if self.pad else resized_crop(images, keys, self.resized)


def mirror(images: Tensor, view: Tensor) -> Tensor:
    """Mirror the images whose view is 1. uint8 [B,3,H,W] and int64 [B] -> uint8 [B,3,H,W].

    The memory format is kept: mirroring runs along the width and nothing is re-ordered.
    """
    return torch.where(view.bool()[:, None, None, None], images.flip(-1), images)


def wear_mask(images: Tensor, keys: Tensor) -> Tensor:
    """Put a face mask on every aligned face whose key is not 0. uint8 [B,3,H,W] and int64 [B] -> uint8 [B,3,H,W].

    Place, outline, colour and shading are functions of the key alone, in whole numbers: the same on every device and
    in every batch. The mask covers nose tip, mouth and chin and leaves the eyes free; H and W are LEAST_SIDE or more.
    """
    _, _, height, width = images.shape
    corners = len(OUTLINE)
    words = draws(keys, 7 + 2 * corners)
    move = between(words[:, 0:2], -MOVE, MOVE)
    colour = between(words[:, 2:5], DARKEST, LIGHTEST)
    slope = between(words[:, 5:7], -SHADE, SHADE)
    jitter = between(words[:, 7:], -JITTER, JITTER).view(-1, corners, 2)
    outline = torch.tensor(OUTLINE).to(keys.device, non_blocking=True) * UNIT + move[:, None] + jitter
    worn = inside(outline, height, width) & (keys != 0)[:, None, None]
    return torch.where(worn[:, None], fabric(colour, slope, height, width), images)


def inside(outline: Tensor, height: int, width: int) -> Tensor:
    """Which pixel centres lie within convex outlines: int64 [B,K,2] (x, y in sub-pixels of 112) -> bool [B,H,W].

    Both sides of every comparison are multiplied by 2 ``height``, so that centres are whole numbers too.
    """
    x = (2 * torch.arange(width, device=outline.device) + 1 - (width - height)) * (SIDE * UNIT)
    y = (2 * torch.arange(height, device=outline.device) + 1) * (SIDE * UNIT)
    begin = outline * (2 * height)
    along = outline.roll(-1, 1) - outline
    within = torch.ones(len(outline), height, width, dtype=torch.bool, device=outline.device)
    for k in range(outline.shape[1]):
        down = along[:, k, :1] * (y - begin[:, k, 1:])  # [B,H]
        right = along[:, k, 1:] * (x - begin[:, k, :1])  # [B,W]
        within &= down[:, :, None] >= right[:, None, :]  # on the inner side of the half-plane
    return within


def fabric(colour: Tensor, slope: Tensor, height: int, width: int) -> Tensor:
    """Shaded cloth that fills the picture: int64 [B,3] and [B,2] (x, y) -> uint8 [B,3,H,W] in channels_last memory."""
    right = slope[:, :1] * centred(width, slope.device) // width
    down = slope[:, 1:] * centred(height, slope.device) // height
    shade = (64 + right[:, None, :] + down[:, :, None]).short()  # 32 .. 96, and 96 x LIGHTEST still fits
    pixels = (shade[..., None] * colour[:, None, None].short() >> 6).clamp_(max=255)
    return pixels.to(torch.uint8).permute(0, 3, 1, 2)


def centred(length: int, device: torch.device) -> Tensor:
    """Twice the distance of each pixel from the middle, int64 [length], -length < x < length."""
    return 2 * torch.arange(length, device=device) + 1 - length
