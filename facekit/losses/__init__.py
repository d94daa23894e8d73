"""Distillation losses, one per file, and their table.

A loss is built as ``LOSSES[name](dims, options, artefacts)`` and called as ``loss(student, teacher, batch)``.
``kind`` is "pointwise" (returns [B]; the task reduces it, sample weights multiply it) or "relational" (returns a
scalar); ``scope`` is "local" or "global" (wants the whole batch of all processes); ``needs`` lists the Outputs it
reads. The teacher's outputs never get a gradient.
"""

from facekit.losses import cc, cc_presets
from facekit.losses.base import Dims, Loss
from facekit.losses.cc_presets import CC_PRESETS, weight_warning
from facekit.losses.fcd import FeatureConsistency
from facekit.losses.hint import Hint
from facekit.losses.kd import KnowledgeDistillation
from facekit.losses.rad import InBatchRelations, RelationAware
from facekit.losses.rkd import RelationalAngles, RelationalDistances
from facekit.losses.sp import FeatureSimilarity, GramSimilarity

LOSSES: dict[str, type[Loss]] = {
    "fcd": FeatureConsistency,
    "kd": KnowledgeDistillation,
    "hint": Hint,
    "rad": RelationAware,
    "rad.inbatch": InBatchRelations,
    "sp.gram": GramSimilarity,
    "sp.feature": FeatureSimilarity,
    "rkd.distance": RelationalDistances,
    "rkd.angle": RelationalAngles,
    "cc.bilinear": cc.Bilinear,
    "cc.rbf": cc.Rbf,
    "cc.taylor": cc.Taylor,
    "cc.mmd": cc.MeanDiscrepancy,
    "cc.paper": cc_presets.Paper,
    "cc.aberhu": cc_presets.AberHu,
    "cc.tface": cc_presets.TFace,
    "cc.torchdistill": cc_presets.TorchDistill,
    "cc.repdistiller": cc_presets.RepDistiller,
}

PRESETS: dict[str, tuple[str, ...]] = {
    "coupleface": ("fcd", "rad"),
    "cckd": ("cls", "kd", "cc.taylor"),
    "cc": ("cc.taylor",),
    "rkd": ("rkd.distance", "rkd.angle"),
    "sp": ("sp.gram",),
}
"""Combinations of terms that have a name."""

__all__ = ["CC_PRESETS", "LOSSES", "PRESETS", "Dims", "Loss", "weight_warning"]
