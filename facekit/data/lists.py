"""Training lists of other tools: one sample per line, the form read off the first line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import InputError
from facekit.data.listing import Listing
from facekit.data.textfile import Line, csv_columns, inside, is_integer, read_lines

FORMS = (
    "`path label`, `path<TAB>label`, MXNet's `index<TAB>label<TAB>path`, "
    "CSV with the header `path,label`, or JSON lines"
)


class Sample(NamedTuple):
    """One line's content; the label is None where the line gives none."""

    line: int
    path: str
    label: int | str | None


class WrongForm(Exception):
    """The line does not fit the form; the message says what was expected."""


def read_list(path: Path, images: Path | None = None) -> Listing:
    """A list file -> names relative to ``images`` (default: the list's folder), labels numbered densely.

    Integer labels keep their numeric order, text labels get Python string order. Raises InputError with file and line
    where a line has another form than the first, a label is not usable, a path leaves the image folder, or one path
    has two labels.
    """
    root = images if images is not None else path.parent
    samples = parse(path)
    where = {s.line: f"{path}, line {s.line}" for s in samples}
    names = [inside(root, s.path, where[s.line]) for s in samples]
    check_conflicts(names, samples, where)
    labels, identities = number_labels([s.label for s in samples])
    return Listing(path, root, names, labels, identities)


def parse(path: Path) -> list[Sample]:
    """Every line as a Sample."""
    lines = read_lines(path)
    form = detect(lines[0].text)
    if form is None:
        raise InputError(f"{path}, line {lines[0].number}: {lines[0].text[:80]!r} is not one of {FORMS}")
    read: Callable[[Line], Sample] = FORM_READERS[form] if form != "csv" else csv_reader(path, lines.pop(0))
    samples = []
    for line in lines:
        try:
            samples.append(read(line))
        except WrongForm as error:
            raise InputError(
                f"{path}, line {line.number}: {error}, as in line 1; a list must keep one form ({line.text[:80]!r})"
            ) from None
    if not samples:
        raise InputError(f"{path} has a header and no samples")
    return samples


def detect(first: str) -> str | None:
    """Name the form of the first line."""
    columns = first.split("\t")
    if first.lstrip().startswith("{"):
        return "jsonl"
    if len(columns) >= 3:
        return "mxnet"
    if len(columns) == 2:
        return "tab"
    if "path" in [c.strip() for c in first.split(",")]:
        return "csv"
    return "space" if " " in first.strip() else None


def read_space(line: Line) -> Sample:
    """``relative/path label``; the path may hold spaces, the label is what follows the last one."""
    path, _, label = line.text.strip().rpartition(" ")
    if not path or "\t" in line.text or not is_integer(label):
        raise WrongForm("expected `path label` with one space and a whole number")
    return Sample(line.number, path.rstrip(), int(label))


def read_tab(line: Line) -> Sample:
    """``relative/path<TAB>label``."""
    columns = line.text.split("\t")
    if len(columns) != 2 or not is_integer(columns[1]):
        raise WrongForm("expected `path<TAB>label` with a whole number")
    return Sample(line.number, columns[0], int(columns[1]))


def read_mxnet(line: Line) -> Sample:
    """``index<TAB>label[<TAB>label...]<TAB>path``: float text, the class is the first label."""
    columns = line.text.split("\t")
    if len(columns) < 3 or not is_integer(columns[0]):
        raise WrongForm("expected `index<TAB>label<TAB>path`")
    try:
        label = float(columns[1])
    except ValueError:
        label = math.nan
    if not label.is_integer():
        raise WrongForm(f"expected a whole number as label, not {columns[1]!r}")
    return Sample(line.number, columns[-1], int(label))


def read_jsonl(line: Line) -> Sample:
    """``{"path": ..., "label": ...}`` with any further keys."""
    try:
        row = json.loads(line.text)
    except (json.JSONDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise WrongForm('expected a JSON object with the key "path"')
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise WrongForm("expected a label that is text or a whole number")
    return Sample(line.number, row["path"], label)


def csv_reader(path: Path, header: Line) -> Callable[[Line], Sample]:
    """A reader of rows under the header ``path[,label][,...]``. Quoted line breaks are not supported."""
    columns = csv_columns(header.text)
    if "path" not in columns or len(set(columns)) < len(columns):
        raise InputError(
            f"{path}, line {header.number}: {header.text!r} must name the column path, and each column once"
        )
    at_path, at_label = columns.index("path"), columns.index("label") if "label" in columns else None

    def read(line: Line) -> Sample:
        row = csv_columns(line.text)
        if len(row) != len(columns):
            raise WrongForm(f"expected {len(columns)} columns ({header.text})")
        label = row[at_label] if at_label is not None else ""
        return Sample(line.number, row[at_path], label or None)

    return read


FORM_READERS = {"space": read_space, "tab": read_tab, "mxnet": read_mxnet, "jsonl": read_jsonl}


def check_conflicts(names: list[str], samples: list[Sample], where: dict[int, str]) -> None:
    """One image may be listed twice, but not as two people."""
    seen: dict[str, Sample] = {}
    for name, sample in zip(names, samples, strict=True):
        earlier = seen.setdefault(name, sample)
        if earlier.label != sample.label:
            raise InputError(
                f"{where[sample.line]}: {name} has the label {sample.label!r}, "
                f"and {earlier.label!r} in line {earlier.line}"
            )


def number_labels(labels: list[int | str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels 0..K-1 and the identity names. None and -1 mean unknown."""
    texts = [None if label is None or str(label) == "-1" else str(label) for label in labels]
    present = {text for text in texts if text is not None}
    numeric = all(is_integer(text) for text in present)
    identities = sorted(present, key=int) if numeric else sorted(present)
    number: dict[str | None, int] = {text: i for i, text in enumerate(identities)}
    return np.array([number.get(text, -1) for text in texts], np.int64), tuple(identities)
