"""Part of a source, with its labels numbered densely again."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from facekit.core.errors import InputError
from facekit.data.fingerprint import fingerprint
from facekit.data.lazy import items_at
from facekit.data.listing import dense_labels
from facekit.data.protocol import Store


class Subset:
    """The images of ``parent`` at ``rows`` (int64 [N])."""

    def __init__(self, parent: Store, rows: np.ndarray) -> None:
        if len(rows) == 0:
            raise InputError("no image is left after the selection")
        self.parent, self.rows = parent, rows
        self.names = items_at(parent.names, rows)
        self.labels, self.identities = dense_labels(parent.labels[rows], parent.identities)
        self.size = parent.size
        self.kind, self.notes, self.broken = parent.kind, parent.notes, parent.broken

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint the same files would have on their own; one derived from the parent's where they are gone."""
        digests = self.digests(np.arange(len(self)))
        if digests is None:
            of_parent = hashlib.sha256(self.parent.fingerprint.encode()).digest()
            digests = np.tile(np.frombuffer(of_parent, np.uint8), (len(self), 1))
        return fingerprint(self.names, self.labels, digests)

    def digests(self, index: np.ndarray) -> np.ndarray | None:
        """SHA-256 of the files, uint8 [n,32]."""
        return self.parent.digests(self.rows[index])

    def encoded(self, i: int) -> bytes:
        """The file's bytes."""
        return self.parent.encoded(int(self.rows[i]))

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        return self.parent.read(self.rows[index])
