"""A noise plan: which images of a source stay and under which label, as a small file. No image is touched.

It belongs to one source: the fingerprint says which images under which labels, ``names_sha256`` in which order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from facekit.core.errors import ArtefactMismatch, CorruptFile, InputError, UsageError
from facekit.core.files import write_atomic
from facekit.data.arrays import read_npz

LONG_TAIL = "longtail"
KINDS = ("sym", "flip", LONG_TAIL, "face-id", "face-image")


class OtherSource(ArtefactMismatch):
    """A plan that was made for other images, labels or another order."""

    code = "AW-HASH"


class OutOfRange(UsageError):
    """A number that the kind of noise is not defined for."""

    code = "AW-RANGE"


class UnknownImages(InputError):
    """Rows that are missing, not unique, or beyond the end of the source."""

    code = "AW-IDS"


@dataclass(frozen=True, eq=False)
class NoisePlan:
    """n of the N images of a source, with the label each had and the one it gets."""

    sample_id: np.ndarray
    """int64 [n], rows of the source, rising."""
    true_label: np.ndarray
    """int64 [n], the source's own labels."""
    noisy_label: np.ndarray
    """int64 [n]"""
    kind: str
    p: float
    """0 for a long tail."""
    seed: int
    exclude_self: bool
    imbalance: float
    """Largest class over smallest of a long tail, 1 for other kinds."""
    fingerprint: str
    """Of the source."""
    names_sha256: str
    """Of the source's names in their order."""

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def wrong(self) -> np.ndarray:
        """bool [n], where the label is not the true one."""
        return np.asarray(self.noisy_label != self.true_label)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of all it says, independent of how the file is written."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in ARRAYS:
            total.update(getattr(self, name).astype("<i8").tobytes())
        return total.hexdigest()

    def describe(self) -> str:
        """``sym noise (p 0.4, seed 0): 1,805 of 5,000 labels are wrong (36.1 %)``"""
        if self.kind == LONG_TAIL:
            return f"long tail (imbalance {self.imbalance:g}, seed {self.seed}): {len(self):,} images stay"
        count = int(self.wrong.sum())
        settings = f"p {self.p:g}, seed {self.seed}" + (", true class excluded" if self.exclude_self else "")
        return (
            f"{self.kind} noise ({settings}): {count:,} of {len(self):,} labels are wrong "
            f"({100 * count / len(self):.1f} %)"
        )


ARRAYS = ("sample_id", "true_label", "noisy_label")
SETTINGS: dict[str, type] = {
    "kind": str, "p": float, "seed": int, "exclude_self": bool, "imbalance": float, "fingerprint": str,
    "names_sha256": str,
}  # fmt: skip
HASH = "plan_sha256"
MAKE = "facekit data noise"


def names_sha256(names: Sequence[str]) -> str:
    """Of the lines ``name<LF>`` in their order: a fingerprint is the same for images in another order."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def write_plan(path: Path, plan: NoisePlan) -> None:
    """Write a ``.npz`` with the fields of the plan and ``plan_sha256``. Raises WriteFailed."""
    arrays = {name: np.asarray(getattr(plan, name)) for name in (*ARRAYS, *SETTINGS)}
    arrays[HASH] = np.array(plan.sha256)
    write_atomic(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def read_plan(path: Path) -> NoisePlan:
    """Read and check a plan. Raises MissingFile, CorruptFile, UnknownImages."""
    found = read_npz(path, (*ARRAYS, *SETTINGS, HASH))
    if "sample_id" not in found:
        raise UnknownImages(f"{path} is no noise plan: it does not say which images (sample_id); make one with: {MAKE}")
    rows: dict[str, Any] = {name: column(path, found, name) for name in ARRAYS}
    settings: dict[str, Any] = {name: setting(path, found, name, kind) for name, kind in SETTINGS.items()}
    if len({len(array) for array in rows.values()}) > 1 or not len(rows["sample_id"]):
        raise damaged(path, "its columns differ in length or are empty")
    if settings["kind"] not in KINDS:
        raise damaged(path, f"its kind is none of {', '.join(KINDS)}")
    plan = NoisePlan(**rows, **settings)
    if plan.sha256 != setting(path, found, HASH, str):
        raise damaged(path, "its content is not what was written")
    if plan.sample_id[0] < 0 or (np.diff(plan.sample_id) <= 0).any():
        raise UnknownImages(f"{path} does not name each image once, in rising order; make it again with: {MAKE}")
    return plan


def damaged(path: Path, reason: str) -> CorruptFile:
    """The plan cannot be trusted: make it again."""
    return CorruptFile(f"the noise plan {path} is damaged: {reason}. Make it again with: {MAKE}")


def column(path: Path, found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """int64 [n], writable as everybody's labels are."""
    array = found.get(name)
    if array is None or array.ndim != 1 or array.dtype != np.int64:
        raise damaged(path, f"{name} is no column of whole numbers")
    return array.copy()


def setting(path: Path, found: dict[str, np.ndarray], name: str, kind: type) -> Any:
    """One value of the type ``kind``."""
    array = found.get(name)
    value = None if array is None or array.ndim else array.item()
    if type(value) is not kind:
        raise damaged(path, f"{name} is missing or no single value of type {kind.__name__}")
    return value
