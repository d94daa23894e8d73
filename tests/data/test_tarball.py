"""Class folders in a tar: the labels a folder would give, and nothing that only an extraction would need."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, InputError
from facekit.data.check import check_data
from facekit.data.packing import write_pack
from facekit.data.sources import open_source

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, make_jpeg: Any) -> Save:
    """save([name or TarInfo, ...]) -> x.tar with a different picture under each name."""

    def write(members: list[Any], form: int = tarfile.GNU_FORMAT) -> Path:
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for seed, member in enumerate(members):
                info = tarfile.TarInfo(member) if isinstance(member, str) else member
                content = make_jpeg(seed)
                info.size = len(content) if info.isreg() else 0
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("root", [".", "set", "./set"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_equals_the_folder_it_was_made_from(people: Path, tmp_path: Path, root: str, form: int) -> None:
    (people / "notes.txt").write_text("x")
    (people / "Ann" / "._Ann_0001.jpg").write_text("x")
    (people / ".hidden").mkdir()
    (people / ".hidden" / "1.jpg").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        tar.add(people, root)
    folder, source = open_source(people), open_source(tmp_path / "x.tar", need_labels=True)
    assert list(source.names) == list(folder.names) and source.identities == folder.identities
    assert np.array_equal(source.labels, folder.labels) and source.fingerprint == folder.fingerprint
    index = np.array([9, 0, 4, 4])
    assert np.array_equal(source.read(index), folder.read(index))
    assert source.notes == () and source.size == (24, 24)


def test_order_is_that_of_the_names_and_not_of_the_members(save: Save) -> None:
    source = open_source(save(["b/2.jpg", "a b/1.jpg", "b/1.JPG", "B/x.jpg", "a/9.jpg", "é/1.jpg"]))
    assert list(source.names) == ["B/x.jpg", "a/9.jpg", "a b/1.jpg", "b/1.JPG", "b/2.jpg", "é/1.jpg"]
    assert source.identities == ("B", "a", "a b", "b", "é") and source.labels.tolist() == [0, 1, 2, 3, 3, 4]


def test_long_names_of_every_form(save: Save, make_jpeg: Any) -> None:
    long = ["p" * 90 + "/" + "i" * 80 + ".jpg", "q" * 120 + "/" + "ü" * 70 + ".jpg"]
    for form, names in (
        (tarfile.USTAR_FORMAT, long[:1]),
        (tarfile.GNU_FORMAT, long),
        (tarfile.PAX_FORMAT, long),
    ):
        source = open_source(save(names, form))
        assert list(source.names) == names
        assert source.encoded(0) == make_jpeg(0)  # type: ignore[attr-defined]


def test_a_size_in_an_extended_header_counts(save: Save, make_jpeg: Any) -> None:
    info = tarfile.TarInfo("a/1.jpg")
    info.pax_headers = {"size": str(len(make_jpeg(0))), "comment": "x = 1"}
    path = save([info, "b/1.jpg"], tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    at = data.index(b"a/1.jpg", 1024)
    header = data[at : at + 512]
    header[124:136] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    path.write_bytes(data)
    source = open_source(path)
    assert [source.encoded(i) for i in (0, 1)] == [make_jpeg(0), make_jpeg(1)]  # type: ignore[attr-defined]


def test_a_flat_tar_is_unlabelled(save: Save) -> None:
    source = open_source(save(["2.jpg", "./1.jpg"]))
    assert list(source.names) == ["1.jpg", "2.jpg"] and source.labels.tolist() == [-1, -1] and source.identities == ()


def test_a_later_member_replaces_an_earlier_one(save: Save, make_jpeg: Any) -> None:
    source = open_source(save(["a/1.jpg", "b/1.jpg", "./a/1.jpg"]))
    assert len(source) == 2 and source.encoded(0) == make_jpeg(2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/1.jpg", "1.jpg"], "equally deep.*1.jpg, a/1.jpg"),
        (["a/1.jpg", "r/a/1.jpg"], "equally deep"),
        (["r/s/a/1.jpg"], "equally deep"),
        (["r/a/1.jpg", "s/a/1.jpg"], "the folders r, s of identities; make one tar of each"),
        (["a/1.txt", ".a/1.jpg"], "holds no images"),
    ],
)
def test_other_layouts_are_refused(save: Save, names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_source(save(names))


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("/a/2.jpg", "lead out of the folder"),
        ("../a/2.jpg", "lead out of the folder"),
        ("a/../../2.jpg", "lead out of the folder"),
        ("a\\2.jpg", "lead out of the folder"),
        ("C:a/2.jpg", "lead out of the folder"),
        ("a/2\n.jpg", "tabs or line breaks"),
        (special("a/2.jpg", tarfile.SYMTYPE, "/etc/passwd"), "links, devices"),
        (special("a/2.jpg", tarfile.LNKTYPE, "a/1.jpg"), "links, devices"),
        (special("a/2.jpg", tarfile.CHRTYPE), "links, devices"),
        (special("a/2.jpg", tarfile.FIFOTYPE), "links, devices"),
        (special("a/2.jpg", b"M"), "links, devices"),
    ],
)
def test_hostile_members_are_left_out_with_a_count(save: Save, member: Any, words: str) -> None:
    path = save(["a/1.jpg", member, "b/1.jpg"])
    source = open_source(path)
    assert list(source.names) == ["a/1.jpg", "b/1.jpg"] and source.read(np.arange(2)).shape == (2, 24, 24, 3)
    (note,) = source.notes
    assert note.startswith("1 members are left out") and words in note
    assert check_data(path, size=24).notes == source.notes


def test_files_with_holes_are_left_out_and_their_tables_skipped(save: Save, make_jpeg: Any) -> None:
    path = save(["a/1.jpg", "b/1.jpg", "c/1.jpg"])
    data = bytearray(path.read_bytes())
    at = data.index(b"b/1.jpg")
    header = data[at : at + 512]
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = bytearray(512)
    more[504] = 1
    data[at : at + 512] = header + more + bytearray(b"\xff" * 504 + bytes(8))
    path.write_bytes(data)
    source = open_source(path)
    assert list(source.names) == ["a/1.jpg", "c/1.jpg"] and "files with holes" in source.notes[0]
    assert source.encoded(1) == make_jpeg(2)  # type: ignore[attr-defined]
    holes = tarfile.TarInfo("b/1.jpg")
    holes.pax_headers = {"GNU.sparse.major": "1"}
    assert list(open_source(save(["a/1.jpg", holes], tarfile.PAX_FORMAT)).names) == ["a/1.jpg"]


def test_a_tar_that_is_cut_off(save: Save) -> None:
    path = save(["a/1.jpg", "b/1.jpg"])
    whole = path.read_bytes()
    at = whole.index(b"b/1.jpg")
    path.write_bytes(whole[: at + 600])
    source = open_source(path)
    assert list(source.names) == ["a/1.jpg"] and "reach beyond the end of the file" in source.notes[0]
    path.write_bytes(whole[: at + 100])  # inside a header: what is whole is read
    assert list(open_source(path).names) == ["a/1.jpg"]


def test_a_damaged_header_is_named(save: Save) -> None:
    path = save(["a/1.jpg", "b/1.jpg"])
    data = bytearray(path.read_bytes())
    at = data.index(b"b/1.jpg")
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=f"x.tar is damaged: the header at byte {at} cannot be read"):
        open_source(path)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0"])
def test_absurd_sizes(save: Save, size: bytes) -> None:
    path = save(["a/1.jpg", "b/1.jpg", "c/1.jpg"])
    data = bytearray(path.read_bytes())
    at = data.index(b"b/1.jpg")
    header = data[at : at + 512]
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    path.write_bytes(data)
    if size[0] == 0xFF:
        with pytest.raises(CorruptFile, match="announces -1 bytes"):
            open_source(path)
    else:
        assert list(open_source(path).names) == ["a/1.jpg"]


@pytest.mark.parametrize(
    ("name", "pack", "command"),
    [
        ("x.tar.gz", gzip.compress, "gzip -d -k"),
        ("x.tgz", gzip.compress, "gzip -d -k"),
        ("x.tar.bz2", bz2.compress, "bzip2 -d -k"),
        ("x.tar.xz", lzma.compress, "xz -d -k"),
        ("x.tar", gzip.compress, "gzip -d -k"),
        ("x.zip", lambda data: b"PK\x03\x04" + data, "unzip"),
    ],
)
def test_compressed_tars_are_refused_with_the_command(
    save: Save, tmp_path: Path, name: str, pack: Callable[[bytes], bytes], command: str
) -> None:
    data = save(["a/1.jpg"]).read_bytes()
    (tmp_path / name).write_bytes(pack(data))
    with pytest.raises(InputError, match=f"is compressed .*{command} .*{name}"):
        open_source(tmp_path / name)


def test_packing_and_exclusion(people: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(people, ".")
    (tmp_path / "test.txt").write_text("Bob\t1\t2\n")
    source = open_source(tmp_path / "x.tar", exclude=(tmp_path / "test.txt",), min_images=2)
    assert source.identities == ("Ann", "Cy")
    assert write_pack(source, tmp_path / "pack").fingerprint == open_source(tmp_path / "pack").fingerprint
    alone = open_source(people, exclude=(tmp_path / "test.txt",), min_images=2)
    assert source.fingerprint == alone.fingerprint
    assert check_data(tmp_path / "x.tar", size=24, test_lists=(tmp_path / "test.txt",)).overlap == ("Bob",)


def test_an_unreadable_image_is_named_with_its_place(save: Save) -> None:
    path = save(["a/1.jpg", "a/2.jpg"])
    data = bytearray(path.read_bytes())
    at = data.index(b"a/2.jpg") + 512
    data[at + 40 : at + 4000] = bytes(3960)
    path.write_bytes(data[: at + 4000])
    with pytest.raises(InputError, match=rf"image a/2\.jpg of .*x\.tar \(byte {at}\) cannot be read"):
        open_source(path).read(np.array([1]))


def test_cifar10_as_a_tar() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10" / "test.tar"
    if not path.is_file():
        pytest.skip("needs ../shared/data/cifar10/test.tar")
    source = open_source(path)
    assert len(source) == 10_000 and source.size == (32, 32) and source.notes == ()
    assert source.identities[:2] == ("airplane", "automobile") and np.bincount(source.labels).tolist() == [1000] * 10
    assert source.names[0] == "airplane/0000.jpg" and os.fspath(path).endswith("test.tar")
    with tarfile.open(path) as tar:
        wanted = tar.extractfile("./truck/0999.jpg")
        assert wanted is not None and source.encoded(9999) == wanted.read()  # type: ignore[attr-defined]
