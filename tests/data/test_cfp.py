"""CFP as published: ten folds per protocol, numbers from 1, frontal against frontal or profile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from facekit.core.errors import InputError, MissingFile
from facekit.data.cfp import open_cfp

Paint = Callable[..., Path]


@pytest.fixture
def cfp(tmp_path: Path, paint: Paint) -> Path:
    """Two people with two frontal and two profile images; fold k: one same and one different pair."""
    root = tmp_path / "cfp"
    lists: dict[str, list[str]] = {"F": [], "P": []}
    seed = 0
    for person in ("001", "002"):
        for view, letter in (("frontal", "F"), ("profile", "P")):
            for k in ("01", "02"):
                seed += 1
                paint(root / "Data" / "Images" / person / view / f"{k}.jpg", seed)
                lists[letter].append(f"{len(lists[letter]) + 1} ../Data/Images/{person}/{view}/{k}.jpg")
    (root / "Protocol").mkdir()
    for letter, lines in lists.items():
        (root / "Protocol" / f"Pair_list_{letter}.txt").write_text("\n".join(lines) + "\n")
    for protocol in ("FF", "FP"):
        for fold in range(1, 11):
            folder = root / "Protocol" / "Split" / protocol / f"{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,2\n" if fold % 2 else "3,4\n")
            (folder / "diff.txt").write_text("1,4\n")
    return root


@pytest.mark.parametrize(("protocol", "view"), [("FF", "frontal"), ("FP", "profile")])
def test_numbers_count_from_one_into_the_right_list(cfp: Path, protocol: Literal["FF", "FP"], view: str) -> None:
    found = open_cfp(cfp, protocol)
    names = found.source.names
    pairs = [
        (names[a].removeprefix("Data/Images/"), names[b].removeprefix("Data/Images/"))
        for a, b in zip(found.left, found.right, strict=True)
    ]
    odd, even = ("001/frontal/01.jpg", f"001/{view}/02.jpg"), ("002/frontal/01.jpg", f"002/{view}/02.jpg")
    different = ("001/frontal/01.jpg", f"002/{view}/02.jpg")
    assert pairs == [odd, different, even, different] * 5
    assert found.same.tolist() == [True, False] * 10
    assert found.fold is not None and found.fold.tolist() == [i // 2 for i in range(20)]
    assert found.fold_rule == "the list's own 10 folds" and found.name == f"cfp-{protocol.lower()}"
    assert found.source.identities == ("001", "002") and found.identity is not None and found.failed == 0


def test_the_hash_is_of_the_protocol_and_images_may_lie_elsewhere(cfp: Path, tmp_path: Path) -> None:
    before = {p: open_cfp(cfp, p).sha256 for p in ("FF", "FP")}
    (cfp / "Protocol" / "Split" / "FP" / "07" / "diff.txt").write_text("1,3\n")
    after = {p: open_cfp(cfp, p).sha256 for p in ("FF", "FP")}
    assert before["FF"] == after["FF"] != after["FP"] != before["FP"]
    shutil.move(str(cfp / "Data"), tmp_path / "aligned" / "Data")
    assert len(open_cfp(cfp, "FP", tmp_path / "aligned").source) == 5


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/03/same.txt", "1,2\n0,1\n", r"same.txt, line 2: there is no image 0 in its list"),
        ("Split/FP/03/same.txt", "1,5\n", "same.txt, line 1: there is no image 5"),
        ("Split/FP/03/same.txt", "1 2\n", "`i,j` was expected"),
        ("Pair_list_P.txt", "1 a.jpg\n1 b.jpg\n", "line 2: the number 1 is listed twice"),
        ("Pair_list_P.txt", "a.jpg 1\n", "`number path` was expected"),
        ("Pair_list_P.txt", "\n".join(f"{i} ../../../etc/passwd" for i in range(1, 5)), "not inside the image folder"),
    ],
)
def test_mistakes_are_named_with_their_line(cfp: Path, file: str, text: str, message: str) -> None:
    (cfp / "Protocol" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        open_cfp(cfp, "FP")


def test_missing_parts_are_named(cfp: Path) -> None:
    with pytest.raises(MissingFile, match="has Protocol/ and Data/"):
        open_cfp(cfp / "Data", "FF")
    (cfp / "Protocol" / "Split" / "FF" / "10" / "diff.txt").unlink()
    with pytest.raises(MissingFile, match=r"10.diff.txt does not exist"):
        open_cfp(cfp, "FF")
