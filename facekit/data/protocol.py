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

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening left out or doubts, one sentence each; () where all is well."""

    def __len__(self) -> int:
        """N."""

    def read(self, index: np.ndarray) -> np.ndarray:
        """The images at ``index`` (int [n]) as uint8 [n,H,W,3] RGB. Raises InputError naming a broken file."""


class Store(Source, Protocol):
    """A source that also hands out what lies on disk: packing, checking and sub-sets need it."""

    @property
    def kind(self) -> str:
        """``jpeg`` where ``encoded`` gives image files (of any format), ``uint8`` where it gives pixels [H,W,3]."""

    @property
    def broken(self) -> Sequence[tuple[str, str]]:
        """(where, why) of everything that should be an image and that opening had to skip."""

    def encoded(self, i: int) -> bytes:
        """The image file's bytes, or its pixels: see ``kind``."""

    def digests(self, index: np.ndarray) -> np.ndarray | None:
        """SHA-256 of the image files, uint8 [n,32]; None where the store does not have the files any more."""
