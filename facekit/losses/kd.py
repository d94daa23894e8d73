"""Knowledge distillation (Hinton et al., arXiv 1503.02531): match softened class probabilities.

``KD = tau^2 * mean_i KL(softmax(z_t/tau) || softmax(z_s/tau))``; the factor keeps the gradient's size as tau grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from facekit.core.errors import UsageError
from facekit.core.types import Batch, Outputs
from facekit.losses.base import Dims, Loss, check_pair, in_relation_precision


def softened_divergence(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 * KL(teacher || student) per row of logits. [B,C] and [B,C] -> [B]."""
    check_pair(student, teacher, "logits")
    if student.shape != teacher.shape:
        raise ValueError(f"logits differ in classes: {tuple(student.shape)} against {tuple(teacher.shape)}")
    log_s = log_softmax(in_relation_precision(student) / tau, dim=1)
    log_t = log_softmax(in_relation_precision(teacher.detach()) / tau, dim=1)
    return tau**2 * kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=1)


class KnowledgeDistillation(Loss):
    """``kd``: pointwise, needs class logits of both."""

    needs = frozenset({"logits"})
    options = frozenset({"tau"})

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.tau = float(options.get("tau", 4.0))
        if self.tau <= 0:
            raise UsageError(f"kd temperature tau is {self.tau:g}, out of range: it must be > 0")
        if dims.classes < 2:
            raise UsageError(f"kd compares class scores and needs at least 2 classes, the data has {dims.classes}")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[B]."""
        if student.logits is None or teacher.logits is None:
            raise ValueError("kd needs the logits of student and teacher")
        with torch.autocast(student.logits.device.type, enabled=False):
            return softened_divergence(student.logits, teacher.logits, self.tau)
