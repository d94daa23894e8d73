"""Similarity scores as files: ``scores.npy`` (written), float32 in the order of a pair list, and Bob's four columns.

A line of the latter is ``claimed_id real_id probe_label score``, separated by one space: whom the probe claims to be,
who is on it, which probe it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.core.files import sha256_file, write_atomic
from facekit.data.pairs import PairSet, require_classes
from facekit.data.vectors import NamedOnly

LONGEST_LINE = 4096
BLOCK = 1 << 16


# --- scores.npy -------------------------------------------------------------------------------------------


def write_scores(path: Path, scores: Iterable[np.ndarray], pairs: int) -> Path:
    """Write ``pairs`` scores that come in arrays [n] of any length, float32, atomically."""

    def write(stream: BinaryIO) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (pairs,)}
        np.lib.format.write_array_header_1_0(stream, header)
        written = 0
        for block in scores:
            stream.write(np.ascontiguousarray(block, "<f4").tobytes())
            written += len(block)
        if written != pairs:
            raise ValueError(f"{written} scores came where {pairs} were announced")

    return write_atomic(path, write)


# --- four columns -----------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One line."""

    claimed: str
    real: str
    probe: str
    score: float


@dataclass(frozen=True)
class Trials:
    """P lines. Names are kept once: 15 million lines as text would take gigabytes."""

    claimed: np.ndarray
    """int32 [P], position in ``people``"""
    real: np.ndarray
    """int32 [P]"""
    probe: np.ndarray
    """int32 [P], position in ``probes``"""
    score: np.ndarray
    """float64 [P]"""
    people: tuple[str, ...]
    probes: tuple[str, ...]

    @property
    def same(self) -> np.ndarray:
        """bool [P], genuine where the claim is true."""
        return self.claimed == self.real


def write_four_columns(path: Path, trials: Iterable[Trial]) -> Path:
    """Write the trials as they come, atomically; a float32 score comes back bit for bit.

    Raises InputError where a name holds white space, which the format cannot tell from the next column.
    """

    def write(stream: BinaryIO) -> None:
        for trial in trials:
            for name in trial[:3]:
                if not name or len(name.split()) != 1 or name != name.strip():
                    raise InputError(f"{name!r} cannot be written into {path}: columns are separated by white space")
            stream.write(f"{trial.claimed} {trial.real} {trial.probe} {float(trial.score)!r}\n".encode())

    return write_atomic(path, write)


def read_four_columns(path: Path) -> Trials:
    """Read the trials. Raises MissingFile and InputError with file and line: other columns, no finite number."""
    people: dict[str, int] = {}
    probes: dict[str, int] = {}
    blocks = []
    for lines in in_blocks(path):
        codes = np.empty((3, len(lines)), np.int32)
        score = np.empty(len(lines))
        for row, (number, text) in enumerate(lines):
            trial = parse(path, number, text)
            codes[0, row] = people.setdefault(trial.claimed, len(people))
            codes[1, row] = people.setdefault(trial.real, len(people))
            codes[2, row] = probes.setdefault(trial.probe, len(probes))
            score[row] = trial.score
        blocks.append((codes, score))
    if not blocks:
        raise InputError(f"{path} is empty")
    codes = np.concatenate([block for block, _ in blocks], axis=1)
    return Trials(codes[0], codes[1], codes[2], np.concatenate([s for _, s in blocks]), tuple(people), tuple(probes))


def in_blocks(path: Path) -> Iterator[list[tuple[int, bytes]]]:
    """(number, content) of the lines that are not blank, some at a time. A line without an end is not read on."""
    try:
        with open(path, "rb") as stream:
            block: list[tuple[int, bytes]] = []
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{path}, line {number}: longer than {LONGEST_LINE} bytes; four columns were expected"
                    )
                if line.strip():
                    block.append((number, line))
                if len(block) == BLOCK:
                    yield block
                    block = []
            if block:
                yield block
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error


def parse(path: Path, number: int, line: bytes) -> Trial:
    """One line."""
    try:
        claimed, real, probe, text = line.decode().split()
        score = float(text)
    except ValueError:  # UnicodeDecodeError is one, too
        score = math.nan
    if not math.isfinite(score):
        raise InputError(
            f"{path}, line {number}: {line[:80]!r} where `claimed_id real_id probe_label score` was expected"
        )
    return Trial(claimed, real, probe, score)


# --- as a benchmark ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredSet:
    """Trials that somebody else has scored: no model and no embeddings are needed."""

    pairs: PairSet
    """Over people instead of images: nothing more is known"""
    score: np.ndarray
    """float64 [P]"""

    @property
    def name(self) -> str:
        """As in the ``benchmark`` column."""
        return self.pairs.name

    @property
    def path(self) -> str:
        """The file."""
        return self.pairs.path

    @property
    def failed(self) -> int:
        """Every line counts or the file is refused."""
        return 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is left out."""
        return ()


def open_scored(path: Path) -> ScoredSet:
    """A file of four columns as a benchmark. Raises MissingFile and InputError, also where one class is missing."""
    trials = read_four_columns(path)
    require_classes(trials.same, path)
    everybody = np.arange(len(trials.people))
    pairs = PairSet(
        name=path.stem,
        path=path.as_posix(),
        sha256=sha256_file(path),
        source=NamedOnly(trials.people, everybody, trials.people),
        left=trials.claimed,
        right=trials.real,
        same=trials.same,
        fold=None,
        fold_rule="no folds: trials without pairs of images",
        identity=everybody,
        failed=0,
        notes=(),
    )
    return ScoredSet(pairs, trials.score)
