"""Relation-aware distillation: match a sample's relations to the identities it is easily confused with.

After the abstract of CoupleFace (arXiv 2204.05502), which mines informative mutual relations and transfers them; the
form below is ours. With s, t the unit rows of student and teacher, nbr[y] the K mined neighbours of identity y, E and
Q banks of teacher and student features:

    st: r^s_ik = s_i . E_ik,  r^t_ik = t_i . E_ik      the student against the teacher's bank
    ss: r^s_ik = s_i . Q_ik,  r^t_ik = t_i . E_ik      the student against its own bank
    RAD = mean over (i, k) of (r^s - r^t)^2, or of |.|, or of SmoothL1

``rad.inbatch`` is the control: the relations among the samples of a batch, nothing mined and nothing remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from facekit.core.errors import UsageError, unknown_name
from facekit.core.types import Batch, Outputs
from facekit.losses.bank import FeatureBank
from facekit.losses.base import Dims, Loss, check_pair, in_relation_precision

RELATIONS = ("st", "ss", "st+ss")
NORMS = ("l2", "l1", "smooth_l1")
SLOTS_USED = ("draw", "all")
GATHER_BYTES = 2**28
"""Above this size of the gathered neighbours [B,K,D] the relations are read out of one matrix product instead."""


def relations(features: Tensor, rows: Tensor, index: Tensor, limit: int = GATHER_BYTES) -> Tensor:
    """Dot products of features [B,D] with ``rows[index]``, index int64 [B,K] -> [B,K]. Rows get no gradient."""
    rows = rows.detach()
    if index.numel() * rows.shape[1] * rows.element_size() <= limit:
        return torch.einsum("bd,bkd->bk", features, rows[index])
    needed, place = index.unique(return_inverse=True)
    return (features @ rows[needed].t()).gather(1, place)


def penalty(difference: Tensor, norm: str) -> Tensor:
    """Elementwise size of a difference of relations."""
    if norm == "l2":
        return difference.square()
    if norm == "l1":
        return difference.abs()
    return smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")


def in_batch_relations(student: Tensor, teacher: Tensor, relation: str) -> Tensor:
    """Mean over i != j of (s_i . t_j - t_i . t_j)^2 (``st``) or (s_i . s_j - t_i . t_j)^2 (``ss``): a scalar.

    [B,D] each, B >= 2; for ``ss`` the widths may differ.
    """
    check_pair(student, teacher, "embeddings")
    count = len(student)
    if count < 2:
        raise ValueError(f"rad.inbatch needs at least 2 samples in a batch, got {count}")
    s, t = normalize(in_relation_precision(student)), normalize(in_relation_precision(teacher.detach()))
    difference = (s - t) @ t.t() if relation == "st" else s @ s.t() - t @ t.t()
    others = ~torch.eye(count, dtype=torch.bool, device=s.device)
    return (difference.square() * others).sum() / (count * (count - 1))


class RelationAware(Loss):
    """``rad``: pointwise, the mean over a sample's K relations.

    ``artefacts``: ``prototypes`` [C,D] and ``valid`` bool [C] of the teacher, ``neighbours`` int [C,K] (-1 in rows of
    identities that are not valid), and for relations with ``ss`` the student's ``student_prototypes`` [C,D].
    """

    widths: ClassVar = "same"
    options = frozenset({"relation", "norm", "slots", "slot", "momentum", "refresh", "seed"})
    neighbours: Tensor
    valid: Tensor
    drawn: Tensor

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.relation, self.norm = str(options.get("relation", "st")), str(options.get("norm", "l2"))
        self.slots, self.slot = int(options.get("slots", 1)), str(options.get("slot", "draw"))
        momentum, self.refreshed = float(options.get("momentum", 0.0)), bool(options.get("refresh", True))
        self.seed = int(options.get("seed", 0))
        self.classes = dims.classes
        check_options(self.relation, self.norm, self.slots, self.slot, momentum)
        if "st" in self.relation.split("+") and dims.student != dims.teacher:
            raise UsageError(
                f"rad compares widths {dims.student} (student) and {dims.teacher} (teacher): leave --embedding out to "
                "take the teacher's width, train an adapter, or use --relation ss"
            )
        self.register_buffer("neighbours", artefacts["neighbours"].long(), persistent=False)
        self.register_buffer("valid", artefacts["valid"], persistent=False)
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        self.teacher_bank = FeatureBank(artefacts["prototypes"], self.slots, momentum)
        self.student_bank: FeatureBank | None = None
        if "ss" in self.relation.split("+"):
            self.student_bank = FeatureBank(artefacts["student_prototypes"], self.slots, momentum)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[B]."""
        check_pair(student.embedding, teacher.embedding, "embeddings")
        self.check_labels(batch.labels)
        with torch.autocast(student.embedding.device.type, enabled=False):
            s = normalize(in_relation_precision(student.embedding))
            t = normalize(in_relation_precision(teacher.embedding.detach()))
            near, total = self.rows_of(batch), s.new_zeros(len(s))
            if "st" in self.relation.split("+"):
                difference = relations(s - t, self.teacher_bank.rows, near)
                total = total + penalty(difference, self.norm).mean(dim=1)
            if self.student_bank is not None:
                own = relations(s, self.student_bank.rows, near)
                difference = own - relations(t, self.teacher_bank.rows, near)
                total = total + penalty(difference, self.norm).mean(dim=1)
            return total

    def rows_of(self, batch: Batch) -> Tensor:
        """The bank rows that each sample is related to: int64 [B,K], or [B,K M] with ``slot`` all."""
        near = self.neighbours[batch.labels]
        if self.slots == 1:
            return near
        if self.slot == "all":
            return (near.unsqueeze(2) * self.slots + torch.arange(self.slots, device=near.device)).flatten(1)
        place = torch.arange(near.shape[1], device=near.device)
        return near * self.slots + drawn_slots(batch.index.unsqueeze(1), place, self.drawn, self.seed) % self.slots

    def check_labels(self, labels: Tensor) -> None:
        """Refuse labels without a row, where looking at them does not wait for a device."""
        if labels.device.type != "cpu" or not len(labels):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.neighbours):
            raise ValueError(f"label {low if low < 0 else high} is outside 0..{len(self.neighbours) - 1}")
        if not bool(self.valid[labels].all()):
            wrong = int(labels[~self.valid[labels]][0])
            raise ValueError(f"label {wrong} has no prototype (no images, or a zero mean): rad cannot train on it")

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch) -> None:
        """Refresh the banks with the global batch of the step, and move on to other slots."""
        self.drawn += 1
        if self.refreshed:
            self.teacher_bank.refresh(teacher.embedding, batch.labels, batch.position)
        if self.student_bank is not None:  # a student bank that stood still would hold an untrained network
            self.student_bank.refresh(student.embedding, batch.labels, batch.position)


class InBatchRelations(Loss):
    """``rad.inbatch``: relational, over the global batch."""

    kind: ClassVar = "relational"
    scope: ClassVar = "global"
    widths: ClassVar = "same"
    options = frozenset({"relation"})

    def __init__(self, dims: Dims, options: Mapping[str, Any], artefacts: Mapping[str, Tensor]) -> None:
        super().__init__(dims, options, artefacts)
        self.relation = str(options.get("relation", "st"))
        if self.relation not in ("st", "ss"):
            raise unknown_name("relation of rad.inbatch", self.relation, ("st", "ss"))
        if self.relation == "st" and dims.student != dims.teacher:
            raise UsageError(
                f"rad.inbatch compares widths {dims.student} (student) and {dims.teacher} (teacher): leave --embedding "
                "out to take the teacher's width, train an adapter, or use --relation ss"
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """A scalar."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            return in_batch_relations(student.embedding, teacher.embedding, self.relation)


def check_options(relation: str, norm: str, slots: int, slot: str, momentum: float) -> None:
    """Names and ranges, each refused with what is allowed."""
    for kind, name, allowed in (("relation", relation, RELATIONS), ("norm", norm, NORMS), ("slot", slot, SLOTS_USED)):
        if name not in allowed:
            raise unknown_name(f"{kind} of rad", name, allowed)
    if slots < 1:
        raise UsageError(f"rad has {slots} bank slots, out of range: it must be >= 1")
    if not 0 <= momentum < 1:
        raise UsageError(f"rad bank momentum is {momentum:g}, out of range: it must be >= 0 and < 1")


def drawn_slots(index: Tensor, place: Tensor, step: Tensor, seed: int) -> Tensor:
    """Non-negative pseudo-random int64 from sample, place and step: the same on any device and process.

    Whole-number multiplication wraps; the constants are odd, so that every input bit moves the upper bits.
    """
    mixed = index * 6364136223846793005 + place * 1442695040888963407 + (step + seed * 7919) * 2862933555777941757
    return ((mixed ^ (mixed >> 29)) * 3202034522624059733 >> 33).abs()
