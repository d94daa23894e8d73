"""A new folder that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facekit.core.errors import OutputExists
from facekit.core.files import explain_write, sync_folder


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside ``out`` to fill; it becomes ``out`` at the end, and is removed where something fails.

    Raises OutputExists where ``out`` is there and not an empty folder, and WriteFailed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} exists already and is not an empty folder; name another --out")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explain_write(out):
            temporary.mkdir(parents=True)
        yield temporary
        with explain_write(out):
            os.replace(temporary, out)
            sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
