"""Retrieval sets: queries, and a gallery whose images of the same person should come first.

Either a folder with ``query/`` and ``gallery/`` (or ``bounding_box_test/``) in Market-1501's naming,
``0001_c1s1_000151_01.jpg``: person 1, camera 1; or ``query.csv`` and ``gallery.csv`` with the columns path, label and,
where known, camera.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.data.folder import list_folder
from facekit.data.galleries import Opened, content_of, same_size, usable_files
from facekit.data.listing import Listing
from facekit.data.pairs import numbered
from facekit.data.protocol import Source
from facekit.data.textfile import csv_columns, inside, read_lines

JUNK, DISTRACTOR = "-1", None
"""The person of an image that is left out of every ranking, and of one that is nobody's match."""
MARKET = re.compile(r"(-?[0-9]+)_c([0-9]+)")


class Item(NamedTuple):
    """One listed image."""

    name: str
    person: str | None
    camera: str | None


@dataclass(frozen=True)
class RetrievalSet:
    """Q queries, G gallery images. Persons, cameras and contents are numbers shared by both sides."""

    name: str
    path: str
    query: Source
    gallery: Source
    query_person: np.ndarray
    """int64 [Q], >= 0"""
    gallery_person: np.ndarray
    """int64 [G], -1 for a distractor: an image that is nobody's match"""
    query_camera: np.ndarray
    """int64 [Q], -1 where unknown"""
    gallery_camera: np.ndarray
    """int64 [G]"""
    query_content: np.ndarray
    """int64 [Q]: images of equal content have equal numbers"""
    gallery_content: np.ndarray
    """int64 [G]"""
    failed: int
    notes: tuple[str, ...]


def open_retrieval(root: Path, images: Path | None = None) -> RetrievalSet:
    """Open a set. ``images`` is the root of the paths in the CSV files (default: ``root/images``, else ``root``).

    As the field does: images of person -1 are left out on both sides; those of person 0000 in Market-1501's naming,
    and those without a label in a CSV, are distractors in the gallery and no queries. Raises MissingFile and
    InputError.
    """
    if not root.is_dir():
        raise MissingFile(f"the retrieval set {root} is not a folder")
    if (root / "query.csv").is_file():
        below = images or (root / "images" if (root / "images").is_dir() else root)
        places = (root / "query.csv", below), (root / "gallery.csv", below)
        listed = [read_table(table, folder) for table, folder in places]
    else:
        gallery = "gallery" if (root / "gallery").is_dir() else "bounding_box_test"
        places = (root / "query", root / "query"), (root / gallery, root / gallery)
        listed = [read_market(folder) for _, folder in places]
    notes: list[str] = []
    sides: list[Opened] = []
    for role, items, (origin, folder) in zip(("query", "gallery"), listed, places, strict=True):
        kept = [i for i in items if i.person != JUNK and (role == "gallery" or i.person is not DISTRACTOR)]
        if len(kept) < len(items):
            notes.append(
                f"{len(items) - len(kept)} of {len(items)} {role} images are junk and left out, as the field does"
            )
        sides.append(usable_files(origin, role, as_listing(origin, folder, role, kept)))
    same_size(*((origin, side.source) for (origin, _), side in zip(places, sides, strict=True)))
    return joined(root, sides, listed, notes)


def read_market(folder: Path) -> list[Item]:
    """The images of one folder, person and camera read off their names."""
    items = []
    for name in list_folder(folder)[1]:
        found = MARKET.match(name)
        if found is None:
            raise InputError(
                f"{folder / name} is not named <person>_c<camera>..., as 0001_c1s1_000151_01.jpg; rename it, or list "
                "the images in query.csv and gallery.csv with the columns path,label,camera"
            )
        person = int(found[1])
        items.append(Item(name, DISTRACTOR if person == 0 else str(person), str(int(found[2]))))
    return items


def read_table(path: Path, root: Path) -> list[Item]:
    """``path,label[,camera]`` in any column order, further columns ignored."""
    lines = read_lines(path)
    header = csv_columns(lines[0].text)
    if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
        raise InputError(f"{path}, line 1: {lines[0].text[:80]!r} must name the columns path and label, each once")
    items: dict[str, Item] = {}
    for line in lines[1:]:
        values = csv_columns(line.text)
        if len(values) != len(header):
            raise InputError(
                f"{path}, line {line.number}: {line.text[:80]!r} where {len(header)} columns were expected"
            )
        row = dict(zip(header, values, strict=True))
        name = inside(root, row["path"], f"{path}, line {line.number}")
        if name in items:
            raise InputError(f"{path}, line {line.number}: {name} is listed twice")
        items[name] = Item(name, row["label"] or DISTRACTOR, row.get("camera") or None)
    return list(items.values())


def as_listing(origin: Path, root: Path, role: str, items: Sequence[Item]) -> Listing:
    """The items as every other source lists them."""
    if not items:
        raise InputError(f"{origin} leaves no {role} image that shows a known person")
    return Listing(origin, root, [item.name for item in items], *numbered([item.person for item in items]))


def joined(root: Path, sides: Sequence[Opened], listed: Sequence[Sequence[Item]], notes: Sequence[str]) -> RetrievalSet:
    """Persons, cameras and contents of both sides under common numbers."""
    items = []
    for side, all_items in zip(sides, listed, strict=True):
        of_name = {item.name: item for item in all_items}
        items.append([of_name[name] for name in side.source.names])
    person, _ = numbered([item.person for side in items for item in side])
    camera, _ = numbered([item.camera for side in items for item in side])
    content = np.unique(np.concatenate([content_of(side.source) for side in sides]), return_inverse=True)[1]
    query, gallery = slice(len(items[0])), slice(len(items[0]), None)
    if not np.isin(person[query], person[gallery]).any():
        raise InputError(f"no person of the queries of {root} is in its gallery; both sides must use the same labels")
    return RetrievalSet(
        name=root.absolute().name,
        path=root.as_posix(),
        query=sides[0].source,
        gallery=sides[1].source,
        query_person=person[query],
        gallery_person=person[gallery],
        query_camera=camera[query],
        gallery_camera=camera[gallery],
        query_content=content[query],
        gallery_content=content[gallery],
        failed=sides[0].failed + sides[1].failed,
        notes=(*notes, *sides[0].notes, *sides[1].notes),
    )
