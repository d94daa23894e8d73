"""The support bank: faces of other people, against which scores are aligned.

A bank file is an ``.npz`` of arrays without pickles:

| key | content |
|---|---|
| ``emb`` | float32 [R,D], unit rows |
| ``label`` | int64 [R], number of the person in ``identity`` |
| ``identity`` | text [L], names of the people |
| ``sample_id`` | text [R] |
| ``source`` | uint8 [R]: 0 cohort, 1 train, 2 gallery, 3 latentmix, 4 cgan, 5 noise |
| ``reduce`` | single, centre or max |
| ``seed`` | int64 |
| ``model_sha``, ``preproc_sha`` | text: of the network and of the table of inputs that made ``emb`` |
| ``parent`` | text: hash of the bank that virtual people were made from, else empty |
| ``report`` | JSON text: how virtual people were made and which were kept |
| ``bank_sha`` | text: see ``SupportBank.sha`` |
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from facekit.alignment.errors import BadEmbedding, IdentityLeak, OtherModel, SmallBank, SmallGallery
from facekit.alignment.rows import LEAST_NORM, unit, unit_rows
from facekit.alignment.settings import known
from facekit.core.errors import CorruptFile, MissingFile
from facekit.core.files import plain, write_atomic

KINDS = ("cohort", "train", "gallery", "latentmix", "cgan", "noise")
"""Where a row comes from; its place is its number in the file."""
REDUCE = ("single", "centre", "max")
LEAST_ENTRIES = 10
LEAST_GALLERY = 200
_TEXT = ("identity", "sample_id", "reduce", "model_sha", "preproc_sha", "parent", "report", "bank_sha")
_KEYS = ("emb", "label", "source", "seed", *_TEXT)


# --- the bank ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entries:
    """One entry for each identity, after ``reduce``."""

    vectors: np.ndarray
    """float32 [R,D], entry by entry"""
    starts: np.ndarray
    """int64 [M+1]: entry j has the rows starts[j] to starts[j+1]; one row but for ``max``"""
    people: tuple[str, ...]
    """[M] names"""

    def __len__(self) -> int:
        return len(self.people)

    @cached_property
    def number(self) -> dict[str, int]:
        """Name -> entry."""
        return {name: j for j, name in enumerate(self.people)}


@dataclass(frozen=True, eq=False)
class SupportBank:
    """Embeddings of other people, and what they were made from."""

    embeddings: np.ndarray
    """float32 [R,D], unit rows"""
    labels: np.ndarray
    """int64 [R], numbers in ``identities``"""
    identities: tuple[str, ...]
    """[L] names of the people"""
    sample_ids: tuple[str, ...]
    """[R]"""
    source: np.ndarray
    """uint8 [R], numbers in ``KINDS``"""
    reduce: str
    seed: int
    model_sha: str
    preproc_sha: str
    parent: str | None = None
    """``sha`` of the bank that virtual people were made from."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """How virtual people were made: sigma, partners, what the filter kept."""
    notes: tuple[str, ...] = ()
    """What to tell the user; not kept in the file."""

    @property
    def kind(self) -> str:
        """Where the rows come from; ``mixed`` where they differ."""
        kinds = np.unique(self.source)
        return KINDS[int(kinds[0])] if len(kinds) == 1 else "mixed"

    @cached_property
    def sha(self) -> str:
        """SHA-256 over the arrays (little-endian, C order: emb, label, source), then all else as canonical JSON."""
        digest = hashlib.sha256()
        for array, kind in ((self.embeddings, "<f4"), (self.labels, "<i8"), (self.source, "u1")):
            digest.update(np.ascontiguousarray(array, kind).tobytes())
        rest = {
            "shape": list(self.embeddings.shape),
            "identity": self.identities,
            "sample_id": self.sample_ids,
            "reduce": self.reduce,
            "seed": self.seed,
            "model_sha": self.model_sha,
            "preproc_sha": self.preproc_sha,
            "parent": self.parent or "",
            "report": plain(self.report),
        }
        digest.update(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())
        return digest.hexdigest()

    def entries(self) -> Entries:
        """What a query is compared with: one entry for each person that has rows, in the order of the numbers.

        single: the row with the smallest sample id in string order; centre: the mean of the rows, of unit length;
        max: all rows, of which a query sees the closest. Raises ALIGN-EMB where the rows of a centre cancel out.
        """
        # lexsort is stable: of rows with equal sample ids the first one stands.
        order = np.lexsort((np.array(self.sample_ids), self.labels))
        present, first = np.unique(self.labels[order], return_index=True)
        people = tuple(self.identities[label] for label in present)
        if self.reduce == "max":
            return Entries(self.embeddings[order], np.append(first, len(order)), people)
        if self.reduce == "single":
            vectors = self.embeddings[order[first]]
        else:
            vectors = centres(self.embeddings[order], first, people)
        return Entries(vectors, np.arange(len(people) + 1), people)


def centres(rows: np.ndarray, first: np.ndarray, people: Sequence[str]) -> np.ndarray:
    """Unit means float32 [M,D] of rows sorted by person, each from ``first`` [M] to that of the next."""
    sums = np.add.reduceat(rows.astype(np.float64), first)
    counts = np.diff(first, append=len(rows))
    lost = np.linalg.norm(sums, axis=1) < LEAST_NORM * counts
    if lost.any():
        name = people[int(np.argmax(lost))]
        raise BadEmbedding(f"the embeddings of {name} cancel out: they have no centre; use another reduce")
    return unit(sums).astype(np.float32)


def bank_of(
    vectors: np.ndarray,
    people: Sequence[str],
    sample_ids: Sequence[str],
    kind: str,
    *,
    model_sha: str,
    preproc_sha: str,
    reduce: str = "single",
    seed: int = 0,
    parent: str | None = None,
    report: Mapping[str, Any] | None = None,
) -> SupportBank:
    """A bank of unit rows [R,D] with the name of the person and a sample id on each.

    Rows that are not of unit length are renormalised, with a note. Raises ALIGN-EMB for rows that cannot be, ALIGN-OP
    for an unknown ``reduce``.
    """
    known(reduce, "reduce", REDUCE)
    rows, renormalised = unit_rows(vectors, f"embeddings of the {kind} bank")
    identities = sorted(set(people))
    number = {name: i for i, name in enumerate(identities)}
    note = f"{kind} bank: {renormalised} of {len(rows)} embeddings were not of unit length and were renormalised"
    return SupportBank(
        embeddings=rows.astype(np.float32),
        labels=np.array([number[name] for name in people], np.int64),
        identities=tuple(identities),
        sample_ids=tuple(sample_ids),
        source=np.full(len(rows), KINDS.index(kind), np.uint8),
        reduce=reduce,
        seed=seed,
        model_sha=model_sha,
        preproc_sha=preproc_sha,
        parent=parent,
        report=plain(report or {}),
        notes=(note,) if renormalised else (),
    )


# --- what a bank may be used for -----------------------------------------------------------------------------


def require_model(bank: SupportBank, model_sha: str, preproc_sha: str) -> None:
    """Raise ALIGN-HASH where the bank was made by another network or another preparation of images."""
    require_same("the support bank", "model", bank.model_sha, model_sha)
    require_same("the support bank", "preprocessing", bank.preproc_sha, preproc_sha)


def require_same(what: str, of: str, made: str, used: str) -> None:
    """Raise ALIGN-HASH, naming both hashes, where they differ."""
    if made != used:
        raise OtherModel(f"{what} was made with {of} {made}, but is used with {used}; make it anew with the one in use")


def require_size(bank: SupportBank) -> None:
    """Raise ALIGN-SMALL below ten people, ALIGN-GALLERY below 200 where the gallery is its own support set."""
    people = len(np.unique(bank.labels))
    if people < LEAST_ENTRIES:
        raise SmallBank(f"the {bank.kind} bank has {people} people, but needs at least {LEAST_ENTRIES}; add faces")
    if bank.kind == "gallery" and people < LEAST_GALLERY:
        raise SmallGallery(
            f"the gallery has {people} people, but needs at least {LEAST_GALLERY} to be its own support set; "
            "give a cohort of other people"
        )


def check_leak(bank: SupportBank, people: Iterable[str | None]) -> None:
    """Raise ALIGN-LEAK where a person of the bank is among those who are tested; a gallery is meant to be."""
    foreign = np.unique(bank.labels[bank.source != KINDS.index("gallery")])
    shared = sorted({bank.identities[label] for label in foreign} & set(people))
    if shared:
        raise IdentityLeak(
            f"{len(shared)} people are both in the {bank.kind} bank and in the test set ({listed(shared)}); "
            "make a bank without them"
        )


def listed(names: Sequence[str], shown: int = 3) -> str:
    """``Ann, Bob, Cem and 7 more``."""
    start = ", ".join(names[:shown])
    return start if len(names) <= shown else f"{start} and {len(names) - shown} more"


# --- files -------------------------------------------------------------------------------------------------


def write_bank(path: Path | str, bank: SupportBank) -> Path:
    """Write the bank, atomically."""
    arrays = {
        "emb": bank.embeddings.astype("<f4"),
        "label": bank.labels.astype("<i8"),
        "source": bank.source,
        "seed": np.array(bank.seed, "<i8"),
        "identity": np.array(bank.identities, np.str_),
        "sample_id": np.array(bank.sample_ids, np.str_),
        "reduce": np.array(bank.reduce),
        "model_sha": np.array(bank.model_sha),
        "preproc_sha": np.array(bank.preproc_sha),
        "parent": np.array(bank.parent or ""),
        "report": np.array(json.dumps(plain(bank.report), sort_keys=True)),
        "bank_sha": np.array(bank.sha),
    }
    return write_atomic(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def read_bank(path: Path | str) -> SupportBank:
    """Read a bank and make its hash anew.

    Raises MissingFile, or CorruptFile for anything that ``write_bank`` has not written.
    """
    path = Path(path)
    try:
        stream = open(path, "rb")  # noqa: SIM115  # closed below: what fails inside means another thing
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist; align-eval bank writes one") from None
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    with stream:
        try:
            return _bank_from(_read_arrays(stream))
        except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise CorruptFile(f"{path} is not a support bank, or is damaged: {error}; make it anew") from error


def _read_arrays(stream: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz. Each is read only where its header fits the bytes that are there."""
    arrays = {}
    with zipfile.ZipFile(stream) as archive:
        for key in _KEYS:
            entry = archive.getinfo(f"{key}.npy")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{key} is compressed")
            with archive.open(entry) as member:
                arrays[key] = _read_array(member.read(), key)
    return arrays


def _read_array(content: bytes, key: str) -> np.ndarray:
    """An array from the bytes of a .npy file, a view into them."""
    member = io.BytesIO(content)
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError(f"{key} is not of .npy version 1.0")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(member)
    data = memoryview(content)[member.tell() :]
    count = int(np.prod(shape, dtype=object))
    if kind.hasobject or fortran or count * kind.itemsize != len(data):
        raise ValueError(f"{key} does not hold what its header says")
    return np.frombuffer(data, kind, count).reshape(shape) if len(data) else np.empty(shape, kind)


def _bank_from(arrays: Mapping[str, np.ndarray]) -> SupportBank:
    """Types, sizes, ranges and hash, checked."""
    emb, label, source = arrays["emb"], arrays["label"], arrays["source"]
    people, samples = arrays["identity"], arrays["sample_id"]
    shapes: dict[str, tuple[int, ...]] = {
        "label": (len(emb),),
        "source": (len(emb),),
        "sample_id": (len(emb),),
        "identity": (len(people),),
    }
    shapes |= {key: () for key in _KEYS if key not in shapes and key != "emb"}
    kinds = {"emb": "<f4", "label": "<i8", "source": "|u1", "seed": "<i8"}
    for key in _KEYS:
        array = arrays[key]
        right = array.dtype.kind == "U" if key in _TEXT else array.dtype.str == kinds[key]
        if not right or (key in shapes and array.shape != shapes[key]):
            raise ValueError(f"{key} is {array.dtype} {array.shape}")
    if emb.ndim != 2 or not emb.size:
        raise ValueError(f"emb has shape {emb.shape}")
    if unit_rows(emb, "emb")[1]:
        raise ValueError("emb has rows that are not of unit length")
    if len(set(people.tolist())) != len(people):
        raise ValueError("a name occurs twice")
    if label.min() < 0 or label.max() >= len(people) or source.max() >= len(KINDS):
        raise ValueError("a label or a source has no name")
    if str(arrays["reduce"]) not in REDUCE:
        raise ValueError(f"reduce is {arrays['reduce']}")
    report = json.loads(str(arrays["report"]))
    if not isinstance(report, dict):
        raise ValueError("report is no record")
    bank = SupportBank(
        embeddings=emb,
        labels=label,
        identities=tuple(people.tolist()),
        sample_ids=tuple(samples.tolist()),
        source=source,
        reduce=str(arrays["reduce"]),
        seed=int(arrays["seed"]),
        model_sha=str(arrays["model_sha"]),
        preproc_sha=str(arrays["preproc_sha"]),
        parent=str(arrays["parent"]) or None,
        report=report,
    )
    if bank.sha != str(arrays["bank_sha"]):
        raise ValueError(f"its content has hash {bank.sha}, but it says {arrays['bank_sha']}")
    return bank
