"""What an ``.edic`` file and an archive have in common: the first 14 bytes, CRCs, and what is checked first.

Little endian. CRCs find accidents, not attacks: whoever wants to can compute them. So nothing that they protect is
trusted with more than its own bytes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from facekit.codec.errors import (
    BadMagic,
    HeaderCorrupt,
    ModelMismatch,
    SizeLimit,
    TrailingData,
    Truncated,
    UnknownFlags,
    UnsupportedVersion,
)
from facekit.core.errors import MissingFile

Mode = Literal["int", "f64"]
"""How the hyper-decoder computes what the entropy coder reads."""

VERSION = 1
FLAG_OF: dict[Mode, int] = {"int": 1, "f64": 2}
MODE_FLAGS = 3
START = struct.Struct("<4sBB8s")
"""Magic, version, flags, model_id."""
CRC_SIZE = 4
WORD, LEAST_STREAM = 4, 8
"""Entropy-coded streams are 32-bit words; the first two hold the coder's state."""
LARGEST_SIDE = (1 << 16) - 1
MAX_PIXELS = 1 << 26
"""How many pixels an image may have, unless the user says otherwise."""


class Start(NamedTuple):
    """What the first 14 bytes say."""

    flags: int
    mode: Mode
    model_id: bytes


def start(magic: bytes, mode: Mode, flags: int, model_id: bytes) -> bytes:
    """The first 14 bytes; ``flags`` are those besides the mode's."""
    if len(model_id) != 8:
        raise ValueError(f"a model_id has 8 bytes, not {len(model_id)}")
    return START.pack(magic, VERSION, FLAG_OF[mode] | flags, model_id)


def check_start(header: bytes, magic: bytes, known_flags: int, model_id: bytes | None, name: str) -> Start:
    """Read a whole header's start; the header's last four bytes are its CRC. Without a ``model_id`` any model will do.

    Raises BadMagic, UnsupportedVersion, HeaderCorrupt, UnknownFlags and ModelMismatch, in this order.
    """
    found_magic, version, flags, found_id = START.unpack_from(header)
    if found_magic != magic:
        raise BadMagic(f"{name} is not of this kind: it begins with {found_magic.hex(' ')}, not {magic.hex(' ')}")
    if version != VERSION:
        raise UnsupportedVersion(f"{name} is of version {version}; this facekit reads version {VERSION}")
    if not is_signed(header):
        raise HeaderCorrupt(f"the header of {name} is damaged; copy or encode it again")
    modes = [mode for mode, flag in FLAG_OF.items() if flags & MODE_FLAGS == flag]
    if not modes or flags & ~(known_flags | MODE_FLAGS):
        raise UnknownFlags(f"{name} has flags {flags:#04x}, which version {VERSION} does not know")
    if model_id is not None and found_id != model_id:
        raise ModelMismatch(
            f"{name} was made by model {found_id.hex()}, and this is {model_id.hex()}; give the model that made it"
        )
    return Start(flags, modes[0], found_id)


def require_size(height: int, width: int, max_pixels: int, name: str) -> None:
    """Raise SizeLimit for an image that has no pixels, a side beyond 65535, or too many pixels for the user."""
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise SizeLimit(f"{name} is {height} x {width} pixels; each side must be from 1 to {LARGEST_SIDE}")
    if height * width > max_pixels:
        raise SizeLimit(f"{name} is {height} x {width} pixels; at most {max_pixels} are allowed here in all")


def require_length(have: int, need: int, name: str) -> None:
    """Raise Truncated."""
    if have < need:
        raise Truncated(f"{name} has {have} bytes and needs {need}: it was cut off; copy or encode it again")


def require_no_more(have: int, need: int, name: str) -> None:
    """Raise TrailingData."""
    if have > need:
        raise TrailingData(f"{name} has {have - need} bytes behind its end; remove what was appended")


def is_stream(size: int) -> bool:
    """Whether the entropy coder writes streams of this many bytes."""
    return size >= LEAST_STREAM and size % WORD == 0


def signed(data: bytes) -> bytes:
    """The data and their CRC32."""
    return data + zlib.crc32(data).to_bytes(CRC_SIZE, "little")


def is_signed(data: bytes) -> bool:
    """Whether the last four bytes are the CRC32 of those before."""
    return zlib.crc32(data[:-CRC_SIZE]) == int.from_bytes(data[-CRC_SIZE:], "little")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes; one sentence where it cannot be read."""
    try:
        with open(path, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
