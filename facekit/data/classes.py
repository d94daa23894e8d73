"""Closed-set benchmarks: labelled images, and whether a network knows their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError
from facekit.data.protocol import Source
from facekit.data.sources import open_source

EXAMPLES = 3
"""Class names that a message shows."""


@dataclass(frozen=True)
class ClassSet:
    """N images of K classes: ``source.identities`` are the names of ``source.labels``, which are all >= 0."""

    name: str
    path: str
    source: Source
    failed: int
    """Images that opening had to skip"""
    notes: tuple[str, ...]


def open_classes(path: Path, images: Path | None = None) -> ClassSet:
    """Open a folder of classes, a list with labels, packed data, a .rec, a .tar or CIFAR's batches.

    ``images`` is the root of a list file's paths. Raises MissingFile, and InputError where an image has no label.
    """
    source = open_source(path, images=images)
    unknown = np.flatnonzero(source.labels < 0)
    if len(unknown):
        raise InputError(
            f"{path} has no labels for {len(unknown):,} of {len(source):,} images, such as {source.names[unknown[0]]}, "
            "and classification needs them all: use a folder per class, or a list with labels"
        )
    name = path.absolute().stem if path.is_file() else path.absolute().name
    broken: Sequence[object] = getattr(source, "broken", ())  # containers skip what they cannot read, and keep count
    return ClassSet(f"classes:{name}", path.as_posix(), source, len(broken), source.notes)


def columns_of(bench: ClassSet, known: Sequence[str]) -> tuple[np.ndarray, str]:
    """(class of the network for each class of the data, int64 [K]; a note where names do not vouch for it)."""
    return matched_columns(bench.source.identities, known, bench.path)


def matched_columns(names: Sequence[str], known: Sequence[str], path: str) -> tuple[np.ndarray, str]:
    """(place in ``known``, the classes of a network, of each of the data's ``names``, int64 [K]; a note or "").

    Classes are matched by name, and the data may have fewer of them. A network whose classes are only numbered, "0" to
    "n-1", as foreign files come, is matched by order where the data has as many. Raises InputError for unknown names.
    """
    place = {name: column for column, name in enumerate(known)}
    strange = [name for name in names if name not in place]
    if not strange:
        return np.array([place[name] for name in names], np.int64), ""
    if len(names) == len(known) and tuple(known) == tuple(map(str, range(len(known)))):
        order = shown([f"{column} {name}" for column, name in enumerate(names)])
        return np.arange(len(names)), f"the model's classes have no names and were matched by order: {order}"
    raise InputError(
        f"{path}: the model does not know {len(strange)} of the {len(names)} classes: {shown(strange)}; it knows "
        f"{shown(known)}; give images of these classes, under the same names"
    )


def shown(names: Sequence[str]) -> str:
    """``cat, dog, frog ...``."""
    return ", ".join(names[:EXAMPLES]) + (" ..." if len(names) > EXAMPLES else "")
