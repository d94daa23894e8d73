"""One compressed image: the layout byte by byte, and every flipped bit and every cut refused by its name."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.codec import container, errors
from facekit.codec.container import Content, Header, pack, read, read_layout, unpack
from facekit.codec.framing import Mode
from facekit.core.errors import MissingFile

MODEL = bytes(range(8))
HEADER = Header(MODEL, 112, 100)
Z, Y = b"zzzzZZZZ", b"yyyyYYYYyyyy"
FILE = pack(HEADER, Z, Y, 0x01020304)


def crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))


def raw(
    magic: bytes = b"\x89EDC",
    version: int = 1,
    header_crc: bytes | None = None,
    flags: int = 2,
    model_id: bytes = MODEL,
    height: int = 8,
    width: int = 8,
    z_size: int = 8,
    y_size: int = 8,
    body: bytes = bytes(16),
    file_crc: bytes | None = None,
) -> bytes:
    """A file with any faults, written without the code under test."""
    head = magic + struct.pack("<BB8sHHII", version, flags, model_id, height, width, z_size, y_size)
    data = head + (crc(head) if header_crc is None else header_crc) + body
    return data + (crc(data) if file_crc is None else file_crc)


def test_the_layout_is_the_documented_one() -> None:
    head = b"\x89EDC" + bytes([1, 2 | 4 | 8]) + MODEL + struct.pack("<HHII", 112, 100, 8, 12)
    data = head + crc(head) + Z + Y + bytes([4, 3, 2, 1])
    assert pack(Header(MODEL, 112, 100, "f64", grey=True), Z, Y, 0x01020304) == data + crc(data)
    assert pack(Header(MODEL, 8, 8), bytes(8), bytes(8), None) == raw()
    assert len(raw()) == 34 + 16


def test_these_bytes_can_be_read_for_ever() -> None:
    data = bytes.fromhex(
        "894544430106000102030405060770006400080000000c000000bd1738f1"
        "7a7a7a7a5a5a5a5a79797979595959597979797904030201e61dd0e5"
    )
    assert unpack(data, MODEL) == Content(HEADER, Z, Y, 0x01020304)
    assert data == FILE


streams = st.integers(2, 6).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))
sides = st.integers(1, 65535)


@given(
    header=st.builds(Header, st.binary(min_size=8, max_size=8), sides, sides, st.sampled_from(["int", "f64"])),
    grey=st.booleans(),
    z=streams,
    y=streams,
    latent_crc=st.none() | st.integers(0, 2**32 - 1),
)
def test_what_was_packed_comes_back(header: Header, grey: bool, z: bytes, y: bytes, latent_crc: int | None) -> None:
    header = header._replace(grey=grey)
    data = pack(header, z, y, latent_crc)
    assert unpack(data, header.model_id, max_pixels=2**32) == Content(header, z, y, latent_crc)
    assert len(data) - len(z) - len(y) == (34 if latent_crc is None else 38)


def fault_at(place: int) -> type[errors.EdicError]:
    """What a flipped bit of this byte is refused as."""
    if place < 4:
        return errors.BadMagic
    if place == 4:
        return errors.UnsupportedVersion
    return errors.HeaderCorrupt if place < container.HEADER_SIZE else errors.PayloadCorrupt


def test_every_flipped_bit_is_named() -> None:
    for place in range(len(FILE)):
        for bit in range(8):
            damaged = bytearray(FILE)
            damaged[place] ^= 1 << bit
            with pytest.raises(fault_at(place)):
                unpack(bytes(damaged), MODEL)


def test_every_cut_and_everything_appended_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.edic"
    for size in range(len(FILE)):
        with pytest.raises(errors.Truncated, match=f"has {size} bytes"):
            unpack(FILE[:size], MODEL)
        path.write_bytes(FILE[:size])
        with pytest.raises(errors.Truncated, match=f"a.edic has {size} bytes"):
            read(path, MODEL)
    for more in (b"\0", b"x" * 7, FILE):
        with pytest.raises(errors.TrailingData, match=f"has {len(more)} bytes"):
            unpack(FILE + more, MODEL)


@given(st.binary(max_size=120))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    for candidate in (data, container.MAGIC + data, FILE[: container.HEADER_SIZE] + data):
        with pytest.raises(errors.EdicError):
            unpack(candidate, MODEL)


FAULTS: tuple[tuple[dict[str, object], type[errors.EdicError]], ...] = (
    ({"magic": b"\x89EDA"}, errors.BadMagic),
    ({"version": 2}, errors.UnsupportedVersion),
    ({"header_crc": bytes(4)}, errors.HeaderCorrupt),
    ({"flags": 2 | 16}, errors.UnknownFlags),
    ({"model_id": bytes(8)}, errors.ModelMismatch),
    ({"height": 0}, errors.SizeLimit),
    ({"body": bytes(17)}, errors.TrailingData),
    ({"file_crc": bytes(4)}, errors.PayloadCorrupt),
)


def test_of_several_faults_the_first_of_the_list_is_named() -> None:
    for first, (_, wanted) in enumerate(FAULTS):
        faults: dict[str, object] = {}
        for fault, _ in FAULTS[first:]:
            faults |= fault
        with pytest.raises(wanted):
            unpack(raw(**faults), MODEL)  # type: ignore[arg-type]
    assert unpack(raw(), MODEL).y == bytes(8)


@pytest.mark.parametrize("flags", [0, 3, 2 | 16, 2 | 128])
def test_flags_without_a_meaning_are_refused(flags: int) -> None:
    with pytest.raises(errors.UnknownFlags):
        unpack(raw(flags=flags), MODEL)


@pytest.mark.parametrize(
    "sizes",
    [
        {"height": 0},
        {"width": 0},
        {"height": 65535, "width": 65535},
        {"height": 2**13 + 1, "width": 2**13},
        {"z_size": 0},
        {"y_size": 4},
        {"y_size": 10},
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(errors.SizeLimit):
        unpack(raw(**sizes), MODEL)  # type: ignore[arg-type]


def test_the_user_sets_how_many_pixels_an_image_may_have() -> None:
    assert unpack(raw(height=2**13, width=2**13), MODEL).header.width == 2**13
    assert unpack(raw(), MODEL, max_pixels=64).header.width == 8
    with pytest.raises(errors.SizeLimit, match="8 x 8 pixels; at most 63"):
        unpack(raw(), MODEL, max_pixels=63)


def peak(call: Callable[[], object]) -> int:
    """Bytes that a call allocates at most, through Python's allocator."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_claims_are_refused_before_anything_is_allocated_for_them(tmp_path: Path) -> None:
    path = tmp_path / "huge.edic"

    def refused(data: bytes, error: type[errors.EdicError], size: int = 0) -> None:
        with open(path, "wb") as file:
            file.write(data)
            file.truncate(max(size, len(data)))  # a hole: it takes no room on the disk
        with pytest.raises(error):
            read(path, MODEL)

    claims = (
        (raw(height=65535, width=65535), errors.SizeLimit, 0),
        (raw(y_size=2**32 - 4), errors.Truncated, 0),
        (raw(), errors.TrailingData, 2**30),
        (raw(y_size=2**30, header_crc=bytes(4)), errors.HeaderCorrupt, 2**30 + 46),
    )
    for claim in claims:
        assert peak(lambda claim=claim: refused(*claim)) < 2**18


def test_a_header_is_read_without_a_model_and_without_the_body(tmp_path: Path) -> None:
    path = tmp_path / "a.edic"
    path.write_bytes(FILE[:-1] + b"?")
    found = read_layout(path)
    assert found == (HEADER, 8, 12, True) and found.file_size == len(FILE)
    with pytest.raises(errors.PayloadCorrupt):
        read(path, None)
    with pytest.raises(errors.ModelMismatch, match="made by model 0001020304050607"):
        read_layout(path, bytes(8))
    path.write_bytes(FILE)
    assert read(path, MODEL) == unpack(FILE, MODEL)
    with pytest.raises(MissingFile):
        read(tmp_path / "none.edic", MODEL)
    with pytest.raises(MissingFile):
        read(tmp_path, MODEL)


def test_what_no_coder_makes_is_not_packed() -> None:
    for z, y in ((b"", Y), (Z, b"1234"), (Z, Y + b"1")):
        with pytest.raises(ValueError, match="bytes"):
            pack(HEADER, z, y, None)
    with pytest.raises(ValueError, match="8 bytes"):
        pack(Header(b"1234", 8, 8), Z, Y, None)
    for height, width in ((65536, 1), (1, 0)):
        with pytest.raises(errors.SizeLimit):
            pack(Header(MODEL, height, width), Z, Y, None)


@pytest.mark.parametrize("mode", ["int", "f64"])
def test_the_mode_is_kept(mode: Mode) -> None:
    assert unpack(pack(HEADER._replace(mode=mode), Z, Y, None), MODEL).header.mode == mode
