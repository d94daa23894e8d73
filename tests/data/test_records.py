"""MXNet ``.rec``: the container against a writer of MXNet's layout, InsightFace's and the plain convention on it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.data import mapped, records
from facekit.data.check import check_data
from facekit.data.decode import decode
from facekit.data.insightface import end_of_images
from facekit.data.packing import write_pack
from facekit.data.records import read_records
from facekit.data.sources import open_source

MAGIC = struct.pack("<I", 0xCED7230A)


def with_comment(jpeg: bytes, content: bytes, shift: int) -> bytes:
    """The same picture, with ``content`` in a comment that begins at a multiple of 4 of the file plus ``shift``."""
    pad = (shift - 6) % 4
    body = bytes(pad) + content
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(body)) + body + jpeg[2:]


# --- the convention ----------------------------------------------------------------------------------------------


def test_insightface_form(faces_rec: Path, make_jpeg: Any) -> None:
    source = open_source(faces_rec, need_labels=True)
    assert list(source.names) == ["4/1", "4/2", "7/3", "9/4", "9/5", "9/6"]
    assert source.identities == ("4", "7", "9") and source.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert source.labels.dtype == np.int64 and source.size == (24, 24) and source.notes == ()
    index = np.array([5, 0, 5])
    assert np.array_equal(source.read(index), np.stack([decode(make_jpeg(k)) for k in (6, 1, 6)]))
    assert source.read(np.array([], np.int64)).shape == (0, 24, 24, 3)


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "."])
def test_the_folder_the_rec_and_the_idx_mean_the_same(faces_rec: Path, name: str) -> None:
    assert list(open_source(faces_rec.parent / name).names) == list(open_source(faces_rec).names)


def test_plain_form_with_key_0_and_unsorted_keys(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    for key in (3, 0, 2, 1):
        rec.add(key, make_jpeg(key), key % 2)
    source = open_source(rec.save(tmp_path / "any.rec"))
    assert list(source.names) == ["0/0", "1/1", "0/2", "1/3"] and source.notes == ()
    assert np.array_equal(source.read(np.arange(4)), np.stack([decode(make_jpeg(k)) for k in range(4)]))


def test_several_labels_the_first_counts_also_in_record_0(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    for key, labels in enumerate([[5, 1], [2, 0, 0.5], [5], 2]):
        rec.add(key, make_jpeg(key), labels)
    source = open_source(rec.save(tmp_path / "x.rec"))
    assert source.identities == ("2", "5") and source.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(source.read(np.arange(4)), np.stack([decode(make_jpeg(k)) for k in range(4)]))


def test_other_formats_and_unknown_labels(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    pixels = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    rec.add(0, stream.getvalue(), 10)
    rec.add(1, make_jpeg(1), -1)
    rec.add(2, make_jpeg(2), 9)
    source = open_source(rec.save(tmp_path / "x.rec"))
    assert source.identities == ("9", "10") and source.labels.tolist() == [1, -1, 0]
    assert list(source.names) == ["10/0", "-1/1", "9/2"]
    assert np.array_equal(source.read(np.array([0]))[0], pixels)
    with pytest.raises(InputError, match="no labels for 1 of 3"):
        open_source(tmp_path / "x.rec", need_labels=True)


def test_property_is_compared(faces_rec: Path) -> None:
    (faces_rec.parent / "property").write_text("4,24,24\n7\n")
    (note,) = open_source(faces_rec).notes
    assert "property says 4 identities of 24x24, 7 images; the records hold 3 identities of 24x24, 6 images" in note
    (faces_rec.parent / "property").write_text("3,24,24")
    assert open_source(faces_rec).notes == ()
    (faces_rec.parent / "property").write_text("nonsense")
    assert "was not used" in open_source(faces_rec).notes[0]


def test_images_end_at_the_first_identity_record_and_a_disagreement_is_said(
    rec: Any, tmp_path: Path, make_jpeg: Any
) -> None:
    rec.add(0, b"", [6, 8])
    for key in (1, 2, 3):
        rec.add(key, make_jpeg(key), key)
    for key in (4, 5):
        rec.add(key, b"", [1, 2])
    source = open_source(rec.save(tmp_path / "x.rec"))
    assert list(source.names) == ["1/1", "2/2", "3/3"]
    assert source.notes == ("record 0 says that images end before key 6, the records end them before 4; 4 is taken",)


def test_a_rounded_id0_is_told_from_a_wrong_one(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    rec.add(0, b"", [2, 3])
    for key in (16_777_217, 16_777_218):
        rec.add(key, make_jpeg(1), 0)
    found = read_records(rec.save(tmp_path / "x.rec"))
    none = np.zeros(3, bool)
    for exact in (16_777_217, 17_091_658, 17_091_659, 42_000_001):
        found.key[-1] = exact - 1
        assert end_of_images(found, float(np.float32(exact)), none) == (exact, ())
    end, (note,) = end_of_images(found, 42_000_008.0, none)
    assert end == 42_000_001 and "42000001 is taken" in note
    found.key[-1] = 99
    end, (note,) = end_of_images(found, 98.0, none)
    assert end == 98 and "98 is taken" in note
    assert end_of_images(found, float("nan"), none)[0] == 100


def test_without_record_0_identity_records_are_no_images(faces_rec: Path) -> None:
    data = bytearray(faces_rec.read_bytes())
    data[0] = 0
    faces_rec.write_bytes(data)
    source = open_source(faces_rec)
    assert list(source.names) == ["4/1", "4/2", "7/3", "9/4", "9/5", "9/6"]
    assert "3 records have labels and no image" in source.notes[0]
    assert "1 of 7 records are broken and left out; the first is key 0 at byte 0" in source.notes[1]


# --- the container -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", range(4))
def test_the_magic_inside_an_image_comes_back_aligned_or_not(
    rec: Any, tmp_path: Path, make_jpeg: Any, shift: int
) -> None:
    bodies = [with_comment(make_jpeg(k), MAGIC * k, shift) for k in range(4)]
    assert all(decode(body).shape == (24, 24, 3) for body in bodies)
    for key, body in enumerate(bodies):
        rec.add(key, body, key)
    path = rec.save(tmp_path / "x.rec")
    split = read_records(path).head["split"].tolist()
    assert split == [False, *[shift == 0] * 3]
    for indexed in (True, False):
        if not indexed:
            path.with_suffix(".idx").unlink()
        source = open_source(path)
        assert [source.encoded(i) for i in range(4)] == bodies  # type: ignore[attr-defined]
        assert np.array_equal(source.read(np.arange(4)), np.stack([decode(body) for body in bodies]))
        wanted = [hashlib.sha256(body).digest() for body in bodies]
        assert source.digests(np.arange(4)).tobytes() == b"".join(wanted)  # type: ignore[attr-defined]


def test_parts_of_length_0_and_a_cut_header(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    jpeg = make_jpeg(1)
    rec.add(0, MAGIC + MAGIC + jpeg, 3)  # parts: header; nothing; image. Not an image, but the bytes must be right.
    rec.add(1, jpeg, 4, number=0xCED7230A)  # the id, at a multiple of 4 of the payload
    rec.add(2, jpeg + bytes(-len(jpeg) % 4) + MAGIC, 5)  # the last part is empty
    found = read_records(rec.save(tmp_path / "x.rec"))
    assert found.head["split"].tolist() == [True] * 3 and found.head["reason"].tolist() == [0] * 3
    assert found.head["label"].tolist() == [3, 4, 5] and found.head["id"][1] == 0xCED7230A
    assert found.payload(0)[24:] == MAGIC + MAGIC + jpeg
    assert found.payload(1)[24:] == jpeg
    assert found.payload(2)[24:] == jpeg + bytes(-len(jpeg) % 4) + MAGIC
    parts = [last - first for first, last in records.parts_of(found.data, 0, len(found.data))]
    assert parts == [24, 0, len(jpeg)]
    source = open_source(tmp_path / "x.rec")
    assert list(source.names) == ["4/1", "5/2"] and source.read(np.arange(2)).shape == (2, 24, 24, 3)


def test_a_missing_idx_is_rebuilt(faces_rec: Path) -> None:
    before = open_source(faces_rec)
    wanted = (list(before.names), before.labels.tolist(), before.fingerprint)
    faces_rec.with_suffix(".idx").unlink()
    source = open_source(faces_rec)
    assert (list(source.names), source.labels.tolist(), source.fingerprint) == wanted
    assert source.notes == ("train.idx is missing: 10 records were found by walking train.rec",)


def test_rebuilt_keys_are_positions_where_ids_are_all_0(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    for key in (4, 3, 2):
        rec.add(key, make_jpeg(key), key, number=0)
    source = open_source(rec.save(tmp_path / "x.rec", index=False))
    assert list(source.names) == ["4/0", "3/1", "2/2"]


def test_a_broken_record_does_not_cost_the_others_their_keys(faces_rec: Path) -> None:
    offset = read_records(faces_rec).offset
    data = bytearray(faces_rec.read_bytes())
    struct.pack_into("<I", data, int(offset[3]) + 4, 8)
    faces_rec.write_bytes(data)
    faces_rec.with_suffix(".idx").unlink()
    source = open_source(faces_rec)
    assert list(source.names) == ["4/1", "4/2", "9/4", "9/5", "9/6"]
    assert f"the first is key 3 at byte {offset[3]}: its header is cut off" in source.notes[-2]
    assert "property says" in source.notes[-1]


def test_a_payload_that_was_never_split_is_walked_by_its_length(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    body = with_comment(make_jpeg(0), MAGIC + b"\1\0\0\0", 0)
    payload = struct.pack("<IfQQ", 0, 7.0, 0, 0) + body
    data = b"".join(MAGIC + struct.pack("<I", len(payload)) + payload + bytes(-len(payload) % 4) for _ in range(3))
    (tmp_path / "x.rec").write_bytes(data)
    source = open_source(tmp_path / "x.rec")
    assert len(source) == 3 and len(source.notes) == 1 and source.encoded(2) == body  # type: ignore[attr-defined]


def test_walking_goes_on_behind_damage_and_says_what_is_lost(rec: Any, tmp_path: Path, make_jpeg: Any) -> None:
    places = [rec.add(key, make_jpeg(key), key) for key in range(6)]
    rec.data[places[2]] ^= 1  # its magic: the record disappears
    rec.data[places[4] + 5] ^= 0x10  # its length
    source = open_source(rec.save(tmp_path / "x.rec", index=False))
    assert [source.identities[k] for k in source.labels] == ["0", "1", "3", "5"]
    assert f"1 stretches of the file begin no record (the first at byte {places[2]})" in source.notes[1]
    assert f"at byte {places[4]}: it reaches into the next record" in source.notes[2]


def damage(at: int, form: str, value: float) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, record: int) -> None:
        struct.pack_into(form, data, record + at, value)

    return change


def lengthen(data: bytearray, record: int) -> None:
    data[record + 4 : record + 8] = struct.pack("<I", int.from_bytes(data[record + 4 : record + 8], "little") + 4)


BREAKS: dict[str, tuple[Callable[[bytearray, int], None], str]] = {
    "magic": (damage(0, "<I", 1), "no record begins there"),
    "too long": (damage(4, "<I", 1 << 28), "it reaches into the next record or beyond the end"),
    "a little too long": (lengthen, "it reaches into the next record or beyond the end"),
    "too short": (damage(4, "<I", 20), "its header is cut off"),
    "empty": (damage(4, "<I", 24), "it holds no image"),
    "first part": (damage(4, "<I", 1 << 29 | 40), "the parts it was split into do not follow"),
    "middle part": (damage(4, "<I", 2 << 29 | 40), "the parts it was split into do not follow"),
    "cflag 5": (damage(4, "<I", 5 << 29 | 40), "the parts it was split into do not follow"),
    "huge flag": (damage(8, "<I", 0xFFFFFFFF), "its header is cut off"),
    "flag": (damage(8, "<I", 1), "its label is not a whole number"),
    "half label": (damage(12, "<f", 0.5), "its label is not a whole number"),
    "nan label": (damage(12, "<f", float("nan")), "its label is not a whole number"),
    "huge label": (damage(12, "<f", 1e30), "its label is not a whole number"),
    "label -2": (damage(12, "<f", -2), "its label is not a whole number"),
    "body": (damage(32, "<I", 0), "it holds no image"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_record_is_counted_named_and_skipped(rec: Any, tmp_path: Path, make_jpeg: Any, what: str) -> None:
    change, reason = BREAKS[what]
    places = [rec.add(key, make_jpeg(key), key) for key in range(4)]
    change(rec.data, places[2])
    path = rec.save(tmp_path / "x.rec")
    source = open_source(path)
    assert list(source.names) == ["0/0", "1/1", "3/3"] and source.labels.tolist() == [0, 1, 2]
    (note,) = source.notes
    assert f"1 of 4 records are broken and left out; the first is key 2 at byte {places[2]}: {reason}" in note
    found = check_data(path, size=24)
    (name,) = found.broken
    assert name == f"key 2 at byte {places[2]}" and reason in found.broken[name]
    assert found.notes == source.notes and found.images == 3
    assert "1 images are broken" in (found.verdict() or "") and json.dumps(found.to_dict())
    assert source.read(np.arange(3)).shape == (3, 24, 24, 3)


@pytest.mark.parametrize(
    ("lines", "reason", "kept"),
    [
        ("0\t0\n1\t99999999\n", "its offset is no place", 1),
        ("0\t0\n1\t6\n", "its offset is no place", 1),
        ("0\t0\n1\t4\n", "no record begins there", 1),
        ("0\t0\n1\t0\n", "another key has the same offset", 1),
        ("0\t0\n0\t{1}\n", "its key occurs twice", 1),
        ("0\t0\r\n\r\n1\t{1}", "", 2),
    ],
)
def test_an_idx_is_not_trusted(rec: Any, tmp_path: Path, make_jpeg: Any, lines: str, reason: str, kept: int) -> None:
    places = [rec.add(key, make_jpeg(key), key) for key in range(3)]
    path = rec.save(tmp_path / "x.rec")
    path.with_suffix(".idx").write_bytes(lines.format(*places).encode())
    source = open_source(path)
    assert len(source) == kept and (not reason or reason in source.notes[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\t0\n1;5\n", "line 2: '1;5' is not"),
        ("0\t0\n1\t-5\n", "line 2"),
        ("0\t0\n1\t5\t6\n", "line 2"),
        ("0 0\n", "line 1"),
        ("9" * 30 + "\t0\n", "line 1"),
        ("", "holds no keys"),
        ("\n\n", "holds no keys"),
    ],
)
def test_an_idx_of_another_form_is_refused_with_its_line(faces_rec: Path, text: str, words: str) -> None:
    faces_rec.with_suffix(".idx").write_text(text)
    with pytest.raises(CorruptFile, match=words):
        open_source(faces_rec)


def test_blocks_do_not_show(faces_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_records(faces_rec)
    monkeypatch.setattr(records, "ROWS", 3)
    monkeypatch.setattr(records, "SCAN", 7)
    monkeypatch.setattr(records, "LINES", 5)
    for index in (True, False):
        if not index:
            faces_rec.with_suffix(".idx").unlink()
        again = read_records(faces_rec)
        assert again.key.tolist() == whole.key.tolist() and again.offset.tolist() == whole.offset.tolist()
        assert np.array_equal(again.head, whole.head)


def test_many_keys_of_one_long_chain_of_parts_take_linear_time(tmp_path: Path) -> None:
    # Every start jumps to the same 30,000 empty middle parts: followed for each start, that is 900 million steps.
    n = 30_000
    starts = b"".join(MAGIC + struct.pack("<I", 1 << 29 | 8 * (n - k - 1)) for k in range(n))
    (tmp_path / "x.rec").write_bytes(starts + (MAGIC + struct.pack("<I", 2 << 29)) * n)
    (tmp_path / "x.idx").write_text("".join(f"{k}\t{8 * k}\n" for k in range(n)))
    begin = time.process_time()
    with pytest.raises(CorruptFile, match=f"{n} of {n} records are broken"):
        open_source(tmp_path / "x.rec")
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("content", [b"", b"x", MAGIC, b"\0" * 100, MAGIC + b"\0" * 4])
def test_what_is_no_rec_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"x\.rec"):
        open_source(tmp_path / "x.rec")


def test_an_idx_alone_is_refused(faces_rec: Path) -> None:
    faces_rec.unlink()
    with pytest.raises(MissingFile, match=r"train\.rec, to which train\.idx belongs"):
        open_source(faces_rec.with_suffix(".idx"))


# --- as a source ---------------------------------------------------------------------------------------------------


def test_images_that_do_not_decode_or_have_another_size_are_named_when_read(
    rec: Any, tmp_path: Path, make_jpeg: Any
) -> None:
    rec.add(0, make_jpeg(0)[:90], 0)
    rec.add(1, make_jpeg(1), 0)
    rec.add(2, make_jpeg(2, (30, 30)), 1)
    rec.add(3, make_jpeg(3)[:-60], 1)
    path = rec.save(tmp_path / "x.rec")
    source = open_source(path)
    assert source.size == (24, 24)
    for i, words in ((0, "image 0/0 of .*byte"), (2, "it is 30x30"), (3, "image 1/3 of")):
        with pytest.raises(InputError, match=f"{words}.*facekit data check --data"):
            source.read(np.array([1, i]))
    found = check_data(path, size=24)
    assert list(found.broken) == ["0/0", "1/3"] and found.mis_sized == {"1/2": (30, 30)}


def test_a_rec_without_a_readable_image_is_refused(
    rec: Any, tmp_path: Path, make_jpeg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "TRIED", 2)
    for key in range(4):
        rec.add(key, make_jpeg(0)[:60] if key < 2 else make_jpeg(0), 0)
    with pytest.raises(InputError, match=r"none of the first 2 images of .*x\.rec can be read: ."):
        open_source(rec.save(tmp_path / "x.rec"))


@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_a_pack_equals_the_rec_it_was_made_from(faces_rec: Path, tmp_path: Path, kind: str) -> None:
    source = open_source(faces_rec)
    write_pack(source, tmp_path / "pack", kind=kind)
    packed = open_source(tmp_path / "pack")
    assert packed.fingerprint == source.fingerprint and packed.identities == source.identities
    assert list(packed.names) == list(source.names) and np.array_equal(packed.labels, source.labels)
    assert np.array_equal(packed.read(np.arange(6)), source.read(np.arange(6)))


def test_leaving_people_out(faces_rec: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("path1,path2,same,id1,id2\na,b,1,9,9\na,c,0,9,1\n")
    assert open_source(faces_rec, exclude=(tmp_path / "test.csv",)).identities == ("4", "7")
    source = open_source(faces_rec, exclude=(tmp_path / "test.csv",), min_images=2)
    assert source.identities == ("4",) and list(source.names) == ["4/1", "4/2"]
    assert source.read(np.arange(2)).shape == (2, 24, 24, 3)
    assert check_data(faces_rec, size=24, test_lists=(tmp_path / "test.csv",)).overlap == ("9",)
    with pytest.raises(InputError, match="--images"):
        open_source(faces_rec, images=tmp_path)


def test_the_fingerprint_is_the_documented_sum_and_hashed_once_per_state_of_the_file(
    faces_rec: Path, tmp_path: Path, make_jpeg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    runs: list[int] = []
    real = mapped.hash_blobs
    monkeypatch.setattr(mapped, "hash_blobs", lambda blobs: (runs.append(1), real(blobs))[1])
    labels = (0, 0, 1, 2, 2, 2)
    lines = [
        f"{name}\t{label}\t{hashlib.sha256(make_jpeg(k)).hexdigest()}\n".encode()
        for k, (name, label) in enumerate(zip(open_source(faces_rec).names, labels, strict=True), 1)
    ]
    wanted = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
    assert runs == []
    assert open_source(faces_rec).fingerprint == wanted and len(runs) == 1
    assert open_source(faces_rec).fingerprint == wanted and len(runs) == 2  # changed a moment ago: not remembered
    os.utime(faces_rec, (1_000_000, 1_000_000))
    assert open_source(faces_rec).fingerprint == wanted and len(runs) == 3
    assert open_source(faces_rec).fingerprint == wanted and len(runs) == 3
    assert open_source(faces_rec, min_images=2).fingerprint != wanted and len(runs) == 3
    (memory,) = (tmp_path / "cache" / "pieces").iterdir()
    for broken in (b"", memory.read_bytes()[:-7], b"\x93NUMPY nonsense"):
        memory.write_bytes(broken)
        assert open_source(faces_rec).fingerprint == wanted
    assert len(runs) == 6
    index = faces_rec.with_suffix(".idx")
    index.write_text("".join(line + "\n" for line in index.read_text().splitlines() if not line.startswith("6\t")))
    assert open_source(faces_rec).fingerprint != wanted and len(runs) == 7


def test_names_behave_like_a_list(faces_rec: Path) -> None:
    names = open_source(faces_rec).names
    assert names[-1] == "9/6" and names[1:3] == ["4/2", "7/3"] and "7/3" in names and len(names) == 6
    with pytest.raises(IndexError):
        names[6]
