"""Reading the small text files that name images, with the file and line in every complaint."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from facekit.core.errors import InputError, MissingFile


class Line(NamedTuple):
    """One line that is not blank, without its line end."""

    number: int
    text: str


def read_text(path: Path) -> str:
    """The file's text (UTF-8, a byte-order mark is dropped)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except IsADirectoryError:
        raise MissingFile(f"{path} is a folder, a list file was expected") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error


def read_lines(path: Path) -> list[Line]:
    """The lines that hold something. An empty file is an error."""
    # Not splitlines(): it also breaks at form feeds and U+2028, which are legal in file names.
    lines = [Line(n, t.rstrip("\r")) for n, t in enumerate(read_text(path).split("\n"), 1) if t.strip()]
    if not lines:
        raise InputError(f"{path} is empty")
    return lines


def inside(root: Path, text: str, where: str) -> str:
    """``text`` as a path relative to ``root``; refused where it would lead out of it.

    An absolute path is accepted if it lies in ``root``: some tools write them. Lists come from strangers, and reading
    ``../../.ssh/id_rsa`` as an image would put its hash into a file that is passed on.
    """
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(root.absolute().as_posix()):
        path = path.relative_to(root.absolute().as_posix())
    if path.is_absolute() or ".." in path.parts or "\0" in text or not path.parts or Path(path).is_absolute():
        raise InputError(f"{where}: the path {text!r} is not inside the image folder {root}")
    return path.as_posix()


def is_number(text: str) -> bool:
    """A whole number from 0 on that int() reads: ``"²".isdigit()`` holds too, and int() refuses 5,000 digits."""
    return text.isascii() and text.isdigit() and len(text) < 19


def is_integer(text: str) -> bool:
    """The same with an optional minus."""
    return is_number(text.strip().removeprefix("-"))


def csv_columns(text: str) -> list[str]:
    """The columns of one CSV line, without outer spaces; [] where it is not one (a bare carriage return, a NUL)."""
    try:
        return [column.strip() for column in next(csv.reader([text]))]
    except csv.Error:
        return []
