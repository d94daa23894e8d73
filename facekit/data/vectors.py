"""Embeddings that somebody else computed: files that hold them, and benchmarks without any image.

Read are facekit's own ``.npz`` (``embs``, ``embs_f``, ``names``, ``preprocess``), the one of InsightFace's
``ijb_evals.py`` (no names: ``x.csv`` beside it names the rows), ``x.npy`` with ``x.csv``, and FaceX-Zoo's folder of one
``.npy`` per image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from facekit.core.errors import ArtefactMismatch, CorruptFile, FacekitError, InputError, MissingFile, UsageError
from facekit.core.files import sha256_file
from facekit.core.preprocess import Preprocess
from facekit.data.arrays import map_npy, read_npy_file, read_npz
from facekit.data.decode import EXTENSIONS
from facekit.data.fingerprint import fingerprint
from facekit.data.listing import person_of
from facekit.data.lists import number_labels, parse
from facekit.data.pairlist import PairList, read_pairs
from facekit.data.pairs import (
    ALL,
    PairSet,
    Usable,
    every_pair,
    find_list,
    first_images,
    numbered,
    pairs_among,
    people_for_all_pairs,
    people_of_images,
)
from facekit.data.protocol import Source

BLOCK = 8192
MAX_VECTOR = 1 << 20
"""Bytes of one file of FaceX-Zoo's tree."""


class NamedOnly:
    """N images of which the names are known and, perhaps, the embeddings; there are no pixels to read."""

    size = (0, 0)
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        names: Sequence[str],
        labels: np.ndarray,
        identities: tuple[str, ...],
        embeddings: np.ndarray | None = None,
    ) -> None:
        self.names, self.labels, self.identities = names, labels, identities
        self.embeddings = embeddings
        """float32 [N,V,D] where this source brings its own"""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, labels and embeddings."""
        return fingerprint(self.names, self.labels, self.digests(np.arange(len(self))))

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of each embedding, zeros where there is none, uint8 [n,32]: equal images have equal embeddings."""
        found = np.zeros((len(index), 32), np.uint8)
        if self.embeddings is not None:
            for row, i in enumerate(index.tolist()):
                digest = hashlib.sha256(np.ascontiguousarray(self.embeddings[i]).tobytes()).digest()
                found[row] = np.frombuffer(digest, np.uint8)
        return found

    def read(self, index: np.ndarray) -> np.ndarray:
        """Refused: InputError."""
        raise InputError(
            f"{self.names[int(index[0])]} is known by its name alone and has no image that a model could embed; give "
            "folders or lists of images with --model, or every file of embeddings with --embeddings"
        )


@dataclass(frozen=True)
class VectorFile:
    """N named embeddings in V views."""

    path: Path
    sha256: str
    """Of the file; of names and contents for a folder"""
    names: Sequence[str]
    embeddings: np.ndarray
    """float32 [N,V,D], not normalised; may be mapped"""
    labels: np.ndarray
    """int64 [N], -1 where unknown"""
    identities: tuple[str, ...]
    preprocess: Preprocess | None

    def flip_rule(self, asked: str = "model") -> str:
        """The fusion of the views that ``asked`` (model | none | sum | concat) means here.

        Raises UsageError where the mirrored view it needs is not in the file.
        """
        two = self.embeddings.shape[1] == 2
        own = self.preprocess.flip if self.preprocess is not None else "sum"
        rule = (own if two else "none") if asked == "model" else asked
        if rule != "none" and not two:
            raise UsageError(f"--flip {asked} needs mirrored embeddings (embs_f), and {self.path} has none")
        return rule

    def source(self) -> NamedOnly:
        """All of it as a source."""
        return NamedOnly(self.names, self.labels, self.identities, self.embeddings)

    def table(self, source: Source) -> np.ndarray:
        """The embeddings of a source's images, found by name: float32 [n,V,D].

        A leading folder and an image extension may differ if that leaves one candidate. Raises InputError naming the
        first image without an embedding and their number.
        """
        if isinstance(source, NamedOnly) and source.embeddings is not None:
            own, mine = source.embeddings.shape[1:], self.embeddings.shape[1:]
            if own != mine:
                raise ArtefactMismatch(
                    f"{self.path} holds {mine[0]} views of {mine[1]} numbers for each image, another file of this "
                    f"comparison {own[0]} of {own[1]}; embed all of them with one model and flip rule"
                )
            return source.embeddings
        return self.embeddings[self.rows(source.names)]

    def rows(self, wanted: Sequence[str]) -> np.ndarray:
        """The row of each name, int64 [n]."""
        exact = {name: i for i, name in enumerate(self.names)}
        found = np.array([exact.get(name, -1) for name in wanted], np.int64)
        missing = np.flatnonzero(found < 0).tolist()
        if missing:
            tails: dict[str, list[int]] = {}
            for i, name in enumerate(self.names):
                tails.setdefault(bare(name).rpartition("/")[2], []).append(i)
            for i in missing:
                near = tails.get(bare(wanted[i]).rpartition("/")[2], [])
                near = [row for row in near if one_ends_the_other(bare(self.names[row]), bare(wanted[i]))]
                if len(near) > 1:
                    raise InputError(
                        f"{wanted[i]} may be {self.names[near[0]]} or {self.names[near[1]]} of {self.path}; "
                        "use the same names in both"
                    )
                found[i] = near[0] if near else -1
        self.check_rows(wanted, found)
        return found

    def check_rows(self, wanted: Sequence[str], found: np.ndarray) -> None:
        """Every name has a row, and no row stands for two names."""
        absent = np.flatnonzero(found < 0)
        if len(absent):
            raise InputError(
                f"{self.path} has no embedding of {len(absent)} of {len(wanted)} images (the first is "
                f"{wanted[int(absent[0])]}); its names look like {self.names[0]}"
            )
        first: dict[int, str] = {}
        for name, row in zip(wanted, found.tolist(), strict=True):
            if first.setdefault(row, name) != name:
                raise InputError(
                    f"{self.names[row]} of {self.path} may be {first[row]} or {name}; use the same names in both"
                )


def bare(name: str) -> str:
    """The name without an image extension."""
    return name.rpartition(".")[0] if name.lower().endswith(EXTENSIONS) else name


def one_ends_the_other(a: str, b: str) -> bool:
    """Whether one path is the other behind some folders: ``lfw/Ann/1`` and ``Ann/1``."""
    return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")


# --- reading ----------------------------------------------------------------------------------------------


def is_vectors(path: Path) -> bool:
    """Whether a path names embeddings rather than images."""
    return path.suffix.lower() in (".npz", ".npy") or is_tree(path)


def is_tree(path: Path) -> bool:
    """A folder whose first file, folders before their files, is an ``.npy``."""
    for _, folders, files in os.walk(path):
        folders.sort()
        if visible := sorted(name for name in files if not name.startswith(".")):
            return visible[0].endswith(".npy")
    return False


def open_vectors(path: Path) -> VectorFile:
    """Open a ``.npz``, a ``.npy`` or a folder of ``.npy`` files.

    People are those of the column ``label``, else the folders that the names have, else unknown. Raises MissingFile,
    CorruptFile and InputError: other content, NaN or infinity, wrong number of names, one name twice.
    """
    if not path.exists():
        raise MissingFile(f"the embeddings {path} do not exist")
    if path.is_dir():
        return open_tree(path)
    if path.suffix.lower() == ".npz":
        return open_npz(path)
    if path.suffix.lower() == ".npy":
        names, people = named_in_csv(path)
        return checked(path, sha256_file(path), names, people, views(path, [map_npy(path)]), None)
    raise InputError(f"{path} holds no embeddings; give .npz, .npy with a .csv of names beside it, or a folder of .npy")


def open_npz(path: Path) -> VectorFile:
    """facekit's form, or that of ``ijb_evals.py``."""
    stored = read_npz(path, ("embs", "embs_f", "names", "preprocess"))
    if "embs" not in stored:
        raise InputError(f"{path} has no array embs; facekit embed writes embs, embs_f, names and preprocess")
    names, people = names_of(path, stored["names"]) if "names" in stored else named_in_csv(path)
    both = [stored[key] for key in ("embs", "embs_f") if key in stored]
    preprocess = read_preprocess(path, stored["preprocess"]) if "preprocess" in stored else None
    return checked(path, sha256_file(path), names, people, views(path, both), preprocess)


def open_tree(path: Path) -> VectorFile:
    """FaceX-Zoo's form: ``<image>.npy`` with one vector each."""
    files = sorted(
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(".npy") and not name.startswith(".")
    )
    if not files:
        raise InputError(f"the folder {path} holds no .npy files")
    width = read_npy_file(path / files[0], MAX_VECTOR).size
    total, out = hashlib.sha256(), np.empty((len(files), 1, width), np.float32)
    for i, file in enumerate(files):
        vector = read_npy_file(path / file, MAX_VECTOR)
        if vector.size != width or vector.dtype.kind != "f":
            raise InputError(f"{path / file} holds {vector.dtype} {vector.shape} where {width} floats were expected")
        out[i, 0] = vector.ravel()
        total.update(f"{file}\0".encode("utf-8", "surrogateescape"))
        total.update(out[i].tobytes())
    names = [Path(file).as_posix().removesuffix(".npy") for file in files]
    return checked(path, total.hexdigest(), names, people_of_folders(names), out, None)


def views(path: Path, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[N,D] per view -> float32 [N,V,D]."""
    for array in arrays:
        if array.ndim != 2 or array.shape != arrays[0].shape or array.dtype.kind != "f" or not array.size:
            shapes = " and ".join(f"{a.dtype} {a.shape}" for a in arrays)
            raise InputError(f"{path} holds {shapes} where floats [images, numbers] were expected")
    if len(arrays) == 1:
        return np.asarray(arrays[0], np.float32)[:, None]
    return np.stack([np.asarray(array, np.float32) for array in arrays], axis=1)


def checked(
    path: Path,
    sha256: str,
    names: Sequence[str],
    people: Sequence[str | None],
    embeddings: np.ndarray,
    preprocess: Preprocess | None,
) -> VectorFile:
    """Names fit and are different, numbers are finite."""
    if len(names) != len(embeddings):
        raise InputError(f"{path} holds {len(embeddings)} embeddings and {len(names)} names; they must be in one order")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{path} names {twice} twice; every image needs a name of its own")
    for start in range(0, len(names), BLOCK):
        fine = np.isfinite(embeddings[start : start + BLOCK]).all(axis=(1, 2))
        if not fine.all():
            raise InputError(f"{path}: the embedding of {names[start + int(np.argmin(fine))]} is not finite")
    labels, identities = numbered(people)
    return VectorFile(path, sha256, names, embeddings, labels, identities, preprocess)


def names_of(path: Path, stored: np.ndarray) -> tuple[list[str], list[str | None]]:
    """(names, people) from the array ``names``."""
    if stored.ndim != 1 or stored.dtype.kind not in "US":
        raise InputError(f"{path}: names is {stored.dtype} {stored.shape}, a list of text was expected")
    try:
        names = [name.decode() if isinstance(name, bytes) else name for name in stored.tolist()]
    except ValueError:  # bytes that are no UTF-8, code points that are no characters
        raise CorruptFile(f"{path}: names is not text") from None
    return names, people_of_folders(names)


def named_in_csv(path: Path) -> tuple[list[str], list[str | None]]:
    """(names, people) from the table beside the array: columns ``path`` and, where known, ``label``."""
    table = path.with_suffix(".csv")
    if not table.is_file():
        raise MissingFile(
            f"{path} does not name its rows and {table} does not exist; write one line per row, path[,label]"
        )
    samples = parse(table)
    names = [sample.path for sample in samples]
    labels, identities = number_labels([sample.label for sample in samples])
    if not identities:
        return names, people_of_folders(names)
    return names, [identities[label] if label >= 0 else None for label in labels.tolist()]


def people_of_folders(names: Sequence[str]) -> list[str | None]:
    """The folder that each image lies in; nobody is known where one has none."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    return list(folders) if all(folders) else [None] * len(names)


def read_preprocess(path: Path, stored: np.ndarray) -> Preprocess:
    """The table of the model that made them, from its JSON text."""
    try:
        return Preprocess.from_dict(json.loads(str(stored[()])))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, FacekitError) as error:
        raise CorruptFile(f"{path}: preprocess is not the table that facekit embed writes ({error})") from None


# --- benchmarks by name -----------------------------------------------------------------------------------


def pairs_from_names(text: str, vectors: VectorFile) -> PairSet:
    """LIST, a folder with pairs.txt or pairs.csv, or allpairs:LIST, over embeddings alone.

    Raises MissingFile and InputError as ``open_benchmark`` does, and where an image of the list has no embedding.
    """
    every = text.startswith(ALL)
    path = find_list(Path(text.removeprefix(ALL)))
    if path.suffix == ".bin":
        raise InputError(
            f"{path} holds images without names, so no embedding can be found for them; give its pair list"
        )
    listed = read_pairs(path)
    if every:
        return every_pair_of_names(listed, vectors)
    return listed_pairs_of_names(listed, vectors)


def listed_pairs_of_names(listed: PairList, vectors: VectorFile) -> PairSet:
    """The pairs of a list, all of whose images have embeddings."""
    paths = [(pair.left, pair.right) for pair in listed.pairs]
    person = people_of_images(listed, paths)
    names = sorted(person)
    vectors.rows(names)
    source = NamedOnly(names, *numbered([person[name] for name in names]))
    return pairs_among(listed, paths, names, Usable(np.arange(len(names)), {}), source)


def every_pair_of_names(listed: PairList, vectors: VectorFile) -> PairSet:
    """All pairs among at most 10 embeddings of each person of the list."""
    people = people_for_all_pairs(listed)
    of_person: dict[str, list[str]] = {}
    for name, label in zip(vectors.names, vectors.labels.tolist(), strict=True):
        of_person.setdefault(vectors.identities[label] if label >= 0 else person_of(name), []).append(name)
    names, who, absent = first_images(people, lambda person: of_person.get(person, []))
    if not names:
        raise InputError(
            f"{vectors.path} has no embedding of the {len(people)} people of {listed.path} (the first is {people[0]}); "
            f"its names look like {vectors.names[0]}"
        )
    notes = [f"{len(absent)} of {len(people)} people have no embeddings (the first is {absent[0]})"] if absent else []
    return every_pair(listed, NamedOnly(names, *numbered(who)), len(absent), notes)
