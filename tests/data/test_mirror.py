"""Which file becomes which, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekit.core.errors import InputError, MissingFile, OutputExists
from facekit.data.mirror import mirrored, require_free

ENDINGS = (".png", ".jpg")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_a_folder_is_mirrored_at_any_depth(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "b.png", "a/c.JPG", "a/deep/d.e.png", "a/readme.txt", ".hidden/x.png", "a/.x.png")
    plan = mirrored(root, tmp_path / "out", ENDINGS, ".edic")
    assert [one.name for one in plan] == ["a/c", "a/deep/d.e", "b"]
    assert [one.target for one in plan] == [tmp_path / "out" / f"{name}.edic" for name in ("a/c", "a/deep/d.e", "b")]
    assert [one.source for one in plan] == [root / name for name in ("a/c.JPG", "a/deep/d.e.png", "b.png")]


def test_a_file_becomes_a_file_or_goes_into_a_folder(tmp_path: Path) -> None:
    source = touch(tmp_path, "a.png") / "a.png"
    assert mirrored(source, tmp_path / "x.edic", ENDINGS, ".edic")[0].target == tmp_path / "x.edic"
    assert mirrored(source, tmp_path, ENDINGS, ".edic")[0].target == tmp_path / "a.edic"
    with pytest.raises(InputError, match=r"must end in \.edic"):
        mirrored(source, tmp_path / "x.png", ENDINGS, ".edic")


def test_what_cannot_be_mirrored(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="does not exist"):
        mirrored(tmp_path / "none", tmp_path, ENDINGS, ".edic")
    empty = touch(tmp_path / "empty", "a.txt")
    with pytest.raises(InputError, match="holds no files"):
        mirrored(empty, tmp_path, ENDINGS, ".edic")
    twins = touch(tmp_path / "twins", "p/a.jpg", "p/a.png")
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png would both become a\.edic"):
        mirrored(twins, tmp_path / "out", ENDINGS, ".edic")


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    touch(tmp_path, "a", "c")
    require_free([tmp_path / "b"])
    with pytest.raises(OutputExists, match="a and 1 more exists already"):
        require_free([tmp_path / name for name in "abc"])
