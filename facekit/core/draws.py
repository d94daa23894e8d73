"""Random numbers on the device: hashed words of a key, the same on every device and in every batch."""

from __future__ import annotations

import torch
from torch import Tensor


def draws(keys: Tensor, count: int) -> Tensor:
    """``count`` hashed words of each key, int64 [B,count]: the bits of ``data.batches.mix(key, 0 .. count - 1)``."""
    return scrambled(scrambled(keys)[:, None] + torch.arange(count, device=keys.device))


def scrambled(state: Tensor) -> Tensor:
    """One round of splitmix64 (Steele, Lea, Flood 2014) on int64, whose sums and products wrap."""
    state = state + signed(0x9E3779B97F4A7C15)
    state = (state ^ shifted(state, 30)) * signed(0xBF58476D1CE4E5B9)
    state = (state ^ shifted(state, 27)) * signed(0x94D049BB133111EB)
    return state ^ shifted(state, 31)


def signed(word: int) -> int:
    """The int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word


def shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where ``>>`` would repeat the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def between(words: Tensor, low: int, high: int | Tensor) -> Tensor:
    """Whole numbers from ``low`` to ``high``, each equally likely to within 2^-32 of their number."""
    return low + (shifted(words, 32) * (high - low + 1) >> 32)
