"""Writing files so that a reader sees the old content or the new, never half of one; hashing them."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from facekit.core.errors import CorruptFile, MissingFile, WriteFailed


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn an OSError while writing into one sentence; earlier files stay as they are."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WriteFailed):
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise WriteFailed(
            f"could not write {path}: {reason}. Earlier files are untouched; free some space or choose another --out."
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, waiting for another process that does. The kernel frees the locks of the dead."""
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "ab")  # noqa: SIM115  # closed below: only opening it is a write to explain
    with stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass  # no locks here (Windows, some network disks): at worst the work is done twice
        yield


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (a no-op where folders cannot be opened, as on Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path | str, write: Callable[[BinaryIO], object] | bytes) -> Path:
    """Write to a temporary name beside ``path``, fsync, rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                if isinstance(write, bytes):
                    stream.write(write)
                else:
                    write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    return path


def plain(value: Any) -> Any:
    """The JSON form of a value: NaN and infinity become null, numpy and path types become plain ones."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON without NaN or Infinity, atomically."""
    return write_atomic(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read JSON, with one sentence where the file is missing or broken."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise CorruptFile(f"{path} is not valid JSON (line {error.lineno}: {error.msg})") from error


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
