"""Class folders in an uncompressed ``.tar``: indexed once, then read where they lie.

A tar may come from a stranger. Nothing is extracted and no link is followed; what could only matter to an extraction
(absolute paths, ``..``, links, devices, holes) is left out and counted.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import CorruptFile, InputError
from facekit.data.decode import EXTENSIONS
from facekit.data.mapped import MappedSource, Pieces, file_head, map_file
from facekit.data.textfile import is_number

BLOCK = 512
MAX_EXTENSION = 1 << 20
"""Longest extended header: beside a name it may hold attributes of the file."""
COMPRESSED = {
    b"\x1f\x8b": "gzip -d -k",
    b"BZh": "bzip2 -d -k",
    b"\xfd7zXZ": "xz -d -k",
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"PK\x03\x04": "unzip",
}
PAX_SIZE, PAX_PATH, PAX_HOLES = "size", "path", "GNU.sparse"
LONG_NAME, LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,200})=")
DAMAGE = (tarfile.HeaderError, ValueError)


class Member(NamedTuple):
    """One file: its path, and where its bytes are."""

    name: str
    offset: int
    size: int


class Refused(NamedTuple):
    """One member that is left out."""

    name: str
    reason: str


def is_tar(path: Path) -> bool:
    """A tar, compressed or not. Zip files too, so that their refusal says what to do."""
    head = file_head(path)
    compressed = any(head.startswith(magic) for magic in COMPRESSED)
    return head[257:262] == b"ustar" or compressed or (path.suffix.lower() == ".tar" and path.is_file())


def open_tar(path: Path) -> MappedSource:
    """The images of ``<identity>/<image>`` or ``<root>/<identity>/<image>`` members; plain ``<image>`` is unlabelled.

    Names, labels and order are those of the extracted folder. Raises CorruptFile (damaged header), and InputError for
    a compressed tar, no images, or images at different depths.
    """
    head = file_head(path)
    for magic, command in COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(f"{path} is compressed and cannot be read in place; decompress it once: {command} {path}")
    images: dict[str, Member] = {}
    refused: list[Refused] = []
    data = map_file(path)
    for found in members(path, data):
        if isinstance(found, Refused):
            refused.append(found)
        else:
            images[found.name] = found  # as when extracting, a later member of the same name replaces the earlier one
    notes = tuple(
        f"{count} members are left out: {reason} (the first is {next(r.name for r in refused if r.reason == reason)!r})"
        for reason, count in Counter(r.reason for r in refused).items()
    )
    names = sorted(images, key=lambda name: name.split("/"))
    if not names:
        told = f"; {notes[0]}" if notes else ""
        raise InputError(f"{path} holds no images ({', '.join(EXTENSIONS)}) in <identity>/<image> form{told}")
    shown = below_root(path, names)
    identities = sorted({name.split("/")[0] for name in shown if "/" in name})
    number = {identity: k for k, identity in enumerate(identities)}
    labels = np.array([number.get(name.split("/")[0], -1) for name in shown], np.int64)
    place = np.array([images[name][1:] for name in names], np.int64)
    pieces = Pieces(path, data, place[:, 0].copy(), place[:, 1].copy())
    return MappedSource(path, shown, pieces, labels, tuple(identities), notes, ())


def below_root(path: Path, names: list[str]) -> list[str]:
    """The names without a folder that holds all identities. Raises InputError unless all lie equally deep."""
    by_depth = {name.count("/"): name for name in reversed(names)}
    if len(by_depth) > 1 or max(by_depth) > 2:
        examples = ", ".join(by_depth[depth] for depth in sorted(by_depth))
        raise InputError(
            f"{path} must hold images as <identity>/<image>, all equally deep, with one folder around them at most; "
            f"it holds {examples}"
        )
    if max(by_depth) < 2:
        return names
    roots = sorted({name.split("/")[0] for name in names})
    if len(roots) > 1:
        raise InputError(f"{path} holds the folders {', '.join(roots[:3])} of identities; make one tar of each")
    return [name.split("/", 1)[1] for name in names]


# --- the members -------------------------------------------------------------------------------------------------


def members(path: Path, data: np.ndarray) -> Iterator[Member | Refused]:
    """The images, and what was refused; other files, folders and hidden names are passed over in silence."""
    view = data.data
    said: dict[str, str] = {}
    at = 0
    while at + BLOCK <= len(view):
        block = bytes(view[at : at + BLOCK])
        if not any(block):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except DAMAGE:
            raise damaged(path, at, "cannot be read") from None
        begin = at + BLOCK + holes_table(view, at, info)
        size = member_size(info, said)
        if size < 0 or (is_extension(info) and (size > MAX_EXTENSION or begin + size > len(view))):
            raise damaged(path, at, f"announces {size} bytes")
        if is_extension(info):
            said |= extension(info, bytes(view[begin : begin + size]))
        else:
            member = Member(said.get(PAX_PATH, info.name), begin, size)
            yield from judged(member, info, len(view), PAX_HOLES in said)
            said = {}
        # Links, folders and devices have no content, whatever their size field says.
        empty = info.type in tarfile.SUPPORTED_TYPES and not info.isreg() and not is_extension(info)
        at = begin if empty else begin + -(-size // BLOCK) * BLOCK


def damaged(path: Path, at: int, what: str) -> CorruptFile:
    """Beyond a broken header nothing can be found."""
    return CorruptFile(f"{path} is damaged: the header at byte {at} {what}; copy or download it again")


def member_size(info: tarfile.TarInfo, said: dict[str, str]) -> int:
    """The size field, or what an extended header before it says: eleven octal digits end at 8 GiB."""
    text = said.get(PAX_SIZE, "")
    return int(text) if is_number(text) and not is_extension(info) else info.size


def holes_table(view: memoryview, at: int, info: tarfile.TarInfo) -> int:
    """Bytes of the blocks that continue an old GNU header of a file with holes."""
    end = at + BLOCK
    more = info.type == tarfile.GNUTYPE_SPARSE and view[at + 482]
    while more and end + BLOCK <= len(view):
        more = view[end + 504]
        end += BLOCK
    return end - at - BLOCK


def is_extension(info: tarfile.TarInfo) -> bool:
    """Whether it is no member, but says more about the next one (or about all)."""
    return info.type in (LONG_NAME, LONG_LINK, *EXTENDED, tarfile.XGLTYPE)


def extension(info: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    """What an extended header says about the next member, of the few things that matter here."""
    if info.type == LONG_NAME:
        return {PAX_PATH: content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if info.type not in EXTENDED:
        return {}
    said: dict[str, str] = {}
    at = 0
    # `length key=value\n`, the length counting the whole record.
    while (found := PAX_RECORD.match(content, at)) and at + int(found[1]) > found.end():
        key, end = found[2].decode("utf-8", "replace"), at + int(found[1])
        if key in (PAX_SIZE, PAX_PATH):
            said[key] = content[found.end() : end - 1].decode("utf-8", "surrogateescape")
        elif key.startswith(PAX_HOLES):
            said[PAX_HOLES] = "1"
        at = end
    return said


def judged(member: Member, info: tarfile.TarInfo, end: int, holes: bool) -> Iterator[Member | Refused]:
    """The member itself, why it is refused, or nothing where it is no image."""
    name = member.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if info.isdir() or not parts or not parts[-1].lower().endswith(EXTENSIONS):
        return
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        yield Refused(name, "their paths lead out of the folder")
    elif any(part.startswith(".") for part in parts):
        return
    elif re.search(r"[\t\n\0]", name):
        yield Refused(name, "their names hold tabs or line breaks")
    elif not info.isreg() or info.type == tarfile.GNUTYPE_SPARSE or holes:
        yield Refused(name, "they are links, devices or files with holes")
    elif member.offset + member.size > end:
        yield Refused(name, "they reach beyond the end of the file")
    else:
        yield member._replace(name="/".join(parts))
