"""Training images in a ``.rec``: InsightFace's convention (record 0 counts the images) and im2rec's plain one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekit.core.errors import CorruptFile, MissingFile
from facekit.data.lazy import Lazy
from facekit.data.mapped import MappedSource, file_head
from facekit.data.records import MAGIC_BYTES, NO_IMAGE, NO_LABEL, RecordBodies, Records, body_start, mark, read_records

TRAIN = "train.rec"
OPENINGS = tuple(int.from_bytes(text, "little") for text in (b"\xff\xd8", b"\x89P", b"BM", b"RI", b"P5", b"P6"))
"""How JPEG, PNG, BMP, WEBP and PPM files begin."""
MOST_LABELS = 1 << 31


def is_records(path: Path) -> bool:
    """A ``.rec`` (or its ``.idx``), or a folder that holds ``train.rec``."""
    if path.is_dir():
        return (path / TRAIN).is_file()
    return path.suffix.lower() in (".rec", ".idx") or file_head(path).startswith(MAGIC_BYTES)


def open_records(path: Path) -> MappedSource:
    """The images of a ``.rec`` under the names ``<label>/<key>``, in the order of their keys.

    Labels are numbered densely in numeric order; an identity's name is its label as text; label -1 is unknown. Broken
    records are left out, counted in ``notes`` and listed in ``broken``. Only headers are read: about one page of the
    file an image. Raises MissingFile, CorruptFile (not a .rec, nothing usable in it) and InputError (no image decodes).
    """
    file = record_file(path)
    records = read_records(file)
    listed, notes = image_rows(records)
    check_images(records.head, listed)
    count, broken = int(listed.sum()), records.broken(listed)
    if len(broken):
        first, reason = broken[0]
        skipped = f"{len(broken)} of {count} records are broken and left out; the first is {first}: {reason}"
        notes = (*notes, skipped)
    good = np.flatnonzero(listed & (records.head["reason"] == 0))
    if not len(good):
        raise CorruptFile(f"{file} holds no usable image" + "".join(f"; {note}" for note in notes))
    key = records.key[good]
    present, labels = numbered(records.head["label"][good].astype(np.int64))
    identities = tuple(map(str, present))
    names = Lazy(len(key), lambda i: f"{identities[labels[i]] if labels[i] >= 0 else -1}/{key[i]}")
    source = MappedSource(path, names, RecordBodies(records, good), labels, identities, notes, broken)
    source.notes += check_property(file.with_name("property"), len(identities), source.size, count)
    return source


def record_file(path: Path) -> Path:
    """The ``.rec`` that was meant."""
    if path.is_dir():
        return path / TRAIN
    file = path.with_suffix(".rec") if path.suffix.lower() == ".idx" else path
    if not file.is_file():
        raise MissingFile(f"{file}, to which {path.name} belongs, does not exist")
    return file


def numbered(original: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(the labels that occur, in order; every label's place among them, -1 where it is unknown)."""
    present, place = np.unique(original, return_inverse=True)
    unknown = int(len(present) > 0 and present[0] < 0)
    return present[unknown:].tolist(), place.astype(np.int64) - unknown


# --- which records are images ------------------------------------------------------------------------------------


def image_rows(records: Records) -> tuple[np.ndarray, tuple[str, ...]]:
    """(which records are images or should be, bool [N]; notes)."""
    head = records.head
    whole = head["reason"] == 0
    no_image = whole & (head["flag"] >= 2) & (body_start(head["flag"]) == head["payload"])
    first = int(np.searchsorted(records.key, 0))
    overview = first < len(head) and records.key[first] == 0 and bool(whole[first]) and head["flag"][first] >= 2
    if overview and head["opening"][first] not in OPENINGS:
        no_image[first] = False
        end, notes = end_of_images(records, float(records.labels(first)[0]), no_image)
        return (records.key >= 1) & (records.key < end), (*records.notes, *notes)
    if not no_image.any():
        return ~no_image, records.notes
    note = (
        f"{int(no_image.sum())} records have labels and no image and are left out; record 0, which would say where "
        "the images end, is missing or broken"
    )
    return ~no_image, (*records.notes, note)


def end_of_images(records: Records, said: float, no_image: np.ndarray) -> tuple[int, tuple[str, ...]]:
    """(the first key that is no image, notes): where identity records begin, else after the last key.

    Record 0 says it too, as a float32, which rounds above 2^24. Beyond that rounding the smaller number holds.
    """
    keys = records.key[no_image]
    end = int(keys[0]) if len(keys) else int(records.key[-1]) + 1
    if not (np.isfinite(said) and said >= 1):
        return end, (f"record 0 gives {said:g} as the first key behind the images; {end} is taken",)
    rounding = float(np.spacing(np.float32(said))) / 2 if said >= 1 << 24 else 0.0
    if abs(said - end) <= rounding:
        return end, ()
    taken = min(end, int(said))
    note = f"record 0 says that images end before key {said:.0f}, the records end them before {end}; {taken} is taken"
    return taken, (note,)


def check_images(head: np.ndarray, listed: np.ndarray) -> None:
    """Mark those of the listed without a usable label, and those that do not begin like an image."""
    label = np.where(np.isfinite(head["label"]), head["label"], 0.5)
    mark(head, listed & ((label != np.floor(label)) | (label < -1) | (label >= MOST_LABELS)), NO_LABEL)
    mark(head, listed & ~np.isin(head["opening"], OPENINGS), NO_IMAGE)


def check_property(path: Path, identities: int, size: tuple[int, int], images: int) -> tuple[str, ...]:
    """Notes where ``property`` (``classes,height,width``, newer ones with the image count below) says otherwise."""
    if not path.is_file():
        return ()
    text = file_head(path).decode("latin-1")
    numbers = text.replace(",", " ").split()
    if len(numbers) not in (3, 4) or not all(n.isascii() and n.isdigit() for n in numbers):
        return (f"{path.name} beside the records is not `classes,height,width`: it was not used",)
    said = [int(n) for n in numbers]
    found = [identities, *size, images][: len(said)]
    if said == found:
        return ()
    return (f"{path.name} says {described(said)}; the records hold {described(found)}",)


def described(numbers: list[int]) -> str:
    """``85742 identities of 112x112, 5822653 images``; the images only where they are given."""
    identities, height, width, *images = numbers
    return f"{identities} identities of {height}x{width}" + "".join(f", {n} images" for n in images)
