"""Packed data: same pixels, labels and fingerprint as the folder; anything tampered with is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit.core.errors import CorruptFile, FacekitError, InputError, MissingFile, OutputExists, WriteFailed
from facekit.data.packed import INDEX, PackedSource
from facekit.data.packing import write_pack
from facekit.data.sources import open_source, select


@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_a_pack_equals_the_folder_it_was_made_from(people: Path, tmp_path: Path, kind: str) -> None:
    folder = open_source(people)
    seen: list[int] = []
    done = write_pack(folder, tmp_path / "pack", kind=kind, progress=seen.append)
    packed = open_source(tmp_path / "pack", need_labels=True)
    assert isinstance(packed, PackedSource)
    assert list(packed.names) == list(folder.names) and packed.identities == folder.identities
    assert np.array_equal(packed.labels, folder.labels) and packed.size == folder.size
    assert packed.fingerprint == folder.fingerprint == done.fingerprint
    index = np.array([9, 0, 4, 4])
    pixels = packed.read(index)
    assert np.array_equal(pixels, folder.read(index)) and pixels.flags.writeable and type(pixels) is np.ndarray
    assert sum(seen) == done.images == 10 and done.bytes == (tmp_path / "pack" / "data.bin").stat().st_size
    assert sorted(p.name for p in (tmp_path / "pack").iterdir()) == ["data.bin", "index.npy", "names.txt", "pack.json"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_jpeg_keeps_the_files_bytes(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "pack")
    together = b"".join((people / name).read_bytes() for name in open_source(people).names)
    assert (tmp_path / "pack" / "data.bin").read_bytes() == together


def test_exclusion_works_on_packs_and_gives_the_folders_fingerprint(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "pack")
    (tmp_path / "t.txt").write_text("Bob\t1\t2\n")
    from_pack = open_source(tmp_path / "pack", exclude=(tmp_path / "t.txt",), min_images=2)
    from_folder = open_source(people, exclude=(tmp_path / "t.txt",), min_images=2)
    assert from_pack.identities == ("Ann", "Cy")
    assert from_pack.fingerprint == from_folder.fingerprint
    assert np.array_equal(from_pack.read(np.arange(7)), from_folder.read(np.arange(7)))


def test_a_pack_of_a_selection_or_of_a_pack_is_the_same_pack(people: Path, tmp_path: Path) -> None:
    source = open_source(people)
    write_pack(source, tmp_path / "a")
    write_pack(open_source(tmp_path / "a"), tmp_path / "b")
    for name in ("data.bin", "index.npy", "names.txt", "pack.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    part = select(source, source.labels == 2)
    assert write_pack(part, tmp_path / "c").fingerprint == open_source(tmp_path / "c").fingerprint == part.fingerprint


def test_pixels_do_not_become_files_again(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "a", kind="uint8")
    with pytest.raises(InputError, match="--kind uint8"):
        write_pack(open_source(tmp_path / "a"), tmp_path / "b")
    again = write_pack(open_source(tmp_path / "a"), tmp_path / "c", kind="uint8")
    assert again.fingerprint == open_source(people).fingerprint
    part = select(open_source(tmp_path / "a"), np.arange(3))
    assert part.fingerprint not in (again.fingerprint, select(open_source(people), np.arange(3)).fingerprint)


def test_resized_pixels_have_another_fingerprint(people: Path, tmp_path: Path) -> None:
    source = open_source(people)
    assert write_pack(source, tmp_path / "same", kind="uint8", size=24).fingerprint == source.fingerprint
    write_pack(source, tmp_path / "small", kind="uint8", size=12)
    small = open_source(tmp_path / "small")
    assert small.size == (12, 12) and small.fingerprint != source.fingerprint
    means = source.read(np.arange(10)).astype(float).mean(axis=(1, 2))
    assert np.abs(small.read(np.arange(10)).astype(float).mean(axis=(1, 2)) - means).max() < 2


def test_an_unlabelled_pack(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people / "Cy"), tmp_path / "pack")
    assert open_source(tmp_path / "pack").labels.tolist() == [-1] * 4


def test_odd_names_survive(tmp_path: Path, paint: Any) -> None:
    for name in ("a b/ü 1.jpg", "a b/\u2028.jpg", os.fsdecode(b"c/\xff.jpg")):
        paint(tmp_path / "d" / name, 1)
    source = open_source(tmp_path / "d")
    write_pack(source, tmp_path / "pack")
    assert list(open_source(tmp_path / "pack").names) == list(source.names)


def test_nothing_is_overwritten(people: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_pack(open_source(people), tmp_path / "empty")
    before = (tmp_path / "empty" / "data.bin").read_bytes()
    for taken in (tmp_path / "empty", people / "Ann" / "Ann_0001.jpg"):
        with pytest.raises(OutputExists):
            write_pack(open_source(people), taken)
    assert (tmp_path / "empty" / "data.bin").read_bytes() == before


def test_a_broken_image_or_a_full_disk_leaves_nothing(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(people)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteFailed, match="the disk is full"):
            write_pack(source, tmp_path / "out" / "pack")
    victim = people / "Cy" / "Cy_0003.jpg"
    victim.write_bytes(victim.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"Cy_0003"):
        write_pack(source, tmp_path / "out" / "pack")
    assert list((tmp_path / "out").iterdir()) == []


# --- hostile packs ------------------------------------------------------------------------------------------


def change_header(**values: object) -> Callable[[Path], None]:
    def change(pack: Path) -> None:
        table = json.loads((pack / "pack.json").read_text())
        (pack / "pack.json").write_text(json.dumps({**table, **values}))

    return change


def change_index(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(pack: Path) -> None:
        np.save(pack / "index.npy", edit(np.load(pack / "index.npy")))

    return change


def set_field(name: str, row: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(index: np.ndarray) -> np.ndarray:
        index[name][row] = value
        return index

    return edit


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda pack: (pack / name).write_bytes((pack / name).read_bytes()[:keep])  # type: ignore[return-value]


def huge_npy(pack: Path) -> None:
    with open(pack / "index.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": np.lib.format.dtype_to_descr(INDEX), "fortran_order": False, "shape": (10**13,)}
        )


TAMPERED: dict[str, Callable[[Path], Any]] = {
    "magic": change_header(magic="other"),
    "version": change_header(version=2),
    "kind": change_header(kind="png"),
    "count": change_header(count=9),
    "count is text": change_header(count="10"),
    "count is negative": change_header(count=-1),
    "count is huge": change_header(count=10**15),
    "bytes": change_header(bytes=5),
    "size is zero": change_header(height=0),
    "size is huge": change_header(height=10**6, width=10**6),
    "identities": change_header(identities=[1, 2]),
    "too few identities": change_header(identities=["a"]),
    "fingerprint": change_header(fingerprint=None),
    "header is a list": lambda pack: (pack / "pack.json").write_text("[]"),
    "header is cut": cut("pack.json", 30),
    "data is cut": cut("data.bin", 100),
    "data is longer": lambda pack: (pack / "data.bin").write_bytes((pack / "data.bin").read_bytes() + b"x"),
    "data is gone": lambda pack: (pack / "data.bin").unlink(),
    "index is cut": cut("index.npy", 150),
    "index is empty": cut("index.npy", 0),
    "index is gone": lambda pack: (pack / "index.npy").unlink(),
    "index announces terabytes": huge_npy,
    "index is a pickle": lambda pack: np.save(pack / "index.npy", np.array([{}] * 10), allow_pickle=True),
    "index has other columns": change_index(lambda index: index["label"]),
    "offset falls": change_index(set_field("offset", 3, 1)),
    "offset begins late": change_index(set_field("offset", 0, 1)),
    "offset beyond the end": change_index(set_field("offset", 9, 10**9)),
    "offset negative": change_index(set_field("offset", 1, -5)),
    "label too large": change_index(set_field("label", 0, 4)),
    "label below -1": change_index(set_field("label", 0, -2)),
    "index too short": change_index(lambda index: index[:-1]),
    "names are cut": cut("names.txt", 20),
}


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_tampered_packs_are_refused(people: Path, tmp_path: Path, kind: str, what: str) -> None:
    write_pack(open_source(people), tmp_path / "pack", kind=kind)
    TAMPERED[what](tmp_path / "pack")
    with pytest.raises((CorruptFile, InputError, MissingFile)) as caught:
        open_source(tmp_path / "pack")
    assert isinstance(caught.value, FacekitError) and "pack" in str(caught.value)


def test_a_size_that_the_images_do_not_have_is_refused(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "pack")
    change_header(height=8000, width=8000)(tmp_path / "pack")
    with pytest.raises(CorruptFile, match=r"its images are 24x24, pack.json says 8000x8000"):
        open_source(tmp_path / "pack")


def test_a_swapped_uint8_offset_is_refused(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "pack", kind="uint8")
    change_index(set_field("offset", 3, 3 * 24 * 24 * 3 + 1))(tmp_path / "pack")
    with pytest.raises(CorruptFile, match="do not fit the image size"):
        open_source(tmp_path / "pack")


def test_an_image_damaged_inside_the_blob_is_named_when_read(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people), tmp_path / "pack")
    source = open_source(tmp_path / "pack")
    offset = int(np.load(tmp_path / "pack" / "index.npy")["offset"][4])
    data = bytearray((tmp_path / "pack" / "data.bin").read_bytes())
    data[offset : offset + 4] = b"\0\0\0\0"
    (tmp_path / "pack" / "data.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"image 4 \(Bob/Bob_0002.jpg\).*facekit data check"):
        open_source(tmp_path / "pack").read(np.arange(10))
    assert source.names[4] == "Bob/Bob_0002.jpg"


def test_images_of_different_sizes_are_packed_as_their_middle_squares(tmp_path: Path) -> None:
    wide, tall = np.zeros((20, 40, 3), np.uint8), np.zeros((80, 20, 3), np.uint8)
    wide[:, 10:30], tall[30:50] = 200, 100  # what is outside the middle square is black
    for name, pixels in (("ann", wide), ("bob", tall), ("cat", np.full((16, 16, 3), 50, np.uint8))):
        (tmp_path / "faces" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "faces" / name / "0.png")
    with pytest.raises(InputError, match="--kind uint8 --size N"):
        open_source(tmp_path / "faces")
    write_pack(open_source(tmp_path / "faces", one_size=False), tmp_path / "pack", kind="uint8", size=20)
    found = open_source(tmp_path / "pack").read(np.arange(3))
    assert found.shape == (3, 20, 20, 3)
    assert [sorted(set(image.ravel().tolist())) for image in found] == [[200], [100], [50]]
