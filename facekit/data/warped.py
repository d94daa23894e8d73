"""Loose crops with five points each, warped to the network's crop when they are read."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from facekit.data.decode import BrokenImage, decode
from facekit.data.files import unreadable
from facekit.data.fingerprint import fingerprint, read_image_file
from facekit.data.landmarks import SIDE, similarity, warp
from facekit.data.listing import Listing


class WarpedSource:
    """The images of a listing, each moved by its own similarity to 112x112."""

    size = (SIDE, SIDE)
    notes: tuple[str, ...] = ()

    def __init__(self, listing: Listing, sha256: np.ndarray, points: np.ndarray) -> None:
        self.listing = listing
        self.names, self.labels, self.identities = listing.names, listing.labels, listing.identities
        self.sha256 = sha256
        """Of the image files, uint8 [N,32]"""
        self.points = points
        """float64 [N,5,2], x and y in the image file"""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, labels, files and points: other points are other crops."""
        return fingerprint(self.names, self.labels, self.digests(np.arange(len(self))))

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of each file's hash and points, uint8 [n,32]."""
        pieces = (self.sha256[i].tobytes() + self.points[i].astype("<f8").tobytes() for i in index.tolist())
        found = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
        return np.frombuffer(found, np.uint8).reshape(-1, 32)

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,112,112,3] RGB."""
        out = np.empty((len(index), *self.size, 3), np.uint8)
        matrices = similarity(self.points[index])
        for row, i in enumerate(np.asarray(index).tolist()):
            try:
                image = decode(read_image_file(self.listing.root / self.names[i]))
            except BrokenImage as error:
                raise unreadable(self.listing, {i: str(error)}) from None
            out[row] = warp(image[None], matrices[[row]])[0]
        return out
