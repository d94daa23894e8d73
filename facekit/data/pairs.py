"""Verification benchmarks: images, pairs, folds, and what could not be read.

``open_benchmark`` takes what a user types: a pair list, a ``.bin``, a folder with ``pairs.txt`` or ``pairs.csv``, or
``allpairs:LIST``. Nothing is dropped silently: images that are missing, broken or of another size are counted in
``failed`` and named in ``notes``, and their pairs are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.core.files import sha256_file
from facekit.data.binfile import read_bin
from facekit.data.decode import EXTENSIONS, BrokenImage, decode, image_size
from facekit.data.encoded import EncodedSource
from facekit.data.files import FileSource
from facekit.data.fingerprint import Facts, inspect_files, read_image_file
from facekit.data.folder import list_folder
from facekit.data.folds import Folds, both_classes, contiguous_tenths, make_folds, position_within_class
from facekit.data.listing import Listing, person_of
from facekit.data.memory import free_ram
from facekit.data.pairlist import PairList, checked_paths, read_pairs
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Source

ALL = "allpairs:"
PER_PERSON = 10
BYTES_PER_PAIR = 60
"""What a pair costs in an evaluation: two positions, its label, its score and working copies of them."""


@dataclass(frozen=True)
class PairSet:
    """P pairs over the N images of ``source``."""

    name: str
    path: str
    sha256: str
    """Of the list or .bin."""
    source: Source
    left: np.ndarray
    """int32 [P], position in source"""
    right: np.ndarray
    """int32 [P]"""
    same: np.ndarray
    """bool [P]"""
    fold: np.ndarray | None
    """int64 [P]; None where the set is not scored by folds"""
    fold_rule: str
    identity: np.ndarray | None
    """int64 [N], the person on each image; None when unknown"""
    failed: int
    notes: tuple[str, ...]


def open_benchmark(text: str, images: Path | None = None) -> PairSet:
    """Open LIST, x.bin, a folder with pairs.txt or pairs.csv, or allpairs:LIST.

    Image paths are relative to ``images``, else to the folder ``images/`` beside the list, else to the list's folder.
    Raises MissingFile and InputError, also where every image is missing or one class has no pair left.
    """
    every = text.startswith(ALL)
    path = find_list(Path(text.removeprefix(ALL)))
    if path.suffix == ".bin":
        if every or images is not None:
            raise InputError(f"{path} holds its own images and names no people: neither allpairs: nor --images applies")
        return from_bin(path)
    listed = read_pairs(path)
    root = images or (path.parent / "images" if (path.parent / "images").is_dir() else path.parent)
    if not root.is_dir():
        raise MissingFile(f"the image folder {root} does not exist")
    return all_pairs(listed, root) if every else listed_pairs(listed, root)


def find_list(path: Path) -> Path:
    """The list itself where a folder was given."""
    if path.is_dir():
        for name in ("pairs.txt", "pairs.csv"):
            if (path / name).is_file():
                return path / name
        raise MissingFile(f"the folder {path} holds neither pairs.txt nor pairs.csv")
    if not path.exists():
        raise MissingFile(f"the benchmark {path} does not exist")
    return path


def name_of(path: Path) -> str:
    """``pairs`` is what every folder's list is called: then the folder says more."""
    return path.absolute().parent.name if path.stem == "pairs" else path.stem


# --- images that can be used -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usable:
    """Which of N images can be used: ``row[i]`` is the place among them, -1 for a failed one."""

    row: np.ndarray
    reasons: dict[int, str]

    @property
    def kept(self) -> np.ndarray:
        """int64, the usable ones."""
        return np.flatnonzero(self.row >= 0)


def usable(sizes: np.ndarray, reasons: dict[int, str], load: Callable[[int], bytes]) -> Usable:
    """Decode every image once and keep those that decode and have the commonest size. ``sizes`` is int [N,2]."""
    n = len(sizes)
    fine = np.array([i not in reasons for i in range(n)], bool)
    if fine.any():
        ((height, width), _), *_ = Counter(map(tuple, sizes[fine].tolist())).most_common(1)
        for i in np.flatnonzero(fine & (sizes != (height, width)).any(axis=1)).tolist():
            reasons[i] = f"it is {sizes[i, 0]}x{sizes[i, 1]}, the others are {height}x{width}"
    todo = [i for i in range(n) if i not in reasons]
    blocks = [todo[k : k + 256] for k in range(0, len(todo), 256)]
    jobs = (partial(undecodable, load, block) for block in blocks)
    for found in prefetched(jobs, threads=reader_threads(), ahead=16):
        reasons.update(found)
    fine = np.array([i not in reasons for i in range(n)], bool)
    return Usable(np.where(fine, np.cumsum(fine) - 1, -1), reasons)


def undecodable(load: Callable[[int], bytes], block: Sequence[int]) -> dict[int, str]:
    """The images of the block that do not decode, with the reason."""
    found = {}
    for i in block:
        try:
            decode(load(i))
        except BrokenImage as error:
            found[i] = str(error)
    return found


def explain(reasons: dict[int, str], names: Sequence[str], pairs_before: int, pairs_after: int) -> Iterator[str]:
    """One sentence about what was left out, if anything was."""
    if reasons:
        first = min(reasons)
        yield (
            f"{len(reasons)} of {len(names)} images cannot be used (the first is {names[first]}: {reasons[first]}); "
            f"{pairs_before - pairs_after} of {pairs_before} pairs are left out"
        )


def require_images(found: Usable, names: Sequence[str], path: Path, root: Path | str) -> None:
    """All missing is a wrong folder, not a result."""
    if not len(found.kept):
        raise InputError(
            f"none of the {len(names)} images of {path} can be read under {root} (the first is {names[0]}: "
            f"{found.reasons[0]}); give their folder with --images"
        )


def require_classes(same: np.ndarray, path: Path) -> None:
    """A benchmark needs pairs of both kinds."""
    if same.all() or not same.any():
        raise InputError(
            f"{path} leaves {int(same.sum())} same and {int((~same).sum())} different pairs; both kinds are needed"
        )


# --- lists ------------------------------------------------------------------------------------------------


def listed_pairs(listed: PairList, root: Path) -> PairSet:
    """The pairs of a list."""
    paths = checked_paths(listed, root)
    person = people_of_images(listed, paths)
    names = sorted(person)
    files = [resolve(root, name) for name in names]
    facts = inspect_files(root, files)
    found = usable(facts.size, dict(facts.reasons), lambda i: read_image_file(root / files[i]))
    require_images(found, names, listed.path, root)
    source = file_source(listed, root, files, facts, found.kept, [person[names[i]] for i in found.kept])
    return pairs_among(listed, paths, names, found, source)


def pairs_among(
    listed: PairList, paths: Sequence[tuple[str, str]], names: Sequence[str], found: Usable, source: Source
) -> PairSet:
    """The pairs of a list whose images ``names`` are those of ``source``, but for the failed ones."""
    place = {name: i for i, name in enumerate(names)}
    left, right = (found.row[[place[pair[side]] for pair in paths]] for side in (0, 1))
    keep = (left >= 0) & (right >= 0)
    left, right, same = left[keep], right[keep], listed.same[keep]
    require_classes(same, listed.path)
    identity = source.labels if listed.people_known else None
    folds = folds_after_loss(listed.folds, keep, same, identity, left, right)
    return PairSet(
        name=name_of(listed.path),
        path=listed.path.as_posix(),
        sha256=sha256_file(listed.path),
        source=source,
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        same=same,
        fold=folds.fold,
        fold_rule=folds.rule,
        identity=identity,
        failed=len(found.reasons),
        notes=tuple(explain(found.reasons, names, len(keep), len(same))),
    )


def people_of_images(listed: PairList, paths: Sequence[tuple[str, str]]) -> dict[str, str | None]:
    """Image -> person (None where the list does not tell). Raises InputError where one image is called two people."""
    person: dict[str, str | None] = {}
    for pair, sides in zip(listed.pairs, paths, strict=True):
        for name, who in zip(sides, pair.people, strict=True):
            told = who if listed.people_known else None
            if person.setdefault(name, told) != told:
                raise InputError(
                    f"{listed.path}, line {pair.line}: {name} is {told} here and {person[name]} in an earlier line"
                )
    return person


def resolve(root: Path, name: str) -> str:
    """``name``, or the same with another extension: LFW-style lists only imply ``.jpg``."""
    if (root / name).is_file():
        return name
    others = (Path(name).with_suffix(suffix).as_posix() for suffix in EXTENSIONS)
    return next((other for other in others if (root / other).is_file()), name)


def file_source(
    listed: PairList, root: Path, files: Sequence[str], facts: Facts, kept: np.ndarray, people: Sequence[str | None]
) -> FileSource:
    """The usable files as a source, labelled with their people."""
    labels, identities = numbered(people)
    listing = Listing(listed.path, root, [files[i] for i in kept], labels, identities)
    return FileSource(listing, Facts(facts.sha256[kept], facts.size[kept], {}))


def numbered(people: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels int64 [N], -1 where unknown; their names in Python string order)."""
    identities = tuple(sorted({who for who in people if who is not None}))
    number: dict[str | None, int] = {who: i for i, who in enumerate(identities)}
    return np.array([number.get(who, -1) for who in people], np.int64), identities


def folds_after_loss(
    own: Folds | None,
    keep: np.ndarray,
    same: np.ndarray,
    identity: np.ndarray | None,
    left: np.ndarray,
    right: np.ndarray,
) -> Folds:
    """The list's own folds without the lost pairs, if each still holds both classes; else folds made here."""
    if own is not None and own.fold is not None:
        fold = own.fold[keep]
        if len(np.unique(fold)) == int(own.fold.max()) + 1 and both_classes(fold, same):
            return Folds(fold, own.rule)
    people = None if identity is None else np.stack([identity[left], identity[right]], axis=1)
    return make_folds(same, people)


# --- all pairs -----------------------------------------------------------------------------------------------


def all_pairs(listed: PairList, root: Path) -> PairSet:
    """All pairs among at most 10 images (lowest numbers first) of each person of the list."""
    people = people_for_all_pairs(listed)
    files, who, absent = images_of_people(root, people)
    if not files:
        raise InputError(
            f"none of the {len(people)} people of {listed.path} has images under {root} (the first is {people[0]}); "
            "give their folder with --images"
        )
    facts = inspect_files(root, files)
    found = usable(facts.size, dict(facts.reasons), lambda i: read_image_file(root / files[i]))
    require_images(found, files, listed.path, root)
    source = file_source(listed, root, files, facts, found.kept, [who[i] for i in found.kept])
    before, after = (n * (n - 1) // 2 for n in (len(files), len(source)))
    notes = [*explain(found.reasons, files, before, after)]
    if absent:
        notes.append(f"{len(absent)} of {len(people)} people have no images under {root} (the first is {absent[0]})")
    return every_pair(listed, source, len(found.reasons) + len(absent), notes)


def people_for_all_pairs(listed: PairList) -> list[str]:
    """Everybody on the list, sorted."""
    if not listed.people_known:
        raise InputError(f"{listed.path} does not tell its people, which allpairs needs; add the columns id1 and id2")
    return sorted(listed.people())


def every_pair(listed: PairList, source: Source, failed: int, notes: Sequence[str]) -> PairSet:
    """All pairs of the images of ``source``, which shows the people of the list."""
    n = len(source)
    if n * (n - 1) // 2 * BYTES_PER_PAIR > free_ram():
        raise InputError(f"{n} images make {n * (n - 1) // 2} pairs, too many for the free memory; take a shorter list")
    left, right = (side.astype(np.int32) for side in np.triu_indices(n, 1))
    same = source.labels[left] == source.labels[right]
    require_classes(same, listed.path)
    return PairSet(
        name=ALL + name_of(listed.path),
        path=listed.path.as_posix(),
        sha256=sha256_file(listed.path),
        source=source,
        left=left,
        right=right,
        same=same,
        fold=None,
        fold_rule=f"no folds: all pairs among at most {PER_PERSON} images per person",
        identity=source.labels,
        failed=failed,
        notes=tuple(notes),
    )


def images_of_people(root: Path, people: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """(files, the person on each, people without any): ``root/<person>/*``, or ``root/<person>_<number>.*``."""
    folders, loose = list_folder(root)
    present = set(folders)
    flat: dict[str, list[str]] = {}
    for name in loose:
        flat.setdefault(person_of(name), []).append(name)

    def images_of(person: str) -> list[str]:
        own = [f"{person}/{image}" for image in list_folder(root / person)[1]] if person in present else []
        return own or flat.get(person, [])

    return first_images(people, images_of)


def first_images(
    people: Sequence[str], images_of: Callable[[str], Sequence[str]]
) -> tuple[list[str], list[str], list[str]]:
    """(at most 10 names per person, lowest numbers first; the person on each; people without any)."""
    names: list[str] = []
    who: list[str] = []
    absent: list[str] = []
    for person in people:
        chosen = sorted(images_of(person), key=natural)[:PER_PERSON]
        names += chosen
        who += [person] * len(chosen)
        if not chosen:
            absent.append(person)
    return names, who, absent


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which 2.jpg comes before 10.jpg."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part[0].isdigit() else (1, 0, part) for part in parts]


# --- .bin ----------------------------------------------------------------------------------------------------


def from_bin(path: Path) -> PairSet:
    """InsightFace's .bin: pair i = images 2i and 2i+1, folds = contiguous tenths unless one of them has one class."""
    content = read_bin(path)
    bins = content.bins
    names = [f"{i:06d}" for i in range(len(bins))]
    sizes, reasons = np.zeros((len(bins), 2), np.int64), {}
    for i, data in enumerate(bins):
        try:
            sizes[i] = image_size(data)
        except BrokenImage as error:
            reasons[i] = str(error)
    found = usable(sizes, reasons, bins.__getitem__)
    require_images(found, names, path, path)
    kept = found.kept
    height, width = sizes[kept[0]].tolist()
    source = EncodedSource([names[i] for i in kept], [bins[i] for i in kept], (height, width))
    pair = found.row.reshape(-1, 2)
    keep = (pair[:, 0] >= 0) & (pair[:, 1] >= 0)
    same = content.same[keep]
    require_classes(same, path)
    tenths = contiguous_tenths(len(keep))[keep]
    complete = len(np.unique(tenths)) == 10 and both_classes(tenths, same)
    folds = Folds(tenths, "contiguous tenths") if complete else position_within_class(same)
    return PairSet(
        name=path.stem,
        path=path.as_posix(),
        sha256=sha256_file(path),
        source=source,
        left=pair[keep, 0].astype(np.int32),
        right=pair[keep, 1].astype(np.int32),
        same=same,
        fold=folds.fold,
        fold_rule=folds.rule,
        identity=None,
        failed=len(found.reasons),
        notes=tuple(explain(found.reasons, names, len(keep), len(same))),
    )
