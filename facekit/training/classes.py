"""Where class scores come from: a margin head over identities, or the network's own class layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.types import Outputs
from facekit.losses.base import in_relation_precision
from facekit.models.heads import MarginHead


class Classes(Protocol):
    """Scores and classification loss of a batch."""

    modules: Mapping[str, nn.Module]
    """What is trained beside the network."""

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """int64 labels [B] -> loss of each sample, [B]."""

    def logits(self, outputs: Outputs) -> Tensor:
        """Scores without margin, [B,C]."""


class ClassTerm(NamedTuple):
    """The student's classes, and the weight of the term ``cls``; 0 leaves it out and keeps the scores."""

    classes: Classes
    weight: float


class MarginClasses:
    """Identities of an open set: cosines to class centres, learned by a margin head that does not ship."""

    def __init__(self, head: MarginHead) -> None:
        self.head = head
        self.modules: Mapping[str, nn.Module] = {"head": head}

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """[B]."""
        return self.head.loss(outputs.embedding, labels)

    def logits(self, outputs: Outputs) -> Tensor:
        """s cos, [B,C]."""
        return self.head.cosine_logits(outputs.embedding)


class OwnClasses:
    """Classes of a closed set: the network has a layer for them, which ships with it."""

    modules: Mapping[str, nn.Module] = {}

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Cross-entropy, [B]."""
        return cross_entropy(self.logits(outputs), labels, reduction="none")

    def logits(self, outputs: Outputs) -> Tensor:
        """[B,C], float32 at least."""
        if outputs.logits is None:
            raise ValueError("this network has no class layer of its own")
        return in_relation_precision(outputs.logits)
