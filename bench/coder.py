"""The entropy coder: milliseconds for one image's latents, beside its limits; what a process pays at its first call."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from bench.latents import Floats, draw
from bench.timing import REPEATS, Paired, Row, at_most, cpu_seconds, interleave, reported
from facekit.codec.mixture import Mixture, bits, cdf, quantised
from facekit.codec.rans import decode, encode
from facekit.codec.tables import SYMBOLS

VALUES, COMPONENTS, PIXELS = 192 * 32 * 48, 3, 512 * 768
"""The latents of a 768x512 image with M = 192."""
LOG_SCALE = -1.22
"""Gives about .87 bits per pixel."""
LINE_S = 0.010
PEER_REACH = 64
"""The peer gets one table of 129 probabilities a value: one of 1,024 would take 1.2 GB."""


def image() -> tuple[Floats, np.ndarray]:
    """Float parameters and values of one image."""
    return draw(COMPONENTS, VALUES, log_scale=LOG_SCALE)


def against_line(name: str, call: Callable[[], object], note: str) -> Row:
    """CPU time in units of 10 ms, the median of the repeats; twice that is the bar."""
    call()
    taken = np.array([cpu_seconds(call) for _ in range(REPEATS)])
    note = f"{np.median(taken) * 1e3:.1f} ms CPU (fastest {taken.min() * 1e3:.1f}) against 10 ms; {note}"
    return at_most(name, Paired(taken, np.full(REPEATS, LINE_S)), 2, note)


def described(values: np.ndarray, mixture: Mixture, data: bytes) -> str:
    """What was coded, and the bytes above the integer model's bits."""
    ideal = bits(mixture, values)
    return (
        f"{VALUES:,} values, K = {COMPONENTS}, {8 * len(data) / PIXELS:.3f} bpp, {len(data) - ideal / 8:.0f} B "
        "above the model's bits, one thread"
    )


def coder_encode() -> Row:
    """Integer mixture and values to bytes."""
    floats, values = image()
    mixture = quantised(*floats)
    note = described(values, mixture, encode(values, mixture))
    return against_line("entropy coder, encode", lambda: encode(values, mixture), note)


def coder_decode() -> Row:
    """Bytes and integer mixture to values."""
    floats, values = image()
    mixture = quantised(*floats)
    data = encode(values, mixture)
    note = f"{described(values, mixture, data)}; {constriction_ms(values, mixture)}"
    return against_line("entropy coder, decode", lambda: decode(data, mixture), note)


def coder_rounding() -> Row:
    """Float parameters to integers, which comes before both directions, beside decoding."""
    floats, values = image()
    mixture = quantised(*floats)
    data = encode(values, mixture)
    paired = interleave(lambda: quantised(*floats), lambda: decode(data, mixture))
    note = f"{np.median(paired.a) * 1e3:.1f} ms CPU in NumPy for {VALUES:,} x {COMPONENTS} parameters of each kind"
    return reported("rounding a mixture / decoding under it", paired, note)


def coder_reference() -> Row:
    """The compiled backend against the plain one, which is what runs without numba."""
    floats, values = image()
    mixture = quantised(*floats)
    data = encode(values, mixture)
    paired = interleave(lambda: decode(data, mixture, "reference"), lambda: decode(data, mixture), repeats=5, warm=1)
    note = f"the reference decodes in {np.median(paired.a):.2f} s CPU; equal bytes"
    return reported("entropy coder, reference / compiled", paired, note)


def constriction_ms(values: np.ndarray, mixture: Mixture) -> str:
    """What constriction's range coder takes from ready tables of probabilities, where it is installed."""
    try:
        import constriction
    except ImportError:
        return "constriction is not installed"
    tables = tables_of(mixture)
    family = constriction.stream.model.Categorical(perfect=False)
    shifted = np.clip(values, -PEER_REACH, PEER_REACH).astype(np.int32) + PEER_REACH
    encoder = constriction.stream.queue.RangeEncoder()
    encoding = cpu_seconds(lambda: encoder.encode(shifted, family, tables))
    decoder = constriction.stream.queue.RangeDecoder(encoder.get_compressed())
    decoding = cpu_seconds(lambda: decoder.decode(family, tables))
    return f"constriction's range coder {encoding * 1e3:.0f} / {decoding * 1e3:.0f} ms, its tables made beforehand"


def tables_of(mixture: Mixture) -> np.ndarray:
    """float32 [n,129]: our probabilities of -64..64, the tails with the outermost ones."""
    x = np.arange(-PEER_REACH, PEER_REACH + 2)[:, None] + SYMBOLS // 2
    x[0], x[-1] = 0, SYMBOLS
    blocks = (Mixture(*(array[:, i : i + 8192] for array in mixture)) for i in range(0, VALUES, 8192))
    return np.concatenate([np.diff(cdf(block, x).astype(np.float32), axis=0).T / 2**24 for block in blocks])


# --- the first call of a process -----------------------------------------------------------------------------------

FIRST_CALL = """
import time
import numpy as np
from facekit.codec.mixture import Mixture
from facekit.codec.rans import decode, encode
values = np.zeros(1, np.int16)
mixture = Mixture(np.zeros((3, 1), np.int16), np.zeros((3, 1), np.uint8), np.array([[4096], [0], [0]], np.uint16))
start = time.process_time()
decode(encode(values, mixture, "numba"), mixture, "numba")
print(time.process_time() - start)
"""


def first_call(cache: str) -> float:
    """CPU seconds of loading numba, encoding and decoding one value in a new process with this cache folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def coder_first_call() -> Row:
    """What a process pays before its first image: with nothing kept on disk, and with the machine code there."""
    cold, warm = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_call(cache))
            warm.append(first_call(cache))
    paired = Paired(np.array(cold), np.array(warm))
    note = (
        f"CPU s: {np.median(cold):.1f} the first time on a machine, {np.median(warm):.2f} in every later process, "
        "loading numba included"
    )
    return reported("entropy coder's first call, compiling / from the cache", paired, note)
