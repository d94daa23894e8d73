"""Which file becomes which: one file for one, or a whole folder mirrored under another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from facekit.core.errors import InputError, MissingFile, OutputExists


class Mirrored(NamedTuple):
    """One file to read, and where its result goes."""

    name: str
    """Relative posix path without its ending."""
    source: Path
    target: Path


def mirrored(source: Path, out: Path, endings: Sequence[str], ending: str) -> list[Mirrored]:
    """``source`` is a file (``out`` then is a file that ends in ``ending``, or a folder that is there) or a folder,
    whose files with one of ``endings`` are taken at any depth, in the order of their names. Hidden names are skipped.

    Raises MissingFile, and InputError: no such files, or two of them that would become one.
    """
    if source.is_dir():
        names = below(source, endings)
        if not names:
            raise InputError(f"{source} holds no files of the kind {', '.join(endings)}")
    elif source.is_file():
        names = [source.name]
        if not out.is_dir():
            if out.suffix != ending:
                raise InputError(f"--out {out} must end in {ending}, or be a folder that is there")
            return [Mirrored(source.stem, source, out)]
        source = source.parent
    else:
        raise MissingFile(f"{source} does not exist")
    plan = [planned(source, out, PurePosixPath(name), ending) for name in names]
    require_apart(plan)
    return plan


def below(root: Path, endings: Sequence[str]) -> list[str]:
    """Relative posix paths of the files, sorted."""
    found: list[str] = []

    def refuse(error: OSError) -> None:
        raise MissingFile(f"the folder {error.filename} cannot be read: {error.strerror}")

    for folder, inner, files in os.walk(root, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        kept = [
            Path(folder, name) for name in files if not name.startswith(".") and name.lower().endswith(tuple(endings))
        ]
        found += [path.relative_to(root).as_posix() for path in kept if path.is_file()]
    return sorted(found)


def planned(source: Path, out: Path, name: PurePosixPath, ending: str) -> Mirrored:
    """``a/b.png`` below ``source`` becomes ``a/b`` and the ending, below ``out``."""
    stem = name.with_suffix("").as_posix()
    return Mirrored(stem, source / name, out / (stem + ending))


def require_apart(plan: Sequence[Mirrored]) -> None:
    """Raise InputError where two files would become one."""
    by_name: dict[str, Path] = {}
    for name, source, target in plan:
        if name in by_name:
            raise InputError(
                f"{by_name[name]} and {source} would both become {target.name}; rename one of them, nothing was written"
            )
        by_name[name] = source


def require_free(targets: Sequence[Path]) -> None:
    """Raise OutputExists where something is there already."""
    there = [target for target in targets if target.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise OutputExists(
            f"{there[0]}{more} exists already; add --skip-existing or --overwrite, or choose another --out"
        )
