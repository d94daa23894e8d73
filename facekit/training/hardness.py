"""How far a student is from a state of its teacher, on held-out images: the hardness of RCO and its final congruence.

    kl_ts = mean over images of tau^2 KL(softmax(z_t/tau) || softmax(z_s/tau))      z: logits
    kl_st = the same with the two sides exchanged; the two differ by a factor of 2 and more
    mimic = mean of 1 - cos(t, s)                                                   t, s: embeddings
    hint  = mean of (t - s)^2 over images and dimensions

Which divergence RCO (arXiv 1904.09149) uses, and in which direction, is not known to us. Sums are float64, rows are
read in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from facekit.core.errors import InputError, NonFinite, UsageError, unknown_name

_BLOCK = 2**20  # numbers of one side held in float64 at once


class Answers(NamedTuple):
    """What a network says of the held-out images, in eval mode and without augmentation."""

    embedding: np.ndarray
    """float32 [N,D]."""
    logits: np.ndarray | None = None
    """float32 [N,C] of networks with classes."""


def divergence(student: np.ndarray, teacher: np.ndarray, tau: float = 4.0, direction: str = "kl_ts") -> float:
    """Mean of tau^2 KL between softened logits, [N,C] each; ``direction`` kl_ts or kl_st.

    Raises UsageError for tau <= 0 and unknown directions, InputError where shapes differ.
    """
    if tau <= 0:
        raise UsageError(f"--tau is {tau:g}, out of range: it must be > 0")
    if direction not in ("kl_ts", "kl_st"):
        raise unknown_name("hardness", direction, ("kl_ts", "kl_st"))

    def rows(s: Tensor, t: Tensor) -> Tensor:
        of, against = (t, s) if direction == "kl_ts" else (s, t)
        p, q = log_softmax(of / tau, dim=1), log_softmax(against / tau, dim=1)
        return tau**2 * (p.exp() * (p - q)).sum(dim=1)

    return mean_over_rows(rows, student, teacher)


def misdirection(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean of 1 - cosine, [N,D] each. Raises InputError where shapes differ."""
    return mean_over_rows(lambda s, t: 1.0 - (normalize(s) * normalize(t)).sum(dim=1), student, teacher)


def squared_difference(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean of squared differences over rows and columns, [N,D] each. Raises InputError where shapes differ."""
    return mean_over_rows(lambda s, t: (s - t).square().mean(dim=1), student, teacher)


def mean_over_rows(measure: Callable[[Tensor, Tensor], Tensor], student: np.ndarray, teacher: np.ndarray) -> float:
    """The mean of a measure of rows, float64 [n,D] twice -> [n]."""
    if student.shape != teacher.shape or student.ndim != 2:
        raise InputError(
            f"student and teacher answer in shapes {list(student.shape)} and {list(teacher.shape)}: images and widths "
            "must agree to be compared"
        )
    return sum(float(measure(s, t).sum()) for s, t in blocks(student, teacher)) / len(student)


def blocks(student: np.ndarray, teacher: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Both sides, some rows at a time, in float64."""
    rows = max(1, _BLOCK // student.shape[1])
    for start in range(0, len(student), rows):
        s, t = (torch.from_numpy(np.array(side[start : start + rows], np.float64)) for side in (student, teacher))
        yield s, t


def hardness(student: Answers, teacher: Answers, direction: str = "kl_ts", tau: float = 4.0) -> float:
    """One scalar of a pair: the divergence of their logits, or 1 - cosine of embeddings where there are no classes."""
    if student.logits is not None and teacher.logits is not None:
        return divergence(student.logits, teacher.logits, tau, direction)
    return misdirection(student.embedding, teacher.embedding)


def finite(values: Sequence[float], anchor: int, epochs: Sequence[int]) -> list[float]:
    """A row H_anchor(j) as it is. Raises NonFinite naming the pair of epochs where a value is not finite."""
    for epoch, value in zip(epochs, values, strict=True):
        if not math.isfinite(value):
            raise NonFinite(
                f"the hardness H({anchor}, {epoch}) of the student after anchor {anchor} against the teacher at epoch "
                f"{epoch} is {value}: one of the two diverged; lower --lr, or record another route"
            )
    return list(values)


def congruence(student: Answers, teacher: Answers, tau: float = 4.0) -> dict[str, float | None]:
    """How near a trained student came to its converged teacher: ``kd``, ``hint`` and ``mimic``, smaller is nearer.

    None where a number does not exist: ``kd`` without classes, the others where the widths differ.
    """
    both = student.logits is not None and teacher.logits is not None
    alike = student.embedding.shape == teacher.embedding.shape
    return {
        "kd": divergence(student.logits, teacher.logits, tau) if both else None,  # type: ignore[arg-type]
        "hint": squared_difference(student.embedding, teacher.embedding) if alike else None,
        "mimic": misdirection(student.embedding, teacher.embedding) if alike else None,
    }
