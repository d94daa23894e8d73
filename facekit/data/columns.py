"""Long tables of numbers as text, read in pieces: millions of lines without a loop in Python."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facekit.core.errors import InputError, MissingFile
from facekit.data.textfile import csv_columns, is_integer

ROWS = 1 << 20
KINDS = {"int": "int64", "float": "float64", "text": "str"}
"""What a column may hold."""


def read_columns(path: Path, form: str, *, comma: bool = False) -> Iterator[list[np.ndarray]]:
    """The columns of a table in pieces of at most ROWS lines: int64, float64 or text [n] each.

    ``form`` names the columns in their order, ``image:text template_id:int``. Columns stand apart by blanks; with
    ``comma``, the first line is a header and further columns are ignored. Raises MissingFile, and InputError with the
    number of the first line that has another form.
    """
    kinds = [column.rpartition(":")[2] for column in form.split()]
    reals = [i for i, kind in enumerate(kinds) if kind == "float"]
    options: dict[str, Any] = {
        "dtype": {i: KINDS[kind] for i, kind in enumerate(kinds)},
        "keep_default_na": False,
        "na_values": {i: ["nan", "NaN"] for i in reals},
        "chunksize": ROWS,
    }
    if comma:
        options |= {"sep": ",", "header": 0, "usecols": range(len(kinds))}
    else:
        options |= {"sep": r"\s+", "header": None, "quoting": csv.QUOTE_NONE}
    empty = True
    try:
        with pd.read_csv(path, **options) as pieces:
            for piece in pieces:
                if piece.shape[1] != len(kinds):
                    raise ValueError(f"{piece.shape[1]} columns")
                if len(piece):
                    empty = False
                    yield [piece.iloc[:, i].to_numpy() for i in range(len(kinds))]
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise other_form(path, form, kinds, comma, error) from None
    if empty:
        raise InputError(f"{path} holds no lines")


def other_form(path: Path, form: str, kinds: Sequence[str], comma: bool, error: Exception) -> InputError:
    """Look for the line that the reader stumbled over; it tells no number itself."""
    wanted = " ".join(column.rpartition(":")[0] for column in form.split())
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = csv_columns(line) if comma else line.split()
            if fields and not (comma and number == 1) and not fits(fields, kinds, comma):
                return InputError(f"{path}, line {number}: expected `{wanted}`, not {line.rstrip()[:80]!r}")
    return InputError(f"{path} cannot be read as lines of `{wanted}`: {error}")


def fits(fields: Sequence[str], kinds: Sequence[str], more: bool) -> bool:
    """Whether a line has the columns, and ``more`` of them where that is allowed."""
    return (len(fields) == len(kinds) or (more and len(fields) > len(kinds))) and all(
        (kind == "text" or (is_integer if kind == "int" else is_real)(field))
        for field, kind in zip(fields, kinds, strict=False)
    )


def is_real(text: str) -> bool:
    """A number that float() reads."""
    try:
        float(text)
    except ValueError:
        return False
    return True
