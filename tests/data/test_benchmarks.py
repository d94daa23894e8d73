"""Benchmarks from lists: every published form, folds by rule, and nothing dropped silently."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import CorruptFile, FacekitError, InputError, MissingFile
from facekit.data.pairlist import read_pairs
from facekit.data.pairs import PairSet, natural, open_benchmark
from facekit.data.sources import open_source

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, paint: Any) -> Write:
    """Write a list beside images/ with Ann, Bob, Cy x 12 images."""
    seed = 0
    for name in ("Ann", "Bob", "Cy"):
        for k in range(1, 13):
            seed += 1
            paint(tmp_path / "images" / name / f"{name}_{k:04d}.jpg", seed)

    def to_file(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return to_file


def pairs_of(found: PairSet) -> list[tuple[str, str, bool]]:
    names = found.source.names
    return [
        (Path(names[a]).stem, Path(names[b]).stem, bool(s))
        for a, b, s in zip(found.left, found.right, found.same, strict=True)
    ]


PAIRS = [("Ann_0001", "Ann_0002", True), ("Bob_0001", "Bob_0003", True), ("Ann_0001", "Bob_0002", False),
         ("Bob_0001", "Cy_0001", False)]  # fmt: skip
FORMS = {
    "view 1": "2\nAnn\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t2\nBob\t1\tCy\t1\n",
    "rfw": "Ann\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t2\nBob\t1\tCy\t1\n",
    "rfw with spaces": "Ann 1 2\nBob 1 3\nAnn 1 Bob 2\nBob 1 Cy 1\n",
    "labelled": "Ann/Ann_0001.jpg Ann/Ann_0002.jpg 1\nBob/Bob_0001.jpg Bob/Bob_0003.jpg 1\n"
    "Ann/Ann_0001.jpg Bob/Bob_0002.jpg 0\nBob/Bob_0001.jpg Cy/Cy_0001.jpg 0\n",
    "two lines": "Ann/Ann_0001.jpg 3\nAnn/Ann_0002.jpg 3\nBob/Bob_0001.jpg 1\nBob/Bob_0003.jpg 1\n"
    "Ann/Ann_0001.jpg 0\nBob/Bob_0002.jpg 0\nBob/Bob_0001.jpg 0\nCy/Cy_0001.jpg 0\n",
    "ours": "same,path2,path1\n1,Ann/Ann_0002.jpg,Ann/Ann_0001.jpg\nTrue,Bob/Bob_0003.jpg,Bob/Bob_0001.jpg\n"
    "0,Bob/Bob_0002.jpg,Ann/Ann_0001.jpg\nfalse,Cy/Cy_0001.jpg,Bob/Bob_0001.jpg\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(write: Write, form: str) -> None:
    path = write("list.txt", FORMS[form])
    found = open_benchmark(str(path))
    assert pairs_of(found) == PAIRS
    assert (found.left.dtype, found.right.dtype, found.same.dtype) == (np.int32, np.int32, np.bool_)
    assert found.identity is not None and found.source.identities == ("Ann", "Bob", "Cy")
    assert found.identity.tolist() == [0, 0, 1, 1, 1, 2]
    assert found.name == "list" and found.failed == 0 and found.notes == ()
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.fold is not None and found.fold_rule == "position within its class mod 2"
    assert len(found.source) == 6 and found.source.read(np.arange(6)).shape == (6, 24, 24, 3)


def view_2(folds: int = 10, each: int = 1) -> str:
    lines = [f"{folds}\t{each}"]
    for k in range(folds):
        lines += [f"Ann\t{k + 1}\t{k + 2 + i}" for i in range(each)]
        lines += [f"Bob\t{k + 1}\tCy\t{k + 2 + i}" for i in range(each)]
    return "\n".join(lines) + "\n"


def test_view_2_has_its_own_folds(write: Write) -> None:
    found = open_benchmark(str(write("pairs.txt", view_2(10, 2))))
    assert found.fold is not None and found.fold.tolist() == np.repeat(np.arange(10), 4).tolist()
    assert found.fold_rule == "the list's own 10 folds" and found.same.tolist() == [True, True, False, False] * 10
    headless = open_benchmark(str(write("rfw.txt", view_2(10, 2).split("\n", 1)[1])))
    assert headless.fold is not None and np.array_equal(headless.fold, found.fold)
    assert "own 10 blocks" in headless.fold_rule


def test_a_folder_with_pairs_txt_or_csv_is_a_benchmark(write: Write, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="neither pairs.txt nor pairs.csv"):
        open_benchmark(str(tmp_path))
    write("pairs.csv", FORMS["ours"])
    assert pairs_of(open_benchmark(str(tmp_path))) == PAIRS
    write("pairs.txt", view_2())
    found = open_benchmark(str(tmp_path))
    assert found.name == tmp_path.name and len(found.same) == 20


def test_the_image_folder_is_named_or_a_sibling_or_the_lists_own(write: Write, tmp_path: Path) -> None:
    inner = tmp_path / "images" / "list.txt"
    inner.write_text(FORMS["rfw"])
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "list.txt").write_text(FORMS["rfw"])
    assert pairs_of(open_benchmark(str(inner))) == PAIRS
    assert pairs_of(open_benchmark(str(tmp_path / "far" / "list.txt"), tmp_path / "images")) == PAIRS
    with pytest.raises(InputError, match="none of the 6 images .* --images"):
        open_benchmark(str(tmp_path / "far" / "list.txt"))
    with pytest.raises(MissingFile, match="nowhere does not exist"):
        open_benchmark(str(inner), tmp_path / "nowhere")
    with pytest.raises(MissingFile, match="none.txt does not exist"):
        open_benchmark(str(tmp_path / "none.txt"))


def test_another_extension_than_jpg_is_found(write: Write, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "images" / "Bob" / "Bob_0003.jpg"
    Image.open(file).save(file.with_suffix(".png"))
    file.unlink()
    found = open_benchmark(str(write("list.txt", FORMS["rfw"])))
    assert found.failed == 0 and pairs_of(found) == PAIRS


def test_calfw_form_takes_its_own_folds(write: Write) -> None:
    lines = [f"Ann/Ann_{k + 1:04d}.jpg 1\nAnn/Ann_{k + 2:04d}.jpg 1" for k in range(10)]
    lines += [f"Bob/Bob_{k + 1:04d}.jpg 0\nCy/Cy_{k + 1:04d}.jpg 0" for k in range(10)]
    found = open_benchmark(str(write("calfw.txt", "\n".join(lines))))
    assert found.fold is not None and found.fold.tolist() == [*range(10), *range(10)]
    assert "k-th tenth of the same" in found.fold_rule


def test_our_csv_may_bring_folds_and_people(write: Write) -> None:
    text = "path1,path2,same,fold,id1,id2\n"
    text += "".join(f"Ann/Ann_{k:04d}.jpg,Bob/Bob_{k:04d}.jpg,1,{f},x,x\n" for k, f in ((1, "b"), (2, "a")))
    text += "".join(f"Ann/Ann_{k:04d}.jpg,Cy/Cy_{k:04d}.jpg,0,{f},x,y\n" for k, f in ((1, "b"), (2, "a")))
    found = open_benchmark(str(write("list.csv", text)))
    assert found.fold is not None and found.fold.tolist() == [0, 1, 0, 1]
    assert found.source.identities == ("x", "y")
    assert found.identity is not None and found.identity.tolist() == [0, 0, 0, 0, 1, 1]


def test_people_that_paths_do_not_tell_are_unknown(write: Write) -> None:
    text = "Ann/Ann_0001.jpg Bob/Bob_0002.jpg 1\nAnn/Ann_0003.jpg Ann/Ann_0004.jpg 0\n" * 2
    found = open_benchmark(str(write("list.txt", text)))
    assert found.identity is None and found.source.identities == () and (found.source.labels == -1).all()
    with pytest.raises(InputError, match="id1 and id2"):
        open_benchmark("allpairs:" + str(write("list.txt", text)))


# --- what is missing is counted -----------------------------------------------------------------------------


def test_missing_broken_and_odd_images_are_counted_and_their_pairs_left_out(
    write: Write, tmp_path: Path, paint: Any
) -> None:
    images = tmp_path / "images"
    (images / "Ann" / "Ann_0003.jpg").unlink()
    (images / "Ann" / "Ann_0005.jpg").write_bytes(b"nothing")
    body = (images / "Bob" / "Bob_0002.jpg").read_bytes()
    (images / "Bob" / "Bob_0002.jpg").write_bytes(body[: len(body) // 2])
    paint(images / "Cy" / "Cy_0009.jpg", 5, (30, 24))
    found = open_benchmark(str(write("pairs.txt", view_2())))
    # Ann k k+1 breaks for k = 2, 3, 4, 5; Bob k Cy k+1 for k = 2 and 8: six of twenty pairs.
    assert found.failed == 4 and len(found.same) == 14
    (note,) = found.notes
    assert note == (
        "4 of 31 images cannot be used (the first is Ann/Ann_0003.jpg: there is no such file); "
        "6 of 20 pairs are left out"
    )
    assert found.fold is not None and found.fold_rule == "position within its class mod 6"
    whole = {(a, b) for a, b, _ in pairs_of(found)}
    assert ("Ann_0001", "Ann_0002") in whole and ("Bob_0002", "Cy_0003") not in whole


def test_the_lists_folds_stay_while_each_keeps_both_classes(write: Write, tmp_path: Path) -> None:
    path = write("pairs.txt", view_2(5, 2))
    (tmp_path / "images" / "Cy" / "Cy_0002.jpg").unlink()
    found = open_benchmark(str(path))
    assert found.fold is not None and found.fold_rule == "the list's own 5 folds"
    assert np.bincount(found.fold).tolist() == [3, 4, 4, 4, 4]
    (tmp_path / "images" / "Ann" / "Ann_0001.jpg").unlink()  # in both same pairs of the first fold
    found = open_benchmark(str(path))
    assert len(found.same) == 17 and found.fold_rule == "position within its class mod 8"


def test_all_missing_or_one_class_left_is_an_error(write: Write, tmp_path: Path) -> None:
    path = write("list.txt", FORMS["rfw"])
    for file in (tmp_path / "images" / "Bob").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="leaves 1 same and 0 different pairs"):
        open_benchmark(str(path))
    for file in (tmp_path / "images").rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 6 images .* the file is empty"):
        open_benchmark(str(path))


# --- all pairs -----------------------------------------------------------------------------------------------


def test_allpairs_takes_at_most_ten_images_of_each_person_lowest_numbers_first(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "Bob"
    for file in folder.iterdir():  # Bob_1.jpg .. Bob_12.jpg: names whose string order is not their number's
        file.rename(folder / f"Bob_{int(file.stem[-4:])}.jpg")
    found = open_benchmark("allpairs:" + str(write("people.txt", "1\nAnn\t1\t2\nAnn\t1\tBob\t2\n")))
    assert found.name == "allpairs:people" and found.fold is None
    assert list(found.source.names) == [f"Ann/Ann_{k:04d}.jpg" for k in range(1, 11)] + [
        f"Bob/Bob_{k}.jpg" for k in range(1, 11)
    ]
    assert found.identity is not None and found.identity.tolist() == [0] * 10 + [1] * 10
    assert found.same.sum() == 2 * 45 and (~found.same).sum() == 100
    assert {(int(a), int(b)) for a, b in zip(found.left, found.right, strict=True)} == {
        (a, b) for b in range(20) for a in range(b)
    }
    assert all(found.same == (found.identity[found.left] == found.identity[found.right]))


def test_allpairs_of_a_flat_folder(tmp_path: Path, paint: Any) -> None:
    for k, name in enumerate(["Ann_1", "Ann_2", "Bob_1", "Bob_10", "Cy_1"]):
        paint(tmp_path / "images" / f"{name}.jpg", k)
    (tmp_path / "l.txt").write_text("Ann_1.jpg Ann_2.jpg 1\nAnn_1.jpg Bob_1.jpg 0\n")
    found = open_benchmark(f"allpairs:{tmp_path / 'l.txt'}")
    assert list(found.source.names) == ["Ann_1.jpg", "Ann_2.jpg", "Bob_1.jpg", "Bob_10.jpg"]
    assert found.same.sum() == 2 and len(found.same) == 6


def test_allpairs_counts_people_without_images(write: Write, tmp_path: Path) -> None:
    (tmp_path / "images" / "Ann" / "Ann_0002.jpg").write_bytes(b"x")
    found = open_benchmark("allpairs:" + str(write("people.txt", "Ann\t1\t2\nZed\t1\t2\nAnn\t1\tBob\t2\n")))
    assert found.failed == 2 and len(found.source) == 19
    assert "1 of 20 images cannot be used" in found.notes[0] and "1 of 3 people have no images" in found.notes[1]
    with pytest.raises(InputError, match="none of the 2 people"):
        open_benchmark("allpairs:" + str(write("people.txt", "Yan\t1\t2\nYan\t1\tZed\t2\n")))


def test_natural_order() -> None:
    assert sorted(["a10", "a9", "a09b", "b1", "10", "9"], key=natural) == ["9", "10", "a9", "a09b", "a10", "b1"]


# --- hostile and broken lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("2\nAnn\t1\t2\nAnn\t1\tBob\t1\nAnn\t1\t3\nAnn\t1\tCy\t1\n", 3, "2 same pairs, then 2 different"),
        ("Ann\t1\t2\nAnn\t1\tAnn\t2\n", 2, "name1 i name2 j"),
        ("Ann\t1\t2\nAnn\t1\tBob\n", 2, "`name i j`"),
        ("Ann\t1\t2\nAnn\t1\tBob\tx\n", 2, "`name i j`"),
        ("a b 1\nc d 2\n", 2, "0|1"),
        ("a 1\nb 1\nc 0\nd 1\n", 4, "same label"),
        ("a 1\nb x\n", 2, "`path label`"),
        ("path1,path2,same\na,b\n", 2, "3 columns"),
        ("path1,path2,same\na\rb,c,1\n", 2, "3 columns"),
        ("path1,path2,same\na,b,maybe\n", 2, "0, 1, true or false"),
        ("path1,path2,same,id1,id2\na,b,1,x,y\n", 2, "id1 and id2"),
        ("path1,path2,same,fold\na,b,1,1\nc,d,0,\n", 3, "fold is empty"),
        ("path1,path2\n", 1, "same"),
        ("one\n", 1, "is not one of"),
        ("Ann\t²\t3\n", 1, "0|1"),
        ("99999999999999999999\nAnn\t1\t2\n", 1, "is not one of"),
    ],
)
def test_slips_name_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.txt, line {line}\b") as caught:
        read_pairs(tmp_path / "bad.txt")
    assert words in str(caught.value)


def test_a_cut_list_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(view_2().rsplit("Bob", 1)[0])
    with pytest.raises(CorruptFile, match="announces 20 pairs in line 1 and holds 19"):
        read_pairs(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("a 1\nb 1\nc 0\n")
    with pytest.raises(CorruptFile, match="3 lines"):
        read_pairs(tmp_path / "a.txt")
    for text, words in (("", "is empty"), ("path1,path2,same\n", "no pairs"), ("0\n", "announces 0 pairs")):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(FacekitError, match=words):
            read_pairs(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "text",
    [
        "../out/x.jpg ../out/y.jpg 1\nAnn/Ann_0001.jpg Bob/Bob_0001.jpg 0\n",
        "/etc/passwd /etc/hosts 1\nAnn/Ann_0001.jpg Bob/Bob_0001.jpg 0\n",
        "../out\t1\t2\nAnn\t1\tBob\t1\n",
        "path1,path2,same\nAnn/../../x.jpg,Ann/Ann_0001.jpg,1\n",
    ],
)
def test_paths_never_leave_the_image_folder(write: Write, text: str) -> None:
    with pytest.raises(InputError, match="is not inside the image folder"):
        open_benchmark(str(write("list.txt", text)))


def test_allpairs_never_leaves_the_image_folder(write: Write, tmp_path: Path, paint: Any) -> None:
    paint(tmp_path / "secret" / "secret_0001.jpg", 1)
    with pytest.raises(InputError, match="not inside the image folder|none of the"):
        open_benchmark("allpairs:" + str(write("l.txt", "../secret\t1\t2\n../secret\t1\tNobody\t2\n")))
    found = open_benchmark("allpairs:" + str(write("l.txt", "../secret\t1\t2\nAnn\t1\t2\nAnn\t1\tBob\t2\n")))
    assert found.source.identities == ("Ann", "Bob") and found.failed == 1


@given(st.text(alphabet='ab1029./ \t\n\r\0,"-path12same', max_size=80))
def test_any_text_parses_or_is_explained(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "pairs-fuzz.txt"
    path.write_text(text)
    try:
        listed = read_pairs(path)
    except FacekitError as error:
        assert "pairs-fuzz.txt" in str(error)
    else:
        assert len(listed.pairs) == len(listed.same) > 0


# --- the real thing --------------------------------------------------------------------------------------------


@pytest.fixture
def lfw(root: Path) -> Path:
    folder = root.parent / "shared" / "data" / "lfw112"
    if not folder.is_dir():
        pytest.skip("needs the LFW crops in ../shared/data/lfw112")
    return folder


@pytest.mark.parametrize(
    ("name", "images", "genuine", "impostor"),
    [("pairsDev", 1033, 1785, 531_243), ("pairsDevTest", 2186, 3825, 2_384_380)],
)
def test_lfw_allpairs_counts(lfw: Path, name: str, images: int, genuine: int, impostor: int) -> None:
    found = open_benchmark(f"allpairs:{lfw / name}.txt")
    assert (len(found.source), found.same.sum(), (~found.same).sum()) == (images, genuine, impostor)
    assert found.failed == 0 and found.notes == ()


def test_lfw_lists_have_the_known_folds_and_the_training_people_are_the_rest(lfw: Path) -> None:
    listed = open_benchmark(str(lfw / "pairsDev.txt"))
    assert listed.fold_rule == "10 folds that share no person" and len(listed.same) == 400
    train = open_source(lfw / "images", exclude=(lfw / "pairsDev.txt", lfw / "pairsDevTest.txt"), need_labels=True)
    assert (len(train.identities), len(train)) == (4339, 9272)
    official = read_pairs(lfw / "pairs.txt")
    assert official.folds is not None and official.folds.fold is not None
    assert np.bincount(official.folds.fold[official.same]).tolist() == [300] * 10
