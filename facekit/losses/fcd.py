"""Feature consistency: match the directions of student and teacher embeddings, sample by sample.

``FCD = mean_i 1/2 ||s_i - t_i||^2 = mean_i (1 - s_i . t_i)`` with s, t the unit rows (after the abstract of
arXiv 2204.05502; the factor 1/2 is ours). The same quantity is published as twice this (no 1/2) and as 2/d of
this (element mean): compare weights with that in mind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import UsageError
from facekit.core.types import Batch, Outputs
from facekit.losses.base import Dims, Loss, check_pair, in_relation_precision


def feature_consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine per row. [B,D] and [B,D] -> [B]. An all-zero row counts 1 and has a finite gradient.

    >>> feature_consistency(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])).round(decimals=3)
    tensor([0.4000])
    """
    check_pair(student, teacher, "embeddings")
    s, t = normalize(in_relation_precision(student)), normalize(in_relation_precision(teacher.detach()))
    return 1.0 - (s * t).sum(dim=1)


class FeatureConsistency(Loss):
    """``fcd``: pointwise, 0 where student and teacher point the same way, 2 at most."""

    widths: ClassVar = "same"

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        if dims.student != dims.teacher:
            raise UsageError(
                f"fcd compares widths {dims.student} (student) and {dims.teacher} (teacher): "
                "leave --embedding out to take the teacher's width, or train an adapter"
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[B]."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            return feature_consistency(student.embedding, teacher.embedding)
