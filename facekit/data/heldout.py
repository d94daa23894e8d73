"""Images that nobody trains on: to measure how hard a teacher is to follow, or to choose by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, UsageError
from facekit.data import overlap
from facekit.data.lists import detect as form_of_list
from facekit.data.mapped import file_head
from facekit.data.pairlist import detect as form_of_pairs
from facekit.data.pairs import ALL, open_benchmark
from facekit.data.protocol import Source, Store
from facekit.data.sources import open_source


def open_held_out(text: str, images: Path | None = None, take: str | None = None) -> Source:
    """The images of a pair list, of allpairs:LIST or a .bin (``images`` is the root of paths), or any form of data.

    ``take`` chooses images of every identity, as in ``open_source``. Raises MissingFile, InputError, UsageError.
    """
    path = Path(text)
    if text.startswith(ALL) or path.suffix == ".bin" or is_pair_list(path):
        if take is not None:
            raise UsageError(f"--val-take chooses among the images of people or classes, and {text} is a list of pairs")
        return open_benchmark(text, images).source
    return open_source(path, images=images, take=take)


def is_pair_list(path: Path) -> bool:
    """True for text whose first line is one of a pair list. ``path label`` may be either: such a list names images."""
    if not path.is_file() or b"\0" in (head := file_head(path, 1 << 16)):
        return False
    first = head.decode("utf-8-sig", "replace").strip().split("\n")[0]
    form = form_of_pairs(first)
    if form == "labelled":  # index, label and path of MXNet's lists also make three columns
        return form_of_list(first) != "mxnet" or first.split()[-1].lower() in ("0", "1", "true", "false")
    return form in ("lfw", "csv")


def shared_images(one: Source, other: Source) -> int:
    """How many images of ``one`` are in ``other`` too, by the hash of their files, or of their pixels without files."""
    mine, theirs = file_digests(one), file_digests(other)
    if mine is None or theirs is None:
        return len(overlap.shared_images(one, other))
    known = set(map(bytes, theirs))
    return sum(bytes(digest) in known for digest in mine)


def file_digests(source: Source) -> np.ndarray | None:
    """SHA-256 of the image files, uint8 [N,32]; None where there are none."""
    store: Store = source  # type: ignore[assignment]  # every source of this package is also a store
    return store.digests(np.arange(len(source)))


def check_apart(held_out: Source, name: str, others: Source, what: str) -> None:
    """Refuse held-out images that are among the ``others``, saying how many. Raises InputError."""
    if count := shared_images(held_out, others):
        raise InputError(
            f"{count} of the {len(held_out)} images of {name} are also {what}: hardness must be measured on others; "
            "give other images, or leave these out there"
        )
