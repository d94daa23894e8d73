"""Worse pictures of the same faces: what a measurement under a condition looks at.

A rendering is a source like any other, made while it is read and never written. Each picture is a function of the
clean pixels, the condition, the seed and the image's place in the source. Lengths are pixels of a 112 x 112 crop; other
sizes are treated in proportion to their height.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from facekit.core.augment import LEAST_SIDE, SIDE, wear_mask
from facekit.core.errors import InputError, unknown_name
from facekit.data.batches import mix
from facekit.data.decode import decode, encode_jpeg
from facekit.data.protocol import Source

VERSION = 1
"""Raise it when the pictures change: it is part of their fingerprint, by which embeddings are kept."""
LOWRES_SIDE = 28
"""Pixels of 112 that are left of each side."""
BLUR_SIGMA = 3.0
"""Standard deviation of the Gaussian, in pixels of 112."""
DARK_GAIN = 1 / 16
"""Share of the light that is left: four stops."""
DARK_GAMMA = 2.2
"""Exponent between grey levels (0..1) and light."""
DARK_READ_NOISE = 0.003
"""Standard deviation of the sensor's noise, as a share of full light."""
JPEG_QUALITY = 10
"""1..100, without colour subsampling."""
BLOCK = 32
"""Pictures rendered at once, whatever is asked for: bounds the working memory."""

Pixels = np.ndarray
"""uint8 [n,H,W,3] RGB"""


class Rendering(NamedTuple):
    """One condition."""

    stated: str
    """What is done to a picture, for a report."""
    apply: Callable[[Pixels, np.ndarray], Pixels]
    """Pixels and one random word a picture, uint64 [n] -> pixels."""


def render(source: Source, condition: str, seed: int = 0) -> Rendered:
    """``source`` as it looks under a condition, a name of CONDITIONS: same names, labels, people and size.

    Raises UsageError for an unknown name and InputError where the images are too small for a mask.
    """
    if condition not in CONDITIONS:
        raise unknown_name("condition", condition, CONDITIONS)
    if condition == "mask" and min(source.size) < LEAST_SIDE:
        raise InputError(
            f"the images are {source.size[0]}x{source.size[1]}, too small to wear a mask: sides of {LEAST_SIDE} or "
            "more are needed"
        )
    return Rendered(source, condition, seed)


class Rendered:
    """The images of ``parent`` under a condition."""

    kind = "uint8"

    def __init__(self, parent: Source, condition: str, seed: int) -> None:
        self.parent, self.condition, self.seed = parent, condition, seed
        self.names, self.labels, self.identities = parent.names, parent.labels, parent.identities
        self.size, self.notes = parent.size, parent.notes
        self.broken: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def fingerprint(self) -> str:
        """Of the clean images and of all that was done to them."""
        text = f"{self.parent.fingerprint} as {self.condition}, version {VERSION}, seed {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, index: np.ndarray) -> Pixels:
        """uint8 [n,H,W,3] RGB."""
        out = self.parent.read(index)
        words = mix(self.seed, np.asarray(index))
        for first in range(0, len(out), BLOCK):
            part = slice(first, first + BLOCK)
            out[part] = CONDITIONS[self.condition].apply(out[part], words[part])
        return out

    def encoded(self, i: int) -> bytes:
        """The pixels."""
        return self.read(np.array([i])).tobytes()

    def digests(self, index: np.ndarray) -> None:
        """There are no files."""


# --- the conditions --------------------------------------------------------------------------------------


def masked(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Every face wears a mask, as in training with --mask."""
    keys = torch.from_numpy((words | np.uint64(1)).view(np.int64))  # a key of 0 would wear none
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return wear_mask(images, keys).permute(0, 2, 3, 1).numpy()


def low_resolution(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Averaged over areas down to a few pixels, and bilinearly up again."""
    return separable(pixels, lambda length, height: enlarging(length, few(length, height)) @ averaging(length, height))


def blurred(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Out of focus."""
    return separable(pixels, gaussian)


def dark(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Too little light: what is left of it, the sensor's noise, and back to grey levels."""
    light = (np.arange(256) / 255) ** DARK_GAMMA * DARK_GAIN
    noise = DARK_READ_NOISE * normal(words, pixels[0].size).reshape(pixels.shape)
    return to_pixels(255 * np.clip(light[pixels] + noise, 0, 1) ** (1 / DARK_GAMMA))


def grey(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Luma of ITU-R BT.601 in all three channels."""
    luma = (pixels.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
    return np.repeat(luma[..., None].astype(np.uint8), 3, axis=-1)


def compressed(pixels: Pixels, words: np.ndarray) -> Pixels:
    """Through a strongly compressing JPEG."""
    return np.stack([decode(encode_jpeg(image, JPEG_QUALITY)) for image in pixels])


CONDITIONS: dict[str, Rendering] = {
    "mask": Rendering("a drawn face mask from nose to chin", masked),
    "lowres": Rendering(f"down to {LOWRES_SIDE} of {SIDE} pixels by area, and bilinearly up", low_resolution),
    "blur": Rendering(f"Gaussian blur, sigma {BLUR_SIGMA:g} of {SIDE} pixels", blurred),
    "dark": Rendering(
        f"1/{1 / DARK_GAIN:g} of the light, read noise {DARK_READ_NOISE:g} of full light, gamma {DARK_GAMMA:g}", dark
    ),
    "grey": Rendering("grey, BT.601 luma", grey),
    "jpeg": Rendering(f"JPEG of quality {JPEG_QUALITY}", compressed),
}


# --- linear maps along both axes -------------------------------------------------------------------------


def separable(pixels: Pixels, matrix: Callable[[int, int], np.ndarray]) -> Pixels:
    """One kind of linear map down the columns and along the rows; ``matrix(length, height)`` is [length,length]."""
    n, height, width, _ = pixels.shape
    down, along = matrix(height, height), matrix(width, height)
    rows = (down @ pixels.reshape(n, height, -1)).reshape(n, height, width, 3)
    mixed = along @ rows.transpose(0, 2, 1, 3).reshape(n, width, -1)
    return to_pixels(mixed.reshape(n, width, height, 3).transpose(0, 2, 1, 3))


def few(length: int, height: int) -> int:
    """What is left of a side where LOWRES_SIDE is left of a height of SIDE."""
    return max(1, round(length * LOWRES_SIDE / SIDE))


def averaging(length: int, height: int) -> np.ndarray:
    """Means over ``few`` equal stretches of ``length`` pixels, [few,length]; pixels on a border count in part."""
    ends = np.arange(few(length, height) + 1) * length / few(length, height)
    pixel = np.arange(length)
    overlap = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def enlarging(length: int, small: int) -> np.ndarray:
    """Linear interpolation between the centres of ``small`` stretches, flat beyond the outer ones, [length,small]."""
    place = np.clip((np.arange(length) + 0.5) * small / length - 0.5, 0, small - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(small)), 0, None)


def gaussian(length: int, height: int) -> np.ndarray:
    """Gaussian weights, [length,length]; at the border what is inside counts for all."""
    sigma = BLUR_SIGMA * height / SIDE
    distance = np.arange(length)[:, None] - np.arange(length)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def to_pixels(values: np.ndarray) -> Pixels:
    """Rounded to grey levels."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def normal(words: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers for each word, float64 [n,count]: the sum of four uniform ones, of mean 0 and variance 1.

    Hashed, not drawn from numpy's generators, whose streams may change between versions; a sum needs no logarithm,
    whose last digit differs between machines.
    """
    hashed = mix(words[:, None], np.arange(count))
    total = sum((hashed >> np.uint64(16 * k) & np.uint64(0xFFFF)).astype(np.float64) for k in range(4))
    return (total - 2 * 0xFFFF) / np.sqrt(4 * (2.0**32 - 1) / 12)
