"""Encoded images that are decoded when read: what a ``.bin``, a ``.rec`` and a ``.tar`` hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Protocol

import numpy as np

from facekit.core.errors import InputError
from facekit.data.decode import BrokenImage, Buffer, decode_into
from facekit.data.fingerprint import fingerprint
from facekit.data.prefetch import prefetched, reader_threads

BLOCK = 256


class Blobs(Protocol):
    """N pieces of bytes, in memory or in a file."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, i: int, /) -> Buffer:
        """One of them."""


class EncodedSource:
    """N images of one size as encoded bytes; decoded when read, so that 12,000 take 50 MB."""

    kind = "jpeg"

    def __init__(
        self,
        names: Sequence[str],
        blobs: Blobs,
        size: tuple[int, int],
        *,
        labels: np.ndarray | None = None,
        identities: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        broken: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.names, self.blobs, self.size = names, blobs, size
        self.labels = np.full(len(names), -1, np.int64) if labels is None else labels
        self.identities, self.notes, self.broken = identities, notes, broken

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, labels and contents."""
        return fingerprint(self.names, self.labels, self.sha256)

    @cached_property
    def sha256(self) -> np.ndarray:
        """Of every image, uint8 [N,32]."""
        return hash_blobs(self.blobs)

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of the encoded images, uint8 [n,32]."""
        return self.sha256[index]

    def encoded(self, i: int) -> bytes:
        """The encoded bytes."""
        return bytes(self.blobs[i])

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        out = np.empty((len(index), *self.size, 3), np.uint8)
        for row, i in enumerate(np.asarray(index).tolist()):
            try:
                decode_into(self.blobs[i], out[row])
            except BrokenImage as error:
                raise self.unreadable(i, str(error)) from None
        return out

    def unreadable(self, i: int, reason: str) -> InputError:
        """One sentence that names the image."""
        return InputError(f"image {self.names[i]} cannot be read: {reason}")


def hash_blobs(blobs: Blobs) -> np.ndarray:
    """SHA-256 of every piece, uint8 [N,32], in a few threads."""

    def hash_block(rows: range) -> bytes:
        return b"".join(hashlib.sha256(blobs[i]).digest() for i in rows)

    n = len(blobs)
    found = np.empty((n, 32), np.uint8)
    blocks = [range(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]
    jobs = (partial(hash_block, rows) for rows in blocks)
    for rows, digests in zip(blocks, prefetched(jobs, threads=reader_threads(), ahead=16), strict=True):
        found[rows.start : rows.stop] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return found
