"""The classical codecs that Pillow brings, each as a ladder of settings."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from facekit.core.errors import unknown_name
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.payload import avif_payload, jpeg2000_payload, jpeg_payload, webp_payload

Encode = Callable[[np.ndarray, int], bytes]
"""uint8 [H,W,3] and a rung of the ladder -> file"""
QUALITIES = tuple(range(5, 100, 5))
RATIOS = (192, 144, 96, 72, 48, 36, 24, 18, 12, 9, 6)
"""Of raw to coded size: 24 bits a pixel over 96 are 0.25."""


def jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Baseline JPEG with Huffman tables made for the image."""
    return saved(image, "JPEG", {"quality": quality, "subsampling": subsampling, "optimize": True})


def webp(image: np.ndarray, quality: int) -> bytes:
    """Lossy WebP at its slowest and smallest."""
    return saved(image, "WEBP", {"quality": quality, "method": 6})


def avif(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """AVIF at libavif's middle speed in one thread, so that its seconds compare with the others'."""
    return saved(image, "AVIF", {"quality": quality, "subsampling": subsampling, "speed": 6, "max_threads": 1})


def jpeg2000(image: np.ndarray, ratio: int) -> bytes:
    """A bare JPEG 2000 codestream with the irreversible wavelet and, unlike Pillow's default, the colour transform."""
    levels = min(6, min(image.shape[:2]).bit_length())  # more need a larger image
    bare = {"no_jp2": True, "irreversible": True, "mct": 1, "num_resolutions": levels}
    return saved(image, "JPEG2000", {**bare, "quality_mode": "rates", "quality_layers": [ratio]})


def saved(image: np.ndarray, form: str, options: Mapping[str, Any]) -> bytes:
    """The file that Pillow writes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """uint8 [H,W,3] RGB of any of the files above."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Classical:
    """One codec and its ladder, worst quality first."""

    encode: Encode
    payload: Callable[[bytes], int]
    ladder: Sequence[int]
    unit: str
    """What a rung is: ``quality``"""
    feature: str
    """Pillow's name of the library it needs"""


CLASSICAL: dict[str, Classical] = {
    "JPEG 4:2:0": Classical(partial(jpeg, subsampling="4:2:0"), jpeg_payload, QUALITIES, "quality", "jpg"),
    "JPEG 4:4:4": Classical(partial(jpeg, subsampling="4:4:4"), jpeg_payload, QUALITIES, "quality", "jpg"),
    "WebP": Classical(webp, webp_payload, QUALITIES, "quality", "webp"),
    "AVIF 4:2:0": Classical(partial(avif, subsampling="4:2:0"), avif_payload, QUALITIES, "quality", "avif"),
    "AVIF 4:4:4": Classical(partial(avif, subsampling="4:4:4"), avif_payload, QUALITIES, "quality", "avif"),
    "JPEG 2000": Classical(jpeg2000, jpeg2000_payload, RATIOS, "ratio", "jpg_2000"),
}


def available() -> list[str]:
    """Names of CLASSICAL that the installed Pillow can write."""
    return [name for name, codec in CLASSICAL.items() if features.check(codec.feature)]


def ladder(name: str, rungs: Sequence[int] | None = None) -> list[ImageCodec]:
    """A classical codec at all its settings, or at those of ``rungs``, worst quality first.

    Raises UsageError for a name that is not ``available``.
    """
    if name not in available():
        raise unknown_name("codec", name, available())
    codec = CLASSICAL[name]
    return [
        ImageCodec(name, f"{codec.unit} {rung}", partial(encode_at, codec.encode, rung), decoded, codec.payload)
        for rung in rungs or codec.ladder
    ]


def encode_at(encode: Encode, rung: int, image: np.ndarray) -> bytes:
    """``encode`` with its setting given first."""
    return encode(image, rung)


def versions() -> dict[str, str]:
    """Pillow and the libraries behind it, for a result: the same setting gives other bytes in other versions."""
    libraries = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp", "libavif": "avif", "openjpeg": "jpg_2000"}
    found = {name: features.version(feature) for name, feature in libraries.items()}
    return {"Pillow": PIL.__version__, **{name: version for name, version in found.items() if version}}
