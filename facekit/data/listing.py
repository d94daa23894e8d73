"""Which images there are and who is on them, before any of them is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from facekit.core.errors import InputError, UsageError
from facekit.data.lazy import items_at


@dataclass(frozen=True)
class Listing:
    """``names[i]``, relative to ``root``, shows ``identities[labels[i]]``; label -1 is unknown."""

    origin: Path
    """The folder or list file that was named by the user, for messages."""
    root: Path
    names: Sequence[str]
    labels: np.ndarray
    identities: tuple[str, ...]


def person_of(name: str) -> str:
    """The person a path stands for: its first folder, or the file name without its number.

    >>> person_of("Ann_Lee/Ann_Lee_0001.jpg"), person_of("Ann_Lee_0001.jpg")
    ('Ann_Lee', 'Ann_Lee')
    """
    path = PurePosixPath(name)
    return path.parts[0] if len(path.parts) > 1 else re.sub(r"_\d+$", "", path.stem)


def chosen(listing: Listing, people: Collection[str], min_images: int) -> np.ndarray:
    """Which images stay, bool [N], when ``people`` and then identities with fewer than ``min_images`` are left out.

    An image shows one of ``people`` if its identity, or the person its path names, is among them.
    """
    keep = np.ones(len(listing.names), bool)
    if people:
        named = set(people)
        of_label = np.array([identity in named for identity in listing.identities] + [False])  # label -1 is the last
        of_path = np.fromiter((person_of(name) in named for name in listing.names), bool, len(listing.names))
        keep = ~(of_label[listing.labels] | of_path)
    if min_images > 1:
        if not listing.identities:
            raise InputError(f"--min-images {min_images} needs identities, and {listing.origin} has no labels")
        keep &= listing.labels >= 0
        counts = np.bincount(listing.labels[keep], minlength=len(listing.identities))
        keep &= counts[listing.labels] >= min_images
    return keep


def taken(listing: Listing, keep: np.ndarray, take: str) -> np.ndarray:
    """Of the images where ``keep`` holds, those whose place among their identity's, by name, is in ``take`` ("A:B").

    Raises UsageError for another form, InputError where nobody has names.
    """
    bounds = re.fullmatch(r"(\d{0,9}):(\d{0,9})", take)
    if bounds is None or take == ":":
        raise UsageError(f"--take is {take!r}; write the places of an identity's first and last image as 500:1500")
    if not listing.identities:
        raise InputError(f"--take {take} counts the images of each identity, and {listing.origin} has no labels")
    first, end = int(bounds[1] or 0), int(bounds[2] or len(listing.names))
    rows = np.flatnonzero(keep & (listing.labels >= 0))
    rows = rows[np.argsort(np.array(items_at(listing.names, rows)), kind="stable")]
    rows = rows[np.argsort(listing.labels[rows], kind="stable")]
    labels = listing.labels[rows]
    place = np.arange(len(rows)) - np.searchsorted(labels, labels)
    kept = np.zeros(len(keep), bool)
    kept[rows[(place >= first) & (place < end)]] = True
    return kept


def keep_rows(listing: Listing, keep: np.ndarray) -> Listing:
    """The rows where ``keep`` (bool [N]) holds, labels numbered densely again."""
    if keep.all():
        return listing
    labels, identities = dense_labels(listing.labels[keep], listing.identities)
    return Listing(listing.origin, listing.root, items_at(listing.names, np.flatnonzero(keep)), labels, identities)


def dense_labels(labels: np.ndarray, identities: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the labels that occur 0..K-1 in their old order; -1 stays.

    Labels [5, -1, 2, 5] of ("a", .., "f") become [1, -1, 0, 1] of ("c", "f").
    """
    present = np.unique(labels[labels >= 0])
    renumbered = np.where(labels >= 0, np.searchsorted(present, labels), -1).astype(np.int64)
    return renumbered, tuple(identities[i] for i in present)
