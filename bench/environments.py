"""Peers that are packages: each in a virtual environment of its own, never in facekit's."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import torch

PLACE = Path(__file__).resolve().parent.parent / "build" / "peers"


class Skipped(Exception):
    """A bench cannot be run here, and the message says why."""


def beside(package: str, version: str) -> str:
    """The Python of an environment that has the package, without what it requires, and all that facekit has.

    So peer and facekit run in one process on the same torch. Made at the first call, from pip's index.
    """
    return made(f"{package}-{version}", ["--no-deps", f"{package}=={version}"])


def with_needs(package: str, version: str) -> str:
    """The Python of an environment that has the package and what it requires; torch is facekit's own.

    Versions that facekit has and the package does not take are installed there, in front of facekit's: such a peer
    runs in a process of its own. Made at the first call, from pip's index. Raises Skipped where that fails.
    """
    same_torch = torch.__version__.partition("+")[0]
    try:
        return made(f"{package}-{version}", [f"{package}=={version}", f"torch=={same_torch}"])
    except subprocess.CalledProcessError as error:
        raise Skipped(f"{package} {version} could not be installed (pip's words are above)") from error


def made(name: str, wanted: Sequence[str]) -> str:
    """The Python of the environment, which sees facekit's packages behind its own."""
    folder = PLACE / name
    python, done = str(folder / "bin" / "python"), folder / "done"
    if not done.is_file():
        venv.create(folder, clear=True, with_pip=True)
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        (Path(own) / "facekit.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        done.touch()
    return python
