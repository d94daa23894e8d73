"""CIFAR-10 and CIFAR-100 as published for Python: pickles of pixels, read without running them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.data.fingerprint import fingerprint
from facekit.data.listing import dense_labels
from facekit.data.mapped import file_head
from facekit.data.safepickle import FakeArray, ForeignPickle, explain_pickle, load, read_limited, walk

SIDE = 32
ROW = 3 * SIDE * SIDE
MAX_FILE = 1 << 29
TEN = tuple(f"data_batch_{k}" for k in range(1, 6))
BATCHES = (*TEN, "test_batch", "train", "test")
META = ("batches.meta", "meta")
CLASSES = ("label_names", "fine_label_names")
LABELS = ("labels", "fine_labels")


class Batch(NamedTuple):
    """One file's content."""

    pixels: np.ndarray
    """uint8 [n,3072]: red, green and blue planes"""
    labels: np.ndarray
    """int64 [n]"""
    files: list[str]
    """Names the file gives its images; [] where it gives none"""


class PixelSource:
    """N images held as pixels, uint8 [N,H,W,3]."""

    kind = "uint8"
    broken: Sequence[tuple[str, str]] = ()

    def __init__(
        self,
        names: Sequence[str],
        pixels: np.ndarray,
        labels: np.ndarray,
        identities: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> None:
        self.names, self.pixels, self.labels = names, pixels, labels
        self.identities, self.notes = identities, notes
        self.size = (pixels.shape[1], pixels.shape[2])

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, labels and pixels."""
        return fingerprint(self.names, self.labels, self.digests(np.arange(len(self))))

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of the pixels, uint8 [n,32]: there are no image files."""
        found = b"".join(hashlib.sha256(self.pixels[i].data).digest() for i in np.asarray(index).tolist())
        return np.frombuffer(found, np.uint8).reshape(-1, 32)

    def encoded(self, i: int) -> bytes:
        """The pixels."""
        return self.pixels[i].tobytes()

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        return self.pixels[np.asarray(index)]


def is_cifar(path: Path) -> bool:
    """A folder of batches, or one batch: a pickle by its first byte, where that is text by its name too."""
    if path.is_dir():
        return any((path / name).is_file() for name in TEN) or (
            (path / "train").is_file() and (path / "meta").is_file()
        )
    head = file_head(path, 1)
    return path.suffix != ".bin" and (head == b"\x80" or (path.name in BATCHES and head in (b"(", b"}")))


def open_cifar(path: Path) -> PixelSource:
    """Training batches of a folder (``data_batch_1`` .. ``5``, or ``train``), or the one batch that was named.

    Names are ``<class>/<file name>``, classes are numbered as in the files and named by ``batches.meta`` or ``meta``
    beside them. Raises CorruptFile and InputError.
    """
    files, notes = batch_files(path)
    batches = [read_batch(file) for file in files]
    classes = class_names(path if path.is_dir() else path.parent)
    original = np.concatenate([batch.labels for batch in batches])
    if len(classes) <= original.max(initial=-1):
        classes = tuple(map(str, range(int(original.max()) + 1)))
    labels, identities = dense_labels(original, classes)
    planes = np.concatenate([batch.pixels for batch in batches]).reshape(-1, 3, SIDE, SIDE)
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    names = [f"{identities[label]}/{image}" for label, image in zip(labels, image_names(files, batches), strict=True)]
    return PixelSource(names, pixels, labels, identities, notes)


def batch_files(path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """(the files to read, a note where some of five are missing)."""
    if not path.is_dir():
        return [path], ()
    found = [path / name for name in TEN if (path / name).is_file()]
    if not found:
        return [path / "train"], ()
    missing = [name for name in TEN if path / name not in found]
    return found, ((f"{', '.join(missing)} missing in {path}",) if missing else ())


def image_names(files: list[Path], batches: list[Batch]) -> list[str]:
    """The images' own names where they are proper and differ, else the batch and the position in it."""
    own = [name for batch in batches for name in batch.files]
    count = sum(len(batch.pixels) for batch in batches)
    if len(own) == count == len(set(own)) and all(re.fullmatch(r"[\w-][\w.-]{0,200}", name, re.ASCII) for name in own):
        return own
    return [f"{f.name}_{i:05d}" for f, batch in zip(files, batches, strict=True) for i in range(len(batch.pixels))]


# --- what the pickles hold ---------------------------------------------------------------------------------------


def read_batch(path: Path) -> Batch:
    """One batch, every type and length checked."""
    data = read_limited(path, MAX_FILE)
    with explain_pickle(path, "CIFAR batch"):
        table = load_table(data)
        labels = next((table[key] for key in LABELS if key in table), None)
        pixels = table.get("data")
        if not isinstance(pixels, FakeArray) or pixels.dtype.code != "u1" or pixels.shape[1:] != (ROW,):
            raise ForeignPickle(f"an array `data` of uint8 rows of {ROW} was expected")
        if not isinstance(labels, list) or not all(type(v) is int and 0 <= v < 1000 for v in labels):
            raise ForeignPickle(f"a list of class numbers ({' or '.join(LABELS)}) was expected")
        if len(labels) != pixels.shape[0] or not labels:
            raise ForeignPickle(f"{pixels.shape[0]} images do not fit {len(labels)} labels")
        return Batch(pixels.real(), np.array(labels, np.int64), texts(table.get("filenames")))


def class_names(folder: Path) -> tuple[str, ...]:
    """Class number -> name, from the meta file; () where there is none."""
    path = next((folder / name for name in META if (folder / name).is_file()), None)
    if path is None:
        return ()
    data = read_limited(path, MAX_FILE)
    with explain_pickle(path, "list of CIFAR's classes"):
        table = load_table(data)
        names = texts(next((table[key] for key in CLASSES if key in table), None))
        if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[^/\\\t\n\0]{1,100}", n) for n in names):
            raise ForeignPickle(f"different class names ({' or '.join(CLASSES)}) were expected")
    return tuple(names)


def load_table(data: bytes) -> dict[str, object]:
    """The dictionary in a pickle; Python 2 wrote its keys as bytes."""
    walk(data)
    loaded = load(data)
    if not isinstance(loaded, dict):
        raise ForeignPickle("a dictionary was expected")
    return {text: value for key, value in loaded.items() for text in texts([key])}


def texts(found: object) -> list[str]:
    """The texts of a list, whose bytes are latin-1; [] unless all are texts."""
    if not isinstance(found, list) or not all(isinstance(v, str | bytes) for v in found):
        return []
    return [v.decode("latin-1") if isinstance(v, bytes) else v for v in found]
