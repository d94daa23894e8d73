"""Two sets joined by name: every form of either, and nothing lost without a word."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import FacekitError, InputError, MissingFile
from facekit.data.galleries import GallerySet, open_galleries, what_it_supports

Paint = Callable[..., Path]


@pytest.fixture
def probes(tmp_path: Path, paint: Paint) -> Path:
    """Ann and Cy are enrolled, Eve and Flo are not."""
    for seed, name in enumerate(("Cy/a.jpg", "Cy/b.jpg", "Ann/a.jpg", "Eve/a.jpg", "Flo/a.jpg"), 100):
        paint(tmp_path / "probes" / name, seed)
    return tmp_path / "probes"


def who(found: GallerySet) -> tuple[list[str], list[str]]:
    return [found.people[i] for i in found.gallery_subject], [found.people[i] for i in found.probe_subject]


def test_people_are_joined_by_name_not_by_number(people: Path, probes: Path) -> None:
    found = open_galleries(people, probes)
    assert who(found) == ([name.split("/")[0] for name in found.gallery.names], ["Ann", "Cy", "Cy", "Eve", "Flo"])
    assert found.mated.tolist() == [True, True, True, False, False]
    assert found.gallery.labels.tolist()[:4] == [0, 0, 0, 1] and found.probe.labels.tolist() == [0, 1, 1, 2, 3]
    assert (found.name, found.failed) == ("probes-in-people", 0)
    assert found.notes == (
        "4 people enrolled, 3 mated and 2 non-mated searches: an FPIR of 0.5 or more can be measured",
    )


def test_lists_and_embeddings_run_through_the_same_code(people: Path, probes: Path, tmp_path: Path) -> None:
    folders = open_galleries(people, probes)
    rows = [f"{probes.name}/{name},{who}" for name, who in zip(folders.probe.names, who(folders)[1], strict=True)]
    (tmp_path / "p.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    names = np.array(list(folders.gallery.names))
    np.savez(tmp_path / "g.npz", embs=np.eye(len(names), dtype=np.float32), names=names)
    for gallery, probe in (
        (people, tmp_path / "p.csv"),
        (tmp_path / "g.npz", tmp_path / "p.csv"),
        (tmp_path / "g.npz", probes),
    ):
        found = open_galleries(gallery, probe)
        assert [sorted(side) for side in who(found)] == [sorted(side) for side in who(folders)]
        assert found.mated.sum() == 3 and found.people == folders.people
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(str(probes), moved / "probes")
    assert who(open_galleries(people, tmp_path / "p.csv", moved)) == who(folders)


def test_broken_and_missing_images_are_counted(people: Path, probes: Path, tmp_path: Path, paint: Paint) -> None:
    (people / "Di" / "Di_0001.jpg").write_bytes(b"\xff\xd8 not a picture")
    paint(people / "Ann" / "small.jpg", 50, size=(8, 8))
    (tmp_path / "p.csv").write_text("path,label\nCy/a.jpg,Cy\nCy/gone.jpg,Cy\nEve/a.jpg,Eve\nDi/a.jpg,Di\n")
    paint(probes / "Di" / "a.jpg", 51)
    found = open_galleries(people, tmp_path / "p.csv", probes)
    assert found.failed == 3 and len(found.gallery) == 9 and len(found.probe) == 3
    assert who(found)[1] == ["Cy", "Eve", "Di"] and found.mated.tolist() == [True, False, False]
    first, second, third, *_ = found.notes
    assert first.startswith("2 of 11 gallery images cannot be used (the first is Ann/small.jpg: it is 8x8")
    assert second == "1 people of the gallery have no usable image (the first is Di)"
    assert third.startswith("1 of 4 probe images cannot be used (the first is Cy/gone.jpg: there is no such file")


def test_a_probe_that_is_enrolled_itself_is_told(people: Path, probes: Path) -> None:
    shutil.copy(people / "Bob" / "Bob_0001.jpg", probes / "Cy" / "twin.jpg")
    assert "1 of 6 probe images are enrolled themselves (same content)" in open_galleries(people, probes).notes


def test_the_same_embedding_on_both_sides_is_told(tmp_path: Path) -> None:
    for name, rows in (("g", [0, 1, 2]), ("p", [2, 3])):
        names = np.array([f"{'abcd'[r]}/{name}.jpg" for r in rows])
        np.savez(tmp_path / name, embs=np.eye(4, dtype=np.float32)[rows], names=names)
    found = open_galleries(tmp_path / "g.npz", tmp_path / "p.npz")
    assert found.notes[0] == "1 of 2 probe images are enrolled themselves (same content)"


@pytest.mark.parametrize(
    ("role", "message"),
    [("gallery", "everybody who is enrolled needs a name"), ("probe", "give strangers a name of their own")],
)
def test_a_side_without_labels_is_refused(people: Path, tmp_path: Path, paint: Paint, role: str, message: str) -> None:
    paint(tmp_path / "flat" / "1.jpg", 1)
    sides = (tmp_path / "flat", people) if role == "gallery" else (people, tmp_path / "flat")
    with pytest.raises(InputError, match=rf"the {role} .*1 of 1 images .the first is 1.jpg.*{message}"):
        open_galleries(*sides)


def test_two_numberings_are_not_names(people: Path, probes: Path, tmp_path: Path) -> None:
    """Both lists number their own people from 0: Cy is 2 here and 1 there."""
    for name, root, numbers in (("g", people, "Ann0 Bob1 Cy2 Di3"), ("p", probes, "Ann0 Cy1 Eve2 Flo3")):
        number = {item[:-1]: item[-1] for item in numbers.split()}
        lines = [f"{f.parent.name}/{f.name} {number[f.parent.name]}" for f in sorted(root.glob("*/*.jpg"))]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    for source in (people, probes):
        shutil.copytree(source, tmp_path / "all", dirs_exist_ok=True)
    with pytest.raises(InputError, match="the folder Cy is person 2 in .*g.txt and 1 in .*p.txt"):
        open_galleries(tmp_path / "g.txt", tmp_path / "p.txt", tmp_path / "all")


def test_numbers_that_one_tool_gave_are_names(tmp_path: Path, paint: Paint) -> None:
    """All images lie in one folder, so it says nothing about people."""
    for seed in range(4):
        paint(tmp_path / "images" / f"{seed}.jpg", seed)
    (tmp_path / "g.txt").write_text("images/0.jpg 0\nimages/1.jpg 1\n")
    (tmp_path / "p.txt").write_text("images/2.jpg 1\nimages/3.jpg 5\n")
    assert who(open_galleries(tmp_path / "g.txt", tmp_path / "p.txt")) == (["0", "1"], ["1", "5"])


def test_what_cannot_be_compared_is_refused(people: Path, tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "big" / "Ann" / "1.jpg", 1, size=(32, 32))
    with pytest.raises(InputError, match="24x24, those of .*big 32x32"):
        open_galleries(people, tmp_path / "big")
    paint(tmp_path / "others" / "ann" / "1.jpg", 1)
    with pytest.raises(InputError, match=r"no person of .*others .ann.*is enrolled in .*people .Ann"):
        open_galleries(people, tmp_path / "others")
    for missing in (tmp_path / "no", tmp_path / "no.npz"):
        with pytest.raises(MissingFile):
            open_galleries(people, missing)
    (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(FacekitError):
        open_galleries(people, tmp_path / "x.bin")


def test_the_sentence_about_fpir() -> None:
    assert what_it_supports(3, 4, 0).endswith("no FPIR can be measured; add probes of people who are not enrolled")
    assert what_it_supports(3, 4, 10_000).endswith(
        "an FPIR of 0.0001 or more can be measured, to within 30 % from 0.003 on"
    )
