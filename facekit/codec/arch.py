"""The shape of a codec: what must be known to build its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from facekit.core.errors import UsageError, unknown_name

EnhancementName = Literal["none", "ps2-32x3", "full32x9"]

WIDEST, MOST_COMPONENTS = 1024, 16
"""Beyond these a model file is a mistake or an attack; the published widths end at 320."""


@dataclass(frozen=True)
class Arch:
    """Widths and parts. Raises UsageError for a value out of range, before anything is allocated."""

    n: int
    """Channels of the hidden layers and of the hyper-latent z."""
    m: int
    """Channels of the latent y, an even number."""
    k: int = 3
    """Gaussians in the mixture of each latent value."""
    attention: bool = True
    enhancement: EnhancementName = "none"
    reduction: int = 16
    """By how much channel attention narrows its hidden layer."""

    def __post_init__(self) -> None:
        ranges = {"n": WIDEST, "m": WIDEST, "k": MOST_COMPONENTS, "reduction": WIDEST}
        for name, most in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise UsageError(f"a codec's {name} is {value!r}; it must be a whole number in 1..{most}")
        if self.m % 2:
            raise UsageError(f"a codec's m is {self.m}; it must be even, since the hyper-decoder widens by 3/2")
        if self.enhancement not in get_args(EnhancementName):
            raise unknown_name("enhancement", str(self.enhancement), get_args(EnhancementName))
