"""IJB-B and IJB-C in InsightFace's layout: templates of images, listed pairs of templates, 1:N galleries.

``IJBC/loose_crop/*.jpg`` and ``IJBC/meta/`` with ``ijbc_face_tid_mid.txt`` (image, template, media),
``ijbc_name_5pts_score.txt`` (image, five points, detection score), ``ijbc_template_pair_label.txt`` and, where there,
``ijbc_1N_gallery_G1.csv``, ``.._G2.csv`` and ``ijbc_1N_probe_mixed.csv``; IJB-B has S1 and S2. Images that are missing,
broken or without usable points are counted and named, and so is what depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.core.files import sha256_file
from facekit.data.columns import read_columns
from facekit.data.fingerprint import inspect_files
from facekit.data.landmarks import similarity
from facekit.data.listing import Listing
from facekit.data.memory import free_ram
from facekit.data.pairs import explain
from facekit.data.protocol import Source
from facekit.data.textfile import inside
from facekit.data.vectors import NamedOnly
from facekit.data.warped import WarpedSource

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
POINTS = " ".join(f"{axis}{i}:float" for i in range(1, 6) for axis in "xy")
NOBODY = np.empty(0, np.int32)
SHORTEST_PAIR = 6
"""Bytes of the line ``1 2 0``."""
BYTES_PER_PAIR = 36
"""Two positions and a label, twice while they are put in order, and a score."""


@dataclass(frozen=True)
class Gallery:
    """Templates that are enrolled together."""

    name: str
    template: np.ndarray
    """int32 [G], positions"""


@dataclass(frozen=True)
class TemplateSet:
    """P pairs of T templates, which are pooled from the N images of ``source``."""

    name: str
    path: str
    sha256: str
    """Of the list of pairs."""
    source: Source
    template: np.ndarray
    """int32 [N], position of the image's template"""
    media: np.ndarray
    """int64 [N], the photograph or video that the image is from"""
    faceness: np.ndarray
    """float64 [N], detection score"""
    template_id: np.ndarray
    """int64 [T], as the lists call them"""
    left: np.ndarray
    """int32 [P], position of the enrolled template, ascending"""
    right: np.ndarray
    """int32 [P]"""
    same: np.ndarray
    """bool [P]"""
    subject: np.ndarray
    """int64 [T], the person; -1 where no 1:N list tells"""
    subjects: tuple[str, ...]
    galleries: tuple[Gallery, ...]
    """() where the 1:N lists are not there"""
    probe: np.ndarray
    """int32 [Q], positions of the templates that are searched in every gallery"""
    failed: int
    notes: tuple[str, ...]


class Listed(NamedTuple):
    """The images of the lists, row by row."""

    names: list[str]
    template_id: np.ndarray
    """int64 [N]"""
    media: np.ndarray
    """int64 [N]"""
    points: np.ndarray
    """float64 [N,5,2]"""
    faceness: np.ndarray
    """float64 [N]"""

    def at(self, rows: np.ndarray) -> Listed:
        """Some of them."""
        return Listed([self.names[i] for i in rows.tolist()], *(column[rows] for column in self[1:]))


class Templates(NamedTuple):
    """Every template that has images on the list."""

    ids: np.ndarray
    """int64 [A], ascending"""
    place: np.ndarray
    """int32 [A], its position among those that have a usable image; -1 for the others"""

    @staticmethod
    def of(template_id: np.ndarray, usable: np.ndarray) -> Templates:
        """From the template of each image and whether the image can be used, [N] each."""
        ids, position = np.unique(template_id, return_inverse=True)
        alive = np.bincount(position[usable], minlength=len(ids)) > 0
        return Templates(ids, np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32))

    def find(self, template_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions int32 [n], -1 where none; whether the template is on the list at all, bool [n])."""
        row = np.minimum(np.searchsorted(self.ids, template_id), len(self.ids) - 1)
        known = self.ids[row] == template_id
        return np.where(known, self.place[row], np.int32(-1)), known


def open_ijb(folder: Path, name: str, *, pixels: bool = True) -> TemplateSet:
    """Open ``name`` (ijbb | ijbc) in ``folder``, which is IJBB or IJBC or holds it.

    Without ``pixels`` the images need not be there: embeddings will be found by the images' names. Raises MissingFile
    and InputError, with file and line where a list has another form.
    """
    root = folder / name.upper() if (folder / name.upper()).is_dir() else folder
    meta, images = root / "meta", root / "loose_crop"
    if not meta.is_dir():
        raise MissingFile(f"{folder} holds no {name.upper()}/meta; give the folder that has meta/ and loose_crop/")
    listed = read_images(meta, name, images)
    facts = inspect_files(images, listed.names) if pixels else None
    reasons = unusable(listed) | (facts.reasons if facts else {})
    usable = np.ones(len(listed.names), bool)
    usable[list(reasons)] = False
    if not usable.any():
        raise InputError(f"no image under {images} can be used (the first is {listed.names[0]}: {reasons[0]})")
    kept = listed.at(np.flatnonzero(usable))
    templates = Templates.of(listed.template_id, usable)
    pair_list = meta / f"{name}_template_pair_label.txt"
    pairs = read_pairs(pair_list, templates)
    searches = read_searches(meta, name, templates)
    listing = Listing(meta, images, kept.names, np.full(len(kept.names), -1, np.int64), ())
    return TemplateSet(
        name=name,
        path=root.as_posix(),
        sha256=sha256_file(pair_list),
        source=WarpedSource(listing, facts.sha256[usable], kept.points)
        if facts
        else NamedOnly(kept.names, listing.labels, ()),
        template=templates.find(kept.template_id)[0],
        media=kept.media,
        faceness=kept.faceness,
        template_id=templates.ids[templates.place >= 0],
        left=pairs.left,
        right=pairs.right,
        same=pairs.same,
        subject=searches.subject,
        subjects=searches.subjects,
        galleries=searches.galleries,
        probe=searches.probe,
        failed=len(reasons),
        notes=(*explain(reasons, listed.names, pairs.listed, len(pairs.same)), *searches.notes),
    )


# --- images -----------------------------------------------------------------------------------------------


def read_images(meta: Path, name: str, images: Path) -> Listed:
    """Image, template, media, points and detection score of every line, from the two lists of images."""
    path = meta / f"{name}_face_tid_mid.txt"
    names, template_id, media = joined(read_columns(path, "image:text template_id:int media_id:int"))
    described, *numbers = joined(
        read_columns(meta / f"{name}_name_5pts_score.txt", f"image:text {POINTS} faceness:float")
    )
    if not np.array_equal(names, described):
        row = {image: i for i, image in enumerate(described)}
        order = np.array([row.get(image, -1) for image in names])
        # Images without a line get the last row, whose points are not numbers.
        numbers = [np.append(column, np.nan)[order] for column in numbers]
    points = np.stack(numbers[:10], axis=1).reshape(-1, 5, 2)
    return Listed([inside(images, str(image), str(path)) for image in names], template_id, media, points, numbers[10])


def joined(pieces: Iterator[list[np.ndarray]]) -> list[np.ndarray]:
    """Each column in one piece."""
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def unusable(listed: Listed) -> dict[int, str]:
    """Images whose numbers give no crop or no weight, with the reason."""
    no_weight = np.flatnonzero(~np.isfinite(listed.faceness)).tolist()
    no_crop = np.flatnonzero(~np.isfinite(similarity(listed.points)).all(axis=(1, 2))).tolist()
    return {
        **dict.fromkeys(no_weight, "its detection score is not a number"),
        **dict.fromkeys(no_crop, "it has no five points that give a crop"),
    }


# --- pairs ------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """The pairs whose templates both have a usable image, by ascending ``left``."""

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    listed: int
    """Pairs on the list, those included that are left out"""


def read_pairs(path: Path, templates: Templates) -> Pairs:
    """The list of pairs. Raises InputError, with the line, for a template without images and a label not 0 or 1."""
    require_memory(path)
    kept, listed = [], 0
    for first, second, label in read_columns(path, "template_id_1:int template_id_2:int same:int"):
        (left, on_list), (right, also) = templates.find(first), templates.find(second)
        right_form = on_list & also & ((label == 0) | (label == 1))
        if not right_form.all():
            i = int(np.argmin(right_form))
            raise InputError(
                f"{path}, line {listed + i + 1}: `{first[i]} {second[i]} {label[i]}` is not a pair of templates that "
                "have images on the list, and 0 or 1"
            )
        usable = (left >= 0) & (right >= 0)
        kept.append((left[usable], right[usable], label[usable] == 1))
        listed += len(label)
    left, right, same = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    kept.clear()
    if same.all() or not same.any():
        raise InputError(
            f"{path} leaves {int(same.sum())} same and {int((~same).sum())} different pairs; both are needed"
        )
    if (np.diff(left) < 0).any():
        order = np.argsort(left, kind="stable")
        left, right, same = left[order], right[order], same[order]
    return Pairs(left, right, same, listed)


def require_memory(path: Path) -> None:
    """A list of more pairs than fit is refused before it is read."""
    try:
        most = path.stat().st_size // SHORTEST_PAIR
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    if most * BYTES_PER_PAIR > free_ram():
        raise InputError(f"{path} may hold {most:,} pairs, too many for the free memory; take a shorter list")


# --- 1:N --------------------------------------------------------------------------------------------------


class SearchLists(NamedTuple):
    """Who is on each template, what is enrolled, what is searched."""

    subject: np.ndarray
    subjects: tuple[str, ...]
    galleries: tuple[Gallery, ...]
    probe: np.ndarray
    notes: tuple[str, ...]


def read_searches(meta: Path, name: str, templates: Templates) -> SearchLists:
    """The two galleries and the mixed probes, where all three lists are there; the subjects of whatever is."""
    files = {key: meta / f"{name}_1N_gallery_{key}.csv" for key in GALLERIES[name]}
    files["probe"] = meta / f"{name}_1N_probe_mixed.csv"
    there = {key: joined(read_columns(path, "TEMPLATE_ID:int SUBJECT_ID:text", comma=True))
             for key, path in files.items() if path.is_file()}  # fmt: skip
    person: dict[int, str] = {}
    found, lost = {}, 0
    for key, (ids, people) in there.items():
        for template_id, who in zip(ids.tolist(), people, strict=True):
            if person.setdefault(template_id, who) != who:
                raise InputError(
                    f"{files[key]}: template {template_id} shows {who}, and elsewhere {person[template_id]}"
                )
        ids = np.unique(ids)  # a line per image, or one per template
        place = templates.find(ids)[0]
        found[key], lost = place[place >= 0], lost + int(np.sum(place < 0))
    subjects = tuple(sorted(set(person.values())))
    number = {who: i for i, who in enumerate(subjects)}
    usable = templates.ids[templates.place >= 0].tolist()
    subject = np.array([number[person[i]] if i in person else -1 for i in usable], np.int64)
    notes = [f"{lost} templates of the 1:N lists have no usable image and are left out"] if lost else []
    galleries: tuple[Gallery, ...] = ()
    if len(there) == len(files):
        galleries = tuple(Gallery(key, found[key]) for key in GALLERIES[name])
    for gallery in galleries:
        if not np.isin(subject[found["probe"]], subject[gallery.template]).any():
            notes.append(f"nobody who is searched is enrolled in gallery {gallery.name}, so there is no 1:N")
            galleries = ()
    return SearchLists(subject, subjects, galleries, found["probe"] if galleries else NOBODY, tuple(notes))
