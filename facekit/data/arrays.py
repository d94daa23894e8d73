"""Arrays from strangers' ``.npy`` and ``.npz`` files: no pickles, and every size is checked before memory is taken."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.data.memory import free_ram

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
BROKEN = (
    ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError, OverflowError, RuntimeError,
    NotImplementedError, KeyError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What numpy and zipfile raise over a broken or forged file."""


def map_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy``, mapped read-only."""
    with explained(path):
        return np.lib.format.open_memmap(path, mode="r").view(np.ndarray)


def read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the ``keys`` that a ``.npz`` has."""
    with explained(path), zipfile.ZipFile(path) as archive:
        there = {info.filename: info for info in archive.infolist()}
        wanted = {key: there[f"{key}.npy"] for key in keys if f"{key}.npy" in there}
        total = sum(info.file_size for info in wanted.values())
        if total > free_ram():
            raise InputError(
                f"{path} unpacks to {total >> 20:,} MiB, more than the free memory; use .npy, which is mapped"
            )
        found = {}
        for key, info in wanted.items():
            with archive.open(info) as stream:
                found[key] = read_npy(stream, info.file_size)
        return found


def read_npy(stream: IO[bytes], length: int) -> np.ndarray:
    """The array of an ``.npy`` file of ``length`` bytes. Raises ValueError where it is anything else."""
    read_header = HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError("unknown version of the format")
    shape, columns_first, dtype = read_header(stream)
    size = prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or size != length - stream.tell():
        raise ValueError(f"shape {shape} of {dtype} does not fit a file of {length} bytes")
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the file ends early")
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
    return array


def read_npy_file(path: Path, limit: int) -> np.ndarray:
    """The array of a small ``.npy``, read as a whole."""
    with explained(path), open(path, "rb") as stream:
        length = os.fstat(stream.fileno()).st_size
        if length > limit:
            raise ValueError(f"{length >> 20} MiB where at most {limit >> 20} were expected")
        return read_npy(stream, length)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """One sentence where the file is missing, cut off, forged or a pickle."""
    try:
        yield
    except (InputError, CorruptFile):
        raise
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    except BROKEN as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CorruptFile(f"{path} is not a whole file of plain numpy arrays: {reason}") from error
