"""Where class scores come from: a margin head over identities, or the network's own class layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.types import Outputs
from facekit.losses.base import in_relation_precision
from facekit.models.heads import MarginHead
from facekit.weighting.errors import OutOfRange


class Classes(Protocol):
    """Scores and classification loss of a batch."""

    modules: Mapping[str, nn.Module]
    """What is trained beside the network."""

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """int64 labels [B] -> loss of each sample, [B]."""

    def whole_loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """As ``loss``, holding all class scores at once: differentiable in every mode, and more than once."""

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

    def whole_loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """[B]."""
        return cross_entropy(self.head(outputs.embedding, labels), labels, reduction="none")

    def logits(self, outputs: Outputs) -> Tensor:
        """s cos, [B,C]."""
        return self.head.cosine_logits(outputs.embedding)


class OwnClasses:
    """Classes of a closed set: the network has a layer for them, which ships with it."""

    modules: Mapping[str, nn.Module] = {}

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Cross-entropy, [B]."""
        return cross_entropy(self.logits(outputs), labels, reduction="none")

    whole_loss = loss

    def logits(self, outputs: Outputs) -> Tensor:
        """[B,C], float32 at least."""
        if outputs.logits is None:
            raise ValueError("this network has no class layer of its own")
        return in_relation_precision(outputs.logits)


def focal(entropy: Tensor, gamma: float) -> Tensor:
    """Cross-entropies [B] times (1 - p)^gamma, p = exp(-entropy) the probability of the label; [B].

    The factor has a gradient too. At p = 0.9 and ``gamma`` 2 it is 0.01; ``gamma`` 0 changes nothing.
    """
    # At p = 1 the slope of a power below 1 is infinite: a clamp has none there.
    return (-torch.expm1(-entropy)).clamp_min(1e-12) ** gamma * entropy


class FocalClasses:
    """Focal loss (Lin et al., arXiv 1708.02002) around other classes; p is with the head's margin, where there is one.

    Raises OutOfRange for a negative ``gamma``.
    """

    def __init__(self, classes: Classes, gamma: float = 2.0) -> None:
        if not 0 <= gamma < math.inf:
            raise OutOfRange(f"focal has gamma={gamma:g}; it must be a number >= 0")
        self.classes, self.gamma = classes, gamma
        self.modules = classes.modules

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """[B]."""
        return focal(self.classes.loss(outputs, labels), self.gamma)

    def whole_loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """[B]."""
        return focal(self.classes.whole_loss(outputs, labels), self.gamma)

    def logits(self, outputs: Outputs) -> Tensor:
        """As without the factor, [B,C]."""
        return self.classes.logits(outputs)
