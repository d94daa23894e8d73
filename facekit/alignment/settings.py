"""How scores are aligned: the choices, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from facekit.alignment.errors import OutOfRange, UndefinedSides, UnknownAlignment
from facekit.core.errors import unknown_name

OPERATORS = ("add", "z", "ratio", "nicdm")
STATISTICS = ("mean", "lse", "max")
SIDES = ("both", "enrol", "probe", "max")
SELECTIONS = ("own", "cross")
TAKES_LARGER_SIDE = ("add", "ratio")
"""Operators that are defined for sides ``max``."""
ALPHAS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Strengths that are tried on dev people; 0 is the raw score."""


@dataclass(frozen=True)
class Settings:
    """Choices of one alignment.

    Raises an ALIGN-OP, ALIGN-SIDES or ALIGN-RANGE error where they make no sense.
    """

    operator: str = "add"
    alpha: float = 0.5
    """Strength of ``add``, 0 to 2; 0 is the raw ranking."""
    neighbours: int = 50
    """K, the inter-class neighbours of an image."""
    radius: float | None = None
    """Take all neighbours at least this similar instead, 10 to 200 of them."""
    statistic: str = "mean"
    tau: float = 0.05
    """Temperature of the statistic ``lse``."""
    sides: str = "both"
    ddof: int = 0
    same_above: float | None = None
    """A neighbour more similar than this is taken for the same person and left out."""
    selection: str = "own"
    """asnorm: statistics over each side's own neighbours, or over those of the other side."""

    def __post_init__(self) -> None:
        known(self.operator, "operator", OPERATORS)
        known(self.statistic, "statistic", STATISTICS)
        known(self.selection, "selection", SELECTIONS)
        if self.sides not in SIDES:
            raise UndefinedSides(str(unknown_name("sides", self.sides, SIDES)))
        if self.sides == "max" and self.operator not in TAKES_LARGER_SIDE:
            raise UndefinedSides(
                f"operator {self.operator!r} has no form for sides 'max'; "
                f"use sides both, enrol or probe, or operator {' or '.join(TAKES_LARGER_SIDE)}"
            )
        within("alpha", self.alpha, 0, 2)
        within("radius", self.radius, -1, 1)
        within("same_above", self.same_above, -1, 1)
        if not self.tau > 0:
            raise OutOfRange(f"tau is {self.tau}, but must be above 0")
        if self.neighbours < 1:
            raise OutOfRange(f"neighbours is {self.neighbours}, but an image needs at least 1")
        if self.ddof not in (0, 1):
            raise OutOfRange(f"ddof is {self.ddof}, but must be 0 or 1")


def known(given: str, kind: str, allowed: Iterable[str]) -> None:
    """Raise ALIGN-OP, listing the names there are."""
    allowed = tuple(allowed)
    if given not in allowed:
        raise UnknownAlignment(str(unknown_name(kind, given, allowed)))


def within(name: str, value: float | None, low: float, high: float) -> None:
    """Raise ALIGN-RANGE for a number outside [low, high], NaN included; None is not given."""
    if value is not None and not low <= value <= high:
        raise OutOfRange(f"{name} is {value}, but must be between {low} and {high}")
