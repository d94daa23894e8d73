"""Sequences whose items are made when asked for: 17 million names as text would take more than a gigabyte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")


class Lazy(Sequence[T]):
    """``rows`` items, the i-th made by ``make(i)``."""

    def __init__(self, rows: int, make: Callable[[int], T]) -> None:
        self.rows, self.make = range(rows), make

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> T: ...

    @overload
    def __getitem__(self, i: slice) -> list[T]: ...

    def __getitem__(self, i: int | slice) -> T | list[T]:
        """One item, or a list of them."""
        rows = self.rows[i]
        return [self.make(k) for k in rows] if isinstance(rows, range) else self.make(rows)


def items_at(items: Sequence[T], rows: np.ndarray) -> Lazy[T]:
    """The items at ``rows`` (int64 [n])."""
    return Lazy(len(rows), lambda i: items[int(rows[i])])
