"""Whether the decoded latent is the encoder's, and a refusal that says on which machine it is not.

The hyper-decoder's float64 is no proof: another machine may round one of its numbers to another integer, and everything
behind that one is then lost. Such a file is not damaged, and only the sentence can tell.
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from facekit.codec.errors import EntropyDesync
from facekit.codec.framing import Mode


def latent_crc(latent: np.ndarray) -> int:
    """CRC32 of latent values int16 of any shape, in C order, little endian."""
    return zlib.crc32(latent.astype("<i2", order="C", casting="safe").tobytes())


def require_latent(latent: np.ndarray, crc: int | None) -> None:
    """Raise EntropyDesync where the encoder kept the CRC of another latent."""
    if crc is not None and latent_crc(latent) != crc:
        raise EntropyDesync("the decoded latent is not the encoder's: this machine computes other distributions")


@contextmanager
def naming_machine(mode: Mode) -> Iterator[None]:
    """Let every EntropyDesync inside name the platform and the numeric mode."""
    try:
        yield
    except EntropyDesync as error:
        machine = f"{platform.system()} {platform.machine()}, torch {torch.__version__}"
        raise EntropyDesync(f"{error} (numeric mode {mode}, {machine})") from error
