"""One door to every form of image data: ``open_source``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, MissingFile, UsageError
from facekit.data.files import open_files
from facekit.data.folder import scan_folder
from facekit.data.listing import Listing, with_min_images, without_people
from facekit.data.lists import read_list
from facekit.data.packed import PackedSource, is_packed
from facekit.data.pairlist import people_of_list
from facekit.data.protocol import Source, Store
from facekit.data.subset import Subset

__all__ = ["Source", "choose_data", "list_source", "open_source", "select"]


def open_source(
    path: Path,
    *,
    images: Path | None = None,
    exclude: Sequence[Path] = (),
    min_images: int = 1,
    need_labels: bool = False,
) -> Source:
    """Open a folder per identity, a flat folder, a list file or packed data.

    ``images`` is the root of a list file's paths (default: its folder). ``exclude`` names pair lists whose people are
    left out; ``min_images`` leaves out identities with fewer images. Raises MissingFile and InputError: nothing there,
    no images, a broken image, different sizes, and with ``need_labels`` no labels or one identity only.
    """
    source, listing = list_source(path, images)
    people = set().union(*(people_of_list(p) for p in exclude)) if exclude else set()
    kept = with_min_images(without_people(listing, people) if people else listing, min_images)
    if not kept.names:
        raise InputError(f"no image of {path} is left after --exclude and --min-images {min_images}")
    if need_labels:
        check_labels(kept)
    if source is None:
        return open_files(kept)
    if kept is listing:
        return source
    names = set(kept.names)
    return Subset(source, np.array([i for i, name in enumerate(listing.names) if name in names], np.int64))


def list_source(path: Path, images: Path | None = None) -> tuple[PackedSource | None, Listing]:
    """What there is, before any image file is opened. The pack is returned too where the path is one."""
    if not path.exists():
        raise MissingFile(f"the data {path} does not exist")
    if not path.is_dir():
        return None, read_list(path, images)
    if images is not None:
        raise InputError(f"--images is the image root of a list file, and {path} is a folder; leave it out")
    if not is_packed(path):
        return None, scan_folder(path)
    source = PackedSource(path)
    return source, Listing(path, path, source.names, source.labels, source.identities)


def select(source: Source, keep: np.ndarray) -> Source:
    """The images where ``keep`` (bool [N]) holds, or at ``keep`` (int [n]); labels are numbered densely again."""
    keep = np.asarray(keep)
    rows = np.flatnonzero(keep) if keep.dtype == bool else keep.astype(np.int64)
    store: Store = source  # type: ignore[assignment]  # every source of this package is also a store
    return Subset(store, rows)


def check_labels(listing: Listing) -> None:
    """Training on identities needs at least two, and a label for every image."""
    unknown = int((listing.labels < 0).sum())
    if unknown:
        first = listing.names[int(np.flatnonzero(listing.labels < 0)[0])]
        raise InputError(
            f"{listing.origin} has no labels for {unknown} of {len(listing.names)} images (the first is {first}), and "
            "labels are needed; use a folder per identity, a list with labels, or a method that needs none"
        )
    if len(listing.identities) < 2:
        raise InputError(f"{listing.origin} has one identity only ({listing.identities[0]}); at least two are needed")


def choose_data(given: Path | None, teacher_data: str | None = None) -> Path:
    """The data folder: the flag, else what the teacher was trained on, else $FACEKIT_DATA."""
    if given is not None:
        return given
    if teacher_data and Path(teacher_data).exists():
        return Path(teacher_data)
    if default := os.environ.get("FACEKIT_DATA"):
        return Path(default)
    raise UsageError("no images given: add --data FOLDER, or set FACEKIT_DATA to your folder of faces")
