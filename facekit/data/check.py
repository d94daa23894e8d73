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
from facekit.data.listing import Listing, person_of, with_min_images, without_people
from facekit.data.packed import PackedSource
from facekit.data.pairlist import people_of_list
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.sources import list_source

BLOCK = 128


class Seen(NamedTuple):
    """One readable image."""

    file: bytes
    """SHA-256 of its bytes"""
    pixels: bytes
    """SHA-256 of its size and pixels"""
    size: tuple[int, int]


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
    size: int = 112,
    test_lists: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Read every image of a folder, list or pack. Nothing found in an image raises; see Findings.

    ``size`` is the expected side; an image with a side below half of it is tiny, another one that differs mis-sized.
    """
    source, listing = list_source(path, images)
    load = file_loader(listing) if source is None else pack_loader(source)
    people = {person for p in exclude for person in people_of_list(p)}
    listing = with_min_images(without_people(listing, people) if people else listing, min_images)
    seen, broken = look_at_all(listing.names, load, progress or (lambda more: None))
    wrong = {name: s.size for name, s in seen.items() if s.size != (size, size)}
    tiny = {name: shape for name, shape in wrong.items() if min(shape) * 2 < size}
    tested = {person for p in test_lists for person in people_of_list(p)}
    return Findings(
        images=len(listing.names),
        identities=len(listing.identities),
        images_per_identity=spread(listing.labels),
        broken=broken,
        tiny=tiny,
        mis_sized={name: shape for name, shape in wrong.items() if name not in tiny},
        duplicates=find_duplicates(listing, seen),
        overlap=tuple(sorted(tested & people_in(listing))),
    )


def file_loader(listing: Listing) -> Callable[[str], Seen]:
    """How an image file is looked at."""
    return lambda name: look(read_image_file(listing.root / name))


def pack_loader(source: PackedSource) -> Callable[[str], Seen]:
    """How a packed image is looked at."""
    at = {name: i for i, name in enumerate(source.names)}
    if source.header.kind == "jpeg":
        return lambda name: look(source.encoded(at[name]))
    return lambda name: of_pixels(source.encoded(at[name]), source.size)


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


def look_at_all(
    names: Sequence[str], load: Callable[[str], Seen], report: Callable[[int], None]
) -> tuple[dict[str, Seen], dict[str, str]]:
    """(what was readable, why the rest was not), in the order of the names."""
    seen: dict[str, Seen] = {}
    broken: dict[str, str] = {}
    blocks = [names[i : i + BLOCK] for i in range(0, len(names), BLOCK)]
    for found in prefetched((partial(look_at, load, block) for block in blocks), threads=reader_threads(), ahead=8):
        for name, result in found:
            if isinstance(result, str):
                broken[name] = result
            else:
                seen[name] = result
        report(len(found))
    return seen, broken


def look_at(load: Callable[[str], Seen], names: Sequence[str]) -> list[tuple[str, Seen | str]]:
    """One block of images, each looked at or explained."""
    found: list[tuple[str, Seen | str]] = []
    for name in names:
        try:
            found.append((name, load(name)))
        except BrokenImage as error:
            found.append((name, str(error)))
    return found


def spread(labels: np.ndarray) -> tuple[int, int, int]:
    """Least, median and most images of an identity."""
    counts = np.bincount(labels[labels >= 0])
    return (int(counts.min()), int(np.median(counts)), int(counts.max())) if len(counts) else (0, 0, 0)


def find_duplicates(listing: Listing, seen: dict[str, Seen]) -> tuple[Duplicates, ...]:
    """Groups of two or more images with the same pixels, those under two identities first."""
    label = dict(zip(listing.names, listing.labels.tolist(), strict=True))
    groups: dict[bytes, list[str]] = {}
    for name, s in seen.items():
        groups.setdefault(s.pixels, []).append(name)
    found = [
        Duplicates(
            names=tuple(names),
            byte_identical=len({seen[name].file for name in names}) == 1,
            across_identities=len({label[name] for name in names}) > 1,
        )
        for names in groups.values()
        if len(names) > 1
    ]
    return tuple(sorted(found, key=lambda d: not d.across_identities))


def people_in(listing: Listing) -> set[str]:
    """The identities, and the people the paths name: a list's labels are often numbers."""
    return {*listing.identities, *(person_of(name) for name in listing.names)}
