"""The entropy coder's inner loops, compiled by numba: the same streams as the reference, a hundred times as fast.

All arithmetic on states is in uint64: numba makes float64 of int64 with uint64. Nothing is allocated per symbol, and
the interpreter lock is free while a loop runs, so that threads code several images at once. Every place in a table is
clipped to what its level has there, words are counted, and every search is bounded, whatever the stream holds.

Loops over components are unrolled, which makes them three times as fast: the number of components is the length of a
tuple, so each number has machine code of its own. Compiling takes seconds, so the code is kept on disk: beside this
file, or in the user's cache folder where that may not be written (an installation that is read-only). Where neither
can be, or what was kept is damaged, it is compiled in memory. numba notices when this file or the processor changes.
The constants that come from other files are the format: they never change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types

from facekit.codec.mixture import STEPS, Mixture
from facekit.codec.tables import CENTRE, PRECISION, REACH, SYMBOLS, WEIGHT_BITS, T

BITS = np.uint64(PRECISION)
SLOT = np.uint64((1 << PRECISION) - 1)
TOTAL = np.uint64(1 << PRECISION)
SPREAD = np.uint64((1 << PRECISION) - SYMBOLS)
WEIGHT_SHIFT = np.uint64(WEIGHT_BITS)
LEAST_STATE = np.uint64(1 << 31)
NO_STATE = np.uint64(0)
TOO_LARGE = np.uint64(1 << 63)
FLUSH_SHIFT = np.uint64(63 - PRECISION)
WORD_BITS = np.uint64(32)
WORD = np.uint64((1 << 32) - 1)
HALF = SYMBOLS // 2

TABLES = (T, CENTRE, REACH)


def read_only(kind: types.Type, dimensions: int) -> types.Type:
    """A contiguous array that is not written to; writable ones fit too."""
    return types.Array(kind, dimensions, "C", readonly=True)


WORDS = read_only(types.uint32, 1)
MIXTURE = (read_only(types.int16, 2), read_only(types.uint8, 2), read_only(types.uint16, 2))
TABLE_TYPES = (read_only(types.uint32, 1), read_only(types.int32, 1), read_only(types.int32, 1))


@cache
def compiled(function: Callable, *signature: types.Type) -> Callable:
    """The function as machine code for arguments of these types, from the cache on disk where there is one."""
    try:
        return numba.njit([signature], nogil=True, cache=True)(function)
    except Exception:  # nowhere to write, a full disk, a damaged file: the cache is a convenience
        return numba.njit([signature], nogil=True)(function)


# --- what rans.py calls -----------------------------------------------------------------------------------------


def push(low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The stream uint32 of symbols with these intervals uint32 [n]; the last symbol is pushed first."""
    words = np.empty(len(low) + 2, np.uint32)
    return words[compiled(fill_words, WORDS, WORDS, types.uint32[::1])(low, width, words) :]


def intervals(mixture: Mixture, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and width, uint32 [n], of each latent value int16 [n]."""
    low, width = np.empty((2, len(symbols)), np.uint32)
    unrolled = (0,) * len(mixture.mean)
    signature = (read_only(types.int16, 1), *MIXTURE, *TABLE_TYPES, numba.typeof(unrolled))
    fill = compiled(fill_intervals, *signature, types.uint32[::1], types.uint32[::1])
    fill(symbols, *mixture, *TABLES, unrolled, low, width)
    return low, width


def pull_mixture(words: np.ndarray, mixture: Mixture, symbols: np.ndarray) -> bool:
    """Fill ``symbols`` int16 [n]; False where the stream is not whole, whatever is then in ``symbols``."""
    unrolled = (0,) * len(mixture.mean)
    signature = (WORDS, *MIXTURE, *TABLE_TYPES, numba.typeof(unrolled), types.int16[::1])
    whole: bool = compiled(fill_symbols, *signature)(words, *mixture, *TABLES, unrolled, symbols)
    return whole


def pull_static(words: np.ndarray, edges: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
    """Fill ``indices`` int16 [C,n] with the symbols of each channel, whose edges are uint32 [C,S+1].

    Returns the stream of what was pushed before them; None where there is no sound state or a word is missing.
    """
    signature = (WORDS, read_only(types.uint32, 2), types.int16[:, ::1])
    state, place = compiled(fill_indices, *signature)(words, edges, indices)
    return np.append(np.array(divmod(state, 1 << 32), np.uint32), words[place:]) if state else None


# --- machine code ---------------------------------------------------------------------------------------------


def fill_words(low, width, words):  # type: ignore[no-untyped-def]
    """Write the stream to the end of ``words`` [n+2], which one word a symbol cannot outgrow; where it starts."""
    state = LEAST_STATE
    place = words.shape[0]
    for i in range(low.shape[0] - 1, -1, -1):
        size = np.uint64(width[i])
        if state >= size << FLUSH_SHIFT:
            place -= 1
            words[place] = state & WORD
            state >>= WORD_BITS
        state = ((state // size) << BITS) + state % size + np.uint64(low[i])
    words[place - 1] = state & WORD
    words[place - 2] = state >> WORD_BITS
    return place - 2


@numba.njit
def opened(words):  # type: ignore[no-untyped-def]
    """The first state of a stream, or NO_STATE where it has no sound one."""
    if words.shape[0] < 2:
        return NO_STATE
    state = (np.uint64(words[0]) << WORD_BITS) | np.uint64(words[1])
    return state if LEAST_STATE <= state < TOO_LARGE else NO_STATE


@numba.njit
def after(state, start, end, words, place):  # type: ignore[no-untyped-def]
    """The state without the symbol of [start, end), and the next word's place; NO_STATE where a word is missing."""
    state = (end - start) * (state >> BITS) + (state & SLOT) - start
    if state >= LEAST_STATE:
        return state, place
    if place >= words.shape[0]:
        return NO_STATE, place
    return (state << WORD_BITS) | np.uint64(words[place]), place + 1


@numba.njit
def scaled(total, x):  # type: ignore[no-untyped-def]
    """F(x) from the weighted sum of table values at x."""
    if x <= 0:
        return np.uint64(0)
    if x >= SYMBOLS:
        return TOTAL
    return (((total >> WEIGHT_SHIFT) * SPREAD) >> BITS) + np.uint64(x)


@numba.njit
def cdf(x, i, mean, level, weight, table, centre, reach, unrolled):  # type: ignore[no-untyped-def]
    """F(x) of value i, uint64."""
    edge = (x - HALF) * STEPS - STEPS // 2
    total = np.uint64(0)
    for k in range(len(unrolled)):
        h = reach[level[k, i]]
        d = min(max(edge - mean[k, i], -h), h)
        total += np.uint64(weight[k, i]) * np.uint64(table[np.uint64(centre[level[k, i]] + d)])
    return scaled(total, x)


@numba.njit
def share(x, i, mean, level, weight, table, centre, reach, unrolled):  # type: ignore[no-untyped-def]
    """F(x) and F(x+1) of value i, uint64: one pass over the parameters instead of two."""
    edge = (x - HALF) * STEPS - STEPS // 2
    low, high = np.uint64(0), np.uint64(0)
    for k in range(len(unrolled)):
        h = reach[level[k, i]]
        d = edge - mean[k, i]
        w = np.uint64(weight[k, i])
        low += w * np.uint64(table[np.uint64(centre[level[k, i]] + min(max(d, -h), h))])
        high += w * np.uint64(table[np.uint64(centre[level[k, i]] + min(max(d + STEPS, -h), h))])
    return scaled(low, x), scaled(high, x + 1)


def fill_intervals(symbols, mean, level, weight, table, centre, reach, unrolled, low, width):  # type: ignore[no-untyped-def]
    """Start and width of each value's symbol, uint32 [n]."""
    for i in range(symbols.shape[0]):
        start, end = share(int(symbols[i]) + HALF, i, mean, level, weight, table, centre, reach, unrolled)
        low[i] = start
        width[i] = end - start


def fill_symbols(words, mean, level, weight, table, centre, reach, unrolled, symbols):  # type: ignore[no-untyped-def]
    """See ``pull_mixture``. The search starts at the heaviest mean, doubles its steps, then halves the bracket."""
    state, place = opened(words), 2
    if state == NO_STATE:
        return False
    for i in range(symbols.shape[0]):
        best, most = mean[0, i], weight[0, i]
        for k in range(1, len(unrolled)):
            if weight[k, i] > most:
                best, most = mean[k, i], weight[k, i]
        slot = state & SLOT
        below = min(max((int(best) + STEPS // 2) // STEPS + HALF, 0), SYMBOLS - 1)
        above = below + 1
        start, end = share(below, i, mean, level, weight, table, centre, reach, unrolled)
        step = 1
        while slot >= end:
            below, start = above, end
            above = min(above + step, SYMBOLS)
            end = cdf(above, i, mean, level, weight, table, centre, reach, unrolled)
            step *= 2
        while slot < start:
            above, end = below, start
            below = max(below - step, 0)
            start = cdf(below, i, mean, level, weight, table, centre, reach, unrolled)
            step *= 2
        while above - below > 1:
            middle = (below + above) // 2
            edge = cdf(middle, i, mean, level, weight, table, centre, reach, unrolled)
            if slot >= edge:
                below, start = middle, edge
            else:
                above, end = middle, edge
        symbols[i] = below - HALF
        state, place = after(state, start, end, words, place)
        if state == NO_STATE:
            return False
    return state == LEAST_STATE and place == words.shape[0]


def fill_indices(words, edges, indices):  # type: ignore[no-untyped-def]
    """See ``pull_static``; the state that is left and the next word's place, or NO_STATE."""
    state, place = opened(words), 2
    if state == NO_STATE:
        return NO_STATE, place
    for channel in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            slot = state & SLOT
            below, above = 0, edges.shape[1] - 1
            while above - below > 1:
                middle = (below + above) // 2
                if slot >= edges[channel, middle]:
                    below = middle
                else:
                    above = middle
            start, end = np.uint64(edges[channel, below]), np.uint64(edges[channel, above])
            indices[channel, i] = below
            state, place = after(state, start, end, words, place)
            if state == NO_STATE:
                return NO_STATE, place
    return state, place
