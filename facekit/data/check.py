"""What is wrong with a set of images: broken, tiny, mis-sized, duplicate, or people who are also in a test list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facekit.data.decode import BrokenImage, decode
from facekit.data.fingerprint import read_image_file
from facekit.data.listing import Listing, chosen, keep_rows, person_of, taken
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Store
from facekit.data.sources import list_source, people_of

BLOCK = 128


class Seen(NamedTuple):
    """One readable image."""

    file: bytes
    """SHA-256 of its bytes"""
    pixels: bytes
    """SHA-256 of its size and pixels"""
    size: tuple[int, int]


Look = Callable[[int], Seen]


@dataclass(frozen=True)
class Looks:
    """What was seen of N images, as arrays: millions of them have to fit."""

    file: np.ndarray
    """uint8 [N,32], SHA-256 of the bytes"""
    pixels: np.ndarray
    """uint8 [N,32], SHA-256 of size and pixels"""
    size: np.ndarray
    """int32 [N,2], height and width; (0, 0) where the image is broken"""
    reasons: dict[int, str]
    """Why the broken ones are."""


@dataclass(frozen=True)
class Duplicates:
    """Images that show the same pixels."""

    names: tuple[str, ...]
    byte_identical: bool
    """Whether the files are the same too; else only what they decode to."""
    across_identities: bool
    """One picture under two names: at least one label is wrong."""


@dataclass(frozen=True)
class Findings:
    """Everything that was found. ``overlap``: people of the test lists who are in the data."""

    images: int
    identities: int
    images_per_identity: tuple[int, int, int]
    """least, median, most; zeros where there are no labels"""
    broken: dict[str, str]
    tiny: dict[str, tuple[int, int]]
    mis_sized: dict[str, tuple[int, int]]
    duplicates: tuple[Duplicates, ...]
    overlap: tuple[str, ...]
    notes: tuple[str, ...]
    """What opening the data had to say."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "images": self.images,
            "identities": self.identities,
            "images_per_identity": dict(zip(("least", "median", "most"), self.images_per_identity, strict=True)),
            "broken": self.broken,
            "tiny": self.tiny,
            "mis_sized": self.mis_sized,
            "duplicates": [d.__dict__ for d in self.duplicates],
            "overlap": list(self.overlap),
            "notes": list(self.notes),
        }

    def verdict(self) -> str | None:
        """One sentence where training on the data would be wrong; None where it is fine."""
        faults = []
        if self.broken:
            faults.append(f"{len(self.broken)} images are broken (the first is {next(iter(self.broken))})")
        if self.overlap:
            faults.append(
                f"{len(self.overlap)} people are also in the test list (the first is {self.overlap[0]}); "
                "leave them out with --exclude"
            )
        return "; ".join(faults) if faults else None


def check_data(
    path: Path,
    *,
    images: Path | None = None,
    exclude: Sequence[Path] = (),
    min_images: int = 1,
    take: str | None = None,
    size: int = 112,
    test_lists: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Read every image of whatever --data may be. Nothing found in an image raises; see Findings.

    ``size`` is the expected side; an image with a side below half of it is tiny, another one that differs mis-sized.
    """
    source, listing = list_source(path, images)
    keep = chosen(listing, people_of(exclude), min_images)
    if take is not None:
        keep = taken(listing, keep, take)
    load = file_look(listing) if source is None else store_look(source)
    rows = np.flatnonzero(keep)
    listing = keep_rows(listing, keep)
    looks = look_at_all(rows, load, progress or (lambda more: None))
    fine = (looks.size > 0).all(axis=1)
    wrong = fine & (looks.size != size).any(axis=1)
    tiny = wrong & (looks.size.min(axis=1) * 2 < size)
    return Findings(
        images=len(listing.names),
        identities=len(listing.identities),
        images_per_identity=spread(listing.labels),
        broken={**dict(source.broken if source else ()), **{listing.names[i]: why for i, why in looks.reasons.items()}},
        tiny=named_sizes(listing, looks, tiny),
        mis_sized=named_sizes(listing, looks, wrong & ~tiny),
        duplicates=find_duplicates(listing, looks, np.flatnonzero(fine)),
        overlap=tuple(sorted(people_of(test_lists) & people_in(listing))),
        notes=source.notes if source else (),
    )


def file_look(listing: Listing) -> Look:
    """How an image file is looked at."""
    return lambda i: look(read_image_file(listing.root / listing.names[i]))


def store_look(source: Store) -> Look:
    """How an image that the source holds itself is looked at."""
    if source.kind == "jpeg":
        return lambda i: look(source.encoded(i))
    return lambda i: of_pixels(source.encoded(i), source.size)


def look(data: bytes) -> Seen:
    """Decode and hash. Raises BrokenImage."""
    pixels = decode(data)
    height, width = pixels.shape[:2]
    return Seen(hashlib.sha256(data).digest(), pixel_hash(pixels.tobytes(), (height, width)), (height, width))


def of_pixels(data: bytes, size: tuple[int, int]) -> Seen:
    """Stored pixels are their own decoding."""
    return Seen(hashlib.sha256(data).digest(), pixel_hash(data, size), size)


def pixel_hash(data: bytes, size: tuple[int, int]) -> bytes:
    """The size counts: 2x6 and 3x4 black pixels are different pictures."""
    return hashlib.sha256(f"{size}".encode() + data).digest()


def look_at_all(rows: np.ndarray, load: Look, report: Callable[[int], None]) -> Looks:
    """Look at the images at ``rows``, a block at a time in a few threads."""
    n = len(rows)
    looks = Looks(np.zeros((n, 32), np.uint8), np.zeros((n, 32), np.uint8), np.zeros((n, 2), np.int32), {})
    jobs = (partial(look_at, load, rows[i : i + BLOCK].tolist()) for i in range(0, n, BLOCK))
    at = 0
    for found in prefetched(jobs, threads=reader_threads(), ahead=8):
        for i, result in enumerate(found, at):
            if isinstance(result, str):
                looks.reasons[i] = result
            else:
                looks.file[i] = np.frombuffer(result.file, np.uint8)
                looks.pixels[i] = np.frombuffer(result.pixels, np.uint8)
                looks.size[i] = result.size
        at += len(found)
        report(len(found))
    return looks


def look_at(load: Look, rows: list[int]) -> list[Seen | str]:
    """One block of images, each looked at or explained."""
    found: list[Seen | str] = []
    for i in rows:
        try:
            found.append(load(i))
        except BrokenImage as error:
            found.append(str(error))
    return found


def named_sizes(listing: Listing, looks: Looks, where: np.ndarray) -> dict[str, tuple[int, int]]:
    """name -> (height, width) of the images where ``where`` (bool [N]) holds."""
    return {listing.names[i]: (int(looks.size[i, 0]), int(looks.size[i, 1])) for i in np.flatnonzero(where).tolist()}


def spread(labels: np.ndarray) -> tuple[int, int, int]:
    """Least, median and most images of an identity."""
    counts = np.bincount(labels[labels >= 0])
    return (int(counts.min()), int(np.median(counts)), int(counts.max())) if len(counts) else (0, 0, 0)


def find_duplicates(listing: Listing, looks: Looks, rows: np.ndarray) -> tuple[Duplicates, ...]:
    """Groups of two or more of the images at ``rows`` with the same pixels, those under two identities first."""
    pixels = looks.pixels[rows].view("V32").ravel()
    _, group, count = np.unique(pixels, return_inverse=True, return_counts=True)
    twins = np.flatnonzero(count[group] > 1)
    groups: dict[int, list[int]] = {}
    for i, k in zip(rows[twins].tolist(), group[twins].tolist(), strict=True):
        groups.setdefault(k, []).append(i)
    found = [
        Duplicates(
            names=tuple(listing.names[i] for i in members),
            byte_identical=len(np.unique(looks.file[members], axis=0)) == 1,
            across_identities=len(np.unique(listing.labels[members])) > 1,
        )
        for members in groups.values()
    ]
    return tuple(sorted(found, key=lambda d: not d.across_identities))


def people_in(listing: Listing) -> set[str]:
    """The identities, and the people the paths name: a list's labels are often numbers."""
    return {*listing.identities, *(person_of(name) for name in listing.names)}
