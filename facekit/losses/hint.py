"""Hints (FitNets, arXiv 1412.6550): a trained regressor R of the student's feature matches the teacher's feature.

``hint = mean over all elements of (R(F_s) - F_t)^2``, weight 100 in RepDistiller. On the embedding R is a linear map,
on the maps of a stage a 1x1 convolution. Where the maps of a stage differ in size, the larger is averaged down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from facekit.core.errors import UsageError
from facekit.core.types import Batch, Outputs
from facekit.losses.base import Dims, Loss, check_pair, in_relation_precision


def squared_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of each sample's elements: [B,...] and [B,...] of one shape -> [B].

    >>> squared_gap(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([2.])
    """
    check_pair(student.flatten(1), teacher.flatten(1), "features")
    if student.shape != teacher.shape:
        raise ValueError(f"features differ in shape: {tuple(student.shape)} against {tuple(teacher.shape)}")
    gap = in_relation_precision(student) - in_relation_precision(teacher.detach())
    return gap.square().flatten(1).mean(dim=1)


def averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps [B,C,H,W] down to ``size``, at most as large.

    Whole steps take the plain pooling: the other has no deterministic gradient on a GPU.
    """
    height, width = maps.shape[2:]
    if height % size[0] == 0 and width % size[1] == 0:
        return avg_pool2d(maps, (height // size[0], width // size[1]))
    return adaptive_avg_pool2d(maps, size)


class Hint(Loss):
    """``hint``: pointwise; ``hint_stage`` counts from 1 (the shallowest), None takes the embedding."""

    options = frozenset({"hint_stage"})

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.stage: int | None = options.get("hint_stage")
        if self.stage is None:
            self.regress: nn.Module = nn.Linear(dims.student, dims.teacher)
            return
        for side, maps in (("student", dims.student_maps), ("teacher", dims.teacher_maps)):
            check_stage(self.stage, side, len(maps))
        self.needs = frozenset({"features"})
        self.regress = nn.Conv2d(dims.student_maps[self.stage - 1], dims.teacher_maps[self.stage - 1], kernel_size=1)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[B]."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            if self.stage is None:
                return squared_gap(self.regress(in_relation_precision(student.embedding)), teacher.embedding)
            if min(len(student.features), len(teacher.features)) < self.stage:
                raise ValueError("hint needs the feature maps of student and teacher")
            ours = in_relation_precision(student.features[self.stage - 1])
            theirs = in_relation_precision(teacher.features[self.stage - 1].detach())
            size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
            return squared_gap(self.regress(averaged(ours, size)), averaged(theirs, size))


def check_stage(stage: int, side: str, count: int) -> None:
    """Refuse a stage that a network does not have."""
    if not isinstance(stage, int) or isinstance(stage, bool) or not 1 <= stage <= count:
        allowed = f"it has stages 1 to {count}" if count else "it gives no feature maps"
        raise UsageError(f"hint has no stage {stage} of the {side}: {allowed}; leave the stage out for the embedding")
