"""``python -m facekit`` is the same as ``facekit``."""

from facekit.cli import main

main()
