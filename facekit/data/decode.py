"""Encoded images to pixels, with the size checked before anything is allocated.

JPEG goes through simplejpeg where it is installed (about twice Pillow's speed and equal to it in every pixel of
baseline and progressive files), everything else through Pillow. Decoders differ by a grey level between versions, so
published numbers carry ``decoder_name()``.
"""

from __future__ import annotations

import importlib
import io
from types import ModuleType

import numpy as np
import PIL
from PIL import Image

from facekit.core.errors import InputError

simplejpeg: ModuleType | None
try:
    simplejpeg = importlib.import_module("simplejpeg")
except ImportError:  # Pillow reads the same pixels, more slowly
    simplejpeg = None

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
MAX_PIXELS = 1 << 26
"""8192x8192. A header that announces more is refused: a few bytes can announce gigabytes."""
MAX_BYTES = 1 << 28
"""Encoded size that no sane picture of MAX_PIXELS exceeds."""
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

Buffer = bytes | bytearray | memoryview


class BrokenImage(InputError):
    """Bytes that are not a readable 8-bit image; the message is the reason alone, the caller adds the name."""


def decoder_name() -> str:
    """Which library turns JPEG into pixels, with its version, e.g. ``simplejpeg 1.9.0``."""
    return f"simplejpeg {simplejpeg.__version__}" if simplejpeg else f"Pillow {PIL.__version__}"


def image_size(data: Buffer) -> tuple[int, int]:
    """(height, width) from the header alone. Raises BrokenImage."""
    height, width, _ = read_header(data)
    return checked_size(height, width)


def read_header(data: Buffer) -> tuple[int, int, bool]:
    """(height, width, whether simplejpeg decodes it). CMYK is left to Pillow: the two convert it differently."""
    if simplejpeg and bytes(data[:2]) == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            return height, width, colours in ("YCbCr", "Gray", "RGB")
        except ValueError:
            pass  # Pillow words the reason better, and reads some headers that simplejpeg refuses
    with open_pillow(data) as image:
        return image.height, image.width, False


def decode(data: Buffer) -> np.ndarray:
    """Encoded bytes -> uint8 [H,W,3] RGB. Raises BrokenImage."""
    out = np.empty((*image_size(data), 3), np.uint8)
    decode_into(data, out)
    return out


def decode_into(data: Buffer, out: np.ndarray) -> None:
    """Decode into ``out`` (uint8 [H,W,3], contiguous). Raises BrokenImage, also where the size is another."""
    height, width, fast = read_header(data)
    if (height, width) != out.shape[:2]:
        raise BrokenImage(f"it is {height}x{width}, the other images are {out.shape[0]}x{out.shape[1]}")
    if simplejpeg and fast:
        try:
            simplejpeg.decode_jpeg(data, "RGB", buffer=out)
            return
        except ValueError:
            pass  # harmless oddities that Pillow reads; a truncated body fails there too
    out[...] = decode_pillow(data)


def decode_pillow(data: Buffer) -> np.ndarray:
    """uint8 [H,W,3] through Pillow. 16-bit and float images are refused: clipping them would lose the picture."""
    with open_pillow(data) as image:
        checked_size(image.height, image.width)
        if image.mode not in EIGHT_BIT:
            raise BrokenImage(f"pixel mode {image.mode} is not 8 bits a channel; convert it to 8-bit RGB")
        try:
            return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error ...
            raise BrokenImage(str(error) or type(error).__name__) from None


def open_pillow(data: Buffer) -> Image.Image:
    """The lazily opened image: header only. Raises BrokenImage."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise BrokenImage(f"not a {', '.join(FORMATS)} image" if len(data) else "the file is empty") from None
    except Exception as error:  # as above, and the decompression-bomb error and warning
        raise BrokenImage(str(error) or type(error).__name__) from None


def checked_size(height: int, width: int) -> tuple[int, int]:
    """The size itself, if it is one that may be allocated."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise BrokenImage(f"the header announces {height}x{width} pixels; at most {MAX_PIXELS} are read")
    return height, width


def encode_jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """uint8 [H,W,3] RGB -> JPEG bytes without colour subsampling."""
    if simplejpeg:
        encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling="444")
        return encoded
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()
