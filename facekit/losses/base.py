"""What all distillation losses share: their sizes, their contract, their input checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    student_maps: tuple[int, ...] = ()  # channels of the feature map of each stage, shallow to deep
    teacher_maps: tuple[int, ...] = ()


class Loss(nn.Module):
    """Base of all distillation losses. One that has parameters is trained with the student.

    ``widths`` says whether student and teacher embeddings must be equally wide ("same": the task puts its adapter in
    front) or not ("any": the loss gets the student's own embedding). ``needs`` of an instance counts: options may
    change what a loss reads.
    """

    kind: ClassVar[Literal["pointwise", "relational"]] = "pointwise"
    scope: ClassVar[Literal["local", "global"]] = "local"
    widths: ClassVar[Literal["same", "any"]] = "any"
    needs: frozenset[str] = frozenset({"embedding"})
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


class BatchRelation(Loss):
    """A scalar of the embeddings of the whole batch, by one function of the two sides that takes no options."""

    kind: ClassVar = "relational"
    scope: ClassVar = "global"
    measure: ClassVar[Callable[..., Tensor]]  # (student [B,D_s], teacher [B,D_t]) -> scalar; static

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """A scalar."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            return type(self).measure(student.embedding, teacher.embedding)


def check_pair(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse shapes and types no pair loss can compare. Values are the loop's guard's business (no sync here)."""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise TypeError(f"{what} must be floating point, got student {student.dtype} and teacher {teacher.dtype}")
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"{what} must be two matrices with as many rows, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if (student.dtype == torch.float64) != (teacher.dtype == torch.float64):
        raise ValueError(f"{what} differ in precision: student {student.dtype}, teacher {teacher.dtype}")


def check_samples(count: int, least: int, what: str) -> None:
    """Refuse a batch in which there are no relations to compare."""
    if count < least:
        raise ValueError(f"{what} needs at least {least} samples in a batch, got {count}")


def in_relation_precision(tensor: Tensor) -> Tensor:
    """float32 for reduced types; float64 stays (the tests' precision)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by max(norm, 1e-12). [B,D] -> [B,D]. An all-zero row stays, and hands its gradient on as it comes.

    ``torch.nn.functional.normalize`` gives the same values, and multiplies the gradient of an all-zero row by 1e12.
    """
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm == 0, 1.0, norm.clamp_min(1e-12))
