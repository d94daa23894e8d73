"""Writing a verification set: ``pairs.csv`` with its images, and InsightFace's ``.bin`` of the same pairs."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError
from facekit.core.files import explain_write
from facekit.data.binfile import MAX_FILE
from facekit.data.decode import BrokenImage
from facekit.data.makepairs import PairChoice
from facekit.data.newfolder import new_folder
from facekit.data.protocol import Store
from facekit.data.textfile import csv_columns, inside


def write_pairs(source: Store, choice: PairChoice, out: Path, *, with_bin: bool = False) -> int:
    """Write ``out/pairs.csv``, the images of its pairs under their own names in ``out/images/``, and ``out/<out>.bin``.

    The number of images is returned. Raises OutputExists, WriteFailed, and InputError for a name that a list cannot
    hold.
    """
    used = np.unique(np.concatenate([choice.left, choice.right])).tolist()
    for i in used:
        check_name(source.names[i], out)
    with new_folder(out) as folder:
        for i in used:
            place, data = folder / "images" / source.names[i], image_file(source, i)
            with explain_write(out):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        with explain_write(out):
            (folder / "pairs.csv").write_text(as_csv(source, choice), encoding="utf-8", newline="")
        if with_bin:
            data = as_bin(source, choice)
            with explain_write(out):
                (folder / f"{out.name}.bin").write_bytes(data)
    return len(used)


def image_file(source: Store, i: int) -> bytes:
    """The encoded bytes. Raises InputError naming a file that is gone since the source was opened."""
    try:
        return source.encoded(i)
    except BrokenImage as error:
        raise InputError(f"{source.names[i]} cannot be read: {error}") from None


def check_name(name: str, out: Path) -> None:
    """A list is UTF-8 lines of trimmed columns, whose paths stay inside its folder."""
    inside(out / "images", name, "the data")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the image name {name!r} is not UTF-8, which pair lists are; rename the file") from None
    if csv_columns(line([name])) != [name]:
        raise InputError(f"the image name {name!r} does not fit into a list (outer spaces?); rename the file")


def line(columns: list[object]) -> str:
    """One line of CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(columns)
    return text.getvalue()


def as_csv(source: Store, choice: PairChoice) -> str:
    """``path1,path2,same,fold,id1,id2``"""
    lines = [line(["path1", "path2", "same", "fold", "id1", "id2"])]
    columns = (choice.left.tolist(), choice.right.tolist(), choice.same.tolist(), choice.fold.tolist())
    for left, right, same, fold in zip(*columns, strict=True):
        who = [source.identities[source.labels[i]] for i in (left, right)]
        lines.append(line([source.names[left], source.names[right], int(same), fold, *who]))
    return "".join(lines)


def as_bin(source: Store, choice: PairChoice) -> bytes:
    """The pickle of (encoded images, whether pair i shows one person): images 2i and 2i+1 are pair i.

    An image of several pairs is one object, which the stream holds once. Raises InputError where it is too large.
    """
    sides = np.stack([choice.left, choice.right], axis=1).ravel().tolist()
    files = {i: image_file(source, i) for i in sorted(set(sides))}
    data = pickle.dumps(([files[i] for i in sides], choice.same.tolist()), protocol=4)
    if len(data) > MAX_FILE:
        raise InputError(f"the .bin would take {len(data) >> 20} MiB, more than tools read; lower --pairs, or leave it")
    return data
