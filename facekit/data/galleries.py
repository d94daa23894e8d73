"""Two sets of images for identification: people who are enrolled, and probes that are searched among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError
from facekit.data.files import FileSource
from facekit.data.fingerprint import Facts, inspect_files, read_image_file
from facekit.data.listing import Listing, keep_rows
from facekit.data.pairs import require_images, usable
from facekit.data.protocol import Source, Store
from facekit.data.sources import CONTAINERS, list_source
from facekit.data.textfile import is_integer
from facekit.data.vectors import NamedOnly, is_vectors, open_vectors


@dataclass(frozen=True)
class GallerySet:
    """G enrolled images, P probes, and who is on them: one number per name, the same on both sides."""

    name: str
    path: str
    gallery: Source
    probe: Source
    gallery_subject: np.ndarray
    """int64 [G], position in ``people``"""
    probe_subject: np.ndarray
    """int64 [P]"""
    people: tuple[str, ...]
    failed: int
    """Images of either side that are missing, broken or of another size"""
    notes: tuple[str, ...]

    @property
    def mated(self) -> np.ndarray:
        """bool [P], whether the probe's person is enrolled."""
        return np.isin(self.probe_subject, self.gallery_subject)


@dataclass(frozen=True)
class Opened:
    """One of the two, read."""

    source: Source
    failed: int
    notes: tuple[str, ...]

    @property
    def who(self) -> list[str]:
        """The name on each image."""
        return [self.source.identities[label] for label in self.source.labels.tolist()]


def open_galleries(gallery: Path, probe: Path, images: Path | None = None) -> GallerySet:
    """Open two folders (one sub-folder per person), list files, packed sets or files of embeddings.

    ``images`` is the root of a list file's paths. People are joined by name. Raises MissingFile and InputError: no
    labels, nobody enrolled among the probes' people, images of two sizes.
    """
    sides = read_side(gallery, "gallery", images), read_side(probe, "probe", images)
    enrolled, searched = sides[0].source, sides[1].source
    same_size((gallery, enrolled), (probe, searched))
    check_numbering(gallery, probe, *sides)
    people = tuple(sorted({*sides[0].who, *sides[1].who}))
    number = {name: i for i, name in enumerate(people)}
    subjects = [np.array([number[name] for name in side.who], np.int64) for side in sides]
    mated = int(np.isin(subjects[1], subjects[0]).sum())
    if not mated:
        raise InputError(
            f"no person of {probe} ({sides[1].who[0]}, ...) is enrolled in {gallery} ({sides[0].who[0]}, ...); people "
            "are joined by name, so use the same names in both"
        )
    notes = (*sides[0].notes, *sides[1].notes, *shared_images(enrolled, searched))
    return GallerySet(
        name=f"{probe.stem}-in-{gallery.stem}",
        path=f"{gallery.as_posix()} {probe.as_posix()}",
        gallery=enrolled,
        probe=searched,
        gallery_subject=subjects[0],
        probe_subject=subjects[1],
        people=people,
        failed=sides[0].failed + sides[1].failed,
        notes=(*notes, what_it_supports(len(np.unique(subjects[0])), mated, len(searched) - mated)),
    )


def same_size(first: tuple[Path, Source], second: tuple[Path, Source]) -> None:
    """One model reads both sides; embeddings have no size."""
    (a, (height, width)), (b, other) = ((path, source.size) for path, source in (first, second))
    if 0 not in (height, *other) and (height, width) != other:
        raise InputError(
            f"the images of {a} are {height}x{width}, those of {b} {other[0]}x{other[1]}; crop both the same way"
        )


def what_it_supports(enrolled: int, mated: int, non_mated: int) -> str:
    """How many searches of either kind there are, and so which FPIRs can be told."""
    counts = f"{enrolled:,} people enrolled, {mated:,} mated and {non_mated:,} non-mated searches"
    if not non_mated:
        return f"{counts}: no FPIR can be measured; add probes of people who are not enrolled"
    least, sure = 1 / non_mated, 30 / non_mated
    known = f", to within 30 % from {sure:.2g} on" if sure < 1 else ""
    return f"{counts}: an FPIR of {least:.2g} or more can be measured{known}"


def read_side(path: Path, role: str, images: Path | None) -> Opened:
    """The usable images of a gallery or of probes, and what was left out."""
    if path.exists() and is_vectors(path):
        vectors = open_vectors(path).source()
        require_labels(path, role, vectors.names, vectors.labels)
        return Opened(vectors, 0, ())
    is_list = path.is_file() and not any(recognises(path) for recognises, _ in CONTAINERS)
    store, listing = list_source(path, images if is_list else None)
    require_labels(path, role, listing.names, listing.labels)
    return usable_files(path, role, listing) if store is None else stored_images(role, store)


def require_labels(path: Path, role: str, names: Sequence[str], labels: np.ndarray) -> None:
    """Who is who must be known on both sides."""
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        fix = "give strangers a name of their own" if role == "probe" else "everybody who is enrolled needs a name"
        raise InputError(
            f"the {role} {path} does not tell the person on {len(unknown)} of {len(names)} images (the first is "
            f"{names[int(unknown[0])]}); use a folder per person or a list with labels: {fix}"
        )


def usable_files(path: Path, role: str, listing: Listing) -> Opened:
    """Those images of a folder or list that decode and have the commonest size."""
    facts = inspect_files(listing.root, listing.names)
    found = usable(facts.size, dict(facts.reasons), lambda i: read_image_file(listing.root / listing.names[i]))
    require_images(found, listing.names, path, listing.root)
    kept = keep_rows(listing, found.row >= 0)
    source = FileSource(kept, Facts(facts.sha256[found.kept], facts.size[found.kept], {}))
    if not found.reasons:
        return Opened(source, 0, ())
    first = min(found.reasons)
    notes = [
        f"{len(found.reasons)} of {len(listing.names)} {role} images cannot be used (the first is "
        f"{listing.names[first]}: {found.reasons[first]})"
    ]
    lost = sorted({*listing.identities} - {*kept.identities})
    if lost:
        notes.append(f"{len(lost)} people of the {role} have no usable image (the first is {lost[0]})")
    return Opened(source, len(found.reasons), tuple(notes))


def stored_images(role: str, store: Store) -> Opened:
    """A set that holds its own images: what opening it had to skip is counted."""
    if not store.broken:
        return Opened(store, 0, store.notes)
    where, why = store.broken[0]
    note = f"{len(store.broken)} {role} images cannot be used (the first is {where}: {why})"
    return Opened(store, len(store.broken), (*store.notes, note))


def check_numbering(gallery: Path, probe: Path, enrolled: Opened, searched: Opened) -> None:
    """Numbers that two tools gave independently are not names: one folder must not be 3 here and 7 there."""
    if not all(is_integer(name) for side in (enrolled, searched) for name in side.source.identities):
        return
    here, there = people_by_folder(enrolled), people_by_folder(searched)
    for folder in sorted(here.keys() & there.keys()):
        if here[folder] != there[folder]:
            raise InputError(
                f"the folder {folder} is person {here[folder]} in {gallery} and {there[folder]} in {probe}: the two "
                "were numbered independently; label both with names"
            )


def people_by_folder(side: Opened) -> dict[str, str]:
    """Folder -> person where every person has a folder of their own, else nothing."""
    found = {(name.rpartition("/")[0], who) for name, who in zip(side.source.names, side.who, strict=True)}
    people = dict(found)
    return people if len(found) == len(people) == len(set(people.values())) > 1 else {}


def shared_images(gallery: Source, probe: Source) -> list[str]:
    """A sentence about probes that are enrolled themselves: they are found for nothing."""
    both = [content_of(source) for source in (gallery, probe)]
    if both[0] is None or both[1] is None or isinstance(gallery, NamedOnly) != isinstance(probe, NamedOnly):
        return []
    again = int(np.isin(both[1], both[0]).sum())
    return [f"{again} of {len(probe)} probe images are enrolled themselves (same content)"] if again else []


def content_of(source: Source) -> np.ndarray | None:
    """The hash of each image as one item, [N]; None where the images are gone."""
    store: Store = source  # type: ignore[assignment]  # every source of this package has digests
    digests = store.digests(np.arange(len(source)))
    return None if digests is None else np.ascontiguousarray(digests).view("S32").ravel()
