"""Margin heads: class prototypes on the unit sphere, and logits in which the true class is made harder.

With cos_j the cosine between an embedding and prototype j, s the scale, m the margin and y the label:

- ArcFace (arXiv 1801.07698): logit_y = s cos(theta_y + m), others s cos_j
- CosFace (arXiv 1801.09414): logit_y = s (cos_y - m), others s cos_j
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MarginHead(nn.Module):
    """Prototypes ``weight`` [C,D]; subclasses say how the cosine of the true class is changed."""

    default_margin: ClassVar[float]

    def __init__(self, embedding: int, classes: int, margin: float | None = None, scale: float = 64.0) -> None:
        super().__init__()
        self.margin = self.default_margin if margin is None else margin
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, embedding).normal_(0.0, 0.01))

    def target(self, cosine: Tensor) -> Tensor:
        """The cosines [B] of the true classes -> what replaces them."""
        raise NotImplementedError

    def cosine(self, embedding: Tensor) -> Tensor:
        """[B,D] -> cosines [B,C], at least float32 whatever the autocast: s = 64 magnifies every rounding."""
        dtype = torch.promote_types(embedding.dtype, torch.float32)
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(F.normalize(embedding.to(dtype)), F.normalize(self.weight.to(dtype)))

    def cosine_logits(self, embedding: Tensor) -> Tensor:
        """[B,D] -> s cos [B,C], without a margin."""
        return self.scale * self.cosine(embedding)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """[B,D] and int64 [B] in 0..C-1 -> logits [B,C] for cross-entropy."""
        cosine = self.cosine(embedding)
        place = labels.unsqueeze(1)
        changed = self.target(cosine.gather(1, place).squeeze(1))
        return self.scale * cosine.scatter(1, place, changed.unsqueeze(1))


class ArcFaceExact(MarginHead):
    """ArcFace with the gradient of its own formula.

    cos(theta + m) = cos theta cos m - sin theta sin m. Cosines beyond 1 - 1e-7 are clamped: the slope of
    the arccosine is infinite at 1.
    """

    default_margin = 0.5

    def target(self, cosine: Tensor) -> Tensor:
        """[B] -> cos(theta + m)."""
        c = cosine.clamp(-1 + 1e-7, 1 - 1e-7)
        return c * math.cos(self.margin) - (1 - c * c).sqrt() * math.sin(self.margin)


class ArcFace(ArcFaceExact):
    """ArcFace as arcface_torch trains it: the margin in the value, not in the gradient.

    Its code edits the logits under ``no_grad``, so d loss / d cos_j = s (p_j - 1[j = y]): a straight-through
    gradient. Published training curves use it.
    """

    def target(self, cosine: Tensor) -> Tensor:
        """[B] -> cos(theta + m), passing gradients on unchanged."""
        return cosine + (super().target(cosine) - cosine).detach()


class CosFace(MarginHead):
    """Additive cosine margin."""

    default_margin = 0.4

    def target(self, cosine: Tensor) -> Tensor:
        """[B] -> cos theta - m."""
        return cosine - self.margin
