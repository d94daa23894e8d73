"""What all distillation losses share: their sizes, their contract, their input checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from facekit.core.errors import UsageError
from facekit.core.types import Batch, Outputs


class Dims(NamedTuple):
    """Sizes a loss is built for."""

    student: int  # embedding width, after an adapter where there is one
    teacher: int
    classes: int = 0  # 0 without labels


class Loss(nn.Module):
    """Base of all distillation losses."""

    kind: ClassVar[Literal["pointwise", "relational"]] = "pointwise"
    scope: ClassVar[Literal["local", "global"]] = "local"
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__()
        unknown = sorted(set(options) - self.options)
        if unknown:
            raise UsageError(
                f"{type(self).__name__} has no option {unknown[0]!r}; it has: {sorted(self.options) or 'none'}"
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[B] for a pointwise loss, a scalar for a relational one."""
        raise TypeError(f"{type(self).__name__} is a base class")

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch) -> None:
        """Refresh banks from the whole batch of the step (all processes); most losses remember nothing."""


def check_pair(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse shapes and types no pair loss can compare. Values are the loop's guard's business (no sync here)."""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise TypeError(f"{what} must be floating point, got student {student.dtype} and teacher {teacher.dtype}")
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"{what} must be two matrices with as many rows, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def in_relation_precision(tensor: Tensor) -> Tensor:
    """float32 for reduced types; float64 stays (the tests' precision)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
