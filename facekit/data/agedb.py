"""AgeDB's verification protocol: a MATLAB file whose variable ``splits`` holds ten folds of 600 pairs.

Each fold is a struct: a cell array of 2 x 600 structs (image name, age), and the labels, 1 or -1. Names are those of
``03_Protocol_Images`` without ``.jpg`` and begin with the person. The layout is known from InsightFace's packing script
and not from the file itself, so fields are found by what they hold, and anything else is refused.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingExtra, MissingFile
from facekit.data.folds import Folds
from facekit.data.pairlist import Pair, PairList
from facekit.data.pairs import PairSet, listed_pairs

IMAGES = "03_Protocol_Images"
MAX_FILE = 1 << 24


def open_agedb(path: Path, images: Path | None = None) -> PairSet:
    """The pairs of a ``.mat``, or of the only one in a folder; images lie in ``images``, else in the folder's own.

    Raises MissingFile, MissingExtra (needs scipy), CorruptFile and InputError.
    """
    matrix = only_matrix(path) if path.is_dir() else path
    listed = read_agedb(matrix)
    root = images or (matrix.parent / IMAGES if (matrix.parent / IMAGES).is_dir() else matrix.parent)
    if not root.is_dir():
        raise MissingFile(f"the image folder {root} does not exist")
    years = re.search(r"([0-9]+)_?y", matrix.stem)
    return dataclasses.replace(listed_pairs(listed, root), name=f"agedb-{years[1]}" if years else matrix.stem)


def only_matrix(folder: Path) -> Path:
    """The protocol in a folder; that of 30 years where there are several."""
    found = sorted(folder.glob("*.mat"))
    thirty = [path for path in found if "30" in path.stem]
    if len(found) != 1 and len(thirty) != 1:
        raise MissingFile(f"{folder} holds {len(found)} .mat files; give the protocol itself, as agedb:FILE.mat")
    return found[0] if len(found) == 1 else thirty[0]


def read_agedb(path: Path) -> PairList:
    """The list, folds in order."""
    splits = load_splits(path)
    pairs: list[Pair] = []
    fold: list[int] = []
    for k, cell in enumerate(np.ravel(splits)):
        found = read_fold(path, k, unwrapped(cell), len(pairs))
        pairs += found
        fold += [k] * len(found)
    known = all((pair.people[0] == pair.people[1]) == pair.same for pair in pairs)
    count = fold[-1] + 1
    return PairList(path, pairs, Folds(np.array(fold, np.int64), f"the list's own {count} folds"), known)


def load_splits(path: Path) -> np.ndarray:
    """The variable ``splits`` as scipy reads it: cells are object arrays, structs are structured ones."""
    if not path.is_file():
        raise MissingFile(f"{path} does not exist")
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path} is {path.stat().st_size >> 20} MiB long; a protocol has at most {MAX_FILE >> 20}")
    try:
        matlab = importlib.import_module("scipy.io")
    except ImportError:
        raise MissingExtra(
            f"reading {path} needs scipy: pip install scipy; or, where scipy is, write its pairs into a CSV with the "
            "header path1,path2,same,fold and give that as --benchmark"
        ) from None
    try:
        variables = matlab.loadmat(path, variable_names=["splits"])
    except Exception as error:  # scipy raises nearly anything on damaged data
        raise CorruptFile(
            f"{path} cannot be read as a MATLAB file: {error}; one of version 7.3 must be saved again with -v7"
        ) from error
    if "splits" not in variables or not np.size(variables["splits"]):
        raise InputError(f"{path} has no variable splits, or an empty one; AgeDB's protocols have it")
    return np.asarray(variables["splits"])


def read_fold(path: Path, k: int, fold: Any, before: int) -> list[Pair]:
    """The pairs of one struct; ``before`` of them came earlier."""
    fields = [fold[name] for name in fold.dtype.names] if isinstance(fold, np.void) and fold.dtype.names else []
    cells = next((f for f in fields if isinstance(f, np.ndarray) and f.dtype == object and 2 in f.shape), None)
    if cells is None or cells.ndim != 2 or not cells.size:
        raise InputError(f"{path}: fold {k + 1} holds no 2 x n cell array of images")
    images = [[image_name(path, k, cell) for cell in side] for side in (cells if cells.shape[0] == 2 else cells.T)]
    people = [[name.split("_")[0] for name in side] for side in images]
    answers = next((labels(f) for f in fields if labels(f) is not None and np.size(f) == len(images[0])), None)
    same = [a == b for a, b in zip(*people, strict=True)] if answers is None else [bool(a) for a in answers]
    return [
        Pair(before + i + 1, f"{left}.jpg", f"{right}.jpg", same[i], (people[0][i], people[1][i]))
        for i, (left, right) in enumerate(zip(*images, strict=True))
    ]


def labels(field: Any) -> np.ndarray | None:
    """bool [n] where the field holds 1 and -1, else None."""
    if not isinstance(field, np.ndarray) or field.dtype.kind not in "iuf" or not np.isin(field, (1, -1)).all():
        return None
    return np.ravel(field) == 1


def image_name(path: Path, k: int, cell: Any) -> str:
    """The name in one cell: of a struct its first field."""
    found = unwrapped(cell)
    if isinstance(found, np.void) and found.dtype.names:
        found = unwrapped(found[found.dtype.names[0]])
    if not isinstance(found, str) or not found:
        raise InputError(f"{path}: fold {k + 1} holds {found!r:.80} where the name of an image was expected")
    return str(found)


def unwrapped(value: Any) -> Any:
    """What arrays of one element hold: MATLAB knows no scalars."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.flat[0]
    return value
