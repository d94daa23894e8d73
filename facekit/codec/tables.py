"""The integer tables that encoder and decoder must share to the last bit, and the constants that go with them.

``T`` holds the normal distribution at 64 scales from .11 to 64: for level l with scale s and d = -h..h in sixteenths of
a symbol, h = ceil(128 s), T[CENTRE[l] + d] = round(2^24 Phi(d / (16 s))). ``LUT[d] = round(4096 exp(-d / 16))`` turns
differences of logits into weights. They are read from a file and never recomputed where coding is done: two maths
libraries may differ in the last bit, and one bit destroys a stream. The file's content is part of the format.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import CorruptFile

PRECISION = 24
"""Frequencies of a distribution add up to 2^PRECISION."""
SYMBOLS = 1024
"""A latent value y is coded as the symbol y + SYMBOLS/2."""
WEIGHT_BITS = 12
"""Weights of a mixture add up to 2^WEIGHT_BITS."""
STATIC_SYMBOLS = 255
"""A hyper-latent value z, -127..127, is coded as the symbol z + 127."""

LEVELS = 64
LEAST_SCALE, GREATEST_SCALE = 0.11, 64.0
LEAST_LOG_SCALE = -2.2072749131897207
"""ln .11, spelt out so that no maths library is asked."""
LEVELS_PER_LOG = 9.896078613529147
"""63 / ln(64 / .11)."""

PATH = Path(__file__).with_name("mixture_tables.npz")
SHA256 = "fe31f12caaee932b94f342f61b08aca3473cc7d71462df25b7b1887718529123"


class Tables(NamedTuple):
    """``T`` uint32 [170334], ``LUT`` uint32 [256] and ``REACH`` uint32 [64], the h of each level."""

    T: np.ndarray
    LUT: np.ndarray
    REACH: np.ndarray

    def sha256(self) -> str:
        """Of the little-endian bytes, one array after the other: how a file was compressed does not matter."""
        content = b"".join(array.astype("<u4").tobytes() for array in self)
        return hashlib.sha256(content).hexdigest()


def level_scales() -> list[float]:
    """The standard deviations of the 64 levels, in symbols: .11 * (64/.11)^(l/63)."""
    return [LEAST_SCALE * (GREATEST_SCALE / LEAST_SCALE) ** (level / (LEVELS - 1)) for level in range(LEVELS)]


def computed() -> Tables:
    """The tables by this machine's maths library; how the file was made: ``np.savez_compressed(PATH, **_asdict())``."""
    scales = level_scales()
    reach = [math.ceil(128 * scale) for scale in scales]  # eight standard deviations in sixteenths: T is flat beyond
    cumulative = [
        round((1 << PRECISION) * 0.5 * math.erfc(-d / (16 * scale * math.sqrt(2))))
        for scale, h in zip(scales, reach, strict=True)
        for d in range(-h, h + 1)
    ]
    softmax = [round((1 << WEIGHT_BITS) * math.exp(-d / 16)) for d in range(256)]
    return Tables(*(np.array(values, np.uint32) for values in (cumulative, softmax, reach)))


def read_tables(path: Path) -> Tables:
    """From the file, of which a single changed value is refused (CorruptFile)."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            tables = Tables(*(stored[name] for name in Tables._fields))
        whole = tables.sha256() == SHA256
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFile(f"{path} cannot be read: {error}. Install facekit again.") from error
    if not whole:
        raise CorruptFile(f"{path} is not the table file of this version. Install facekit again.")
    for array in tables:
        array.setflags(write=False)
    return tables


SHIPPED = read_tables(PATH)
T, LUT = SHIPPED.T, SHIPPED.LUT
REACH = SHIPPED.REACH.astype(np.int32)
CENTRE = np.cumsum(2 * REACH + 1, dtype=np.int32) - REACH - 1
"""Where in T the value of d = 0 stands, for each level."""
