"""How many bytes of a file are the image's own: what is left when a common header is kept once for all files.

On a face of 112x112 a file's header is a large part of it, and somebody who keeps a million of them need not keep
the header a million times. What counts as common is said at each format. Files are those this package has just
written: nothing here is a parser for strangers' files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator


def jpeg_payload(data: bytes) -> int:
    """Huffman tables and scans. Optimised tables differ from image to image; the rest depends on the quality alone."""
    return sum(length for marker, length in jpeg_segments(data) if marker in (0xC4, 0xDA))


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, bytes with the marker) of each segment after the start; a scan's entropy-coded data belongs to it."""
    at = 2
    while data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if marker == 0xDA:
            # In a scan FF 00 is a byte FF and FF D0..D7 a restart: neither ends it.
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end += 1
        yield marker, end - at
        at = end


def webp_payload(data: bytes) -> int:
    """The content of the image's chunk, without the RIFF header and the names and lengths of chunks."""
    at, total = 12, 0
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        total += length if name in (b"VP8 ", b"VP8L") else 0
        at += 8 + length + length % 2
    return total


def avif_payload(data: bytes) -> int:
    """The content of the box ``mdat``: the AV1 stream without the boxes that describe it."""
    at, total = 0, 0
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        total += length - 8 if name == b"mdat" else 0
        at += length
    return total


def jpeg2000_payload(data: bytes) -> int:
    """The packets of a codestream of one tile: what lies between the end of its header and the end of the stream."""
    return len(data) - (data.index(b"\xff\x93") + 2) - len(b"\xff\xd9")
