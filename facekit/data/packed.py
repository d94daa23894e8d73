"""Reading packed images: one blob, one index, read at memory speed.

| file | content |
|---|---|
| ``data.bin`` | the image files (kind jpeg) or the pixels, uint8 [N,H,W,3] (kind uint8), one after the other |
| ``index.npy`` | [N] records (offset int64, label int64); an item ends where the next begins |
| ``names.txt`` | one relative path a line |
| ``pack.json`` | magic, version, kind, count, bytes, height, width, identities, fingerprint of the source |

A pack may come from a stranger: every number is checked against the files before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.core.files import read_json
from facekit.data.decode import MAX_PIXELS, BrokenImage, decode_into, image_size
from facekit.data.mapped import map_file

MAGIC = "facekit-pack"
VERSION = 1
INDEX = np.dtype([("offset", "<i8"), ("label", "<i8")])


@dataclass(frozen=True)
class Header:
    """pack.json, checked."""

    kind: str
    count: int
    bytes: int
    height: int
    width: int
    identities: tuple[str, ...]
    fingerprint: str


class PackedSource:
    """A packed folder, mapped into memory."""

    notes: tuple[str, ...] = ()
    broken: Sequence[tuple[str, str]] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        self.kind = self.header.kind
        self.size = (self.header.height, self.header.width)
        self.identities = self.header.identities
        self.fingerprint = self.header.fingerprint
        self.offsets, self.labels = read_index(path, self.header)
        self.blob = map_data(path, self.header)
        self.check_first_size()

    def __len__(self) -> int:
        return self.header.count

    @cached_property
    def names(self) -> list[str]:
        """Relative paths; read on first use, since training never asks."""
        try:
            names = (self.path / "names.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except OSError as error:
            raise MissingFile(f"{self.path / 'names.txt'} cannot be read: {error.strerror or error}") from error
        if len(names) != len(self) + 1 or names[-1]:
            raise broken(self.path, f"names.txt has {len(names) - 1} whole lines for {len(self)} images")
        return names[:-1]

    def check_first_size(self) -> None:
        """pack.json alone would decide how much is allocated. An unreadable image is named when it is read."""
        if self.kind == "jpeg":
            with contextlib.suppress(BrokenImage):
                size = image_size(self.item(0))
                if size != self.size:
                    said = f"pack.json says {self.size[0]}x{self.size[1]}"
                    raise broken(self.path, f"its images are {size[0]}x{size[1]}, {said}")

    def encoded(self, i: int) -> bytes:
        """The image file's bytes, or the pixels of a uint8 pack."""
        return bytes(self.item(i))

    def item(self, i: int) -> memoryview:
        """The bytes of one item, not copied."""
        return self.blob[self.offsets[i] : self.offsets[i + 1]].data

    def digests(self, index: np.ndarray) -> np.ndarray | None:
        """SHA-256 of the image files, uint8 [n,32]; None for pixels, whose files are gone."""
        if self.kind != "jpeg":
            return None
        found = b"".join(hashlib.sha256(self.item(i)).digest() for i in np.asarray(index).tolist())
        return np.frombuffer(found, np.uint8).reshape(-1, 32)

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        if self.kind == "uint8":
            pixels: np.ndarray = self.blob.reshape(len(self), *self.size, 3)[index]
            return pixels
        out = np.empty((len(index), *self.size, 3), np.uint8)
        for row, i in enumerate(np.asarray(index).tolist()):
            try:
                decode_into(self.item(i), out[row])
            except BrokenImage as error:
                raise InputError(
                    f"image {i} ({self.names[i]}) of {self.path} cannot be read: {error}. "
                    f"List all such images with: facekit data check --data {self.path}"
                ) from None
        return out


def is_packed(path: Path) -> bool:
    """Whether the folder holds pack.json."""
    return (path / "pack.json").is_file()


def broken(path: Path, reason: str) -> CorruptFile:
    """The pack cannot be trusted: make it again."""
    return CorruptFile(f"the packed data {path} is damaged: {reason}. Write it again with: facekit data pack")


def read_header(path: Path) -> Header:
    """pack.json with every value checked for type and range."""
    table = read_json(path / "pack.json")
    if not isinstance(table, dict) or table.get("magic") != MAGIC:
        raise CorruptFile(f"{path / 'pack.json'} is not the header of packed facekit data")
    if table.get("version") != VERSION:
        raise InputError(f"{path} has pack version {table.get('version')!r}; this facekit reads version {VERSION}")
    if table.get("kind") not in ("jpeg", "uint8"):
        raise broken(path, f"kind {table.get('kind')!r} is not one of jpeg, uint8")
    count, size, height, width = (whole(path, table, key) for key in ("count", "bytes", "height", "width"))
    if height * width > MAX_PIXELS:
        raise broken(path, f"images of {height}x{width} pixels are larger than any that facekit writes")
    identities, mark = table.get("identities"), table.get("fingerprint")
    if not isinstance(identities, list) or not all(isinstance(name, str) for name in identities):
        raise broken(path, "identities is not a list of names")
    if not isinstance(mark, str) or len(mark) != 64:
        raise broken(path, "fingerprint is not a SHA-256")
    if table["kind"] == "uint8" and size != count * height * width * 3:
        raise broken(path, f"{count} images of {height}x{width} do not take {size} bytes")
    return Header(table["kind"], count, size, height, width, tuple(identities), mark)


def whole(path: Path, table: dict[str, Any], key: str) -> int:
    """A positive whole number of the header."""
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 60:
        raise broken(path, f"{key} is {value!r}, a positive whole number was expected")
    return value


def read_index(path: Path, header: Header) -> tuple[np.ndarray, np.ndarray]:
    """(offsets int64 [N+1], labels int64 [N]), checked against the header."""
    try:
        # Mapped first: numpy would allocate whatever the file's own header announces.
        index = np.load(path / "index.npy", mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MissingFile(f"{path / 'index.npy'} does not exist") from None
    except Exception as error:  # numpy parses the header as Python: tokenize, ast and unicode errors alike
        raise broken(path, f"index.npy cannot be read ({error})") from None
    if not isinstance(index, np.ndarray) or index.dtype != INDEX or index.shape != (header.count,):
        raise broken(path, f"index.npy does not hold {header.count} records of offset and label")
    offsets = np.append(np.asarray(index["offset"], np.int64), header.bytes)
    labels = np.array(index["label"], np.int64)
    if offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        raise broken(path, "the offsets in index.npy do not rise from 0 to the end of data.bin")
    if header.kind == "uint8" and (np.diff(offsets) != header.height * header.width * 3).any():
        raise broken(path, "the offsets in index.npy do not fit the image size")
    if labels.min() < -1 or labels.max() >= len(header.identities):
        raise broken(path, f"index.npy has labels outside -1..{len(header.identities) - 1}")
    return offsets, labels


def map_data(path: Path, header: Header) -> np.ndarray:
    """data.bin as uint8 [bytes], mapped read-only."""
    try:
        held = (path / "data.bin").stat().st_size
        if held != header.bytes:
            raise broken(path, f"data.bin holds {held} bytes, {header.bytes} were written")
    except OSError as error:
        raise MissingFile(f"{path / 'data.bin'} cannot be read: {error.strerror or error}") from error
    return map_file(path / "data.bin")
