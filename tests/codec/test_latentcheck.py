"""The latent's CRC, and the sentence that says on which machine it differs."""

from __future__ import annotations

import platform
import struct
import zlib

import numpy as np
import pytest

from facekit.codec.errors import EntropyDesync, PayloadCorrupt
from facekit.codec.latentcheck import latent_crc, naming_machine, require_latent

LATENT = np.array([[1, -2, 510], [-511, 0, 7]], np.int16)


def test_it_is_the_crc_of_little_endian_values_in_c_order() -> None:
    assert latent_crc(LATENT) == zlib.crc32(struct.pack("<6h", 1, -2, 510, -511, 0, 7))
    assert latent_crc(np.asfortranarray(LATENT)) == latent_crc(LATENT.astype(">i2")) == latent_crc(LATENT)


def test_values_that_int16_does_not_hold_are_not_cut_silently() -> None:
    with pytest.raises(TypeError):
        latent_crc(LATENT.astype(np.int64))


def test_another_latent_is_refused_and_the_sentence_names_mode_and_machine() -> None:
    require_latent(LATENT, None)
    require_latent(LATENT, latent_crc(LATENT))
    with pytest.raises(EntropyDesync) as caught, naming_machine("f64"):
        require_latent(LATENT + np.int16(1), latent_crc(LATENT))
    assert "numeric mode f64" in str(caught.value) and platform.system() in str(caught.value)
    with pytest.raises(PayloadCorrupt, match="^as it was$"), naming_machine("f64"):
        raise PayloadCorrupt("as it was")
