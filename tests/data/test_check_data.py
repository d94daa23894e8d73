"""Faults planted one by one are found, each once, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facekit.core.errors import InputError
from facekit.data.check import check_data
from facekit.data.packing import write_pack
from facekit.data.sources import open_source


def test_a_clean_folder_has_no_findings(people: Path) -> None:
    moved: list[int] = []
    found = check_data(people, size=24, progress=moved.append)
    assert (found.images, found.identities, found.images_per_identity) == (10, 4, (1, 2, 4))
    assert not (found.broken or found.tiny or found.mis_sized or found.duplicates or found.overlap)
    assert found.verdict() is None and sum(moved) == 10


def test_planted_faults_are_found(people: Path, tmp_path: Path, paint: Any) -> None:
    (people / "Ann" / "Ann_0001.jpg").write_bytes(b"")
    whole = people / "Ann" / "Ann_0002.jpg"
    whole.write_bytes(whole.read_bytes()[:-60])
    paint(people / "Bob" / "Bob_0003.jpg", 50, (24, 23))
    paint(people / "Bob" / "Bob_0004.jpg", 51, (24, 11))
    twin = (people / "Cy" / "Cy_0001.jpg").read_bytes()
    (people / "Cy" / "Cy_0009.jpg").write_bytes(twin)
    (people / "Di" / "Di_0002.jpg").write_bytes(twin)
    Image.open(people / "Bob" / "Bob_0001.jpg").save(people / "Bob" / "Bob_0005.png")
    (tmp_path / "test.txt").write_text("Cy\t1\t2\nZed\t1\tDi\t1\n")
    found = check_data(people, size=24, test_lists=(tmp_path / "test.txt",))
    assert list(found.broken) == ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"]
    assert found.broken["Ann/Ann_0001.jpg"] == "the file is empty"
    assert found.mis_sized == {"Bob/Bob_0003.jpg": (24, 23)}
    assert found.tiny == {"Bob/Bob_0004.jpg": (24, 11)}
    across, within = found.duplicates
    assert across.names == ("Cy/Cy_0001.jpg", "Cy/Cy_0009.jpg", "Di/Di_0002.jpg")
    assert across.byte_identical and across.across_identities
    assert within.names == ("Bob/Bob_0001.jpg", "Bob/Bob_0005.png")
    assert not within.byte_identical and not within.across_identities
    assert found.overlap == ("Cy", "Di")
    verdict = found.verdict()
    assert verdict is not None and "2 images are broken" in verdict and "2 people are also in the test list" in verdict


def test_exclusion_removes_the_overlap(people: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("Cy\t1\t2\nZed\t1\tDi\t1\n")
    lists = (tmp_path / "test.txt",)
    assert check_data(people, size=24, test_lists=lists, exclude=lists).overlap == ()


def test_lists_with_missing_files_and_numbers_for_labels(people: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("Cy/Cy_0001.jpg 0\nCy/Cy_0002.jpg 0\nCy/nothing.jpg 0\nAnn/Ann_0001.jpg 1\n")
    (tmp_path / "test.txt").write_text("Cy\t1\t2\n")
    found = check_data(tmp_path / "l.txt", images=people, size=24, test_lists=(tmp_path / "test.txt",))
    assert found.broken == {"Cy/nothing.jpg": "there is no such file"}
    assert found.overlap == ("Cy",) and found.images_per_identity == (1, 2, 3)


@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_packs_are_checked_too(people: Path, tmp_path: Path, kind: str) -> None:
    (people / "Di" / "Di_0002.jpg").write_bytes((people / "Cy" / "Cy_0001.jpg").read_bytes())
    write_pack(open_source(people), tmp_path / "pack", kind=kind)
    found = check_data(tmp_path / "pack", size=24)
    assert found.images == 11 and found.broken == {}
    assert [d.names for d in found.duplicates] == [("Cy/Cy_0001.jpg", "Di/Di_0002.jpg")]
    assert len(check_data(tmp_path / "pack", size=112).tiny) == 11


def test_pixels_of_another_shape_are_no_duplicates(tmp_path: Path) -> None:
    for name, size in (("a", (6, 4)), ("b", (4, 6)), ("c", (6, 4))):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", size).save(tmp_path / "d" / name / "1.png")
    (found,) = check_data(tmp_path / "d", size=6).duplicates
    assert found.names == ("a/1.png", "c/1.png") and found.across_identities


def test_a_test_list_that_tells_no_people_is_refused(people: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("imgs/1.jpg imgs/2.jpg 0\n")
    with pytest.raises(InputError, match="does not tell its people"):
        check_data(people, test_lists=(tmp_path / "t.txt",))
