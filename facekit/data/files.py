"""Images that lie as files under one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from facekit.core.errors import InputError
from facekit.data.decode import BrokenImage, decode_into
from facekit.data.fingerprint import Facts, fingerprint, inspect_files, read_image_file
from facekit.data.listing import Listing


class FileSource:
    """The images of a listing; their headers were read. Where they differ in size that is (0, 0), and only ``encoded``
    serves.
    """

    kind = "jpeg"
    notes: tuple[str, ...] = ()
    broken: Sequence[tuple[str, str]] = ()

    def __init__(self, listing: Listing, facts: Facts) -> None:
        self.listing, self.facts = listing, facts
        self.names = listing.names
        self.labels = listing.labels
        self.identities = listing.identities
        height, width = (int(side) for side in facts.size[0])
        self.size = (height, width) if (facts.size == facts.size[0]).all() else (0, 0)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """Of names, labels and file contents."""
        return fingerprint(self.names, self.labels, self.facts.sha256)

    def digests(self, index: np.ndarray) -> np.ndarray:
        """SHA-256 of the files, uint8 [n,32]."""
        return self.facts.sha256[index]

    def encoded(self, i: int) -> bytes:
        """The file's bytes."""
        return read_image_file(self.listing.root / self.names[i])

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        out = np.empty((len(index), *self.size, 3), np.uint8)
        for row, i in enumerate(np.asarray(index).tolist()):
            try:
                decode_into(self.encoded(i), out[row])
            except BrokenImage as error:
                raise unreadable(self.listing, {i: str(error)}) from None
        return out


def open_files(listing: Listing, one_size: bool = True) -> FileSource:
    """Inspect all files. Raises InputError for unreadable ones, and for different sizes where ``one_size`` is asked."""
    facts = inspect_files(listing.root, listing.names)
    if facts.reasons:
        raise unreadable(listing, facts.reasons)
    if one_size and (facts.size != facts.size[0]).any():
        raise InputError(different_sizes(listing, facts.size))
    return FileSource(listing, facts)


def unreadable(listing: Listing, reasons: dict[int, str]) -> InputError:
    """Name the first broken file and the command that lists them all."""
    first = min(reasons)
    others = f" ({len(reasons) - 1} more like it)" if len(reasons) > 1 else ""
    return InputError(
        f"{listing.root / listing.names[first]} cannot be read as an image: {reasons[first]}{others}. "
        f"List all such files with: facekit data check --data {listing.origin}"
    )


def different_sizes(listing: Listing, size: np.ndarray) -> str:
    """Name the commonest size and the first image that has another."""
    ((height, width), _), *_ = Counter(map(tuple, size.tolist())).most_common(1)
    odd = int(np.flatnonzero((size != (height, width)).any(axis=1))[0])
    count = int((size != (height, width)).any(axis=1).sum())
    return (
        f"the images of {listing.origin} have different sizes: most are {height}x{width}, {count} are not, the first "
        f"is {listing.names[odd]} with {size[odd, 0]}x{size[odd, 1]}. Bring them all to one size, as with "
        f"facekit data pack --kind uint8 --size N (facekit data check --data {listing.origin} lists them)"
    )
