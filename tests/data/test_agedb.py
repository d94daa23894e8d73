"""AgeDB's MATLAB protocol, in the arrays that scipy makes of it (scipy itself is not needed here)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, InputError, MissingExtra, MissingFile
from facekit.data.agedb import MAX_FILE, open_agedb

Paint = Callable[..., Path]
Load = Callable[[Any], None]
NAMES = [f"{who}_{age}_f_{k}_x" for who in ("Ann", "Bob") for age, k in ((20, 0), (50, 1))]


def cell(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items
    return out.reshape(shape)


def image(name: str, age: int) -> np.ndarray:
    """A 1 x 1 struct (name, age)."""
    item = np.empty((1, 1), [("name", object), ("age", object)])
    item[0, 0] = (np.array([name]), np.array([[age]]))
    return item


def fold(pairs: list[tuple[str, str]], answers: list[int] | None, first: str = "pairs") -> np.ndarray:
    """A 1 x 1 struct: 2 x n cells of images, 1 x n labels."""
    fields = [(first, object)] + ([("labels", object)] if answers is not None else [])
    struct = np.empty((1, 1), fields)
    cells = cell([image(pair[side], 30) for side in (0, 1) for pair in pairs], (2, len(pairs)))
    struct[0, 0] = (cells, np.array([answers])) if answers is not None else (cells,)
    return struct


PAIRS = [(NAMES[0], NAMES[1]), (NAMES[2], NAMES[3]), (NAMES[0], NAMES[3])]


@pytest.fixture
def agedb(tmp_path: Path, paint: Paint) -> Path:
    for seed, name in enumerate(NAMES):
        paint(tmp_path / "03_Protocol_Images" / f"{name}.jpg", seed)
    (tmp_path / "04_FINAL_protocol_30_years.mat").write_bytes(b"MATLAB 5.0")
    return tmp_path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(splits) makes scipy.io.loadmat return them, or raise them."""

    def install(splits: Any) -> None:
        def loadmat(path: Path, variable_names: list[str]) -> dict[str, Any]:
            if isinstance(splits, Exception):
                raise splits
            return {} if splits is None else {variable_names[0]: splits}

        module = ModuleType("scipy.io")
        module.loadmat = loadmat  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "scipy", ModuleType("scipy"))
        monkeypatch.setitem(sys.modules, "scipy.io", module)

    return install


@pytest.mark.parametrize("answers", [[1, 1, -1], None], ids=["labels", "names only"])
def test_folds_pairs_and_labels_are_found(agedb: Path, load: Load, answers: list[int] | None) -> None:
    load(cell([fold(PAIRS, answers)] * 10, (10, 1)))
    for path in (agedb, agedb / "04_FINAL_protocol_30_years.mat"):
        found = open_agedb(path)
        names = found.source.names
        pairs = [(names[a][:-4], names[b][:-4]) for a, b in zip(found.left, found.right, strict=True)]
        assert pairs == PAIRS * 10 and found.same.tolist() == [True, True, False] * 10
        assert found.fold is not None and found.fold.tolist() == [i // 3 for i in range(30)]
        assert found.source.identities == ("Ann", "Bob") and found.identity is not None
        assert found.name == "agedb-30" and found.failed == 0 and found.fold_rule == "the list's own 10 folds"


def test_labels_win_over_names(agedb: Path, load: Load) -> None:
    load(cell([fold(PAIRS, [1, -1, -1])] * 2, (2, 1)))
    found = open_agedb(agedb)
    assert found.same.tolist() == [True, False, False] * 2 and found.identity is None


def test_without_scipy_it_says_how_to_convert(agedb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtra, match="pip install scipy; or, .* header path1,path2,same,fold"):
        open_agedb(agedb)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (None, "no variable splits"),
        (np.empty((0, 0), object), "no variable splits"),
        (np.zeros((10, 600)), "fold 1 holds no 2 x n cell array"),
        (cell([np.zeros((2, 3))], (1, 1)), "fold 1 holds no 2 x n cell array"),
        (cell([fold(PAIRS, None), fold([("", "b")], None)], (2, 1)), "fold 2 holds .* where the name of an image"),
        (cell([fold([("../../etc/passwd", "b")], None)], (1, 1)), "not inside the image folder"),
    ],
)
def test_other_layouts_are_refused(agedb: Path, load: Load, splits: Any, message: str) -> None:
    load(splits)
    with pytest.raises(InputError, match=message):
        open_agedb(agedb)


def test_files_that_cannot_be_read_are_refused(agedb: Path, load: Load) -> None:
    load(NotImplementedError("Please use HDF reader"))
    with pytest.raises(CorruptFile, match="saved again with -v7"):
        open_agedb(agedb)
    with open(agedb / "04_FINAL_protocol_30_years.mat", "wb") as stream:
        stream.truncate(MAX_FILE + 1)
    with pytest.raises(InputError, match="at most 16"):
        open_agedb(agedb)
    with pytest.raises(MissingFile, match="holds 0 .mat files"):
        open_agedb(agedb / "03_Protocol_Images")
    with pytest.raises(MissingFile, match="does not exist"):
        open_agedb(agedb / "no.mat")
