"""Shared pictures are found by what they show, whatever their names, files and packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit.data import overlap
from facekit.data.cifar import PixelSource
from facekit.data.noise import make_plan
from facekit.data.overlap import shared_images, shared_people
from facekit.data.packing import write_pack
from facekit.data.relabelled import relabelled
from facekit.data.sources import open_source


def test_pictures_are_compared_by_their_pixels(people: Path, tmp_path: Path, paint: Any) -> None:
    other = tmp_path / "other"
    (other / "X").mkdir(parents=True)
    (other / "X" / "copy.jpg").write_bytes((people / "Cy" / "Cy_0002.jpg").read_bytes())
    Image.open(people / "Ann" / "Ann_0003.jpg").save(other / "X" / "again.png")
    paint(other / "Y" / "new.jpg", 99)
    one, two = open_source(people), open_source(other)
    found = [("Ann/Ann_0003.jpg", "X/again.png"), ("Cy/Cy_0002.jpg", "X/copy.jpg")]
    assert shared_images(one, two) == found
    assert sorted((b, a) for a, b in shared_images(two, one)) == found
    write_pack(two, tmp_path / "pack", kind="uint8")
    assert shared_images(one, open_source(tmp_path / "pack")) == found
    plan = make_plan(one, "sym", 0.9, exclude_self=True)
    assert shared_images(relabelled(one, plan), two) == found, "labels do not make a picture another one"


def test_parts_of_one_source_share_nothing(people: Path) -> None:
    assert shared_images(open_source(people, take="0:1"), open_source(people, take="1:")) == []
    every = open_source(people)
    assert shared_images(every, every) == [(name, name) for name in every.names]


def test_every_copy_is_named_with_the_first_of_its_kind() -> None:
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    pixels[1] = 7
    labels = np.zeros(3, np.int64)
    one = PixelSource(["a", "b", "c"], pixels, labels, ("who",), ())
    two = PixelSource(["x", "y", "z"], pixels[[1, 2, 0]], labels, ("who",), ())
    assert shared_images(one, two) == [("a", "y"), ("b", "x"), ("c", "y")]


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    flat, tall = (
        PixelSource(["a"], np.zeros((1, *size, 3), np.uint8), np.zeros(1, np.int64), ("who",), ())
        for size in ((2, 6), (4, 3))
    )
    assert shared_images(flat, tall) == []


def test_images_are_read_in_blocks(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "BLOCK", 3)
    source = open_source(people)
    sizes, read = [], source.read

    def counted(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return read(rows)

    monkeypatch.setattr(source, "read", counted)
    assert len(shared_images(source, open_source(people, take="0:1"))) == 4
    assert sorted(sizes) == [1, 3, 3, 3]


def test_people_are_compared_by_name(people: Path, tmp_path: Path, paint: Any) -> None:
    for name in ("Di", "Eve", "Ann"):
        paint(tmp_path / "other" / name / "1.jpg", 40)
    one, two = open_source(people), open_source(tmp_path / "other")
    assert shared_people(one, two) == shared_people(two, one) == ["Ann", "Di"]
    assert shared_people(open_source(people, take="1:3"), two) == ["Ann"]
