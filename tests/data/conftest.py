"""Small image sets written on the spot."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from facekit.data.decode import encode_jpeg

MakeJpeg = Callable[..., bytes]
Paint = Callable[..., Path]


@pytest.fixture
def make_jpeg() -> MakeJpeg:
    """make_jpeg(seed, size) -> the bytes of a smooth random picture, different for every seed."""

    def make(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        height, width = size
        return encode_jpeg(coarse[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width])

    return make


@pytest.fixture
def paint(make_jpeg: MakeJpeg) -> Paint:
    """paint(path, seed, size) writes such a picture."""

    def write(path: Path, seed: int, size: tuple[int, int] = (24, 24)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(seed, size))
        return path

    return write


@pytest.fixture
def people(tmp_path: Path, paint: Paint) -> Path:
    """A folder per identity: Ann 3, Bob 2, Cy 4, Di 1 images in LFW's naming."""
    seed = 0
    for name, count in (("Ann", 3), ("Bob", 2), ("Cy", 4), ("Di", 1)):
        for k in range(1, count + 1):
            seed += 1
            paint(tmp_path / "people" / name / f"{name}_{k:04d}.jpg", seed)
    return tmp_path / "people"


MAGIC = struct.pack("<I", 0xCED7230A)


class RecordWriter:
    """MXNet's writer, byte by byte: ``add`` returns where the record begins."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lines: list[tuple[int, int]] = []

    def add(self, key: int, body: bytes, labels: float | Sequence[float] = 0.0, number: int | None = None) -> int:
        """One record; a number is the header's label, several go behind it. ``number`` is the header's id."""
        several = () if isinstance(labels, int | float) else tuple(labels)
        single = 0.0 if several else float(labels)  # type: ignore[arg-type]
        header = struct.pack("<IfQQ", len(several), single, key if number is None else number, 0)
        payload = header + struct.pack(f"<{len(several)}f", *several) + body
        at = len(self.data)
        self.lines.append((key, at))
        for part, kind in cut_at_magic(payload):
            self.data += MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        return at

    def save(self, path: Path, index: bool = True) -> Path:
        """Write x.rec, and x.idx beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        if index:
            path.with_suffix(".idx").write_text("".join(f"{key}\t{at}\n" for key, at in self.lines))
        return path


def cut_at_magic(payload: bytes) -> list[tuple[bytes, int]]:
    """(part, cflag): dmlc-core cuts where the magic lies at a multiple of 4, and drops it."""
    places = [i for i in range(0, len(payload) - 3, 4) if payload[i : i + 4] == MAGIC]
    starts, ends = [0, *(i + 4 for i in places)], [*places, len(payload)]
    parts = [payload[a:b] for a, b in zip(starts, ends, strict=True)]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return list(zip(parts, kinds, strict=True))


@pytest.fixture
def rec() -> RecordWriter:
    """An empty .rec."""
    return RecordWriter()


@pytest.fixture
def faces_rec(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """InsightFace's form: record 0, 6 images of 3 identities (labels 4, 7, 9), identity records."""
    writer = RecordWriter()
    writer.add(0, b"", [7, 10])
    for key, label in enumerate([4, 4, 7, 9, 9, 9], 1):
        writer.add(key, make_jpeg(key), label)
    for key, span in zip((7, 8, 9), ((1, 3), (3, 4), (4, 7)), strict=True):
        writer.add(key, b"", span)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "property").write_text("3,24,24\n6\n")
    return writer.save(tmp_path / "faces" / "train.rec")
