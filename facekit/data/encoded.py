"""Encoded images held in memory: what a ``.bin`` leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from facekit.core.errors import InputError
from facekit.data.decode import BrokenImage, decode_into
from facekit.data.fingerprint import fingerprint


class EncodedSource:
    """N unlabelled images of one size as encoded bytes; decoded when read, so that 12,000 take 50 MB."""

    identities: tuple[str, ...] = ()

    def __init__(self, names: list[str], blobs: Sequence[bytes], size: tuple[int, int]) -> None:
        self.names, self.blobs, self.size = names, blobs, size
        self.labels = np.full(len(names), -1, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Of names and contents."""
        return fingerprint(self.names, self.labels, self.digests(np.arange(len(self))))

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of the encoded images, uint8 [n,32]."""
        found = b"".join(hashlib.sha256(self.blobs[i]).digest() for i in np.asarray(index).tolist())
        return np.frombuffer(found, np.uint8).reshape(-1, 32)

    def encoded(self, i: int) -> bytes:
        """The encoded bytes."""
        return self.blobs[i]

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        out = np.empty((len(index), *self.size, 3), np.uint8)
        for row, i in enumerate(np.asarray(index).tolist()):
            try:
                decode_into(self.blobs[i], out[row])
            except BrokenImage as error:
                raise InputError(f"image {self.names[i]} cannot be read: {error}") from None
        return out
