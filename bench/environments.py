"""Peers that are packages: each in a virtual environment of its own, never in facekit's."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

PLACE = Path(__file__).resolve().parent.parent / "build" / "peers"


def beside(package: str, version: str) -> str:
    """The Python of an environment that has the package, without what it requires, and all that facekit has.

    So peer and facekit run in one process on the same torch. Made at the first call, from pip's index.
    """
    folder = PLACE / f"{package}-{version}"
    python, done = str(folder / "bin" / "python"), folder / "done"
    if not done.is_file():
        venv.create(folder, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", f"{package}=={version}"]
        subprocess.run(install, check=True)
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        (Path(own) / "facekit.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done.touch()
    return python
