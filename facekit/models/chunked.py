"""Softmax over very many classes in chunks: the logits [B,C] never exist at once.

The loss of a sample needs two numbers of the classes: the cosine of its true class, which a margin head then
changes, and the log-sum-exp of all others. Both are found here in one walk over the rows of the class centres; what
a margin does to the first stays ordinary autograd. The backward pass computes each chunk's cosines again, so that a
step costs four matrix products instead of three and keeps one chunk of logits. Centres are normalised by scaling
the products, never as a second [C,D] matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPSILON = 1e-12  # torch.nn.functional.normalize's: shorter rows are divided by this instead


def true_and_others(
    unit: Tensor, weight: Tensor, labels: Tensor, scale: float, chunk_bytes: int
) -> tuple[Tensor, Tensor]:
    """Cosine of each sample's true class, and log sum exp(scale cosine) over its other classes: [B] and [B].

    ``unit`` [B,D] has unit rows; ``weight`` [C,D] has rows of any length, in the same floating type; ``labels`` are
    int64 [B] in 0..C-1. At most ``chunk_bytes`` of logits exist at a time (twice that in the backward pass).
    Differentiable once, in ``unit`` and ``weight``.
    """
    rows = max(1, chunk_bytes // (len(unit) * unit.element_size()))
    true, others = _TrueAndOthers.apply(unit, weight, labels, scale, rows)
    return true, others


class _TrueAndOthers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, weight: Tensor, labels: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        shrink = torch.linalg.vector_norm(weight, dim=1).clamp_(min=_EPSILON).reciprocal_()
        # index_select: brackets would take the label -1 for the last class.
        true = (unit * weight.index_select(0, labels)).sum(1) * shrink[labels]
        # A finite start: the difference of two infinities would be no number where a chunk holds true classes only.
        peak = torch.full_like(true[:, None], torch.finfo(true.dtype).min)
        total = torch.zeros_like(peak)
        for part, centres in _chunks(weight, rows):
            logits = _logits(unit, centres, shrink[part], scale)
            _put_true(logits, labels, part, torch.full_like(true, -torch.inf))
            higher = torch.maximum(peak, logits.amax(1, keepdim=True))
            total = total * (peak - higher).exp() + logits.sub_(higher).exp_().sum(1, keepdim=True)
            peak = higher
        others = (peak + total.log()).squeeze(1)
        ctx.save_for_backward(unit, weight, labels, shrink, others)
        ctx.scale, ctx.rows = scale, rows
        return true, others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_true: Tensor, d_others: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        unit, weight, labels, shrink, others = ctx.saved_tensors
        d_unit, d_weight = torch.zeros_like(unit), torch.empty_like(weight)
        with torch.autocast(unit.device.type, enabled=False):
            for part, centres in _chunks(weight, ctx.rows):
                logits = _logits(unit, centres, shrink[part], ctx.scale)
                d_cosine = (logits - others[:, None]).exp_().mul_(ctx.scale * d_others[:, None])
                _put_true(d_cosine, labels, part, d_true)
                # d cosine / d row = (unit - cosine row / |row|) / |row|: the first term comes last, as a product.
                along = logits.mul_(d_cosine).sum(0).div_(ctx.scale)
                d_rows = torch.mul(centres, (-along * shrink[part].square())[:, None], out=d_weight[part])
                d_cosine.mul_(shrink[part])
                d_rows.addmm_(d_cosine.T, unit)
                d_unit.addmm_(d_cosine, centres)
        return d_unit, d_weight, None, None, None


def _chunks(weight: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(weight), rows):
        part = slice(start, min(start + rows, len(weight)))
        yield part, weight[part]


def _logits(unit: Tensor, centres: Tensor, shrink: Tensor, scale: float) -> Tensor:
    return (unit @ centres.T).mul_(scale * shrink)


def _put_true(table: Tensor, labels: Tensor, part: slice, values: Tensor) -> None:
    """Write ``values`` [B] at the true classes that lie in this chunk of columns, without asking the device which."""
    inside = (labels >= part.start) & (labels < part.stop)
    place = (labels - part.start).clamp(0, table.shape[1] - 1)[:, None]
    table.scatter_(1, place, torch.where(inside[:, None], values[:, None], table.gather(1, place)))
