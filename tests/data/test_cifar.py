"""CIFAR's Python batches: what Python 2 wrote and what Python 3 writes again, and nothing else."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, FacekitError, InputError
from facekit.data.check import check_data
from facekit.data.packing import write_pack
from facekit.data.sources import open_source

NAMES = ["cat", "dog", "ox"]
Table = dict[Any, Any]


def planes(seed: int, n: int) -> np.ndarray:
    """uint8 [n,3072] as in the files: 1024 red, 1024 green, 1024 blue values, row by row."""
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), np.uint8)


def table(seed: int = 0, n: int = 6, **more: Any) -> Table:
    labels = [(seed + i) % 3 for i in range(n)]
    files = [f"photo_s_{seed:03d}{i:03d}.png" for i in range(n)]
    return {"batch_label": "x", "labels": labels, "data": planes(seed, n), "filenames": files, **more}


def python_2(found: Table) -> bytes:
    """What cPickle of Python 2 wrote with protocol 2: byte strings for text and for the array's content."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    def value(v: Any) -> bytes:
        if isinstance(v, str):
            return string(v.encode())
        if isinstance(v, int):
            return b"K" + bytes([v])
        if isinstance(v, list):
            return b"](" + b"".join(map(value, v)) + b"e"
        rows, columns = (struct.pack("<i", n) for n in v.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01J" + rows
            + b"J" + columns + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ"
            + b"\xff" * 4 + b"J" + b"\xff" * 4 + b"K\x00tb\x89" + string(v.tobytes()) + b"tb"
        )  # fmt: skip

    return b"\x80\x02}(" + b"".join(string(k.encode()) + value(v) for k, v in found.items()) + b"u."


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """cifar-10-batches-py with five batches of 6 images of three classes."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for k in range(1, 6):
        (folder / f"data_batch_{k}").write_bytes(python_2(table(k)))
    (folder / "test_batch").write_bytes(python_2(table(9)))
    (folder / "batches.meta").write_bytes(python_2({"label_names": NAMES, "num_vis": 32}))
    return folder


def test_the_folder_is_the_training_images(ten: Path) -> None:
    source = open_source(ten, need_labels=True)
    assert len(source) == 30 and source.size == (32, 32) and source.identities == ("cat", "dog", "ox")
    assert source.labels.tolist() == [(k + i) % 3 for k in range(1, 6) for i in range(6)]
    assert source.names[0] == "dog/photo_s_001000.png" and len(set(source.names)) == 30 and source.notes == ()
    wanted = planes(2, 6)[3]
    pixels = source.read(np.array([9]))[0]
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == wanted[[0, 1024, 2048]].tolist()
    assert pixels[5, 7].tolist() == wanted[[5 * 32 + 7, 1024 + 5 * 32 + 7, 2048 + 5 * 32 + 7]].tolist()


def test_one_batch_is_what_was_named(ten: Path) -> None:
    source = open_source(ten / "test_batch")
    assert len(source) == 6 and source.identities == ("cat", "dog", "ox")
    (ten / "batches.meta").unlink()
    assert open_source(ten / "test_batch").identities == ("0", "1", "2")
    (ten / "test_batch").rename(ten / "other.pkl")
    assert len(open_source(ten / "other.pkl")) == 6


def test_missing_batches_are_said(ten: Path) -> None:
    (ten / "data_batch_2").unlink()
    source = open_source(ten)
    assert len(source) == 24 and "data_batch_2 missing" in source.notes[0]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_python_3_wrote_is_the_same(ten: Path, protocol: int, order: Any) -> None:
    wanted = open_source(ten / "test_batch")
    content = table(9, data=np.array(planes(9, 6), order=order))
    for name, keys in (("test", str), ("train", str.encode)):
        path = ten / name
        path.write_bytes(pickle.dumps({keys(k): v for k, v in content.items()}, protocol))
        source = open_source(path)
        assert source.fingerprint == wanted.fingerprint and list(source.names) == list(wanted.names)


def test_cifar_100_has_fine_labels(tmp_path: Path) -> None:
    content = table(1)
    content = {"coarse_labels": [0] * 6, "fine_labels": content.pop("labels"), **content}
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(python_2(content))
    (tmp_path / "meta").write_bytes(python_2({"coarse_label_names": ["beast"], "fine_label_names": NAMES}))
    source = open_source(tmp_path)
    assert len(source) == 6 and source.identities == ("cat", "dog", "ox")
    assert open_source(tmp_path / "test").fingerprint == source.fingerprint


def test_classes_that_do_not_occur_get_no_number(ten: Path) -> None:
    (ten / "test_batch").write_bytes(python_2(table(0, 4) | {"labels": [0, 2, 2, 0]}))
    source = open_source(ten / "test_batch")
    assert source.identities == ("cat", "ox") and source.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("files", [["../x.png"] * 6, ["a.png"] * 6, ["a\tb"] * 6, None, [1] * 6, ["a.png"]])
def test_improper_file_names_give_way_to_positions(ten: Path, files: Any) -> None:
    (ten / "test_batch").write_bytes(pickle.dumps(table(0) | {"filenames": files}, 2))
    names = open_source(ten / "test_batch").names
    assert list(names)[:2] == ["cat/test_batch_00000", "dog/test_batch_00001"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": planes(0, 5)}, "5 images do not fit 6 labels"),
        ({"data": planes(0, 6)[:, :3000]}, "rows of 3072"),
        ({"data": planes(0, 6).astype(np.int64)}, "rows of 3072"),
        ({"data": planes(0, 6)[:, :9].astype(object)}, "dtype"),
        ({"data": None}, "rows of 3072"),
        ({"labels": None}, "class numbers"),
        ({"labels": [0, 1, 2, -1, 0, 1]}, "class numbers"),
        ({"labels": [0, 1, 2, 10**9, 0, 1]}, "class numbers"),
        ({"labels": ["a"] * 6}, "class numbers"),
        ({"labels": [], "data": planes(0, 0)}, "0 images do not fit 0 labels"),
    ],
)
def test_other_content_is_refused(ten: Path, change: Table, words: str) -> None:
    (ten / "test_batch").write_bytes(pickle.dumps(table(0) | change, 2))
    with pytest.raises(InputError, match=f"test_batch.*{words}"):
        open_source(ten / "test_batch")


@pytest.mark.parametrize("names", [["a", "a"], ["a/b", "c"], "abc", [1, 2], []])
def test_improper_class_names_are_refused(ten: Path, names: Any) -> None:
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    with pytest.raises(InputError, match=r"batches\.meta.*class names"):
        open_source(ten)


class Evil:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["test_batch", "batches.meta"])
def test_foreign_globals_are_named_and_never_run(ten: Path, tmp_path: Path, protocol: int, where: str) -> None:
    mark = tmp_path / "ran"
    for evil in (Evil(os.mkdir, str(mark)), Evil(eval, f"__import__('os').mkdir({str(mark)!r})")):
        for content in ({"x": evil}, table(0) | {"data": evil}, table(0) | {"more": [evil]}):
            (ten / where).write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(InputError, match=f"{where} is not a plain .*(mkdir|eval), .*not loaded"):
                open_source(ten / "test_batch")
    assert not mark.exists()


def test_a_text_that_is_used_again_and_again_is_refused(ten: Path) -> None:
    # 4 MB on disk would make 240 GB of bytes, were every call allowed.
    text = b"X" + struct.pack("<i", 1 << 22) + b"a" * (1 << 22)
    stream = b"\x80\x02](c_codecs\nencode\nq\x00" + text + b"q\x01U\x07latin-1q\x02" + b"h\x00h\x01h\x02\x86R" * 60_000
    (ten / "test_batch").write_bytes(stream + b"e.")
    with pytest.raises(InputError, match="makes more bytes than it holds"):
        open_source(ten / "test_batch")


def test_pixels_are_packed_as_pixels(ten: Path, tmp_path: Path) -> None:
    source = open_source(ten)
    with pytest.raises(InputError, match="--kind uint8"):
        write_pack(source, tmp_path / "jpeg")
    write_pack(source, tmp_path / "pack", kind="uint8")
    packed = open_source(tmp_path / "pack")
    assert packed.fingerprint == source.fingerprint and packed.identities == source.identities
    assert np.array_equal(packed.read(np.arange(30)), source.read(np.arange(30)))
    assert len(open_source(ten, min_images=10)) == 30
    with pytest.raises(InputError, match="no image"):
        open_source(ten, min_images=11)
    assert check_data(ten, size=32).verdict() is None


def test_cut_files(ten: Path) -> None:
    whole = (ten / "test_batch").read_bytes()
    for keep in (1, 2, 40, 200, 5000, len(whole) - 1):
        (ten / "test_batch").write_bytes(whole[:keep])
        with pytest.raises(CorruptFile, match="cut off"):
            open_source(ten / "test_batch")


def test_a_verification_bin_is_no_training_data(tmp_path: Path) -> None:
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([b"x"] * 4, [True, False])))
    with pytest.raises(FacekitError, match="--benchmark"):
        open_source(tmp_path / "lfw.bin")
