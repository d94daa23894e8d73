"""Where facekit keeps what it can compute again: embeddings and file hashes."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """``$FACEKIT_CACHE``, else ``~/.cache/facekit``. Deleting it costs only time."""
    named = os.environ.get("FACEKIT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "facekit"
