"""Images of any size, decoded when asked for and kept while there is room."""

from __future__ import annotations

from threading import Lock

import numpy as np

from facekit.core.errors import InputError
from facekit.data.decode import BrokenImage, decode
from facekit.data.protocol import Store


class Originals:
    """The decoded images of ``source``, which may differ in size. Many threads may read at once.

    The first that are read are kept, up to ``budget`` bytes in all; the others are decoded at every call.
    """

    def __init__(self, source: Store, budget: int) -> None:
        self.source, self.room = source, budget
        self.kept: dict[int, np.ndarray] = {}
        self.keeping = Lock()

    def __getitem__(self, i: int) -> np.ndarray:
        """uint8 [H,W,3] RGB. Raises InputError that names a broken image."""
        found = self.kept.get(i)
        return self.keep(i, self.decoded(i)) if found is None else found

    def decoded(self, i: int) -> np.ndarray:
        """The image, from its bytes."""
        if self.source.kind != "jpeg":  # pixels, and then all of one size
            pixels: np.ndarray = self.source.read(np.array([i]))[0]
            return pixels
        try:
            return decode(self.source.encoded(i))
        except BrokenImage as error:
            raise InputError(f"image {self.source.names[i]} cannot be read: {error}") from None

    def keep(self, i: int, pixels: np.ndarray) -> np.ndarray:
        """The pixels, remembered where they fit."""
        with self.keeping:
            if i not in self.kept and pixels.nbytes <= self.room:
                self.room -= pixels.nbytes
                self.kept[i] = pixels
        return pixels
