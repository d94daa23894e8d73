"""Held-out images: which form a path has, and that overlap with other images is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import InputError, UsageError
from facekit.data.heldout import check_apart, is_pair_list, open_held_out, shared_images
from facekit.data.packing import write_pack
from facekit.data.sources import open_source


def pair_list(people: Path) -> Path:
    file = people.parent / "pairs.txt"
    file.write_text("2\nAnn\t1\t2\nBob\t1\t2\nAnn\t1\tCy\t3\nAnn\t2\tBob\t1\n")
    return file


def test_every_form_gives_its_images(people: Path) -> None:
    listed = open_held_out(str(pair_list(people)), images=people)
    assert set(listed.names) == {
        *(f"Ann/Ann_000{k}.jpg" for k in (1, 2)),
        *(f"Bob/Bob_000{k}.jpg" for k in (1, 2)),
        "Cy/Cy_0003.jpg",
    }
    every = open_held_out(f"allpairs:{pair_list(people)}", images=people)
    assert set(listed.names) < set(every.names)
    assert len(open_held_out(str(people))) == 10
    assert len(open_held_out(str(people), take="0:1")) == 4


def test_lists_of_images_are_not_taken_for_pairs(people: Path) -> None:
    forms = {
        "a.txt": ("Ann/Ann_0001.jpg 0\nBob/Bob_0001.jpg 1\n", False),
        "b.txt": ("Ann/Ann_0001.jpg\t0\nBob/Bob_0001.jpg\t1\n", False),
        "c.lst": ("0\t3\tAnn/Ann_0001.jpg\n1\t4\tBob/Bob_0001.jpg\n", False),
        "d.csv": ("path,label\nAnn/Ann_0001.jpg,0\n", False),
        "e.csv": ("path1,path2,same\nAnn/Ann_0001.jpg,Bob/Bob_0001.jpg,0\n", True),
        "f.txt": ("Ann/Ann_0001.jpg Bob/Bob_0001.jpg 0\n", True),
        "g.txt": ("10\t300\n", True),
        "h.txt": ("Ann\t1\t2\n", True),
        "i.bin": ("\0\1", False),
    }
    for name, (text, wanted) in forms.items():
        file = people.parent / name
        file.write_text(text)
        assert is_pair_list(file) is wanted, name
    assert not is_pair_list(people) and not is_pair_list(people / "nothing")
    assert len(open_held_out(str(people.parent / "a.txt"), images=people)) == 2


def test_a_share_of_a_pair_list_is_refused(people: Path) -> None:
    with pytest.raises(UsageError, match="--val-take chooses among the images of people"):
        open_held_out(str(pair_list(people)), images=people, take="0:1")


def test_overlap_is_counted_by_content_not_by_name(people: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "X"
    other.mkdir(parents=True)
    for k, name in enumerate(("Ann/Ann_0002.jpg", "Cy/Cy_0001.jpg")):
        (other / f"{k}.jpg").write_bytes((people / name).read_bytes())
    one, two = open_source(tmp_path / "other"), open_source(people)
    assert shared_images(one, two) == shared_images(two, one) == 2
    with pytest.raises(InputError, match="2 of the 2 images of dev are also training images"):
        check_apart(one, "dev", two, "training images")
    first, rest = open_source(people, take="0:1"), open_source(people, take="1:")
    assert shared_images(first, rest) == 0
    check_apart(first, "dev", rest, "training images")


def test_images_whose_files_are_gone_are_compared_by_their_pixels(people: Path, tmp_path: Path) -> None:
    write_pack(open_source(people, take="0:2"), tmp_path / "packed", kind="uint8")
    packed = open_source(tmp_path / "packed")
    assert packed.digests(np.arange(1)) is None  # type: ignore[attr-defined]
    assert shared_images(packed, open_source(people)) == len(packed) == 7
