"""Relational knowledge distillation (RKD, arXiv 1904.05068): match distances and angles among the samples of a batch.

    distance   d_ij = ||x_i - x_j|| over the mean of the positive ones; SmoothL1(d^s, d^t), mean over B^2
    angle      c_ijk = n(x_j - x_i) . n(x_k - x_i), seen from anchor i; SmoothL1(c^s, c^t), mean over B^3

SmoothL1 with beta 1, raw rows, weights 25 (distance) and 50 (angle) in RepDistiller. Rows that coincide, as each does
with itself, have no direction and no gradient.

Cosines of angles come out of the Gram matrix, so that nothing has B B D values, and for a few anchors at a time, so
that nothing has B^3. The gradient is summed up in the same pass: what a pass backwards would have to keep has B^3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import smooth_l1_loss

from facekit.losses.base import BatchRelation, check_pair, check_samples, in_relation_precision
from facekit.losses.distances import distances

CHUNK = 2**19
"""Cosines [anchors,B,B] that are held at once, a few times over: 2 MiB each in float32."""


def relational_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """SmoothL1 of relative distances of [B,D_s] and [B,D_t], B >= 2: a scalar. The gradient flows through the mean too.

    >>> corner, line = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> relational_distances(corner, line).round(decimals=4)  # 0.75, 1, 1.25 against 0.75, 0.75, 1.5
    tensor(0.0139)
    """
    check_pair(student, teacher, "embeddings")
    check_samples(len(student), 2, "rkd.distance")
    return smooth_l1_loss(
        relative_distances(in_relation_precision(student)),
        relative_distances(in_relation_precision(teacher.detach())),
    )


def relative_distances(rows: Tensor) -> Tensor:
    """Euclidean distances of rows [B,D] over the mean of the positive ones: [B,B]; all 0 if all rows coincide."""
    _, squared, apart = distances(rows)
    distance = torch.where(apart, squared, 1.0).sqrt() * apart
    return distance * apart.sum().clamp_min(1) / torch.where(apart.any(), distance.sum(), 1.0)


def relational_angles(student: Tensor, teacher: Tensor, chunk: int = CHUNK) -> Tensor:
    """SmoothL1 of the cosines of all angles in [B,D_s] and [B,D_t], B >= 3: a scalar. Differentiable once.

    >>> corner, line = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    >>> relational_angles(corner, line).round(decimals=4)  # cosines 0.6, 0, 0.8 against 1, -1, 1
    tensor(0.0444)
    """
    check_pair(student, teacher, "embeddings")
    check_samples(len(student), 3, "rkd.angle")
    value: Tensor = AngleLoss.apply(in_relation_precision(student), in_relation_precision(teacher.detach()), chunk)
    return value


class Directions(NamedTuple):
    """What the cosines of a batch's angles are made of."""

    gram: Tensor  # [B,B] of the centred rows
    inverse: Tensor  # [B,B] 1 / distance, 0 where rows coincide

    @classmethod
    def of(cls, rows: Tensor) -> Directions:
        """From rows [B,D]."""
        gram, squared, apart = distances(rows)
        return cls(gram, torch.where(apart, squared, 1.0).rsqrt() * apart)

    def cosines(self, anchors: slice) -> Tensor:
        """(x_j - x_i) . (x_k - x_i) / (d_ij d_ik) for some anchors i: [anchors,B,B]."""
        rows, inverse = self.gram[anchors], self.inverse[anchors]
        own = self.gram.diagonal()[anchors].unsqueeze(1)
        cosine = self.gram - rows.unsqueeze(1)
        cosine -= (rows - own).unsqueeze(2)
        cosine *= inverse.unsqueeze(2)
        cosine *= inverse.unsqueeze(1)
        return cosine


class AngleLoss(torch.autograd.Function):
    """The loss over all anchors, and, where it is asked for, its gradient at the student in the same pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, chunk: int) -> Tensor:
        """A scalar."""
        count = len(student)
        ours, theirs = Directions.of(student), Directions.of(teacher)
        slope = Slope.zeros(ours) if ctx.needs_input_grad[0] else None
        value, step = student.new_zeros(()), max(1, chunk // count**2)
        for first in range(0, count, step):
            anchors = slice(first, first + step)
            cosine = ours.cosines(anchors)
            difference = cosine - theirs.cosines(anchors)
            clipped = difference.clamp(-1.0, 1.0)  # the derivative of SmoothL1
            value += difference.sub_(clipped, alpha=0.5).mul_(clipped).sum()
            if slope is not None:
                slope.add(anchors, cosine, clipped, ours.inverse[anchors])
        if slope is not None:
            ctx.save_for_backward(slope.at_rows(student, ours.inverse) / count**3)
        return value / count**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """[B,D] for the student."""
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


class Slope(NamedTuple):
    """The gradient of a sum over c_ijk = N_ijk r_ij r_ik, N_ijk = g_jk - g_ij - g_ik + g_ii, r = 1 / d.

    With w_ijk the derivative at c_ijk, symmetric in j and k: what reaches N is w r r, what reaches the squared distance
    d_ij^2 = g_ii + g_jj - 2 g_ij is -(sum_k w c) r_ij^2.
    """

    ends: Tensor  # [B,B] sum_i w_ijk r_ij r_ik, over (j, k)
    sides: Tensor  # [B,B] r_ij sum_k w_ijk r_ik, over (i, j)
    turns: Tensor  # [B,B] sum_k w_ijk c_ijk, over (i, j)

    @classmethod
    def zeros(cls, like: Directions) -> Slope:
        """Nothing summed yet."""
        return cls(*(torch.zeros_like(like.gram) for _ in cls._fields))

    def add(self, anchors: slice, cosine: Tensor, weight: Tensor, inverse: Tensor) -> None:
        """Add some anchors: ``cosine`` and ``weight`` [anchors,B,B], both overwritten, ``inverse`` [anchors,B]."""
        self.turns[anchors] = cosine.mul_(weight).sum(dim=2)
        weight *= inverse.unsqueeze(1)
        weight *= inverse.unsqueeze(2)
        self.sides[anchors] = weight.sum(dim=2)
        self.ends.add_(weight.sum(dim=0))

    def at_rows(self, rows: Tensor, inverse: Tensor) -> Tensor:
        """The gradient at rows [B,D]: that at the Gram matrix, times the centred rows, from both sides."""
        lengths = self.turns * inverse.square()
        gram = self.ends - 2.0 * self.sides + 2.0 * lengths
        gram.diagonal().add_(self.sides.sum(dim=1) - lengths.sum(dim=1) - lengths.sum(dim=0))
        return (gram + gram.t()) @ (rows - rows.mean(dim=0))


class RelationalDistances(BatchRelation):
    """``rkd.distance``: relational, over the global batch."""

    measure = staticmethod(relational_distances)


class RelationalAngles(BatchRelation):
    """``rkd.angle``: relational, over the global batch."""

    measure = staticmethod(relational_angles)
