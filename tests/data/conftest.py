"""Small image sets written on the spot."""

from __future__ import annotations

from collections.abc import Callable
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
