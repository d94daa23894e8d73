"""Where a codec's model lies: in a file of its own, or in the run that trained it."""

from __future__ import annotations

from pathlib import Path

from facekit.codec.modelfile import CodecModel, read_model
from facekit.core.errors import MissingFile

MODEL_FILE = "model.safetensors"
"""What a finished run of compress train leaves in its folder."""


def open_model(path: Path) -> CodecModel:
    """A model file, or that of a finished run. Raises as ``read_model`` does."""
    if not path.is_dir():
        return read_model(path)
    if not (path / MODEL_FILE).is_file():
        raise MissingFile(
            f"{path} holds no {MODEL_FILE}: compress train writes it at its end. Let the run finish (--resume), or "
            "give a model file"
        )
    return read_model(path / MODEL_FILE)
