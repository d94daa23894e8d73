"""Every form of image data through one door: labels, order, refusals and fingerprints."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import InputError, MissingFile
from facekit.data import fingerprint as fp
from facekit.data.decode import decode
from facekit.data.sources import open_source, select

# --- folders -----------------------------------------------------------------------------------------


def test_a_folder_per_identity_has_labels_in_string_order(tmp_path: Path, paint: Any) -> None:
    for seed, name in enumerate(["b/x.JPG", "b/a.jpeg", "B/1.png.jpg", "10/k.jpg", "9/k.jpg", "é/k.jpg"]):
        paint(tmp_path / "d" / name, seed)
    for junk in ("b/.DS_Store", "b/._x.jpg", ".hidden/x.jpg", "b/notes.txt", "empty/readme.md"):
        paint(tmp_path / "d" / junk, 99)
    source = open_source(tmp_path / "d", need_labels=True)
    assert source.identities == ("10", "9", "B", "b", "é")
    assert list(source.names) == ["10/k.jpg", "9/k.jpg", "B/1.png.jpg", "b/a.jpeg", "b/x.JPG", "é/k.jpg"]
    assert source.labels.tolist() == [0, 1, 2, 3, 3, 4] and source.labels.dtype == np.int64
    assert source.size == (24, 24) and len(source) == 6


def test_read_returns_the_decoded_files_in_the_order_asked(people: Path) -> None:
    source = open_source(people)
    index = np.array([7, 0, 7])
    wanted = [decode((people / source.names[i]).read_bytes()) for i in index]
    assert np.array_equal(source.read(index), np.stack(wanted))
    assert source.read(np.array([], np.int64)).shape == (0, 24, 24, 3)


def test_a_flat_folder_is_unlabelled(tmp_path: Path, paint: Any) -> None:
    for k in range(3):
        paint(tmp_path / "flat" / f"{k}.jpg", k)
    source = open_source(tmp_path / "flat")
    assert source.labels.tolist() == [-1, -1, -1] and source.identities == ()
    with pytest.raises(InputError, match="no labels for 3 of 3 images"):
        open_source(tmp_path / "flat", need_labels=True)
    with pytest.raises(InputError, match="--min-images 2 needs identities"):
        open_source(tmp_path / "flat", min_images=2)


def test_links_to_folders_and_files_are_followed_and_dead_ones_skipped(tmp_path: Path, people: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "Zoe").symlink_to(people / "Ann")
    (tmp_path / "linked" / "Yan").mkdir()
    (tmp_path / "linked" / "Yan" / "1.jpg").symlink_to(people / "Bob" / "Bob_0001.jpg")
    (tmp_path / "linked" / "Yan" / "2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "linked" / "Yan" / "back").symlink_to(tmp_path / "linked")
    source = open_source(tmp_path / "linked")
    assert list(source.names) == ["Yan/1.jpg", *(f"Zoe/Ann_000{k}.jpg" for k in (1, 2, 3))]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda d: None, MissingFile, "does not exist"),
        (lambda d: d.mkdir(), InputError, "holds no images"),
        (lambda d: (d / "a").mkdir(parents=True), InputError, "holds no images"),
    ],
)
def test_nothing_there(tmp_path: Path, make: Any, kind: type[Exception], words: str) -> None:
    make(tmp_path / "d")
    with pytest.raises(kind, match=words):
        open_source(tmp_path / "d")


def test_one_level_too_high_is_hinted_at(people: Path) -> None:
    with pytest.raises(InputError, match=f"Did you mean {people}"):
        open_source(people.parent)


def test_an_unreadable_folder_is_named(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("Bob"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MissingFile, match=r"Bob cannot be read: Permission denied"):
        open_source(people)


def test_loose_images_beside_identity_folders_are_refused(people: Path, paint: Any) -> None:
    paint(people / "stray.jpg", 5)
    with pytest.raises(InputError, match="stray.jpg"):
        open_source(people)


def test_one_identity_is_enough_only_without_labels(tmp_path: Path, paint: Any) -> None:
    paint(tmp_path / "d" / "only" / "1.jpg", 1)
    assert len(open_source(tmp_path / "d")) == 1
    with pytest.raises(InputError, match=r"one identity only \(only\)"):
        open_source(tmp_path / "d", need_labels=True)


def test_a_broken_image_is_named_with_the_command_that_lists_all(people: Path) -> None:
    (people / "Bob" / "Bob_0002.jpg").write_bytes(b"not an image")
    (people / "Di" / "Di_0001.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"Bob_0002\.jpg cannot be read.*1 more.*facekit data check --data"):
        open_source(people)


def test_a_body_cut_off_after_its_header_is_found_when_read(people: Path) -> None:
    victim = people / "Cy" / "Cy_0003.jpg"
    victim.write_bytes(victim.read_bytes()[:-40])
    source = open_source(people)
    with pytest.raises(InputError, match=r"Cy_0003\.jpg cannot be read.*facekit data check"):
        source.read(np.arange(len(source)))


def test_a_file_that_vanishes_after_opening_is_named(people: Path) -> None:
    source = open_source(people)
    (people / "Ann" / "Ann_0002.jpg").unlink()
    with pytest.raises(InputError, match=r"Ann_0002\.jpg"):
        source.read(np.arange(3))


def test_images_of_different_sizes_are_refused(people: Path, paint: Any) -> None:
    paint(people / "Cy" / "Cy_0002.jpg", 3, (24, 26))
    with pytest.raises(InputError, match=r"most are 24x24, 1 are not, the first is Cy/Cy_0002.jpg with 24x26"):
        open_source(people)


def test_names_with_line_breaks_are_refused(people: Path, paint: Any) -> None:
    paint(people / "Cy" / "a\nb.jpg", 3)
    with pytest.raises(InputError, match="rename it"):
        open_source(people)


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"path label\0"])
def test_what_is_not_recognised_is_refused_with_what_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=r"x is not recognised; give a folder per identity, .* MXNet \.rec"):
        open_source(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        open_source(tmp_path / "pipe")


# --- leaving people out ---------------------------------------------------------------------------------


def test_excluded_people_and_small_identities_are_left_out_and_labels_stay_dense(people: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("1\nBob\t1\t2\nBob\t1\tZed\t1\n")
    source = open_source(people, exclude=(tmp_path / "test.txt",), min_images=2)
    assert source.identities == ("Ann", "Cy")
    assert source.labels.tolist() == [0] * 3 + [1] * 4
    (tmp_path / "paths.txt").write_text("Ann/x.jpg Ann/y.jpg 1\nAnn/x.jpg Cy/y.jpg 0\n")
    both = open_source(people, exclude=(tmp_path / "test.txt", tmp_path / "paths.txt"))
    assert both.identities == ("Di",)
    with pytest.raises(InputError, match="no image .* is left"):
        open_source(people, exclude=(tmp_path / "test.txt", tmp_path / "paths.txt"), min_images=2)


def test_exclusion_reaches_flat_folders_and_numbered_labels(people: Path, tmp_path: Path, paint: Any) -> None:
    (tmp_path / "test.txt").write_text("Bob\t1\t2\nBob\t1\tAnn\t1\n")
    for name in ("Ann_0001", "Bob_0007", "Dee_Bob_0001"):
        paint(tmp_path / "flat" / f"{name}.jpg", 1)
    flat = open_source(tmp_path / "flat", exclude=(tmp_path / "test.txt",))
    assert list(flat.names) == ["Dee_Bob_0001.jpg"]
    (tmp_path / "l.txt").write_text("Bob/Bob_0001.jpg 0\nCy/Cy_0001.jpg 1\nDi/Di_0001.jpg 2\n")
    listed = open_source(tmp_path / "l.txt", images=people, exclude=(tmp_path / "test.txt",))
    assert list(listed.names) == ["Cy/Cy_0001.jpg", "Di/Di_0001.jpg"] and listed.labels.tolist() == [0, 1]


def test_excluding_by_a_list_that_tells_no_people_is_refused(people: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("imgs/1.jpg imgs/2.jpg 0\nimgs/1.jpg imgs/3.jpg 1\n")
    with pytest.raises(InputError, match="does not tell its people"):
        open_source(people, exclude=(tmp_path / "p.txt",))
    with pytest.raises(InputError, match="names no people"):
        open_source(people, exclude=(tmp_path / "lfw.bin",))


# --- sub-sets and fingerprints ------------------------------------------------------------------------------


def test_select_takes_a_mask_or_positions_and_numbers_labels_densely(people: Path) -> None:
    source = open_source(people)
    chosen = select(source, np.isin(source.labels, (1, 3)))
    assert chosen.identities == ("Bob", "Di") and chosen.labels.tolist() == [0, 0, 1]
    again = select(chosen, np.array([2, 0]))
    assert list(again.names) == ["Di/Di_0001.jpg", "Bob/Bob_0001.jpg"] and again.identities == ("Bob", "Di")
    assert np.array_equal(again.read(np.array([0])), source.read(np.array([9])))
    with pytest.raises(InputError, match="no image is left"):
        select(source, np.zeros(len(source), bool))


def test_the_fingerprint_is_the_documented_sum(people: Path) -> None:
    source = open_source(people)
    lines = sorted(
        f"{n}\t{label}\t{hashlib.sha256((people / n).read_bytes()).hexdigest()}\n".encode()
        for n, label in zip(source.names, source.labels, strict=True)
    )
    assert source.fingerprint == hashlib.sha256(b"".join(lines)).hexdigest()


def test_the_order_of_the_lines_does_not_depend_on_how_they_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "a b", "a/b", "a\x01", "ü", "a" * 63, "a" * 70, "B", "\udcff"]  # "a\x01" sorts before "a<TAB>"
    lines = sorted((f"{name}\t".encode("utf-8", "surrogateescape"), i) for i, name in enumerate(names))
    for short in (64, 100):
        monkeypatch.setattr(fp, "SHORT", short)
        assert fp.order_of_lines(names).tolist() == [i for _, i in lines]
    assert fp.order_of_lines([]).tolist() == []


def test_the_fingerprint_of_a_subset_is_that_of_the_same_files_alone(people: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Cy\t1\t2\n")
    alone = open_source(people, exclude=(tmp_path / "t.txt",))
    source = open_source(people)
    part = select(source, source.labels != 2)
    assert part.fingerprint == alone.fingerprint != source.fingerprint


def test_hashes_are_remembered_by_size_and_time_and_a_broken_memory_is_ignored(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Any
) -> None:
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    for path in people.rglob("*.jpg"):
        os.utime(path, (1_000_000, 1_000_000))
    read: list[Path] = []
    real = fp.read_image_file
    monkeypatch.setattr(fp, "read_image_file", lambda path: (read.append(path), real(path))[1])
    first = open_source(people).fingerprint
    assert len(read) == 10
    assert open_source(people).fingerprint == first and len(read) == 10
    paint(people / "Di" / "Di_0001.jpg", 77)  # a new time
    changed = open_source(people).fingerprint
    assert changed != first and read[10:] == [people / "Di" / "Di_0001.jpg"]
    # What changed a moment ago is not remembered: the next change could fall into the same tick of the clock.
    assert open_source(people).fingerprint == changed and len(read) == 12
    (memory,) = (tmp_path / "cache" / "files").iterdir()
    for broken in (b"", b"PK\x03\x04 nonsense", memory.read_bytes()[:-30]):
        memory.write_bytes(broken)
        assert open_source(people).fingerprint == changed


def test_an_unwritable_cache_costs_only_time(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    expected = open_source(people).fingerprint
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "file" / "below"))
    assert open_source(people).fingerprint == expected
