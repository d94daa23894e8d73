"""Bounds that do not trap what is beyond them: the gradient passes where a step would bring the value back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AtLeast(torch.autograd.Function):
    """max(x, bound); see ``at_least``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """Remember where x was below."""
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """A negative gradient raises x in a step of descent."""
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def at_least(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), whose gradient passes also below the bound if a step would raise x.

    At x = 0 and bound 1 a gradient of -2 arrives as -2, one of +2 as 0.
    """
    bounded: Tensor = AtLeast.apply(x, bound)
    return bounded


def at_most(x: Tensor, bound: float) -> Tensor:
    """min(x, bound), whose gradient passes also above the bound if a step would lower x."""
    return -at_least(-x, -bound)
