"""What the benches see of an image codec: a name, a setting, and functions from pixels to bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facekit.core.errors import InputError


@dataclass(frozen=True)
class ImageCodec:
    """A codec at one setting: one point of its curve."""

    name: str
    """Of the curve it belongs to, ``WebP``"""
    setting: str
    """``quality 30``"""
    encode: Callable[[np.ndarray], bytes]
    """uint8 [H,W,3] RGB -> the whole file"""
    decode: Callable[[bytes], np.ndarray]
    """The file -> uint8 [H,W,3] RGB"""
    payload: Callable[[bytes], int] = len
    """Bytes of a file that are this image's own: those that all files of the setting share are left out"""

    def pixels(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """The decoded image, uint8 ``shape``. Raises InputError where the codec gives something else."""
        image = self.decode(data)
        if image.shape != shape or image.dtype != np.uint8:
            raise InputError(
                f"{self.name} at {self.setting} decodes an image of shape {shape} to {image.dtype} {image.shape}; a "
                "codec must give back uint8 pixels of the same size"
            )
        return image
