"""The pairs that a score gets most wrong: look at them before you blame the model, some are wrong labels."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facekit.data.pairs import PairSet
from facekit.data.protocol import Source

THUMBNAIL = 64
"""Pixels of the longer side."""


@dataclass(frozen=True)
class HardPair:
    """One pair, its images by name."""

    left: str
    right: str
    score: float
    left_image: str | None = None
    """JPEG as a data URI; None where nobody asked for pictures"""
    right_image: str | None = None


@dataclass(frozen=True)
class Hardest:
    """The extremes of one score on one benchmark, worst first."""

    benchmark: str
    label: str
    genuine: tuple[HardPair, ...]
    """Lowest scores of one person"""
    impostor: tuple[HardPair, ...]
    """Highest scores of two people"""


def hardest_pairs(
    pairs: PairSet, scores: np.ndarray, label: str = "raw", *, count: int = 8, thumbnails: bool = False
) -> Hardest:
    """The ``count`` worst genuine and impostor pairs by scores [P]; ties in the order of the list.

    ``thumbnails`` puts the faces into the result: they leave the data's folder with every report.
    """
    genuine, impostor = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
    lowest = genuine[lowest_of(scores[genuine], count)]
    highest = impostor[lowest_of(-scores[impostor], count)]
    pictures = thumbnails_of(pairs, np.concatenate([lowest, highest])) if thumbnails else {}

    def named(i: int) -> HardPair:
        left, right = int(pairs.left[i]), int(pairs.right[i])
        names = pairs.source.names
        return HardPair(names[left], names[right], float(scores[i]), pictures.get(left), pictures.get(right))

    return Hardest(
        pairs.name, label, tuple(named(i) for i in lowest.tolist()), tuple(named(i) for i in highest.tolist())
    )


def lowest_of(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` lowest values [n], ascending, ties by position; linear in n."""
    count = min(count, len(values))
    if not count:
        return np.empty(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    candidates = np.flatnonzero(values <= bound)
    return candidates[np.argsort(values[candidates], kind="stable")][:count]


def thumbnails_of(pairs: PairSet, chosen: np.ndarray) -> dict[int, str]:
    """Position of an image -> its data URI, for all images of the chosen pairs."""
    images = np.unique(np.concatenate([pairs.left[chosen], pairs.right[chosen]]))
    return dict(zip(images.tolist(), data_uris(pairs.source, images), strict=True))


def data_uris(source: Source, index: np.ndarray) -> list[str]:
    """The images at ``index`` as small JPEGs, in text."""
    found = []
    for pixels in source.read(index):
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        found.append("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii"))
    return found
