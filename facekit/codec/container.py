"""``.edic``: one compressed image. The layout is in docs/file-formats.md; a change of it takes a new version."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from facekit.codec.errors import PayloadCorrupt, SizeLimit
from facekit.codec.framing import (
    CRC_SIZE,
    LARGEST_SIDE,
    MAX_PIXELS,
    START,
    Mode,
    check_start,
    is_signed,
    is_stream,
    opened,
    require_length,
    require_no_more,
    require_size,
    signed,
    start,
)

MAGIC = b"\x89EDC"
LATENT_CRC, GREY = 4, 8
SIZES = struct.Struct("<HHII")
"""Height, width, bytes of the z stream, bytes of the y stream."""
HEADER_SIZE = START.size + SIZES.size + CRC_SIZE
LEAST_FILE = HEADER_SIZE + CRC_SIZE


class Header(NamedTuple):
    """What a file says of its image."""

    model_id: bytes
    """8 bytes"""
    height: int
    width: int
    """In pixels, before padding."""
    mode: Mode = "f64"
    grey: bool = False
    """Decode to one channel."""


class Layout(NamedTuple):
    """A header whose checks have passed, and where things lie behind it."""

    header: Header
    z_size: int
    y_size: int
    has_latent_crc: bool

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return LEAST_FILE + self.z_size + self.y_size + CRC_SIZE * self.has_latent_crc


class Content(NamedTuple):
    """What was packed; ``latent_crc`` is None where none was kept."""

    header: Header
    z: bytes
    y: bytes
    latent_crc: int | None


def pack(header: Header, z: bytes, y: bytes, latent_crc: int | None) -> bytes:
    """The file of one image: two entropy-coded streams, and 34 bytes of framing (38 with the CRC of the latent).

    Raises SizeLimit for an image with a side beyond 65535.
    """
    require_size(header.height, header.width, LARGEST_SIDE**2, "the image")
    if not (is_stream(len(z)) and is_stream(len(y))):
        raise ValueError(f"streams of {len(z)} and {len(y)} bytes: neither may be below 8 or off a multiple of 4")
    flags = GREY * header.grey | LATENT_CRC * (latent_crc is not None)
    sizes = SIZES.pack(header.height, header.width, len(z), len(y))
    kept = b"" if latent_crc is None else latent_crc.to_bytes(CRC_SIZE, "little")
    return signed(signed(start(MAGIC, header.mode, flags, header.model_id) + sizes) + z + y + kept)


def unpack(data: bytes, model_id: bytes | None, max_pixels: int = MAX_PIXELS, name: str = "the file") -> Content:
    """Undo ``pack``. ``name`` is what messages call the data.

    Raises, for the first that applies: Truncated (below 34 bytes), BadMagic, UnsupportedVersion, HeaderCorrupt,
    UnknownFlags, ModelMismatch, SizeLimit, Truncated or TrailingData (another length than the header's),
    PayloadCorrupt.
    """
    return content(data, layout(data[:HEADER_SIZE], len(data), model_id, max_pixels, name), name)


def read(path: Path, model_id: bytes | None, max_pixels: int = MAX_PIXELS) -> Content:
    """``unpack`` a file; its body is read only after its header has been found sound. Raises MissingFile too."""
    with opened(path) as (file, size):
        head = file.read(HEADER_SIZE)
        found = layout(head, size, model_id, max_pixels, str(path))
        return content(head + file.read(found.file_size - HEADER_SIZE), found, str(path))


def read_layout(path: Path, model_id: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Layout:
    """What a file's header says; the body is not read, only its length is checked. Raises as ``read`` does."""
    with opened(path) as (file, size):
        return layout(file.read(HEADER_SIZE), size, model_id, max_pixels, str(path))


def layout(head: bytes, size: int, model_id: bytes | None, max_pixels: int, name: str) -> Layout:
    """Check the first 30 bytes of a file of ``size`` bytes; all errors of ``unpack`` but the last."""
    require_length(size, LEAST_FILE, name)
    flags, mode, found_id = check_start(head, MAGIC, LATENT_CRC | GREY, model_id, name)
    height, width, z_size, y_size = SIZES.unpack_from(head, START.size)
    require_size(height, width, max_pixels, name)
    if not (is_stream(z_size) and is_stream(y_size)):
        raise SizeLimit(f"{name} claims streams of {z_size} and {y_size} bytes, which no encoder writes")
    header = Header(found_id, height, width, mode, bool(flags & GREY))
    found = Layout(header, z_size, y_size, bool(flags & LATENT_CRC))
    require_length(size, found.file_size, name)
    require_no_more(size, found.file_size, name)
    return found


def content(data: bytes, found: Layout, name: str) -> Content:
    """Check the whole file's CRC, and cut it into its parts."""
    require_length(len(data), found.file_size, name)  # again: a file may have become shorter since
    if not is_signed(data):
        raise PayloadCorrupt(f"{name} is damaged behind its header; copy or encode it again")
    middle = HEADER_SIZE + found.z_size
    end = middle + found.y_size
    crc = int.from_bytes(data[end : end + CRC_SIZE], "little") if found.has_latent_crc else None
    return Content(found.header, data[HEADER_SIZE:middle], data[middle:end], crc)
