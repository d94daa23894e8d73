"""The entropy coder's inner loops in NumPy and plain Python: what runs without numba, and what proves it right.

An rANS coder (Duda, arXiv 1311.2540) with one state in [2^31, 2^63) and words of 32 bits. Pushing a symbol that owns
[low, low + width) of 2^24 turns the state s into (s // width) * 2^24 + s % width + low; pulling undoes it. A stream is
the last state, high word first, and then the words in the order in which they are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from facekit.codec.mixture import Mixture, cdf, heaviest
from facekit.codec.mixture import intervals as intervals  # as every backend has them
from facekit.codec.tables import PRECISION, SYMBOLS

LEAST_STATE = 1 << 31
STATE_BITS = 63
WORD = (1 << 32) - 1
SLOT = (1 << PRECISION) - 1

AROUND = 6
"""Nearly all symbols lie this near to the heaviest mean; their edges are computed for a block of values at once."""
BLOCK = 1 << 14


class OutOfWords(Exception):
    """A stream is shorter than its symbols."""


class Decoder:
    """The state and the words that are still to be read."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = words[::-1].tolist()
        self.state = self.word() << 32 | self.word()
        self.sound = LEAST_STATE <= self.state < 1 << STATE_BITS

    def word(self) -> int:
        """The next one."""
        if not self.words:
            raise OutOfWords
        word: int = self.words.pop()
        return word

    def take(self, edges: list[int]) -> int:
        """Pull the j for which edges[j] <= slot < edges[j+1]; the caller knows that there is one."""
        slot = self.state & SLOT
        j = bisect_right(edges, slot) - 1
        self.state = (edges[j + 1] - edges[j]) * (self.state >> PRECISION) + slot - edges[j]
        if self.state < LEAST_STATE:
            self.state = self.state << 32 | self.word()
        return j

    def rest(self) -> np.ndarray:
        """The stream of what is still to be pulled."""
        return stream(self.state, self.words)

    def ended(self) -> bool:
        """Whether the state is the encoder's first and no word is left."""
        return self.state == LEAST_STATE and not self.words


def push(low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The stream uint32 of symbols with these intervals uint32 [n]; the last symbol is pushed first."""
    state, words = LEAST_STATE, []
    for start, size in zip(low[::-1].tolist(), width[::-1].tolist(), strict=True):
        if state >= size << (STATE_BITS - PRECISION):
            words.append(state & WORD)
            state >>= 32
        state = (state // size << PRECISION) + state % size + start
    return stream(state, words)


def stream(state: int, words: list[int]) -> np.ndarray:
    """The stream uint32 of a state and its words, of which the last is read first."""
    return np.array([state >> 32, state & WORD, *words[::-1]], np.uint32)


def pull_mixture(words: np.ndarray, mixture: Mixture, symbols: np.ndarray) -> bool:
    """Fill ``symbols`` int16 [n]; False where the stream is not whole, whatever is then in ``symbols``."""
    try:
        decoder = Decoder(words)
        if decoder.sound:
            for i, (first, edges) in enumerate(neighbourhoods(mixture)):
                if not edges[0] <= decoder.state & SLOT < edges[-1]:
                    first, edges = 0, all_edges(mixture, i)
                symbols[i] = first + decoder.take(edges) - SYMBOLS // 2
        return decoder.sound and decoder.ended()
    except OutOfWords:
        return False


def pull_static(words: np.ndarray, edges: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
    """Fill ``indices`` int16 [C,n] with the symbols of each channel, whose edges are uint32 [C,S+1].

    Returns the stream of what was pushed before them; None where there is no sound state or a word is missing.
    """
    try:
        decoder = Decoder(words)
        if not decoder.sound:
            return None
        for channel, row in enumerate(edges.tolist()):
            indices[channel] = [decoder.take(row) for _ in range(indices.shape[1])]
        return decoder.rest()
    except OutOfWords:
        return None


def neighbourhoods(mixture: Mixture) -> Iterator[tuple[int, list[int]]]:
    """For each value a first symbol and the edges from there on, around the heaviest component's mean."""
    for start in range(0, mixture.mean.shape[1], BLOCK):
        part = Mixture(*(array[:, start : start + BLOCK] for array in mixture))
        first = np.clip(heaviest(part) - AROUND, 0, SYMBOLS - 2 * AROUND)
        edges = cdf(part, first + np.arange(2 * AROUND + 1)[:, None])
        yield from zip(first.tolist(), edges.T.tolist(), strict=True)


def all_edges(mixture: Mixture, i: int) -> list[int]:
    """F(0) .. F(1024) of value i."""
    one = Mixture(*(array[:, i : i + 1] for array in mixture))
    edges: list[int] = cdf(one, np.arange(SYMBOLS + 1)[:, None])[:, 0].tolist()
    return edges
