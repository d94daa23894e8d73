"""Files of strangers, damaged in some hundred seeded ways: each gives one sentence or a source that works."""

from __future__ import annotations

import pickle
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import FacekitError
from facekit.data.check import check_data
from facekit.data.packing import write_pack
from facekit.data.sources import open_source

CASES = 100
WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xCED7230A, 1 << 29, 2 << 29 | 4, 3 << 29)
MOST_BYTES = 64 << 20
"""Peak of what one case may allocate; its files have a few kilobytes."""


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes flipped, a word replaced, a piece cut out, doubled, zeroed, or the end cut off."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not found:
            break
        at, length = int(rng.integers(len(found))), int(rng.integers(1, 64))
        kind = int(rng.integers(8))
        if kind < 3:
            found[at] = int(rng.integers(256))
        elif kind == 3:
            found[at // 4 * 4 : at // 4 * 4 + 4] = int(rng.choice(WORDS)).to_bytes(4, "little")
        elif kind == 4:
            del found[at : at + length]
        elif kind == 5:
            found[at:at] = found[at : at + length]
        elif kind == 6:
            found[at : at + length] = bytes(len(found[at : at + length]))
        else:
            del found[at:]
    return bytes(found)


def without_index(path: Path) -> Path:
    path.with_suffix(".idx").unlink()
    return path


def make_rec(folder: Path, rec: Any, make_jpeg: Any) -> Path:
    rec.add(0, b"", [6, 8])
    for key in range(1, 6):
        rec.add(key, make_jpeg(key) + bytes(-len(make_jpeg(key)) % 4) + rec.data[:4] * (key % 2), key // 2)
    for key in (6, 7):
        rec.add(key, b"", [1, 3])
    (folder / "property").write_text("3,24,24\n5\n")
    return rec.save(folder / "train.rec")  # type: ignore[no-any-return]


def make_tar(form: int) -> Callable[..., Path]:
    def make(folder: Path, rec: Any, make_jpeg: Any) -> Path:
        for k in range(4):
            name = "n" * (120 if form == tarfile.GNU_FORMAT else 9) + f"{k // 2}"
            (folder / "f" / name).mkdir(parents=True, exist_ok=True)
            (folder / "f" / name / f"ü{k}.jpg").write_bytes(make_jpeg(k))
        with tarfile.open(folder / "x.tar", "w", format=form) as tar:
            tar.add(folder / "f", ".")
        return folder / "x.tar"

    return make


def make_cifar(protocol: int) -> Callable[..., Path]:
    def make(folder: Path, rec: Any, make_jpeg: Any) -> Path:
        data = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
        batch = {"labels": [0, 1, 1], "data": data, "filenames": ["a.png", "b.png", "c.png"]}
        (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}, protocol))
        return folder

    return make


def make_pack(folder: Path, rec: Any, make_jpeg: Any) -> Path:
    rec_path = make_rec(folder, rec, make_jpeg)
    write_pack(open_source(rec_path), folder / "pack")
    return folder / "pack"


FORMATS: dict[str, Callable[..., Path]] = {
    "rec": make_rec,
    "rec without idx": lambda *made: without_index(make_rec(*made)),
    "tar, gnu": make_tar(tarfile.GNU_FORMAT),
    "tar, pax": make_tar(tarfile.PAX_FORMAT),
    "cifar, protocol 2": make_cifar(2),
    "cifar, protocol 5": make_cifar(5),
    "pack": make_pack,
}


@pytest.mark.parametrize("name", FORMATS)
def test_damage_gives_one_sentence_or_a_working_source(tmp_path: Path, rec: Any, make_jpeg: Any, name: str) -> None:
    path = FORMATS[name](tmp_path, rec, make_jpeg)
    around = path if path.is_dir() else path.parent
    files = {p: p.read_bytes() for p in sorted(around.iterdir()) if p.is_file()}
    count = len(open_source(path))
    refused = worked = 0
    tracemalloc.start()
    try:
        for seed in range(CASES):
            rng = np.random.default_rng(seed)
            victim = list(files)[seed % len(files)]
            victim.write_bytes(mutate(files[victim], rng))
            tracemalloc.reset_peak()
            begin = time.process_time()
            try:
                used = use(path)
            except FacekitError as error:
                refused += 1
                assert "\n" not in str(error).replace(str(tmp_path), ""), f"seed {seed}: more than one line"
            else:
                worked += 1
                assert 0 < used <= 2 * count, f"seed {seed}"
            assert time.process_time() - begin < 5, f"seed {seed} hangs"
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES, f"seed {seed} allocates too much"
            victim.write_bytes(files[victim])
    finally:
        tracemalloc.stop()
    assert worked and refused
    assert use(path) == count


def use(path: Path) -> int:
    """Open, hash, read and check everything; the number of images."""
    source = open_source(path)
    assert len(source.names) == len(source.labels) == len(source)
    assert all(isinstance(note, str) for note in source.notes)
    assert len(source.fingerprint) == 64 and source.labels.max() < len(source.identities) + (not source.identities)
    assert check_data(path, size=24).images == len(source)
    pixels = source.read(np.arange(len(source)))
    assert pixels.shape == (len(source), *source.size, 3)
    return len(source)
