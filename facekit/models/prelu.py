"""PReLU with a backward pass that is several times faster on the CPU and equal to ``nn.PReLU``'s.

PyTorch's CPU kernel computes the gradients of input and slope element by element in scalar code; it
takes 30 to 40 % of a MobileFaceNet training step. The same gradients written as four vectorised passes
take about a fifth of that time. The forward pass, accelerators and ``torch.compile`` keep PyTorch's own
kernel, which is fused there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _FastBackward(torch.autograd.Function):
    """``y = x where x > 0 else a x``: dx = g or a g, da = sum of g x over x <= 0. At x = 0: dx = a g."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        return F.prelu(x, slope.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        others = [d for d in range(x.ndim) if d != 1]
        a = slope.to(x.dtype).view([-1 if d == 1 else 1 for d in range(x.ndim)])
        # The gradient where x > 0, zero elsewhere; what is left belongs to x <= 0. Both are exact.
        positive = torch.ops.aten.threshold_backward(gradient, x, 0)
        negative = gradient - positive
        # bfloat16 terms are summed in the slope's own precision, as PyTorch's kernel does.
        slope_gradient = (negative * x).sum(others, dtype=slope.dtype)
        return torch.addcmul(positive, a, negative), slope_gradient


class PReLU(nn.PReLU):
    """``nn.PReLU`` with one slope per channel (dimension 1): same state key, same values, same gradients."""

    def __init__(self, channels: int) -> None:
        super().__init__(num_parameters=channels)

    def forward(self, input: Tensor) -> Tensor:
        """[B,C,...] -> the same shape, dtype and memory format."""
        own_kernel = input.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if own_kernel:
            return F.prelu(input, self.weight.to(input.dtype))
        result: Tensor = _FastBackward.apply(input, self.weight)
        return result
