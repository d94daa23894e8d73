"""What the rest of facekit sees of a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Source(Protocol):
    """N images of one size, with or without labels."""

    @property
    def names(self) -> Sequence[str]:
        """Relative posix paths, [N]."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], -1 where unlabelled."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Label -> name; () when unlabelled."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that every image has."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted lines ``relpath<TAB>label<TAB>sha256(file)<LF>``."""

    def __len__(self) -> int:
        """N."""

    def read(self, index: np.ndarray) -> np.ndarray:
        """The images at ``index`` (int [n]) as uint8 [n,H,W,3] RGB. Raises InputError naming a broken file."""


class Store(Source, Protocol):
    """A source that also hands out what lies on disk: packing, checking and sub-sets need it."""

    def encoded(self, i: int) -> bytes:
        """The image file's bytes; raw pixels where the store keeps those."""

    def digests(self, index: np.ndarray) -> np.ndarray | None:
        """SHA-256 of the image files, uint8 [n,32]; None where the store does not have the files any more."""
