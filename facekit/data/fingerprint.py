"""Content hashes and header sizes of many files, remembered by (path, size, time of change)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facekit.core.errors import WriteFailed
from facekit.core.files import write_atomic
from facekit.data.cache_dir import default_cache_dir
from facekit.data.decode import MAX_BYTES, BrokenImage, image_size
from facekit.data.prefetch import prefetched, reader_threads

BLOCK = 256
SETTLED_NS = 2_000_000_000
"""A file changed less than 2 s ago may change again within one tick of a coarse clock: it is not remembered."""
SHORT = 64
"""Bytes of a name up to which a fixed width wastes little."""


@dataclass(frozen=True)
class Facts:
    """What the files hold, row by row; unreadable ones have the size (0, 0) and a reason."""

    sha256: np.ndarray
    """uint8 [N,32]"""
    size: np.ndarray
    """int32 [N,2], height and width from the header"""
    reasons: dict[int, str]


def fingerprint(names: Sequence[str], labels: np.ndarray, sha256: np.ndarray) -> str:
    """SHA-256 over the sorted lines ``name<TAB>label<TAB>hash<LF>``: equal content in any order or packing is equal."""
    total = hashlib.sha256()
    for i in order_of_lines(names).tolist():
        total.update(f"{names[i]}\t{labels[i]}\t{sha256[i].tobytes().hex()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def order_of_lines(names: Sequence[str]) -> np.ndarray:
    """The positions in the order of the lines that begin ``name<TAB>``, int64 [N].

    As one array where the names are short: 17 million lines as objects take more than 2 GB.
    """
    longest = max((len(name.encode("utf-8", "surrogateescape")) for name in names), default=0) + 1
    starts = (f"{name}\t".encode("utf-8", "surrogateescape") for name in names)
    if longest > SHORT:
        texts = list(starts)
        return np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int64)
    return np.argsort(np.fromiter(starts, f"S{longest}", len(names)), kind="stable")


def inspect_files(root: Path, names: Sequence[str], cache_dir: Path | None = None) -> Facts:
    """Hash and measure ``root/name`` for every name. Never raises for a broken or missing file: see ``reasons``."""
    memory = Memory.load(root, cache_dir or default_cache_dir())
    state = np.array([file_state(root / name) for name in names], np.int64).reshape(-1, 2)
    known = memory.rows(names, state)
    sha256 = memory.sha256[known]
    size = memory.size[known]
    todo = np.flatnonzero(known < 0)
    reasons: dict[int, str] = {}
    blocks = [todo[i : i + BLOCK] for i in range(0, len(todo), BLOCK)]
    jobs = (partial(inspect_block, root, [names[i] for i in block]) for block in blocks)
    for block, rows in zip(blocks, prefetched(jobs, threads=reader_threads(), ahead=16), strict=True):
        for i, row in zip(block.tolist(), rows, strict=True):
            if isinstance(row, str):
                sha256[i], size[i], reasons[i] = 0, 0, row
            else:
                sha256[i], size[i] = np.frombuffer(row[0], np.uint8), row[1]
    if len(todo) > len(reasons):
        memory.update(names, state, sha256, size, exclude=reasons)
    return Facts(sha256, size, reasons)


def file_state(path: Path) -> tuple[int, int]:
    """(bytes, time of change in ns); (-1, -1) where there is no regular file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, -1)


def inspect_block(root: Path, names: list[str]) -> list[tuple[bytes, tuple[int, int]] | str]:
    """Per file (hash, (height, width)), or the reason why not."""
    return [inspect_file(root / name) for name in names]


def inspect_file(path: Path) -> tuple[bytes, tuple[int, int]] | str:
    """One file's hash and header size, or the reason why it has none."""
    try:
        data = read_image_file(path)
        return hashlib.sha256(data).digest(), image_size(data)
    except BrokenImage as error:
        return str(error)


def read_image_file(path: Path) -> bytes:
    """The encoded bytes. Raises BrokenImage where there is no regular file of sane length."""
    length, _ = file_state(path)
    if length < 0:
        raise BrokenImage("there is no such file")
    if length > MAX_BYTES:
        raise BrokenImage(f"the file is {length >> 20} MiB long; images of at most {MAX_BYTES >> 20} are read")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(error.strerror or str(error)) from None


class Memory:
    """The remembered facts of one root folder: one small file in the cache folder, ignored where it is broken."""

    def __init__(self, path: Path, names: list[str], state: np.ndarray, sha256: np.ndarray, size: np.ndarray) -> None:
        self.path, self.names, self.state, self.sha256, self.size = path, names, state, sha256, size

    @staticmethod
    def load(root: Path, cache_dir: Path) -> Memory:
        """Read it, or begin an empty one."""
        key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
        path = cache_dir / "files" / f"{key}.npz"
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                names = stored["names"].tobytes().decode("utf-8", "surrogateescape").split("\n")
                state, sha256, size = stored["state"], stored["sha256"], stored["size"]
            n = len(names)
            shapes = (state.shape, sha256.shape, size.shape)
            types = (state.dtype, sha256.dtype, size.dtype)
            if shapes == ((n, 2), (n, 32), (n, 2)) and types == (np.int64, np.uint8, np.int32):
                return Memory(path, names, state, sha256, size)
        except Exception:  # a broken cache is no cache: zipfile, zlib, numpy and unicode errors alike
            pass
        # One row that matches no name: indexing with -1 ("not known") is then always legal.
        empty = np.zeros((1, 2), np.int64), np.zeros((1, 32), np.uint8), np.zeros((1, 2), np.int32)
        return Memory(path, ["\t"], *empty)

    def rows(self, names: Sequence[str], state: np.ndarray) -> np.ndarray:
        """Where each file is remembered unchanged; -1 where it is not. int64 [N]"""
        at = {name: i for i, name in enumerate(self.names)}
        row = np.fromiter((at.get(name, -1) for name in names), np.int64, len(names))
        same = (row >= 0) & (state[:, 0] >= 0) & (self.state[row] == state).all(axis=1)
        return np.where(same, row, -1)

    def update(
        self, names: Sequence[str], state: np.ndarray, sha256: np.ndarray, size: np.ndarray, exclude: dict[int, str]
    ) -> None:
        """Add what was read now and keep the rest. Not being able to write costs time, nothing else."""
        settled = state[:, 1] < time.time_ns() - SETTLED_NS
        fresh = np.array([i for i in np.flatnonzero(settled).tolist() if i not in exclude], np.int64)
        replaced = {names[i] for i in fresh}
        kept = np.array([i for i, name in enumerate(self.names) if name not in replaced], np.int64)
        text = "\n".join([*(self.names[i] for i in kept), *(names[i] for i in fresh)])
        arrays = {
            "names": np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8),
            "state": np.concatenate([self.state[kept], state[fresh]]),
            "sha256": np.concatenate([self.sha256[kept], sha256[fresh]]),
            "size": np.concatenate([self.size[kept], size[fresh]]),
        }
        with contextlib.suppress(WriteFailed):
            write_atomic(self.path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def remembered_digests(path: Path, layout: bytes, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """SHA-256 of the N pieces of one big file, uint8 [N,32]: computed once for each state of the file.

    ``layout`` says where the pieces are. Kept as one array per file, whose first row is the hash of state and layout.
    """
    state = file_state(path)
    mark = np.frombuffer(hashlib.sha256(f"{state}".encode() + layout).digest(), np.uint8)
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    memory = default_cache_dir() / "pieces" / f"{key}.npy"
    try:
        known = np.load(memory, mmap_mode="r", allow_pickle=False)
        if known.dtype == np.uint8 and known.ndim == 2 and known.shape[1] == 32 and (known[0] == mark).all():
            return np.asarray(known[1:])
    except Exception:  # a broken cache is no cache
        pass
    found = compute()
    if state[1] < time.time_ns() - SETTLED_NS:
        with contextlib.suppress(WriteFailed):
            write_atomic(memory, lambda stream: np.save(stream, np.vstack([mark, found]), allow_pickle=False))
    return found
