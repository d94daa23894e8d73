"""MegaFace's features: one small ``.bin`` per image, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facekit.core.errors import CorruptFile, InputError
from facekit.data.fingerprint import file_state

HEADER = 16
MAX_WIDTH = 1 << 16


class FeatureFiles:
    """Embeddings float32 [N,1,D], one file each: int32 (D, 1, 4, 5) as OpenCV writes a column, then D floats.

    Indexed by rows it reads just those: a million of them never are in memory.
    """

    def __init__(self, root: Path, files: Sequence[str], width: int) -> None:
        self.root, self.files = root, files
        self.shape = (len(files), 1, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: int | np.integer | np.ndarray) -> np.ndarray:
        """The features of some images, [n,1,D], or [1,D] of one."""
        if isinstance(rows, int | np.integer):
            return self.read(int(rows))
        return np.stack([self.read(i) for i in rows.tolist()])

    def read(self, i: int) -> np.ndarray:
        """[1,D] of one image."""
        path, width = self.root / self.files[i], self.shape[2]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptFile(f"{path} cannot be read: {error.strerror or error}") from error
        header = np.frombuffer(data[:HEADER].ljust(HEADER, b"\0"), "<i4").tolist()
        if header != [width, 1, 4, 5] or len(data) != HEADER + 4 * width:
            raise CorruptFile(
                f"{path} holds {len(data)} bytes with the header {header}, not a feature of {width} floats"
            )
        return np.frombuffer(data, "<f4", offset=HEADER).reshape(1, width)


def find_features(root: Path, images: Sequence[str]) -> tuple[list[str], int, dict[int, str]]:
    """(file of each image, width, images without a usable file and why): ``<image>_<algo>.bin``.

    Raises InputError where no image has one, or the first that has one has several algorithms'.
    """
    suffix, width = naming(root, images)
    files = [image + suffix for image in images]
    size = np.array([file_state(root / file)[0] for file in files], np.int64)
    wrong = np.flatnonzero(size != HEADER + 4 * width).tolist()
    reasons = {i: "there is no feature" if size[i] < 0 else f"its feature has {size[i]} bytes" for i in wrong}
    return files, width, reasons


def naming(root: Path, images: Sequence[str]) -> tuple[str, int]:
    """(``_<algo>.bin``, width), from the first image that has a feature."""
    for image in images:
        folder, name = (root / image).parent, Path(image).name
        found = [p for p in folder.iterdir() if feature_of(p, name)] if folder.is_dir() else []
        if len(found) > 1:
            raise InputError(
                f"{root / image} has the features {', '.join(sorted(p.name for p in found))}; keep one of them"
            )
        if found:
            width, rest = divmod(found[0].stat().st_size - HEADER, 4)
            if rest or not 0 < width <= MAX_WIDTH:
                raise CorruptFile(f"{found[0]} has {width * 4 + rest + HEADER} bytes, which is no header and floats")
            return found[0].name.removeprefix(name), width
    raise InputError(
        f"none of the {len(images)} images has a feature under {root}; they are named {images[0]}_<algo>.bin"
    )


def feature_of(path: Path, image: str) -> bool:
    """Whether the file is a feature of the image."""
    return path.name.startswith(f"{image}_") and path.suffix == ".bin" and path.is_file()
