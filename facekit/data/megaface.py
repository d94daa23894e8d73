"""MegaFace challenge 1: FaceScrub probes, up to a million distractors, and the lists of what is noise among them.

A folder with ``facescrub_lst`` or ``facescrub_features_list.json``, ``megaface_lst`` or
``megaface_features_list.json_1000000_1``, and for both sides either images (``facescrub_images/``,
``megaface_images/``), features (``feature_out/facescrub/``, ``feature_out/megaface/``) or embeddings
(``facescrub.npz``, ``megaface.npy`` ..), which need no list. The noise lists are ``facescrub_noises.txt`` and
``megaface_noises.txt``. What is missing is counted and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile, unknown_name
from facekit.core.files import read_json
from facekit.data.featurefiles import FeatureFiles, find_features
from facekit.data.files import FileSource
from facekit.data.fingerprint import Facts, inspect_files
from facekit.data.listing import Listing
from facekit.data.pairs import numbered
from facekit.data.protocol import Source
from facekit.data.textfile import inside, read_lines
from facekit.data.vectors import NamedOnly, VectorFile, bare, open_vectors

NOISE = ("original", "cleaned", "insightface")
DEPTH = {"facescrub": 2, "megaface": 3}
"""Parts of a path that name an image: identity/file, and a1/a2/file."""
MOST_PEOPLE = 1 << 16
NAMED = 5
"""Images that cannot be used are counted; so many of them are named."""


@dataclass(frozen=True)
class MegaFaceSet:
    """P probes of some people, and D distractors in the order of their list."""

    name: str
    path: str
    noise: str
    """original | cleaned | insightface"""
    seed: int
    """Of the replacements."""
    probes: Source
    probe: np.ndarray
    """int64 [P], positions in ``probes``"""
    person: np.ndarray
    """int64 [P]"""
    people: tuple[str, ...]
    replaced: np.ndarray
    """bool [P], noise that insightface's lists replace by the centre of the person's other images"""
    distractors: Source
    distractor: np.ndarray
    """int64 [D], positions in ``distractors``"""
    ignored: np.ndarray
    """bool [D], noise that insightface's lists move out of reach: never similar to anybody, but counted"""
    failed: int
    notes: tuple[str, ...]


class Side(NamedTuple):
    """The probes or the distractors that are there, in the order of their list."""

    source: Source
    row: np.ndarray
    """int64 [n], positions in ``source``"""
    names: Sequence[str]
    """[n]"""
    people: Sequence[str | None]
    """[n]"""
    failed: int
    notes: tuple[str, ...]


def open_megaface(folder: Path, noise: str = "cleaned", *, seed: int = 0, pixels: bool = True) -> MegaFaceSet:
    """Open ``folder`` with noise that is kept (original), dropped (cleaned) or replaced (insightface, by ``seed``).

    Images are taken where there are any and ``pixels`` is set, else embeddings or features of the folder, else the
    names alone. Raises UsageError, MissingFile and InputError.
    """
    if noise not in NOISE:
        raise unknown_name("noise list", noise, NOISE)
    if not folder.is_dir():
        raise MissingFile(f"the MegaFace folder {folder} does not exist")
    probes, distractors = (open_side(folder, side, pixels) for side in DEPTH)
    (bad_probe, said), (bad_distractor, also) = (
        noisy(folder, side, found.names, noise) for side, found in zip(DEPTH, (probes, distractors), strict=True)
    )
    dropped = noise == "cleaned"
    probe, distractor = (np.flatnonzero(~(bad & dropped)) for bad in (bad_probe, bad_distractor))
    person, people = numbered([probes.people[i] for i in probe.tolist()])
    found = MegaFaceSet(
        name="megaface",
        path=folder.as_posix(),
        noise=noise,
        seed=seed,
        probes=probes.source,
        probe=probes.row[probe],
        person=person,
        people=people,
        replaced=bad_probe[probe],
        distractors=distractors.source,
        distractor=distractors.row[distractor],
        ignored=bad_distractor[distractor],
        failed=probes.failed + distractors.failed,
        notes=(*probes.notes, *distractors.notes, *said, *also),
    )
    check(found)
    return found


def check(found: MegaFaceSet) -> None:
    """There is something to measure."""
    if (found.person < 0).any() or len(found.people) > MOST_PEOPLE:
        raise InputError(
            f"{found.path} must tell the person on every probe, {MOST_PEOPLE:,} at most: by the folder that its image "
            "is in, or by the key id of facescrub_features_list.json"
        )
    clean = np.bincount(found.person[~found.replaced], minlength=len(found.people))
    for who in np.unique(found.person[found.replaced]).tolist():
        if not clean[who]:
            raise InputError(
                f"all probes of {found.people[who]} are noise, so they have no centre to be replaced by; use the noise "
                "lists cleaned or original"
            )
    if not (np.bincount(found.person, minlength=1) > 1).any() or not len(found.distractor):
        raise InputError(
            f"{found.path} leaves {len(found.probe)} probes of {len(np.unique(found.person))} people and "
            f"{len(found.distractor)} distractors; two probes of one person and a distractor are the least"
        )


# --- noise --------------------------------------------------------------------------------------------------


def noisy(folder: Path, side: str, names: Sequence[str], noise: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(bool [n], which images the noise list names; a sentence about it). No list is read for the original set."""
    if noise == "original":
        return np.zeros(len(names), bool), ()
    path = folder / f"{side}_noises.txt"
    if not path.is_file():
        raise MissingFile(f"{path} does not exist, and the noise list {noise!r} needs it; use original without it")
    entries = {entry(line.text, side) for line in read_lines(path) if not line.text.startswith("#")}
    found = np.fromiter((entry(name, side) in entries for name in names), bool, len(names))
    return found, (f"{int(found.sum())} of {len(names)} {side} images are noise ({len(entries)} are listed)",)


def entry(text: str, side: str) -> str:
    """What a noise list calls an image: its bare file name, or ``a1/a2/file``, possibly in the second column."""
    columns = text.strip().split("\t")
    parts = columns[min(1, len(columns) - 1)].split("/")
    return bare("/".join(parts[-1 if side == "facescrub" else -DEPTH[side] :]))


# --- one side ---------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """The images of a list, and the person on each."""

    names: list[str]
    people: list[str | None]

    def at(self, rows: np.ndarray) -> Listed:
        """Some of them."""
        return Listed([self.names[i] for i in rows.tolist()], [self.people[i] for i in rows.tolist()])


def open_side(folder: Path, side: str, pixels: bool) -> Side:
    """Images, embeddings, features, or names alone."""
    images, features = folder / f"{side}_images", folder / "feature_out" / side
    vectors = next((path for suffix in (".npz", ".npy") if (path := folder / f"{side}{suffix}").is_file()), None)
    listed = read_listed(folder, side)
    if vectors is not None and not (pixels and images.is_dir()):
        return from_vectors(open_vectors(vectors), listed, side)
    if listed is None:
        raise MissingFile(
            f"{folder} holds neither {side}_lst nor {side}_features_list.json nor {side}.npz or {side}.npy"
        )
    if pixels and images.is_dir():
        return from_images(images, listed)
    if features.is_dir():
        return from_features(features, listed)
    if pixels:
        raise MissingFile(f"{folder} holds neither {side}_images/ nor {side}.npz, {side}.npy or feature_out/{side}/")
    return side_of(NamedOnly(listed.names, *numbered(listed.people)), listed, {}, listed)


def read_listed(folder: Path, side: str) -> Listed | None:
    """``facescrub_lst`` or ``megaface_features_list.json_1000000_1``, whichever is there; None where neither is."""
    text = folder / f"{side}_lst"
    tables = sorted(folder.glob(f"{side}_features_list.json*"))
    if text.is_file():
        paths = [line.text.strip() for line in read_lines(text)]
        return Listed(*named(text, paths, [None] * len(paths), side))
    if len(tables) > 1:
        raise InputError(f"{folder} holds {', '.join(path.name for path in tables)}; keep the one that is meant")
    return read_table(tables[0], side) if tables else None


def read_table(path: Path, side: str) -> Listed:
    """The devkit's JSON: ``path`` and, for probes, ``id``."""
    table = read_json(path)
    paths = table.get("path") if isinstance(table, dict) else None
    if not isinstance(paths, list) or not paths or not all(isinstance(text, str) for text in paths):
        raise CorruptFile(f'{path} has no list of file names under the key "path"')
    ids = table.get("id", [None] * len(paths))
    if not isinstance(ids, list) or len(ids) != len(paths):
        raise CorruptFile(f'{path}: "id" must name one person for each of the {len(paths)} paths')
    return Listed(*named(path, paths, ids, side))


def named(path: Path, texts: Sequence[str], ids: Sequence[object], side: str) -> tuple[list[str], list[str | None]]:
    """(names relative to the side's folder, people); a probe without an id is of the person its folder names."""
    names = [inside(path.parent, tail(text, side), f"{path}, entry {i}") for i, text in enumerate(texts, 1)]
    if len(set(names)) < len(names):
        raise InputError(f"{path} lists {len(names) - len(set(names))} images twice; every image counts once")
    if side != "facescrub":
        return names, [None] * len(names)
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    return names, [str(who) if who is not None else folder for who, folder in zip(ids, folders, strict=True)]


def tail(text: str, side: str) -> str:
    """The last parts of a path, those that name an image."""
    return "/".join(text.replace("\\", "/").split("/")[-DEPTH[side] :])


def from_images(root: Path, listed: Listed) -> Side:
    """Image files of one size."""
    facts = inspect_files(root, listed.names)
    reasons = facts.reasons | odd_sizes(facts)
    kept, keep = usable(listed, reasons, root)
    listing = Listing(root, root, kept.names, *numbered(kept.people))
    return side_of(FileSource(listing, Facts(facts.sha256[keep], facts.size[keep], {})), kept, reasons, listed)


def odd_sizes(facts: Facts) -> dict[int, str]:
    """Readable images of another size than most."""
    sizes, position, counts = np.unique(facts.size, axis=0, return_inverse=True, return_counts=True)
    counts[(sizes == 0).any(axis=1)] = 0
    common = int(np.argmax(counts))
    odd = np.flatnonzero((position.ravel() != common) & (facts.size > 0).all(axis=1)).tolist()
    height, width = sizes[common].tolist()
    return {i: f"it is {facts.size[i, 0]}x{facts.size[i, 1]}, the others are {height}x{width}" for i in odd}


def from_features(root: Path, listed: Listed) -> Side:
    """Feature files."""
    files, width, reasons = find_features(root, listed.names)
    kept, keep = usable(listed, reasons, root)
    features = FeatureFiles(root, [files[i] for i in keep.tolist()], width)
    source = NamedOnly(kept.names, *numbered(kept.people), features)  # type: ignore[arg-type]  # read row by row
    return side_of(source, kept, reasons, listed)


def from_vectors(vectors: VectorFile, listed: Listed | None, side: str) -> Side:
    """Embeddings, in the order of the list where there is one."""
    if listed is None:
        people = [vectors.identities[label] if label >= 0 else None for label in vectors.labels.tolist()]
        listed = Listed(list(vectors.names), people)
    row = {bare(tail(name, side)): i for i, name in enumerate(vectors.names)}
    rows = np.array([row.get(bare(tail(name, side)), -1) for name in listed.names], np.int64)
    reasons = dict.fromkeys(np.flatnonzero(rows < 0).tolist(), "there is no embedding")
    kept, keep = usable(listed, reasons, vectors.path)
    return side_of(vectors.source(), kept, reasons, listed)._replace(row=rows[keep])


def usable(listed: Listed, reasons: Mapping[int, str], where: Path) -> tuple[Listed, np.ndarray]:
    """(what can be used, its rows int64)."""
    keep = np.setdiff1d(np.arange(len(listed.names)), list(reasons))
    if not len(keep):
        raise InputError(
            f"none of the {len(listed.names)} images can be used under {where} (the first is {listed.names[0]}: "
            f"{reasons[0]})"
        )
    return listed.at(keep), keep


def side_of(source: Source, kept: Listed, reasons: Mapping[int, str], listed: Listed) -> Side:
    """A source whose images are those of the list, but for the failed ones."""
    notes: tuple[str, ...] = ()
    if reasons:
        first = [f"{listed.names[i]}: {reasons[i]}" for i in sorted(reasons)[:NAMED]]
        more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        notes = (f"{len(reasons)} of {len(listed.names)} images cannot be used: {'; '.join(first)}{more}",)
    return Side(source, np.arange(len(kept.names)), kept.names, kept.people, len(reasons), notes)
