"""Latent values to bytes and back: an rANS coder over integer distributions, with a compiled and a plain backend.

Streams are little-endian words of 32 bits, the coder's last state first (eight bytes), and equal for both backends.
There is no checksum in them: a stream must start with a sound state, end in the encoder's first one, and use every
word. That notices most damage, and whatever it misses decodes to wrong values, never to a crash.

A small image cannot pay for two states, so its hyper-latent and latent can share one: the coder is a stack, the latent
is pushed before the hyper-latent, and what is left once the hyper-latent is pulled is the latent's own stream.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from facekit.codec.errors import EntropyDesync
from facekit.codec.mixture import Mixture
from facekit.codec.tables import LEVELS, PRECISION, STATIC_SYMBOLS, SYMBOLS
from facekit.core.errors import InputError, missing_extra

Backend = Literal["numba", "reference"]

STATIC_CENTRE = STATIC_SYMBOLS // 2
EMPTY = bytes.fromhex("00000000 00000080")
"""The stream of no symbols: the encoder's first state, 2^31."""


class Loops(Protocol):
    """What a backend's module holds."""

    def push(self, low: np.ndarray, width: np.ndarray) -> np.ndarray:
        """The stream uint32 of symbols with these intervals uint32 [n]."""

    def intervals(self, mixture: Mixture, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and width, uint32 [n], of each latent value int16 [n]."""

    def pull_mixture(self, words: np.ndarray, mixture: Mixture, symbols: np.ndarray) -> bool:
        """Fill ``symbols`` int16 [n]; False where the stream is not whole."""

    def pull_static(self, words: np.ndarray, edges: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
        """Fill ``indices`` int16 [C,n]; the stream of what was pushed before them, None where words are missing."""


def encode(symbols: np.ndarray, mixture: Mixture, backend: Backend | None = None) -> bytes:
    """The stream of latent values int16 [n], -512..511, each under its own mixture; numba by default where installed.

    A value that its mixture gives a share of 1/4 costs two bits; the two coder states cost eight bytes in all.
    """
    coder = loops(backend)
    return stream(coder.push(*mixture_intervals(symbols, mixture, coder)))


def decode(data: bytes, mixture: Mixture, backend: Backend | None = None) -> np.ndarray:
    """The latent values int16 [n] of a stream that was made with this mixture [K,n]. Raises EntropyDesync."""
    symbols = np.empty(mixture.mean.shape[1], np.int16)
    mixture = sound(mixture, len(symbols))
    if not loops(backend).pull_mixture(words(data), mixture, symbols):
        raise desync()
    return symbols


def encode_static(symbols: np.ndarray, edges: np.ndarray, backend: Backend | None = None) -> bytes:
    """The stream of hyper-latent values int16 [C,h,w], -127..127, under one distribution a channel.

    ``edges`` uint32 [C,256] are a channel's cumulative frequencies, from 0 to 2^24.
    """
    return stream(loops(backend).push(*static_intervals(symbols, edges)))


def decode_static(
    data: bytes, edges: np.ndarray, shape: tuple[int, int, int], backend: Backend | None = None
) -> np.ndarray:
    """The hyper-latent values int16 [C,h,w] of a stream that was made with these edges. Raises EntropyDesync."""
    symbols, rest = decode_static_prefix(data, edges, shape, backend)
    if rest != EMPTY:
        raise desync()
    return symbols


def encode_joint(
    z: np.ndarray, edges: np.ndarray, y: np.ndarray, mixture: Mixture, backend: Backend | None = None
) -> bytes:
    """One stream of hyper-latent values int16 [C,h,w] and latent values int16 [n], with one state of eight bytes.

    To be read by ``decode_static_prefix`` and then, with the mixture that follows from z, by ``decode``.
    """
    coder = loops(backend)
    low_z, width_z = static_intervals(z, edges)
    low_y, width_y = mixture_intervals(y, mixture, coder)
    return stream(coder.push(np.concatenate([low_z, low_y]), np.concatenate([width_z, width_y])))


def decode_static_prefix(
    data: bytes, edges: np.ndarray, shape: tuple[int, int, int], backend: Backend | None = None
) -> tuple[np.ndarray, bytes]:
    """The hyper-latent values int16 [C,h,w] at the front of a joint stream, and the stream of what is behind them.

    Raises EntropyDesync where the stream is too short. Other damage shows at the end of the rest, which is as sound to
    decode as any stream, whatever the data are: a state in range leaves a state in range.
    """
    check_edges(edges, shape[0])
    indices = np.empty((shape[0], shape[1] * shape[2]), np.int16)
    rest = loops(backend).pull_static(words(data), np.ascontiguousarray(edges), indices)
    if rest is None:
        raise desync()
    return (indices - np.int16(STATIC_CENTRE)).reshape(shape), stream(rest)


def loops(backend: Backend | None) -> Loops:
    """The module of the named backend; without a name the compiled one where numba can be loaded."""
    if backend != "reference":
        try:
            from facekit.codec import rans_numba

            return rans_numba
        except ImportError:
            if backend == "numba":
                raise missing_extra("numba", "codec") from None
    from facekit.codec import rans_reference

    return rans_reference


def mixture_intervals(symbols: np.ndarray, mixture: Mixture, coder: Loops) -> tuple[np.ndarray, np.ndarray]:
    """Start and width, uint32 [n], of each latent value [n], after checking both."""
    mixture = sound(mixture, len(symbols))
    return coder.intervals(mixture, within(symbols, -SYMBOLS // 2, SYMBOLS // 2 - 1))


def static_intervals(symbols: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and width, uint32 [C*h*w], of each hyper-latent value [C,h,w], after checking both."""
    check_edges(edges, len(symbols))
    j = within(symbols, -STATIC_CENTRE, STATIC_CENTRE).reshape(len(symbols), -1) + STATIC_CENTRE
    low, high = (np.take_along_axis(edges, j + k, axis=1).ravel() for k in (0, 1))
    return low, high - low


def sound(mixture: Mixture, count: int) -> Mixture:
    """The mixture in contiguous arrays; ValueError where it is not one of ``count`` values."""
    shape, kinds = mixture.mean.shape, [array.dtype.name for array in mixture]
    if any(array.shape != shape for array in mixture) or len(shape) != 2 or shape[0] < 1 or shape[1] != count:
        raise ValueError(f"a mixture of shape {[array.shape for array in mixture]} for {count} values")
    if kinds != ["int16", "uint8", "uint16"] or mixture.level.max(initial=0) >= LEVELS:
        raise ValueError(f"a mixture of {kinds} with levels up to {mixture.level.max(initial=0)}")
    return Mixture(*(np.ascontiguousarray(array) for array in mixture))


def within(symbols: np.ndarray, least: int, most: int) -> np.ndarray:
    """The values, contiguous int16; ValueError where one is outside, for whoever made them has not clipped them."""
    if symbols.dtype != np.int16 or symbols.min(initial=0) < least or symbols.max(initial=0) > most:
        raise ValueError(f"latent values must be int16 from {least} to {most}")
    return np.ascontiguousarray(symbols)


def check_edges(edges: np.ndarray, channels: int) -> None:
    """Refuse (InputError) what is no table of cumulative frequencies: it comes from a model file of anybody's."""
    right = edges.dtype == np.uint32 and edges.shape == (channels, STATIC_SYMBOLS + 1)
    ends = right and (edges[:, 0] == 0).all() and (edges[:, -1] == 1 << PRECISION).all()
    if not ends or not (edges[:, 1:] > edges[:, :-1]).all():
        raise InputError(
            f"the model's table for hyper-latents must be uint32 [{channels}, {STATIC_SYMBOLS + 1}], rising from 0 to "
            f"2^{PRECISION} in every row; this one is not. Use the model file as it was exported."
        )


def stream(words: np.ndarray) -> bytes:
    """Bytes of 32-bit words."""
    return words.astype("<u4", copy=False).tobytes()


def words(data: bytes) -> np.ndarray:
    """32-bit words of bytes, uint32."""
    if len(data) % 4:
        raise desync()
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)


def desync() -> EntropyDesync:
    """The one refusal of this file."""
    return EntropyDesync(
        "the entropy-coded data do not end where their encoder began: they are damaged, or this model or machine "
        "computes other distributions than the encoder's did"
    )
