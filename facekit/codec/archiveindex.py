"""The index of an archive: for every image its size, the length of its payload and a check, a few bytes in all.

Columns of whole bytes, read and written without a loop over images. A column is as wide as its largest number needs: of
faces of one size the index holds two bytes of length and two of check.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHAPE = struct.Struct("<HHB")
"""Height, width, grey."""
CHECK_WIDTH = 2


class Shape(NamedTuple):
    """Of one image, before padding."""

    height: int
    width: int
    grey: bool = False


class Index(NamedTuple):
    """Of n images."""

    shapes: Sequence[Shape]
    """Those that occur"""
    shape: np.ndarray
    """int64 [n], which of them"""
    length: np.ndarray
    """int64 [n], bytes of payload"""
    check: np.ndarray
    """int64 [n], CRC-16 of the payload"""


def index_size(images: int, shapes: int, longest: int) -> int:
    """Bytes of an index. 13,233 faces of one size whose longest payload has 900 bytes: 5 + 4 * 13,233."""
    return shapes * SHAPE.size + images * (width_of(shapes - 1) + width_of(longest) + CHECK_WIDTH)


def pack_index(index: Index) -> bytes:
    """The bytes of ``index_size``."""
    shapes = b"".join(SHAPE.pack(*shape) for shape in index.shapes)
    columns = (index.shape, width_of(len(index.shapes) - 1)), (index.length, width_of(int(index.length.max())))
    return shapes + b"".join(pack_column(*column) for column in (*columns, (index.check, CHECK_WIDTH)))


def unpack_index(data: bytes, images: int, shapes: int, longest: int) -> Index:
    """Undo ``pack_index``; ValueError for what it never writes. ``data`` has the bytes of ``index_size``."""
    rows = list(SHAPE.iter_unpack(data[: shapes * SHAPE.size]))
    if any(grey > 1 for _, _, grey in rows):
        raise ValueError("an image is neither grey nor coloured")
    columns, place = [], shapes * SHAPE.size
    for width in (width_of(shapes - 1), width_of(longest), CHECK_WIDTH):
        columns.append(unpack_column(data[place : place + images * width], images, width))
        place += images * width
    shape, length, check = columns
    if shape.max() >= shapes or length.max() != longest:
        raise ValueError("an image has a size or a length that the header does not know")
    return Index([Shape(h, w, bool(grey)) for h, w, grey in rows], shape, length, check)


def width_of(largest: int) -> int:
    """Bytes that a number needs: 0 for 0, 1 for 255, 2 for 256."""
    return (largest.bit_length() + 7) // 8


def pack_column(values: np.ndarray, width: int) -> bytes:
    """The lowest ``width`` bytes of whole numbers [n], little endian."""
    return values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def unpack_column(data: bytes, count: int, width: int) -> np.ndarray:
    """int64 [n] of numbers of ``width`` bytes, at most 4."""
    wide = np.zeros((count, 8), np.uint8)
    wide[:, :width] = np.frombuffer(data, np.uint8).reshape(count, width)
    return wide.view("<i8").ravel().astype(np.int64, copy=False)
