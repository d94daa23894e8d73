"""Pair lists of the field: which two images, the same person or not, in which fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.core.errors import CorruptFile, InputError
from facekit.data.folds import Folds, ten_blocks, within_class_tenths
from facekit.data.listing import person_of
from facekit.data.textfile import Line, csv_columns, inside, is_integer, is_number, read_lines

FORMS = (
    "LFW `name i j` and `name1 i name2 j`, `path1 path2 0|1`, two lines `path label` per pair, "
    "or CSV with the header path1,path2,same"
)
TRUE, FALSE = ("1", "true"), ("0", "false")


@dataclass(frozen=True)
class Pair:
    """One pair of the list. ``people`` are the two persons as the list tells them, or as the paths suggest."""

    line: int
    left: str
    right: str
    same: bool
    people: tuple[str, str]
    fold: str | None = None


@dataclass(frozen=True)
class PairList:
    """A parsed list, its order kept."""

    path: Path
    pairs: list[Pair]
    folds: Folds | None
    """Those of the list itself, where it has any."""
    people_known: bool
    """Whether ``people`` can be trusted: told by the list, or consistent with every same / different label."""

    @property
    def same(self) -> np.ndarray:
        """bool [P]"""
        return np.array([p.same for p in self.pairs], bool)

    def people(self) -> set[str]:
        """Everybody on the list."""
        return {person for pair in self.pairs for person in pair.people}


def people_of_list(path: Path) -> set[str]:
    """The people a list names. Raises InputError where the paths do not tell them."""
    if path.suffix == ".bin":
        raise InputError(f"{path} is a .bin and names no people; give the pair list it was made from")
    listed = read_pairs(path)
    if not listed.people_known:
        raise InputError(
            f"{path} does not tell its people: the first folders of its paths disagree with its labels. "
            "Use a CSV with the columns path1,path2,same,id1,id2"
        )
    return listed.people()


def read_pairs(path: Path) -> PairList:
    """Parse a list; the first line tells its form. Raises InputError and CorruptFile with file and line."""
    lines = read_lines(path)
    form = detect(lines[0].text)
    if form is None:
        raise InputError(f"{path}, line {lines[0].number}: {lines[0].text[:80]!r} is not one of: {FORMS}")
    pairs, folds = READERS[form](path, lines)
    known = form == "lfw" or all((p.people[0] == p.people[1]) == p.same for p in pairs)
    listed = PairList(path, pairs, folds, known)
    if listed.folds is None:
        return PairList(path, pairs, ten_blocks(listed.same), known)
    return listed


def detect(first: str) -> str | None:
    """Name the form of the first line."""
    names = [c.strip() for c in first.split(",")]
    if "path1" in names and "path2" in names:
        return "csv"
    columns = split(first)
    if all(is_number(c) for c in columns) and len(columns) <= 2:
        return "lfw"
    if len(columns) == 4 and is_number(columns[1]) and is_number(columns[3]):
        return "lfw"
    if len(columns) == 3:
        return "lfw" if is_number(columns[1]) and is_number(columns[2]) else "labelled"
    return "two_lines" if len(columns) == 2 else None


def split(text: str) -> list[str]:
    """Columns at tabs, or at any white space where there is no tab."""
    return [c.strip() for c in text.strip().split("\t")] if "\t" in text.strip() else text.split()


def fail(path: Path, line: Line, expected: str) -> InputError:
    """One line has another form than the first."""
    return InputError(f"{path}, line {line.number}: {line.text[:80]!r} where {expected} was expected")


# --- LFW and RFW -------------------------------------------------------------------------------------


def read_lfw(path: Path, lines: list[Line]) -> tuple[list[Pair], Folds | None]:
    """``10<TAB>300`` (View 2), ``N`` (View 1), or no header at all (RFW); files are ``name/name_%04d.jpg``."""
    header = split(lines[0].text)
    if not all(is_number(c) for c in header):
        return [lfw_pair(path, line) for line in lines], None
    folds, each = (int(header[0]), int(header[1])) if len(header) == 2 else (1, int(header[0]))
    pairs = [lfw_pair(path, line) for line in lines[1:]]
    if len(pairs) != 2 * folds * each or not pairs:
        raise CorruptFile(f"{path} announces {2 * folds * each} pairs in line 1 and holds {len(pairs)}; is it cut off?")
    place = np.arange(len(pairs)) // each
    wrong = np.flatnonzero(np.array([p.same for p in pairs]) != (place % 2 == 0))
    if len(wrong):
        raise fail(path, lines[1 + int(wrong[0])], f"{each} same pairs, then {each} different ones in each fold")
    return pairs, Folds(place // 2, f"the list's own {folds} folds") if folds > 1 else None


def lfw_pair(path: Path, line: Line) -> Pair:
    """``name i j`` or ``name1 i name2 j``."""
    columns = split(line.text)
    if len(columns) == 3 and is_number(columns[1]) and is_number(columns[2]):
        columns.insert(2, columns[0])
    elif len(columns) != 4 or not is_number(columns[1]) or not is_number(columns[3]) or columns[0] == columns[2]:
        raise fail(path, line, "`name i j` or `name1 i name2 j`")
    first, second = columns[0], columns[2]
    return Pair(
        line.number, lfw_file(first, columns[1]), lfw_file(second, columns[3]), first == second, (first, second)
    )


def lfw_file(name: str, number: str) -> str:
    """``("Ann_Lee", "7")`` -> ``Ann_Lee/Ann_Lee_0007.jpg``"""
    return f"{name}/{name}_{int(number):04d}.jpg"


# --- lists of paths ----------------------------------------------------------------------------------


def read_labelled(path: Path, lines: list[Line]) -> tuple[list[Pair], Folds | None]:
    """InsightFace's pairs_label.txt: ``path1 path2 0|1``."""
    pairs = []
    for line in lines:
        columns = split(line.text)
        if len(columns) != 3 or columns[2] not in ("0", "1"):
            raise fail(path, line, "`path1 path2 0|1`")
        pairs.append(path_pair(line.number, columns[0], columns[1], columns[2] == "1"))
    return pairs, None


def read_two_lines(path: Path, lines: list[Line]) -> tuple[list[Pair], Folds | None]:
    """CALFW and CPLFW: two lines ``path label`` per pair, any nonzero label is 'same'."""
    if len(lines) % 2:
        raise CorruptFile(f"{path} has {len(lines)} lines, two per pair were expected; is it cut off?")
    pairs = []
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        (left, a), (right, b) = (path_and_label(path, line) for line in (first, second))
        if a != b:
            raise fail(path, second, f"the second line of the pair of line {first.number}, with the same label,")
        pairs.append(path_pair(first.number, left, right, a))
    return pairs, within_class_tenths(np.array([p.same for p in pairs]))


def path_and_label(path: Path, line: Line) -> tuple[str, bool]:
    """``path label`` -> (path, whether the label is nonzero)."""
    columns = split(line.text)
    if len(columns) != 2 or not is_integer(columns[1]):
        raise fail(path, line, "`path label`")
    return columns[0], columns[1].strip("-0") != ""


def path_pair(line: int, left: str, right: str, same: bool) -> Pair:
    """A pair whose people are read off the paths."""
    return Pair(line, left, right, same, (person_of(left), person_of(right)))


# --- ours --------------------------------------------------------------------------------------------


def read_csv(path: Path, lines: list[Line]) -> tuple[list[Pair], Folds | None]:
    """``path1,path2,same[,fold[,id1,id2]]`` in any column order, further columns ignored."""
    header = csv_columns(lines[0].text)
    if not {"path1", "path2", "same"} <= set(header) or len(set(header)) < len(header):
        raise fail(path, lines[0], "a header with path1,path2,same, each once,")
    pairs = []
    for line in lines[1:]:
        values = csv_columns(line.text)
        if len(values) != len(header):
            raise fail(path, line, f"{len(header)} columns ({lines[0].text.strip()})")
        pairs.append(csv_pair(path, line, dict(zip(header, values, strict=True))))
    if not pairs:
        raise InputError(f"{path} has a header and no pairs")
    return pairs, csv_folds(path, pairs)


def csv_pair(path: Path, line: Line, row: dict[str, str]) -> Pair:
    """One row of ours."""
    answer = row["same"].lower()
    if answer not in TRUE + FALSE:
        raise fail(path, line, "0, 1, true or false as `same`")
    same = answer in TRUE
    named = row.get("id1", ""), row.get("id2", "")
    if all(named) and (named[0] == named[1]) != same:
        raise fail(path, line, f"same={answer} with fitting id1 and id2")
    people = named if all(named) else (person_of(row["path1"]), person_of(row["path2"]))
    return Pair(line.number, row["path1"], row["path2"], same, people, row.get("fold") or None)


def csv_folds(path: Path, pairs: list[Pair]) -> Folds | None:
    """The fold column, if it is filled: any names, in order of appearance."""
    names = [p.fold for p in pairs]
    if None in names:
        if set(names) == {None}:
            return None
        raise InputError(f"{path}, line {pairs[names.index(None)].line}: the fold is empty, and it is not elsewhere")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if len(number) < 2:
        return None
    return Folds(np.array([number[name] for name in names], np.int64), f"the list's own {len(number)} folds")


READERS: dict[str, Callable[[Path, list[Line]], tuple[list[Pair], Folds | None]]] = {
    "lfw": read_lfw,
    "labelled": read_labelled,
    "two_lines": read_two_lines,
    "csv": read_csv,
}


def checked_paths(listed: PairList, root: Path) -> list[tuple[str, str]]:
    """Both paths of every pair relative to ``root``, none of them leading out of it."""
    return [
        (inside(root, p.left, f"{listed.path}, line {p.line}"), inside(root, p.right, f"{listed.path}, line {p.line}"))
        for p in listed.pairs
    ]
