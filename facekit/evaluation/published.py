"""Published rate-distortion curves on the 24 Kodak images, with where they come from: ``kodak_curves.json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facekit.core.files import read_json

PATH = Path(__file__).with_name("kodak_curves.json")
ANCHOR = "bmshj2018-hyperprior"
"""The scale hyperprior as CompressAI trained it: what learned codecs are usually held against."""
_IMAGES, _SIDES = 24, (512, 768)


class PublishedCurve(NamedTuple):
    """One codec, its n settings by rising rate, float64 [n] each."""

    name: str
    source: str
    bpp: np.ndarray
    psnr: np.ndarray
    ms_ssim: np.ndarray
    """0..1, NaN where the source gives none"""


def published_curves() -> list[PublishedCurve]:
    """All of them, in the order of the file."""
    curves = read_json(PATH)["curves"]
    return [
        PublishedCurve(name, curve["source"], *np.array(curve["points"], np.float64).T)
        for name, curve in curves.items()
    ]


def about_curves() -> dict[str, Any]:
    """Origin, licence and notes, for a result."""
    about: dict[str, Any] = read_json(PATH)["about"]
    return about


def looks_like_kodak(sizes: Iterable[tuple[int, int]]) -> bool:
    """Whether images of these sizes may be the ones that the curves were measured on: of others they say nothing."""
    found = list(sizes)
    return len(found) == _IMAGES and all(tuple(sorted(size)) == _SIDES for size in found)
