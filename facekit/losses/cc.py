"""Correlation congruence (CCKD, arXiv 1904.01802): match the kernel matrices of student and teacher batch.

    CC = 1/B^2 sum_ij (k(s_i, s_j) - k(t_i, t_j))^2

Loss, kernels and the truncated Taylor series are known to us second-hand; defaults, raw rows, clamps, other reductions
and the centred form are ours or of peers. With z the dot products of the rows, clamped to [-1, 1] for unit rows:

    bilinear   z
    rbf        exp(-2 gamma (1 - z)) for unit rows, exp(-gamma ||x_i - x_j||^2) for raw ones
    taylor     sum over p = 0..order of e^(-2 gamma) (2 gamma)^p / p! z^p, the order included
    mmd        |mean of x_i - mean of x_j|, a mean over the entries of a row

The Taylor series is that of the rbf of unit rows, since ||a - b||^2 = 2 - 2 a.b there; of raw rows it is no rbf and is
kept for a peer's preset. Four different losses are published as "CC": ``cc_presets.py`` has them by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from facekit.core.errors import UsageError, unknown_name
from facekit.core.types import Batch, Outputs
from facekit.losses.base import Dims, Loss, check_pair, check_samples, in_relation_precision, unit_rows
from facekit.losses.distances import distances

KERNELS = ("bilinear", "rbf", "taylor", "mmd")
REDUCTIONS = ("mean", "fro_b2", "offdiag_mean")


class Form(NamedTuple):
    """Which of the losses is meant; only ``rbf`` and ``taylor`` read gamma, only ``taylor`` the order."""

    kernel: str = "taylor"
    gamma: float = 0.4  # 1 / (2 delta^2)
    order: int = 2
    normalize: bool = True  # unit rows
    reduction: str = "mean"
    center: bool = False  # take the batch's mean from the rows, and make unit rows unit again

    def check(self) -> None:
        """Names and ranges, each refused with what is allowed."""
        if self.kernel not in KERNELS:
            raise unknown_name("kernel of cc", self.kernel, KERNELS)
        if self.reduction not in REDUCTIONS:
            raise unknown_name("reduction of cc", self.reduction, REDUCTIONS)
        if not 0 < self.gamma < math.inf:
            raise UsageError(f"cc gamma is {self.gamma:g}, out of range: it must be > 0 and finite")
        if not isinstance(self.order, int) or isinstance(self.order, bool) or self.order < 0:
            raise UsageError(f"cc order is {self.order}, out of range: it must be a whole number >= 0")


def correlation_congruence(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "taylor",
    gamma: float = 0.4,
    order: int = 2,
    normalize: bool = True,
    reduction: str = "mean",
    center: bool = False,
) -> Tensor:
    """Distance of the kernel matrices of two batches [B,D_s] and [B,D_t], B >= 2: a scalar. The teacher is detached.

    ``reduction``: "mean" is the sum of squares over B^2, "fro_b2" its root over B^2 (a peer's form), "offdiag_mean" the
    sum over i != j over B (B - 1). The other options: ``Form``.

    >>> student, teacher = torch.eye(2), torch.ones(2, 2)  # cosines of the pair: 0 and 1
    >>> correlation_congruence(student, teacher, kernel="bilinear").round(decimals=3)
    tensor(0.5000)
    """
    form = Form(kernel, gamma, order, normalize, reduction, center)
    form.check()
    return congruence(student, teacher.detach(), form)


def congruence(student: Tensor, teacher: Tensor, form: Form) -> Tensor:
    """``correlation_congruence`` of a checked form; gradients reach both sides (a preset trains a map on each)."""
    check_pair(student, teacher, "embeddings")
    check_samples(len(student), 2, "cc")
    return reduced(kernel_matrix(student, form) - kernel_matrix(teacher, form), form.reduction)


def kernel_matrix(rows: Tensor, form: Form) -> Tensor:
    """k(x_i, x_j) of rows [B,D]: [B,B]."""
    rows = compared_rows(in_relation_precision(rows), form)
    if form.kernel == "mmd":
        means = rows.mean(dim=1)
        return (means.unsqueeze(0) - means.unsqueeze(1)).abs()
    if form.kernel == "rbf" and not form.normalize:
        return torch.exp(-form.gamma * distances(rows).squared)
    z = rows @ rows.t()
    if form.normalize:
        z = z.clamp(-1.0, 1.0)  # rounding leaves the range on the diagonal
    if form.kernel == "rbf":
        return rbf_of_cosine(z, form.gamma)
    return taylor(z, form.gamma, form.order) if form.kernel == "taylor" else z


def compared_rows(rows: Tensor, form: Form) -> Tensor:
    """The rows as they enter the kernel."""
    if form.normalize:
        rows = unit_rows(rows)
    if form.center:
        rows = rows - rows.mean(dim=0)
        if form.normalize:
            rows = unit_rows(rows)
    return rows


def rbf_of_cosine(z: Tensor, gamma: float) -> Tensor:
    """exp(-gamma ||a - b||^2) of unit vectors a, b with cosine z; 1 for z = 1."""
    return torch.exp(-2.0 * gamma * (1.0 - z))


def taylor(z: Tensor, gamma: float, order: int) -> Tensor:
    """The series of ``rbf_of_cosine`` at z = 0, cut behind z^order.

    >>> taylor(torch.tensor([1.0]), gamma=0.4, order=2).round(decimals=4)
    tensor([0.9526])
    """
    coefficients = [math.exp(-2.0 * gamma)]
    for power in range(1, order + 1):
        coefficients.append(coefficients[-1] * 2.0 * gamma / power)
    if order == 0:
        return 0.0 * z + coefficients[0]
    value = coefficients[-1] * z + coefficients[-2]  # not from a matrix of zeros: that is a pass over memory each way
    for coefficient in reversed(coefficients[:-2]):
        value = value * z + coefficient
    return value


def reduced(difference: Tensor, reduction: str) -> Tensor:
    """One number of the difference of two kernel matrices [B,B]."""
    count = len(difference)
    if reduction == "fro_b2":
        return torch.linalg.vector_norm(difference) / count**2  # its gradient at 0 is 0, that of sqrt is not finite
    if reduction == "mean":
        return difference.square().sum() / count**2
    others = ~torch.eye(count, dtype=torch.bool, device=difference.device)
    return (difference.square() * others).sum() / (count * (count - 1))


class CorrelationCongruence(Loss):
    """Base of the ``cc`` terms: relational, over the global batch. ``fixed`` is what the term's name says."""

    kind: ClassVar = "relational"
    scope: ClassVar = "global"
    fixed: ClassVar[Form]

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.form = self.fixed._replace(**options)
        self.form.check()

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """A scalar."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            return congruence(student.embedding, teacher.embedding.detach(), self.form)


class Bilinear(CorrelationCongruence):
    """``cc.bilinear``: cosines, or dot products of raw rows."""

    fixed = Form("bilinear")
    options = frozenset({"normalize", "reduction", "center"})


class Rbf(CorrelationCongruence):
    """``cc.rbf``. Of raw rows it compares distances, which ``center`` leaves as they are."""

    fixed = Form("rbf")
    options = frozenset({"gamma", "normalize", "reduction", "center"})


class Taylor(CorrelationCongruence):
    """``cc.taylor``."""

    fixed = Form("taylor")
    options = frozenset({"gamma", "order", "normalize", "reduction", "center"})


class MeanDiscrepancy(CorrelationCongruence):
    """``cc.mmd``: the naive kernel, of raw rows."""

    fixed = Form("mmd", normalize=False)
    options = frozenset({"reduction"})
