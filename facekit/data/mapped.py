"""One big file mapped into memory, and the pieces of it that are images: what a ``.rec`` and a ``.tar`` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.data.decode import BrokenImage, Buffer, image_size
from facekit.data.encoded import Blobs, EncodedSource, hash_blobs
from facekit.data.fingerprint import remembered_digests

LOOKED_AT, TRIED = 16, 1000
"""How many readable images tell the size of all, and how many are tried to find them."""


def map_file(path: Path) -> np.ndarray:
    """The file as uint8 [bytes], read-only. Raises MissingFile and CorruptFile (empty)."""
    try:
        if path.stat().st_size == 0:
            raise CorruptFile(f"{path} is empty; copy or download it again")
        return np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error


def file_head(path: Path, count: int = 512) -> bytes:
    """The first bytes of a file; none where it is a folder, a device, or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with open(path, "rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error


class Pieces:
    """Piece i of a mapped file begins at ``offset[i]`` and is ``length[i]`` bytes long (int64 [N] each)."""

    def __init__(self, path: Path, data: np.ndarray, offset: np.ndarray, length: np.ndarray) -> None:
        self.path, self.offset, self.length = path, offset, length
        self.view = data.data

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, i: int, /) -> Buffer:
        """The bytes, not copied."""
        first = int(self.offset[i])
        return self.view[first : first + int(self.length[i])]

    def sha256(self) -> np.ndarray:
        """SHA-256 of every piece, uint8 [N,32]; read only once for each state of the file."""
        layout = self.offset.tobytes() + self.length.tobytes()
        return remembered_digests(self.path, layout, lambda: hash_blobs(self))


class MappedSource(EncodedSource):
    """Images that are pieces of one mapped file, which the user calls ``origin``."""

    def __init__(
        self,
        origin: Path,
        names: Sequence[str],
        pieces: Pieces,
        labels: np.ndarray,
        identities: tuple[str, ...],
        notes: tuple[str, ...],
        broken: Sequence[tuple[str, str]],
    ) -> None:
        size = common_size(origin, pieces)
        super().__init__(names, pieces, size, labels=labels, identities=identities, notes=notes, broken=broken)
        self.origin, self.pieces = origin, pieces

    @cached_property
    def sha256(self) -> np.ndarray:
        """Of every image, uint8 [N,32]; remembered, since the file may have many gigabytes."""
        return self.pieces.sha256()

    def unreadable(self, i: int, reason: str) -> InputError:
        """One sentence with the name, the place in the file, and the command that lists all such images."""
        return InputError(
            f"image {self.names[i]} of {self.pieces.path} (byte {self.pieces.offset[i]}) cannot be read: {reason}. "
            f"List all such images with: facekit data check --data {self.origin}"
        )


def common_size(origin: Path, blobs: Blobs) -> tuple[int, int]:
    """(height, width) of most of the first images that have a readable header.

    Every image is compared with it when it is read: looking into all of them now would read the whole file.
    """
    found: Counter[tuple[int, int]] = Counter()
    reason = ""
    for i in range(min(len(blobs), TRIED)):
        try:
            found[image_size(blobs[i])] += 1
        except BrokenImage as error:
            reason = str(error)
        if found.total() == LOOKED_AT:
            break
    if not found:
        raise InputError(f"none of the first {i + 1} images of {origin} can be read: {reason}")
    return found.most_common(1)[0][0]
