"""Folders of images: one folder per identity, or one flat folder without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facekit.core.errors import InputError, MissingFile
from facekit.data.decode import EXTENSIONS
from facekit.data.listing import Listing


def scan_folder(root: Path) -> Listing:
    """``root/<identity>/<image>``, labels in Python string order of the folder names; or ``root/<image>``, unlabelled.

    Hidden names are skipped, extensions are matched in any case, links are followed. Folders without images get no
    label. Raises MissingFile (no such folder, not readable) and InputError (no images, both layouts at once).
    """
    folders, loose = list_folder(root)
    names: list[str] = []
    labels: list[int] = []
    identities: list[str] = []
    for folder in folders:
        images = list_folder(root / folder)[1]
        if images:
            names += [f"{folder}/{image}" for image in images]
            labels += [len(identities)] * len(images)
            identities.append(folder)
    if names and loose:
        raise InputError(
            f"{root} holds {len(loose)} images ({loose[0]}, ...) beside {len(identities)} identity folders; "
            "move the loose images away, or into a folder of their identity"
        )
    if loose:
        return Listing(root, root, loose, np.full(len(loose), -1, np.int64), ())
    if not names:
        raise InputError(f"{root} holds no images ({', '.join(EXTENSIONS)}) in <identity>/<image> form.{hint(root)}")
    return Listing(root, root, names, np.array(labels, np.int64), tuple(identities))


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """(sub-folders, images) of one folder, each in Python string order. Sockets, pipes and dead links are skipped."""
    folders: list[str] = []
    images: list[str] = []
    for entry in entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            images.append(entry.name)
    for name in (*folders, *images):
        if "\n" in name or "\t" in name:
            raise InputError(f"{folder} holds the name {name!r}; rename it without tabs and line breaks")
    return sorted(folders), sorted(images)


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in the folder, with one sentence where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except FileNotFoundError:
        raise MissingFile(f"the folder {folder} does not exist") from None
    except NotADirectoryError:
        raise MissingFile(f"{folder} is a file, a folder was expected") from None
    except OSError as error:
        raise MissingFile(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def hint(root: Path) -> str:
    """Where the images may be instead: one level down is the usual slip."""
    for name in list_folder(root)[0]:
        below, loose = list_folder(root / name)
        if loose or any(list_folder(root / name / sub)[1] for sub in below[:3]):
            return f" Did you mean {root / name}?"
    return ""
