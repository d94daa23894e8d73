"""MXNet RecordIO, ``x.rec`` + ``x.idx``: where the records are and what their headers say. Little endian.

| part | layout |
|---|---|
| ``.idx`` | text, ``key<TAB>byte offset`` a line, keys in any order |
| record part | uint32 magic, uint32 ``cflag << 29 or length``, body, zeros up to a multiple of 4 |
| cflag | 0 a whole record; 1 first, 2 middle, 3 last part of one |
| payload | uint32 flag, float32 label, uint64 id, uint64 id2, ``flag`` float32 labels in place of the one, the image |

The writer cuts a payload wherever the magic lies in it at a multiple of 4 and drops those bytes; the reader joins the
parts with the magic between them (dmlc-core ``recordio.cc``, mxnet ``image_recordio.h``). So an aligned magic always
begins a part, and a lost ``.idx`` can be made again by looking for magics.

Everything is held in arrays, about 40 bytes a record, and read in blocks. Only headers are looked at.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.core.errors import CorruptFile, MissingFile
from facekit.data.decode import MAX_BYTES, Buffer
from facekit.data.lazy import Lazy
from facekit.data.mapped import Pieces, map_file

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
PAYLOAD = struct.Struct("<IfQQ")
WHOLE, FIRST, MIDDLE, LAST = range(4)

HEAD = np.dtype(
    [
        ("payload", "<u4"),  # bytes, parts joined
        ("flag", "<u4"),  # labels behind the header
        ("label", "<f4"),  # the first label
        ("id", "<u8"),
        ("opening", "<u2"),  # the first two bytes of the image; 0 where there are none
        ("split", "?"),
        ("reason", "u1"),  # 0, or why the record is broken: an index of REASONS
    ]
)
REASONS = (
    "",
    "its offset is no place for a record in this file",
    "no record begins there",
    "it reaches into the next record or beyond the end of the file",
    "the parts it was split into do not follow each other",
    "it is longer than any image",
    "its header is cut off",
    "another key has the same offset",
    "its key occurs twice",
    "its label is not a whole number",
    "it holds no image",
)
_, OUTSIDE, NO_RECORD, TOO_LONG, NO_PARTS, TOO_LARGE, NO_HEADER, SAME_PLACE, SAME_KEY, NO_LABEL, NO_IMAGE = range(11)

ROWS = 1 << 18
SCAN = 1 << 24
LINES = 1 << 22
INDEX_LINES = re.compile(rb"(?:(?:\d{1,18}\t\d{1,18})?\r?\n)*+")


@dataclass(frozen=True)
class Records:
    """All records of a file in the order of their keys, broken ones included."""

    path: Path
    data: np.ndarray
    """uint8, the mapped file"""
    key: np.ndarray
    """int64 [N]"""
    offset: np.ndarray
    """int64 [N], where the record's magic is"""
    head: np.ndarray
    """HEAD [N]"""
    notes: tuple[str, ...]

    def payload(self, row: int) -> bytes:
        """Header, labels and image of one record, its parts joined."""
        return join(self.data, parts_of(self.data, int(self.offset[row]), len(self.data)))

    def labels(self, row: int) -> np.ndarray:
        """All float32 labels of one record."""
        return np.frombuffer(self.payload(row), "<f4", int(self.head["flag"][row]), PAYLOAD.size)

    def broken(self, among: np.ndarray) -> Lazy[tuple[str, str]]:
        """(``key 7 at byte 1234``, why) of those that are broken, where ``among`` (bool [N]) holds."""
        rows = np.flatnonzero(among & (self.head["reason"] > 0))
        # Not the table itself: it would be kept as long as this.
        key, offset, reason = self.key[rows], self.offset[rows], self.head["reason"][rows]
        return Lazy(len(rows), lambda i: (f"key {key[i]} at byte {offset[i]}", REASONS[reason[i]]))


class RecordBodies(Pieces):
    """The images of the records at ``rows``: slices of the file, but for the few whose payload was split."""

    def __init__(self, records: Records, rows: np.ndarray) -> None:
        skipped, split = body_start(records.head["flag"][rows]), records.head["split"][rows]
        offset = records.offset[rows] + np.where(split, 0, 8 + skipped)
        super().__init__(records.path, records.data, offset, records.head["payload"][rows] - skipped)
        self.data = records.data
        self.split = {i: int(skipped[i]) for i in np.flatnonzero(split).tolist()}

    def __getitem__(self, i: int, /) -> Buffer:
        """The image's bytes; copied only where they have to be joined."""
        if i in self.split:
            return join(self.data, parts_of(self.data, int(self.offset[i]), len(self.data)))[self.split[i] :]
        return super().__getitem__(i)


def body_start(flag: np.ndarray) -> np.ndarray:
    """Where the image begins in a payload of so many labels, int64 [N]."""
    return PAYLOAD.size + 4 * flag.astype(np.int64)


# --- reading ---------------------------------------------------------------------------------------------------


def read_records(path: Path) -> Records:
    """Every record of ``x.rec``, found through ``x.idx`` beside it, or by its magic where there is none.

    Raises MissingFile and CorruptFile (not a .rec, a line of the .idx of another form).
    """
    data = map_file(path)
    index = path.with_suffix(".idx")
    if index.is_file():
        key, offset = read_index(index)
        head = read_heads(data, offset)
        notes: tuple[str, ...] = ()
        mark(head, repeated(offset), SAME_PLACE)
    else:
        offset = find_records(path, data)
        head = read_heads(data, offset)
        key = rebuilt_keys(head)
        walked = f"{index.name} is missing: {len(offset)} records were found by walking {path.name}"
        notes = (walked, *gaps(offset, head, len(data)))
    mark(head, repeated(key), SAME_KEY)
    if (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        key, offset, head = key[order], offset[order], head[order]
    return Records(path, data, key, offset, head, notes)


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(keys, offsets), int64 [N] each, in the order of the lines. Read in blocks of whole lines."""
    key, offset = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    lines = 0
    try:
        with open(path, "rb") as stream:
            while block := stream.read(LINES):
                block += stream.readline(100)
                block += b"" if block.endswith(b"\n") else b"\n"
                if not INDEX_LINES.fullmatch(block):
                    raise wrong_line(path, block, lines)
                # White space of any kind separates; safe, since every character was seen to be a digit or that.
                numbers = np.fromstring(block, np.int64, sep=" ") if block.strip() else np.empty(0, np.int64)
                key.append(numbers[0::2])
                offset.append(numbers[1::2])
                lines += block.count(b"\n")
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    if not sum(map(len, key)):
        raise CorruptFile(f"{path} holds no keys; move it away, and the records are found without it")
    return np.concatenate(key), np.concatenate(offset)


def wrong_line(path: Path, block: bytes, before: int) -> CorruptFile:
    """Name the first line of the block that has another form."""
    texts = block.split(b"\n")
    number, text = next((i, t) for i, t in enumerate(texts, 1) if not INDEX_LINES.fullmatch(t + b"\n"))
    return CorruptFile(
        f"{path}, line {before + number}: {text[:60].decode('latin-1')!r} is not `key<TAB>offset`; copy the file "
        "again, or move it away, and the records are found without it"
    )


def repeated(values: np.ndarray) -> np.ndarray:
    """Which values occurred before, bool [N]."""
    order = np.argsort(values, kind="stable")
    again = np.zeros(len(values), bool)
    again[order[1:][values[order[1:]] == values[order[:-1]]]] = True
    return again


def mark(head: np.ndarray, where: np.ndarray, reason: int) -> None:
    """Call the records where ``where`` (bool [N]) holds broken; the first reason stays."""
    head["reason"][where & (head["reason"] == 0)] = reason


# --- headers ---------------------------------------------------------------------------------------------------


def read_heads(data: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The header of the record at each offset, HEAD [N]; none of the numbers in the file is trusted."""
    head = np.zeros(len(offset), HEAD)
    for first in range(0, len(offset), ROWS):
        rows = slice(first, first + ROWS)
        read_block(data, offset[rows], head[rows])
    limit = next_starts(offset, np.isin(head["reason"], (OUTSIDE, NO_RECORD, NO_PARTS), invert=True), len(data))
    mark(head, ~head["split"] & (offset + 8 + head["payload"] > limit), TOO_LONG)
    for i in np.flatnonzero(head["split"] & (head["reason"] == 0)).tolist():
        read_split(data, parts_of(data, int(offset[i]), int(limit[i])), head[i : i + 1])
    mark(head, body_start(head["flag"]) > head["payload"], NO_HEADER)
    return head


def next_starts(offset: np.ndarray, begins: np.ndarray, size: int) -> np.ndarray:
    """Where the next record begins behind each offset: no record may reach beyond that. int64 [N]

    It also bounds how far the parts of a split record are followed: two records never share any.
    """
    places = np.append(np.sort(offset[begins]), size)
    return places[np.minimum(np.searchsorted(places, offset, side="right"), len(places) - 1)]


def read_block(data: np.ndarray, offset: np.ndarray, head: np.ndarray) -> None:
    """Fill ``head`` for some records; of split ones only that they are."""
    words = as_words(data)
    mark(head, (offset % 4 != 0) | (offset + 8 > len(data)), OUTSIDE)
    at = np.where(head["reason"] == 0, offset, 0) // 4
    mark(head, take(words, at) != MAGIC, NO_RECORD)
    kind, length = cut_length(take(words, at + 1))
    mark(head, kind > FIRST, NO_PARTS)
    head["payload"], head["split"] = length, kind == FIRST
    mark(head, length > MAX_BYTES, TOO_LARGE)
    mark(head, ~head["split"] & (length < PAYLOAD.size), NO_HEADER)
    head["flag"] = take(words, at + 2)
    head["label"] = np.where(head["flag"] > 0, take(words, at + 8), take(words, at + 3)).view("<f4")
    head["id"] = take(words, at + 4) | take(words, at + 5).astype(np.uint64) << np.uint64(32)
    start = body_start(head["flag"])
    head["opening"] = np.where(start + 2 <= length, take(words, at + 2 + start // 4) & 0xFFFF, 0)


def read_split(data: np.ndarray, parts: list[tuple[int, int]], head: np.ndarray) -> None:
    """The same for one record (HEAD [1]) in parts: the header itself may have been cut."""
    length = sum(last - first for first, last in parts) + 4 * (len(parts) - 1)
    if not parts or length > MAX_BYTES or length < PAYLOAD.size:
        head["reason"] = NO_PARTS if not parts else TOO_LARGE if length > MAX_BYTES else NO_HEADER
        return
    payload = join(data, parts)
    flag, label, number, _ = PAYLOAD.unpack_from(payload)
    start = PAYLOAD.size + 4 * flag
    if flag > 0 and start <= length:
        label = struct.unpack_from("<f", payload, PAYLOAD.size)[0]
    head["payload"], head["flag"], head["label"], head["id"] = length, flag, label, number
    head["opening"] = int.from_bytes(payload[start : start + 2], "little")


def as_words(data: np.ndarray) -> np.ndarray:
    """The file as uint32, up to three bytes at its end left out."""
    return data[: len(data) // 4 * 4].view("<u4")


def take(words: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The words at the positions; the last one for positions beyond it, which only broken records ask for."""
    return np.take(words, at, mode="clip") if len(words) else np.zeros(len(at), np.uint32)


def cut_length(word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cflag, length) of a part's second word, int64."""
    word = word.astype(np.int64)
    return word >> 29, word & 0x1FFFFFFF


def parts_of(data: np.ndarray, offset: int, limit: int) -> list[tuple[int, int]]:
    """(first byte, end) of each part of the record at ``offset``; [] unless they are whole and end before ``limit``."""
    parts: list[tuple[int, int]] = []
    at = offset
    while at + 8 <= limit:
        magic, word = struct.unpack_from("<II", data.data, at)
        kind, length = word >> 29, word & 0x1FFFFFFF
        begins = not parts
        if magic != MAGIC or (kind in (WHOLE, FIRST)) != begins or kind > LAST or at + 8 + length > limit:
            return []
        parts.append((at + 8, at + 8 + length))
        if kind in (WHOLE, LAST):
            return parts
        at += 8 + padded(length)
    return []


def join(data: np.ndarray, parts: list[tuple[int, int]]) -> bytes:
    """The payload: the magic was dropped at every cut."""
    return MAGIC_BYTES.join(data[first:last].tobytes() for first, last in parts)


def padded(length: int) -> int:
    """Up to a multiple of 4."""
    return (length + 3) // 4 * 4


# --- without an .idx -------------------------------------------------------------------------------------------


def find_records(path: Path, data: np.ndarray) -> np.ndarray:
    """Where records begin, int64 [N]: at aligned magics that open a whole record or a first part."""
    words = as_words(data)
    found = [np.empty(0, np.int64)]
    found += [np.flatnonzero(words[i : i + SCAN] == MAGIC) + i for i in range(0, len(words), SCAN)]
    heads = np.concatenate(found)
    if not len(heads):
        raise CorruptFile(f"{path} holds no records: an MXNet .rec was expected")
    kind, length = cut_length(take(words, heads + 1))
    heads = heads * 4
    follows = heads + 8 + (length + 3) // 4 * 4
    kept = chained(heads, follows, len(data))
    return heads[kept[(kind[kept] != MIDDLE) & (kind[kept] != LAST)]]


def chained(heads: np.ndarray, follows: np.ndarray, size: int) -> np.ndarray:
    """Which magics are heads, int64: where a part ends exactly at a later one, those between are image content.

    Writers that do not split payloads leave them there.
    """
    if (follows[:-1] == heads[1:]).all():
        return np.arange(len(heads))
    after = np.searchsorted(heads, follows)
    exact = (follows >= size) & (follows < size + 4)
    exact[after < len(heads)] = heads[after[after < len(heads)]] == follows[after < len(heads)]
    step = np.where(exact, after, np.arange(1, len(heads) + 1)).tolist()
    kept, at = [], 0
    while at < len(heads):
        kept.append(at)
        at = step[at]
    return np.array(kept, np.int64)


def rebuilt_keys(head: np.ndarray) -> np.ndarray:
    """The id in each header, which writers make equal to the key; the position where ids do not tell records apart.

    A broken record, whose id means nothing, gets a number that no other has: the missing one, if keys are dense.
    """
    good = head["reason"] == 0
    ids = head["id"][good]
    if repeated(ids).any() or ids.max(initial=0) >= 1 << 62:
        return np.arange(len(head))
    key = np.empty(len(head), np.int64)
    key[good] = ids
    free = np.setdiff1d(np.arange(len(head)), key[good])
    key[~good] = free[: int((~good).sum())]
    return key


def gaps(offset: np.ndarray, head: np.ndarray, size: int) -> tuple[str, ...]:
    """A note where a whole record ends and no other begins: what lay there is lost and in no count."""
    end = np.minimum(offset + 8 + (head["payload"].astype(np.int64) + 3) // 4 * 4, size)
    following = np.append(offset[1:], size)
    # The payload of a split record is not the room it takes in the file.
    plain = (head["reason"] == 0) & ~head["split"]
    lost = [0] * int(offset[0] > 0) + end[plain & (end != following)].tolist()
    if not lost:
        return ()
    return (f"{len(lost)} stretches of the file begin no record (the first at byte {lost[0]}); records may be missing",)
