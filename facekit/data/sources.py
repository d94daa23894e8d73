"""One door to every form of image data: ``open_source``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, MissingFile, UsageError
from facekit.data.cifar import is_cifar, open_cifar
from facekit.data.files import open_files
from facekit.data.folder import scan_folder
from facekit.data.insightface import is_records, open_records
from facekit.data.listing import Listing, chosen, keep_rows, taken
from facekit.data.lists import read_list
from facekit.data.mapped import file_head
from facekit.data.packed import PackedSource, is_packed
from facekit.data.pairlist import people_of_list
from facekit.data.protocol import Source, Store
from facekit.data.subset import Subset
from facekit.data.tarball import is_tar, open_tar

FORMS = (
    "a folder per identity, a flat folder, a list file, packed data, an MXNet .rec, a .tar of class folders, "
    "or CIFAR's Python batches"
)
CONTAINERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Store]], ...] = (
    (is_packed, PackedSource),
    (is_records, open_records),
    (is_tar, open_tar),
    (is_cifar, open_cifar),
)
"""What holds its own images; the first that recognises a path opens it. Else it is a folder or a list of files."""

__all__ = ["Source", "choose_data", "list_source", "open_source", "select"]


def open_source(
    path: Path,
    *,
    images: Path | None = None,
    exclude: Sequence[Path] = (),
    min_images: int = 1,
    need_labels: bool = False,
    take: str | None = None,
    one_size: bool = True,
) -> Source:
    """Open any of FORMS.

    ``images`` is the root of a list file's paths (default: its folder). ``exclude`` names pair lists whose people are
    left out; ``min_images`` leaves out identities with fewer images; ``take`` "A:B" keeps of each identity its images
    A to B-1 by name. Without ``one_size`` files may differ in size, and only their bytes can be had. Raises MissingFile
    and InputError: nothing there, no images, a broken image, different sizes, and with ``need_labels`` no labels or one
    identity only.
    """
    source, listing = list_source(path, images)
    keep = chosen(listing, people_of(exclude), min_images)
    if take is not None:
        keep = taken(listing, keep, take)
    if not keep.any():
        raise InputError(f"no image of {path} is left after --exclude, --min-images {min_images} and --take {take}")
    kept = keep_rows(listing, keep)
    if need_labels:
        check_labels(kept)
    if source is None:
        return open_files(kept, one_size)
    return source if keep.all() else Subset(source, np.flatnonzero(keep))


def people_of(lists: Sequence[Path]) -> set[str]:
    """Everyone the pair lists name."""
    return {person for path in lists for person in people_of_list(path)}


def list_source(path: Path, images: Path | None = None) -> tuple[Store | None, Listing]:
    """What there is, before any image file is opened. What holds its own images is returned opened, too."""
    if not path.exists():
        raise MissingFile(f"the data {path} does not exist")
    opener = next((open_ for recognises, open_ in CONTAINERS if recognises(path)), None)
    if images is not None and (opener or path.is_dir()):
        raise InputError(f"--images is the image root of a list file, and {path} is none; leave it out")
    if opener:
        source = opener(path)
        return source, Listing(path, path, source.names, source.labels, source.identities)
    if path.is_dir():
        return None, scan_folder(path)
    check_text(path)
    return None, read_list(path, images)


def check_text(path: Path) -> None:
    """A list is text; anything else is refused before it is read to its end."""
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder; give {FORMS}")
    if path.suffix == ".bin":
        raise InputError(f"{path} is a verification .bin, which goes to --benchmark; as data give {FORMS}")
    if b"\0" in file_head(path, 1 << 16):
        raise InputError(f"{path} is not recognised; give {FORMS}")


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
