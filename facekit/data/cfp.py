"""CFP, Celebrities in Frontal-Profile: the protocols FF (frontal-frontal) and FP (frontal-profile) as published.

``Protocol/Pair_list_F.txt`` and ``Pair_list_P.txt`` number the images from 1; ``Protocol/Split/FF/01/same.txt`` and
``diff.txt`` hold the pairs of a fold as ``i,j``. In FP, i is frontal and j is profile.
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
from pathlib import Path
from typing import Literal

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.data.folds import Folds
from facekit.data.pairlist import Pair, PairList
from facekit.data.pairs import PairSet, listed_pairs
from facekit.data.textfile import is_number, read_lines, read_text

FOLDS = 10


def open_cfp(root: Path, protocol: Literal["FF", "FP"], images: Path | None = None) -> PairSet:
    """The pairs of one protocol. ``root`` holds ``Protocol/``, ``images`` (default: ``root``) the folder ``Data/``.

    Image paths in the lists are relative to ``Protocol/`` (``../Data/Images/001/frontal/01.jpg``). People are the
    folders below ``Images``. Raises MissingFile and InputError with file and line.
    """
    rules = root / "Protocol"
    if not rules.is_dir():
        raise MissingFile(f"{root} holds no folder Protocol; give the folder of CFP that has Protocol/ and Data/")
    sides = [read_numbers(rules / f"Pair_list_{letter}.txt") for letter in ("F", protocol[1])]
    pairs, fold, read = [], [], [rules / f"Pair_list_{letter}.txt" for letter in dict.fromkeys(f"F{protocol[1]}")]
    for k in range(FOLDS):
        for kind in ("same", "diff"):
            path = rules / "Split" / protocol / f"{k + 1:02d}" / f"{kind}.txt"
            found = read_split(path, sides[0], sides[1], kind == "same")
            pairs += found
            fold += [k] * len(found)
            read.append(path)
    known = all((pair.people[0] == pair.people[1]) == pair.same for pair in pairs)
    folds = Folds(np.array(fold, np.int64), f"the list's own {FOLDS} folds")
    listed = PairList(rules / "Pair_list_F.txt", pairs, folds, known)
    together = hashlib.sha256("\0".join(read_text(path) for path in read).encode()).hexdigest()
    return dataclasses.replace(
        listed_pairs(listed, images or root),
        name=f"cfp-{protocol.lower()}",
        path=(rules / "Split" / protocol).as_posix(),
        sha256=together,
    )


def read_numbers(path: Path) -> dict[int, str]:
    """Number -> image path relative to the root of CFP, from lines ``number path``."""
    found: dict[int, str] = {}
    for line in read_lines(path):
        number, _, text = line.text.strip().partition(" ")
        if not is_number(number) or not text.strip():
            raise InputError(f"{path}, line {line.number}: {line.text[:80]!r} where `number path` was expected")
        if int(number) in found:
            raise InputError(f"{path}, line {line.number}: the number {number} is listed twice")
        found[int(number)] = posixpath.normpath(posixpath.join("Protocol", text.strip().replace("\\", "/")))
    return found


def read_split(path: Path, left: dict[int, str], right: dict[int, str], same: bool) -> list[Pair]:
    """The pairs ``i,j`` of one file, i into ``left`` and j into ``right``, both from 1."""
    pairs = []
    for line in read_lines(path):
        columns = [column.strip() for column in line.text.split(",")]
        if len(columns) != 2 or not all(is_number(column) for column in columns):
            raise InputError(f"{path}, line {line.number}: {line.text[:80]!r} where `i,j` was expected")
        i, j = (int(column) for column in columns)
        if i not in left or j not in right:
            raise InputError(f"{path}, line {line.number}: there is no image {i if i not in left else j} in its list")
        pairs.append(Pair(line.number, left[i], right[j], same, (person_on(left[i]), person_on(right[j]))))
    return pairs


def person_on(name: str) -> str:
    """``Data/Images/001/frontal/01.jpg`` -> 001."""
    parts = name.split("/")
    return parts[-3] if len(parts) >= 3 else name
