"""InsightFace's verification ``.bin``: a pickle of encoded images and of which neighbours show one person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.data.safepickle import FakeArray, ForeignPickle, explain_pickle, load, read_limited, walk

MAX_FILE = 1 << 31


@dataclass(frozen=True)
class BinPairs:
    """``bins[2i]`` and ``bins[2i+1]`` are the encoded images of pair i."""

    bins: list[bytes]
    same: np.ndarray
    """bool [P]"""


def read_bin(path: Path) -> BinPairs:
    """The encoded images and labels of a ``.bin``.

    Raises MissingFile, CorruptFile (cut off, not a pickle) and InputError (foreign globals, other content). About twice
    the file's size in memory while reading, once after it.
    """
    data = read_limited(path, MAX_FILE)
    with explain_pickle(path, "verification .bin"):
        walk(data)
        return to_pairs(load(data))


def to_pairs(loaded: object) -> BinPairs:
    """Check types and lengths of what came out."""
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise ForeignPickle("a pair (images, labels) was expected")
    items, labels = loaded
    if not isinstance(items, tuple | list):
        raise ForeignPickle("a list of encoded images was expected")
    once = {id(item): image_bytes(item) for item in items}  # a stream may list one bytearray a million times
    bins = [once[id(item)] for item in items]
    same = label_array(labels)
    if len(bins) != 2 * len(same) or not bins:
        raise ForeignPickle(f"{len(bins)} images do not make {len(same)} pairs")
    return BinPairs(bins, same)


def image_bytes(item: object) -> bytes:
    """Encoded bytes from bytes, bytearray or a uint8 array."""
    if isinstance(item, FakeArray) and item.dtype.code == "u1":
        return item.raw
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    raise ForeignPickle("an image is neither bytes nor an array of uint8")


def label_array(labels: object) -> np.ndarray:
    """bool [P] from Python or numpy bools or the numbers 0 and 1."""
    if isinstance(labels, FakeArray):
        values = labels.real().ravel()
    elif isinstance(labels, tuple | list) and all(isinstance(v, int) for v in labels):
        values = np.array([v if v in (0, 1) else 2 for v in labels], np.int64)
    else:
        raise ForeignPickle("a list of bools was expected as labels")
    if not np.isin(values, (0, 1)).all():
        raise ForeignPickle("a label is neither 0 nor 1")
    return values.astype(bool)
