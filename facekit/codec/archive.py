"""``.edica``: many small images under one header, any of which can be read alone. Layout: docs/file-formats.md.

A face of a few hundred bytes cannot pay for a header, three CRCs and two coder states of its own. Here it pays for one
state of at most eight bytes, two bytes of length and two of check.
"""

from __future__ import annotations

import struct
from array import array
from binascii import crc_hqx
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from facekit.codec.archiveindex import Index, Shape, index_size, pack_index, unpack_index
from facekit.codec.errors import HeaderCorrupt, PayloadCorrupt, SizeLimit
from facekit.codec.framing import (
    CRC_SIZE,
    LARGEST_SIDE,
    MAX_PIXELS,
    START,
    Mode,
    Start,
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
from facekit.codec.names import pack_names, unpack_names
from facekit.core.errors import InputError
from facekit.core.files import write_atomic

MAGIC = b"\x89EDA"
NAMED = 16
COUNTS = struct.Struct("<IIIQQ")
HEADER_SIZE = START.size + COUNTS.size + CRC_SIZE
LEAST_PAYLOAD = 5
LONGEST_PAYLOAD = (1 << 32) - 1
CHECK_START = 0xFFFF
"""Of the CRC-16 (CCITT): not 0, which would not see zeros that are lost at the front."""


class Entry(NamedTuple):
    """One compressed image."""

    stream: bytes
    """z and y behind one coder state: 32-bit words, little endian, the state's high word first"""
    shape: Shape
    name: str | None = None


class Counts(NamedTuple):
    """What a header says of the file behind it."""

    images: int
    shapes: int
    longest: int
    """Bytes of the longest payload"""
    payload: int
    """Bytes of all payloads"""
    names: int
    """Bytes of all names"""

    @property
    def index_size(self) -> int:
        """Bytes of the index, its CRC included."""
        return index_size(self.images, self.shapes, self.longest) + CRC_SIZE

    def file_size(self, named: bool) -> int:
        """Bytes of the whole file."""
        return HEADER_SIZE + self.payload + self.index_size + (self.names + CRC_SIZE) * named


# --- writing -----------------------------------------------------------------------------------------------


def write_archive(path: Path, model_id: bytes, mode: Mode, entries: Iterable[Entry]) -> Path:
    """Write images as they come; either all of them have names or none has. The file appears when it is whole.

    Raises SizeLimit, UnsafeName, InputError (no image) and WriteFailed.
    """
    return write_atomic(path, lambda file: fill(file, model_id, mode, entries))


def fill(file: BinaryIO, model_id: bytes, mode: Mode, entries: Iterable[Entry]) -> None:
    """Payloads, index and names; then the header, for which room was left."""
    file.write(bytes(HEADER_SIZE))
    index, names = write_payloads(file, entries)
    if names and len(names) != len(index.length):
        raise ValueError(f"{len(names)} names for {len(index.length)} images")
    listed = pack_names(names)
    file.write(signed(pack_index(index)))
    if names:
        file.write(signed(listed))
    longest, payload = int(index.length.max()), int(index.length.sum())
    counts = Counts(len(index.length), len(index.shapes), longest, payload, len(listed))
    file.seek(0)
    file.write(signed(start(MAGIC, mode, NAMED * bool(names), model_id) + COUNTS.pack(*counts)))


def write_payloads(file: BinaryIO, entries: Iterable[Entry]) -> tuple[Index, list[str]]:
    """Write one payload after the other; what the index will say of them, and their names."""
    shapes: dict[Shape, int] = {}
    shape, length, check = array("Q"), array("Q"), array("H")
    names = []
    for stream, size, name in entries:
        require_size(size.height, size.width, LARGEST_SIDE**2, f"image {len(length)}" if name is None else name)
        payload = trimmed(stream)
        file.write(payload)
        shape.append(shapes.setdefault(size, len(shapes)))
        length.append(len(payload))
        check.append(crc_hqx(payload, CHECK_START))
        if name is not None:
            names.append(name)
    if not length:
        raise InputError("there is no image to put into the archive; give at least one")
    return Index(list(shapes), *(np.array(column, np.int64) for column in (shape, length, check))), names


def trimmed(stream: bytes) -> bytes:
    """The stream without the leading zero bytes of its first word, which is put big end first; they are 1.6 on average.

    At most three, so that the length tells how many: the words 0x0000abcd, 1 and 2 become ab cd, 1 and 2.
    """
    if not is_stream(len(stream)) or len(stream) > LONGEST_PAYLOAD:
        raise ValueError(f"a stream of {len(stream)} bytes")
    return (stream[3::-1].lstrip(b"\0") or b"\0") + stream[4:]


def restored(payload: bytes) -> bytes:
    """Undo ``trimmed``."""
    kept = (len(payload) - 1) % 4 + 1
    return payload[:kept].rjust(4, b"\0")[::-1] + payload[kept:]


# --- reading -----------------------------------------------------------------------------------------------


class Archive:
    """A sequence of images; threads may share it. ``names`` is None where none were kept."""

    def __init__(self, path: Path, head: Start, index: Index, names: list[str] | None, data: np.ndarray) -> None:
        self.path, self.model_id, self.mode = path, head.model_id, head.mode
        self.index, self.names, self.data = index, names, data
        self.end = HEADER_SIZE + np.cumsum(index.length)

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, i: int, /) -> Entry:
        """Image i. Raises PayloadCorrupt, which names it; the others can still be read."""
        end = int(self.end[i])
        payload = self.data[end - int(self.index.length[i]) : end].tobytes()
        name = None if self.names is None else self.names[i]
        if crc_hqx(payload, CHECK_START) != self.index.check[i]:
            which = f"image {i}" if name is None else f"image {i} ({name})"
            raise PayloadCorrupt(f"{which} of {self.path} is damaged; encode it again")
        return Entry(restored(payload), self.index.shapes[int(self.index.shape[i])], name)


def read_archive(path: Path, model_id: bytes | None, max_pixels: int = MAX_PIXELS) -> Archive:
    """Read header, index and names of an archive; memory and time are bounded by the file's size.

    Raises, for the first that applies: MissingFile, Truncated (no header), BadMagic, UnsupportedVersion, HeaderCorrupt,
    UnknownFlags, ModelMismatch, SizeLimit (counts), Truncated or TrailingData (another length than the header's),
    HeaderCorrupt (index), SizeLimit (an image), HeaderCorrupt (names), UnsafeName.
    """
    name = str(path)
    with opened(path) as (file, size):
        require_length(size, HEADER_SIZE, name)
        header = file.read(HEADER_SIZE)
        head = check_start(header, MAGIC, NAMED, model_id, name)
        named, counts = bool(head.flags & NAMED), Counts(*COUNTS.unpack_from(header, START.size))
        require_counts(counts, named, size, name)
        file.seek(HEADER_SIZE + counts.payload)
        index = read_index(file.read(counts.index_size), counts, max_pixels, name)
        names = read_names(file.read(counts.names + CRC_SIZE), counts.images, name) if named else None
        return Archive(path, head, index, names, np.memmap(file, np.uint8, "r"))


def require_counts(counts: Counts, named: bool, size: int, name: str) -> None:
    """Refuse counts that cannot be, then a file of another size than they say: the rest may trust them."""
    images, shapes, longest, payload, names = counts
    if not (1 <= shapes <= images and LEAST_PAYLOAD <= longest <= payload <= images * longest):
        raise SizeLimit(f"{name} claims {images} images of {shapes} sizes in {payload} bytes, at most {longest} each")
    if bool(names) != named:
        raise SizeLimit(f"{name} claims {names} bytes of names, and its flags say otherwise")
    require_length(size, counts.file_size(named), name)
    require_no_more(size, counts.file_size(named), name)


def read_index(data: bytes, counts: Counts, max_pixels: int, name: str) -> Index:
    """The index from its bytes and their CRC."""
    if not is_signed(data):
        raise HeaderCorrupt(f"the index of {name} is damaged; copy or encode it again")
    try:
        index = unpack_index(data[:-CRC_SIZE], counts.images, counts.shapes, counts.longest)
    except ValueError as error:
        raise HeaderCorrupt(f"the index of {name} is no index: {error}") from None
    if index.length.min() < LEAST_PAYLOAD or index.length.sum() != counts.payload:
        raise HeaderCorrupt(f"the index of {name} does not add up to its {counts.payload} bytes")
    for shape in index.shapes:
        require_size(shape.height, shape.width, max_pixels, f"an image of {name}")
    return index


def read_names(data: bytes, images: int, name: str) -> list[str]:
    """The names from their bytes and their CRC."""
    if not is_signed(data):
        raise HeaderCorrupt(f"the list of names of {name} is damaged; copy or encode it again")
    names = unpack_names(data[:-CRC_SIZE], name)
    if len(names) != images:
        raise HeaderCorrupt(f"{name} has {len(names)} names for {images} images")
    return names
