"""The losses that are published as "CC", by whose they are. They differ: a result must name the one it used.

Read as ``CC_PRESETS["cc.aberhu"].form`` (what ``cc.congruence`` computes), ``.weight`` (the published weight of the
term; None: its source names none that fits, and it must be given) and ``.source``. What a source combines the term with
(cross-entropy, KD) is up to the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from facekit.core.types import Batch, Outputs
from facekit.losses.base import Dims, Loss, check_pair, check_samples, in_relation_precision
from facekit.losses.cc import CorrelationCongruence, Form, congruence

PROJECTION = 128
"""Width of the linear maps that ``cc.torchdistill`` and ``cc.repdistiller`` train on both sides."""


class CongruencePreset(NamedTuple):
    """One published loss."""

    form: Form | None  # None: no kernel at all
    weight: float | None
    source: str


TAYLOR = Form("taylor", gamma=0.4, order=2)
TFACE = TAYLOR._replace(order=1)
TORCHDISTILL = TAYLOR._replace(normalize=False, reduction="fro_b2")

CC_PRESETS: dict[str, CongruencePreset] = {
    "cc.paper": CongruencePreset(
        TAYLOR,
        None,
        "the formula of arXiv 1904.01802 (second-hand); gamma and order are peers' defaults, a weight is not known",
    ),
    "cc.aberhu": CongruencePreset(
        TAYLOR, 100.0, "AberHu/Knowledge-Distillation-Zoo, kd_losses/cc.py: cross-entropy + 100 CC"
    ),
    "cc.tface": CongruencePreset(
        TFACE,
        None,
        "Tencent/TFace, ekd/distillation/cc.py: its p = 2 ends at order p - 1 = 1, so this is 0.129 times cc.bilinear",
    ),
    "cc.torchdistill": CongruencePreset(
        TORCHDISTILL,
        0.003,
        f"torchdistill 1.1.5, CCKDLoss (equal in value): raw rows of trained Linear({PROJECTION}); with KD of tau 1, "
        "without CE",
    ),
    "cc.repdistiller": CongruencePreset(
        None,
        0.02,
        f"HobbitLong/RepDistiller, CC.py: raw rows of trained Linear({PROJECTION}), neighbours in the batch, no kernel",
    ),
}


def weight_warning(term: str, options: Mapping[str, Any], weight: float) -> str | None:
    """One sentence if a ``cc`` term's weight belongs to rows of another scale, else None.

    Entries of unit rows are at most 1, those of raw rows grow with a power of the features' size. The two scales of
    published weights, 0.003 and 100, differ for that reason. ``cc.mmd`` and raw ``cc.rbf`` do not grow that way.

    >>> weight_warning("cc.taylor", {}, 0.003)
    'cc.taylor compares unit rows, where a weight of 0.003 does next to nothing: it fits raw rows; try about 100'
    """
    if term in CC_PRESETS:
        form = CC_PRESETS[term].form
        unit = form is not None and form.normalize
    elif term in ("cc.bilinear", "cc.rbf", "cc.taylor"):
        unit = bool(options.get("normalize", True))
    else:
        return None
    if unit and weight < 0.1:
        return (
            f"{term} compares unit rows, where a weight of {weight:g} does next to nothing: it fits raw rows; "
            "try about 100"
        )
    if not unit and weight > 1 and term != "cc.rbf":
        return (
            f"{term} compares raw rows, whose products grow with the features: a weight of {weight:g} fits unit rows; "
            "try about 0.003"
        )
    return None


def adjacent_products(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over i < B of sum_d a_i a_(i+1), a = |student - teacher| [B,D], B >= 2: a scalar.

    Depends on the order of the samples. Gradients reach both sides.

    >>> adjacent_products(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 2))
    tensor(3.)
    """
    check_pair(student, teacher, "embeddings")
    check_samples(len(student), 2, "cc.repdistiller")
    if student.shape != teacher.shape:
        raise ValueError(f"embeddings differ in width: {tuple(student.shape)} against {tuple(teacher.shape)}")
    gap = (in_relation_precision(student) - in_relation_precision(teacher)).abs()
    return (gap[:-1] * gap[1:]).sum(dim=1).mean()


class Projections(nn.Module):
    """A trained linear map on each side. The teacher gets no gradient, its map does: both shrinking is a way down."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(dims.student, PROJECTION), nn.Linear(dims.teacher, PROJECTION)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """[B,D_s] and [B,D_t] -> [B,128] each."""
        check_pair(student, teacher, "embeddings")
        return self.student(in_relation_precision(student)), self.teacher(in_relation_precision(teacher.detach()))


class Paper(CorrelationCongruence):
    """``cc.paper``: the formula alone."""

    fixed = TAYLOR


class AberHu(CorrelationCongruence):
    """``cc.aberhu``: the same formula, with a weight."""

    fixed = TAYLOR


class TFace(CorrelationCongruence):
    """``cc.tface``: constant and linear term only."""

    fixed = TFACE


class TorchDistill(CorrelationCongruence):
    """``cc.torchdistill``: raw rows behind trained maps, the root of the sum."""

    fixed = TORCHDISTILL

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.project = Projections(dims)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """A scalar."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student.embedding, teacher.embedding)
            return congruence(ours, theirs, self.form)


class RepDistiller(Loss):
    """``cc.repdistiller``: relational, over the global batch."""

    kind: ClassVar = "relational"
    scope: ClassVar = "global"

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.project = Projections(dims)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """A scalar."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student.embedding, teacher.embedding)
            return adjacent_products(ours, theirs)
