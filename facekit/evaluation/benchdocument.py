"""The document of a codec bench: what every one of them begins with, and its two files."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facekit import __version__
from facekit.core.files import plain, write_atomic, write_json
from facekit.evaluation.classical import versions
from facekit.evaluation.results import command_line, describe_environment


def opening(schema: str, device: Mapping[str, Any]) -> dict[str, Any]:
    """Schema, time, command, and all that moves bytes or seconds; ``device`` is ``Device.describe()``."""
    return {
        "schema": schema,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facekit": __version__,
        "command": command_line(),
        "environment": {**describe_environment(device), "codecs": versions()},
    }


def write_document(folder: Path, content: Mapping[str, Any], table: str) -> tuple[Path, Path]:
    """Write results.json, and the rows of ``content[table]`` again as results.csv, each atomically.

    What is not finite becomes null: the PSNR of a lossless setting, MS-SSIM of tiny images.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(content[table][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(content[table]))
    return (
        write_json(folder / "results.json", content),
        write_atomic(folder / "results.csv", stream.getvalue().encode()),
    )
