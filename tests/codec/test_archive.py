"""Many small images in one file: the layout, its price, reading any of them alone, and what damage does."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from binascii import crc_hqx
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.codec import archive, errors
from facekit.codec.archive import Archive, Entry, read_archive, restored, trimmed, write_archive
from facekit.codec.archiveindex import Shape
from facekit.core.errors import InputError

MODEL = bytes(range(8))
FACE = Shape(112, 112)
ENTRIES = [
    Entry(struct.pack("<4I", 0xAB, 7, 8, 9), FACE, "anna/1.png"),
    Entry(struct.pack("<2I", 0x123456, 7), Shape(5, 6, grey=True), "anna/2.png"),
    Entry(struct.pack("<3I", 0x7FFFFFFF, 7, 8), FACE, "über/3 4.png"),
]
PAYLOAD = b"\xab" + struct.pack("<3I", 7, 8, 9) + b"\x12\x34\x56" + struct.pack("<I", 7) + b"\x7f\xff\xff\xff"
PAYLOAD += struct.pack("<2I", 7, 8)
LENGTHS = (13, 7, 12)
CHECKS = [crc_hqx(PAYLOAD[a:b], 0xFFFF) for a, b in ((0, 13), (13, 20), (20, 32))]
NAMES = "anna/1.png\0anna/2.png\0über/3 4.png".encode()


def signed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def header(
    magic: bytes = b"\x89EDA",
    version: int = 1,
    flags: int = 2 | 16,
    model_id: bytes = MODEL,
    images: int = 3,
    shapes: int = 2,
    longest: int = 13,
    payload: int = len(PAYLOAD),
    names: int = len(NAMES),
) -> bytes:
    return signed(magic + struct.pack("<BB8sIIIQQ", version, flags, model_id, images, shapes, longest, payload, names))


def index(
    shapes: tuple[tuple[int, int, int], ...] = ((112, 112, 0), (5, 6, 1)),
    shape: tuple[int, ...] = (0, 1, 0),
    length: tuple[int, ...] = LENGTHS,
) -> bytes:
    return signed(
        b"".join(struct.pack("<HHB", *s) for s in shapes) + bytes(shape + length) + struct.pack("<3H", *CHECKS)
    )


def raw(head: bytes | None = None, middle: bytes | None = None, names: bytes = NAMES) -> bytes:
    """An archive with any faults, written without the code under test."""
    return (head or header(names=len(names))) + PAYLOAD + (middle or index()) + signed(names)


def opened(folder: Path, data: bytes, model_id: bytes | None = MODEL) -> Archive:
    path = folder / "a.edica"
    path.write_bytes(data)
    return read_archive(path, model_id)


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.edica", MODEL, "f64", ENTRIES)
    assert path.read_bytes() == raw()
    found = read_archive(path, MODEL)
    assert list(found) == ENTRIES and found.names == [entry.name for entry in ENTRIES]
    assert (found.model_id, found.mode, len(found)) == (MODEL, "f64", 3)


def test_one_size_and_no_names_take_no_room(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.edica", MODEL, "int", [Entry(e.stream, FACE) for e in ENTRIES])
    head = header(flags=1, shapes=1, names=0)
    middle = index(shapes=((112, 112, 0),), shape=())
    assert path.read_bytes() == head + PAYLOAD + middle
    found = read_archive(path, MODEL)
    assert found.names is None and found.mode == "int" and found[2] == (ENTRIES[2].stream, FACE, None)


words = st.integers(2, 90).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
shapes = st.builds(Shape, st.integers(1, 4000), st.integers(1, 4000), st.booleans())


@settings(max_examples=40)
@given(st.lists(st.tuples(words, shapes), min_size=1, max_size=12))
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[bytes, Shape]]
) -> None:
    entries = [Entry(*image) for image in images]
    path = write_archive(tmp_path_factory.getbasetemp() / "some.edica", MODEL, "f64", entries)
    assert list(read_archive(path, MODEL)) == entries


@pytest.mark.parametrize("count", [256, 257])
def test_columns_widen_where_numbers_need_it(tmp_path: Path, count: int) -> None:
    entries = [Entry(struct.pack(f"<{2 + 20 * i}I", *range(2 + 20 * i)), Shape(1, 1 + i)) for i in range(count)]
    path = write_archive(tmp_path / "a.edica", MODEL, "f64", entries)
    assert list(read_archive(path, MODEL)) == entries


def test_leading_zeros_of_the_coder_state_are_left_out() -> None:
    for zeros, kept in ((0, 4), (1, 3), (2, 2), (3, 1), (4, 1)):
        stream = b"\x11\x22\x33\x44"[: 4 - zeros] + bytes(zeros) + b"\0\0\0\0" + b"word"
        assert len(trimmed(stream)) == kept + 8
        assert restored(trimmed(stream)) == stream


def test_a_face_pays_at_most_sixteen_bytes_beside_its_coded_words(tmp_path: Path) -> None:
    """All of the file counts: header, index, checks and the eight bytes of the coder's state."""
    generator = np.random.default_rng(0)
    # A last state lies anywhere between 2^31 and 2^63, each power of two about as often.
    states = (2 ** generator.uniform(31, 63, 400)).astype(np.uint64)
    coded = generator.integers(50, 200, 400)
    streams = [
        struct.pack("<II", int(s) >> 32, int(s) & 0xFFFFFFFF) + bytes(4 * n) for s, n in zip(states, coded, strict=True)
    ]
    path = write_archive(tmp_path / "a.edica", MODEL, "f64", (Entry(stream, FACE) for stream in streams))
    overhead = (path.stat().st_size - 4 * int(coded.sum())) / 400
    assert overhead <= 12 + 55 / 400
    mixed = (Entry(stream, Shape(100 + i % 20, 112)) for i, stream in enumerate(streams))
    path = write_archive(tmp_path / "a.edica", MODEL, "f64", mixed)
    assert (path.stat().st_size - 4 * int(coded.sum())) / 400 <= 16


def test_every_flipped_bit_is_named_and_other_images_stay_readable(tmp_path: Path) -> None:
    whole = raw()
    bounds = list(chain([archive.HEADER_SIZE], archive.HEADER_SIZE + np.cumsum(LENGTHS)))
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        if place < bounds[0] or place >= bounds[-1]:
            wanted = errors.BadMagic if place < 4 else errors.UnsupportedVersion if place == 4 else errors.HeaderCorrupt
            with pytest.raises(wanted):
                opened(tmp_path, bytes(damaged))
        else:
            broken = int(np.searchsorted(bounds, place, "right")) - 1
            found = opened(tmp_path, bytes(damaged))
            with pytest.raises(errors.PayloadCorrupt, match=rf"image {broken} \({ENTRIES[broken].name}\) of .*a.edica"):
                found[broken]
            assert [found[i] for i in range(3) if i != broken] == [e for i, e in enumerate(ENTRIES) if i != broken]


def test_every_bit_of_a_payload_is_checked(tmp_path: Path) -> None:
    for place in range(archive.HEADER_SIZE, archive.HEADER_SIZE + 13):
        for bit in range(8):
            damaged = bytearray(raw())
            damaged[place] ^= 1 << bit
            with pytest.raises(errors.PayloadCorrupt):
                opened(tmp_path, bytes(damaged))[0]


def test_every_cut_and_everything_appended_is_named(tmp_path: Path) -> None:
    whole = raw()
    for size in range(len(whole)):
        with pytest.raises(errors.Truncated, match=f"has {size} bytes"):
            opened(tmp_path, whole[:size])
    for more in (b"\0", whole):
        with pytest.raises(errors.TrailingData, match=f"has {len(more)} bytes"):
            opened(tmp_path, whole + more)


@settings(max_examples=40)
@given(st.binary(max_size=150))
def test_no_bytes_do_anything_but_be_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for candidate in (data, archive.MAGIC + data, header() + data):
        with pytest.raises(errors.EdicError):
            opened(tmp_path_factory.getbasetemp(), candidate)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (raw(header(magic=b"\x89EDC", version=9)), errors.BadMagic),
        (raw(header(version=2, flags=0)), errors.UnsupportedVersion),
        (raw(header(flags=2 | 16 | 4, model_id=bytes(8))), errors.UnknownFlags),
        (raw(header(flags=3 | 16)), errors.UnknownFlags),
        (raw(header(model_id=bytes(8), images=0)), errors.ModelMismatch),
        (raw(header(images=0)) + b"x", errors.SizeLimit),
        (raw(header(shapes=0)), errors.SizeLimit),
        (raw(header(shapes=4)), errors.SizeLimit),
        (raw(header(longest=4)), errors.SizeLimit),
        (raw(header(longest=33)), errors.SizeLimit),
        (raw(header(longest=10)), errors.SizeLimit),
        (raw(header(names=0)), errors.SizeLimit),
        (raw(header(flags=2)), errors.SizeLimit),
        (raw(header(images=2**32 - 1)), errors.Truncated),
        (raw(header(payload=2**63, images=2**32 - 1, longest=2**32 - 1)), errors.Truncated),
        (raw(header(names=2**63)), errors.Truncated),
        (raw(middle=index(shape=(0, 2, 0))), errors.HeaderCorrupt),
        (raw(middle=index(shapes=((112, 112, 0), (5, 6, 2)))), errors.HeaderCorrupt),
        (raw(middle=index(length=(13, 7, 11))), errors.HeaderCorrupt),
        (raw(middle=index(length=(13, 15, 4))), errors.HeaderCorrupt),
        (raw(middle=index(length=(12, 8, 12))), errors.HeaderCorrupt),
        (raw(middle=index(shapes=((112, 112, 0), (0, 6, 1)))), errors.SizeLimit),
        (raw(middle=index(shapes=((112, 112, 0), (65535, 65535, 1)))), errors.SizeLimit),
        (raw(names=b"a\0b"), errors.HeaderCorrupt),
        (raw(names=b"a\0b\0b"), errors.UnsafeName),
        (raw(names=b"a\0\xff\0b"), errors.UnsafeName),
        (raw(names=b"a\0../b\0c"), errors.UnsafeName),
    ],
)
def test_claims_that_cannot_be_are_refused_though_their_crcs_hold(
    tmp_path: Path, data: bytes, wanted: type[errors.EdicError]
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(wanted):
            opened(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


UNSAFE = ("", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "C:a", "a\nb", "a\0b", "a*", "\ud800")


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_could_lead_elsewhere_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UnsafeName):
        write_archive(tmp_path / "a.edica", MODEL, "f64", [Entry(bytes(8), FACE, name)])
    assert list(tmp_path.iterdir()) == []


def test_what_no_coder_makes_is_not_written(tmp_path: Path) -> None:
    def write(*entries: Entry) -> None:
        write_archive(tmp_path / "a.edica", MODEL, "f64", entries)

    with pytest.raises(InputError, match="no image"):
        write()
    with pytest.raises(errors.SizeLimit, match="image 1"):
        write(Entry(bytes(8), FACE), Entry(bytes(8), Shape(70000, 2)))
    with pytest.raises(ValueError, match="1 names for 2"):
        write(Entry(bytes(8), FACE, "a"), Entry(bytes(8), FACE))
    for stream in (b"", bytes(4), bytes(9)):
        with pytest.raises(ValueError, match="stream"):
            write(Entry(stream, FACE))
    with pytest.raises(errors.UnsafeName, match="twice"):
        write(Entry(bytes(8), FACE, "a"), Entry(bytes(8), FACE, "a"))
    assert list(tmp_path.iterdir()) == []


def test_images_stream_to_the_disk_and_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    def entries(count: int, fails: bool) -> Iterator[Entry]:
        for i in range(count):
            yield Entry(i.to_bytes(4, "little") + bytes(19996), FACE)
        if fails:
            raise RuntimeError("the encoder failed")

    path = tmp_path / "a.edica"
    tracemalloc.start()
    write_archive(path, MODEL, "f64", entries(400, False))
    assert tracemalloc.get_traced_memory()[1] < 2**20 < path.stat().st_size / 7
    tracemalloc.stop()
    with pytest.raises(RuntimeError, match="encoder failed"):
        write_archive(path, MODEL, "f64", entries(3, True))
    assert list(tmp_path.iterdir()) == [path]
    found = read_archive(path, MODEL)
    with ThreadPoolExecutor(4) as threads:
        firsts = list(threads.map(lambda i: found[i].stream[:4], range(400)))
    assert firsts == [i.to_bytes(4, "little") for i in range(400)]
