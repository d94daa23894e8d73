"""Distillation losses, one per file, and their table.

A loss is built as ``LOSSES[name](dims, options, artefacts)`` and called as ``loss(student, teacher, batch)``.
``kind`` is "pointwise" (returns [B]; the task reduces it, sample weights multiply it) or "relational" (returns a
scalar); ``scope`` is "local" or "global" (wants the whole batch of all processes); ``needs`` lists the Outputs it
reads. The teacher's outputs never get a gradient.
"""

from facekit.losses.base import Dims, Loss
from facekit.losses.fcd import FeatureConsistency
from facekit.losses.kd import KnowledgeDistillation
from facekit.losses.rad import InBatchRelations, RelationAware

LOSSES: dict[str, type[Loss]] = {
    "fcd": FeatureConsistency,
    "kd": KnowledgeDistillation,
    "rad": RelationAware,
    "rad.inbatch": InBatchRelations,
}

PRESETS: dict[str, tuple[str, ...]] = {
    "coupleface": ("fcd", "rad"),
}
"""Combinations of terms that have a name."""

__all__ = ["LOSSES", "PRESETS", "Dims", "Loss"]
