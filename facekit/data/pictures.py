"""Picture files as a codec takes them, of any size and many kinds; and as it gives them back.

Grey stays grey, palettes and CMYK become RGB, the camera's orientation is applied. What would be lost silently is
refused, unless the user says what shall become of it: transparency, and more than 8 bits a channel. Colour profiles
are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from facekit.core.files import write_atomic
from facekit.data.decode import MAX_PIXELS, BrokenImage, Buffer, checked_size, open_pillow

Alpha = Literal["refuse", "white", "black", "drop"]
"""What becomes of transparency: a refusal, a background, or the colours as they lie under it."""
PictureFormat = Literal["png", "ppm"]

GREY = ("1", "L", "LA", "La")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has. Pillow halves 16-bit colour without a word."""


class PictureRules(NamedTuple):
    """What the user allows."""

    alpha: Alpha = "refuse"
    to_8bit: bool = False
    """16 bits a channel become 8."""
    find_grey: bool = False
    """An RGB picture whose channels are equal is taken for grey."""
    max_pixels: int = MAX_PIXELS


class Picture(NamedTuple):
    """A picture, and what was done to it."""

    pixels: np.ndarray
    """uint8, [H,W,3] RGB or [H,W] grey."""
    notes: tuple[str, ...]
    """What was lost, in a few words each."""


def read_picture(data: Buffer, rules: PictureRules) -> Picture:
    """The picture of a JPEG, PNG, BMP, WebP or PPM file. Raises BrokenImage, whose message is the reason alone."""
    with open_pillow(data) as image:
        height, width = checked_size(image.height, image.width)
        if height * width > rules.max_pixels:
            raise BrokenImage(f"it has {height}x{width} pixels; at most {rules.max_pixels} are allowed here")
        if image.mode == "F":
            raise BrokenImage("its pixels are floating-point numbers, whose range is not known; convert it to 8 bits")
        deep = is_deep(data, image)
        if deep and not rules.to_8bit:
            raise BrokenImage("it has 16 bits a channel and a codec has 8; say --to-8bit to round them")
        transparent = image.mode in ALPHA or "transparency" in image.info
        if transparent and rules.alpha == "refuse":
            raise BrokenImage("it has transparency, which no codec file holds; say --alpha white, black or drop")
        try:
            pixels = pixels_of(ImageOps.exif_transpose(image), rules, transparent)
        except BrokenImage:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error ...
            raise BrokenImage(str(error) or type(error).__name__) from None
    notes = [f"transparency: {rules.alpha}"] * transparent + ["16 bits became 8"] * deep
    return Picture(np.ascontiguousarray(pixels), tuple(notes))


def is_deep(data: Buffer, image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits."""
    return image.mode in DEEP or (bytes(data[: len(PNG)]) == PNG and data[PNG_DEPTH] == 16)


def pixels_of(image: Image.Image, rules: PictureRules, transparent: bool) -> np.ndarray:
    """uint8 [H,W,3] or [H,W]."""
    if image.mode in DEEP:
        return rounded(np.asarray(image))
    grey = image.mode in GREY
    if transparent:
        image = flattened(image, rules.alpha)
    if grey:
        return np.asarray(image.convert("L"))
    pixels = np.asarray(image.convert("RGB"))
    return pixels[..., 0] if rules.find_grey and (pixels == pixels[..., :1]).all() else pixels


def rounded(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255, to the nearest."""
    if values.min() < 0 or values.max() > 65535:
        raise BrokenImage("its values are not within 16 bits; convert it to 8 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def flattened(image: Image.Image, alpha: Alpha) -> Image.Image:
    """The picture without its transparency, RGB."""
    colours = image.convert("RGBA")
    if alpha == "drop":
        return colours.convert("RGB")
    background = Image.new("RGBA", image.size, alpha)
    return Image.alpha_composite(background, colours).convert("RGB")


def write_picture(path: Path, pixels: np.ndarray, form: PictureFormat = "png") -> Path:
    """uint8 [H,W,3] or [H,W] as a file that loses nothing. ``ppm`` is not compressed, and quick."""
    image = Image.fromarray(pixels)
    return write_atomic(path, lambda stream: image.save(stream, form))
