"""Margin heads: class prototypes on the unit sphere, and logits in which the true class is made harder.

With cos_j the cosine between an embedding and prototype j, s the scale, m the margin and y the label:

- ArcFace (arXiv 1801.07698): logit_y = s cos(theta_y + m), others s cos_j
- CosFace (arXiv 1801.09414): logit_y = s (cos_y - m), others s cos_j
- AdaFace (arXiv 2204.00964): logit_y = s (cos(theta_y - m q) - m - m q), others s cos_j, where q in -1..1 says how
  long the embedding is among the others: length stands for image quality
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.models.chunked import true_and_others

CHUNK_BYTES = 16 * 2**20
"""Logits [B,C] that take more than this are never held at once by ``loss``, but walked in chunks of this size."""


def alone(values: Tensor) -> Tensor:
    """What one process gathers: its own values."""
    return values


class MarginHead(nn.Module):
    """Prototypes ``weight`` [C,D]; subclasses say how the cosine of the true class is changed.

    ``gather`` turns values [B] of this process into those of all processes, for statistics of the global batch.
    """

    default_margin: ClassVar[float]

    def __init__(
        self,
        embedding: int,
        classes: int,
        margin: float | None = None,
        scale: float = 64.0,
        gather: Callable[[Tensor], Tensor] = alone,
    ) -> None:
        super().__init__()
        self.margin = self.default_margin if margin is None else margin
        self.scale = scale
        self.gather = gather
        self.weight = nn.Parameter(torch.empty(classes, embedding).normal_(0.0, 0.01))

    def target(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """The cosines [B] of the true classes and the embeddings [B,D], not normalised -> what replaces the cosines."""
        raise NotImplementedError

    def cosine(self, embedding: Tensor) -> Tensor:
        """[B,D] -> cosines [B,C], at least float32 whatever the autocast: s = 64 magnifies every rounding."""
        embedding = at_least_float32(embedding)
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(F.normalize(embedding), F.normalize(self.weight.to(embedding.dtype)))

    def cosine_logits(self, embedding: Tensor) -> Tensor:
        """[B,D] -> s cos [B,C], without a margin."""
        return self.scale * self.cosine(embedding)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """[B,D] and int64 [B] in 0..C-1 -> logits [B,C] for cross-entropy."""
        cosine = self.cosine(embedding)
        place = labels.unsqueeze(1)
        changed = self.target(cosine.gather(1, place).squeeze(1), at_least_float32(embedding))
        return self.scale * cosine.scatter(1, place, changed.unsqueeze(1))

    def loss(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """[B,D] and int64 [B] in 0..C-1 -> cross-entropy of each sample's margin logits, [B].

        Above CHUNK_BYTES of logits memory is bounded by the chunk, and the result differentiable only once.
        """
        embedding = at_least_float32(embedding)
        if len(embedding) * len(self.weight) * embedding.element_size() <= CHUNK_BYTES:
            return F.cross_entropy(self(embedding, labels), labels, reduction="none")
        with torch.autocast(embedding.device.type, enabled=False):
            weight = self.weight.to(embedding.dtype)
            cosine, others = true_and_others(F.normalize(embedding), weight, labels, self.scale, CHUNK_BYTES)
            return -F.logsigmoid(self.scale * self.target(cosine, embedding) - others)


def at_least_float32(embedding: Tensor) -> Tensor:
    """Half precision becomes float32, float64 stays."""
    return embedding.to(torch.promote_types(embedding.dtype, torch.float32))


class ArcFaceExact(MarginHead):
    """ArcFace with the gradient of its own formula.

    cos(theta + m) = cos theta cos m - sin theta sin m. Cosines beyond 1 - 1e-7 are clamped: the slope of
    the arccosine is infinite at 1.
    """

    default_margin = 0.5

    def target(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """[B] -> cos(theta + m)."""
        c = cosine.clamp(-1 + 1e-7, 1 - 1e-7)
        return c * math.cos(self.margin) - (1 - c * c).sqrt() * math.sin(self.margin)


class ArcFace(ArcFaceExact):
    """ArcFace as arcface_torch trains it: the margin in the value, not in the gradient.

    Its code edits the logits under ``no_grad``, so d loss / d cos_j = s (p_j - 1[j = y]): a straight-through
    gradient. Published training curves use it.
    """

    def target(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """[B] -> cos(theta + m), passing gradients on unchanged."""
        return cosine + (super().target(cosine, embedding) - cosine).detach()


class CosFace(MarginHead):
    """Additive cosine margin."""

    default_margin = 0.4

    def target(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """[B] -> cos theta - m."""
        return cosine - self.margin


class AdaFace(MarginHead):
    """A margin that follows image quality, of which the embedding's length is the measure.

    Long (clear) embeddings get an additive margin that weighs hard samples, short (blurred) ones an angular one that
    weighs easy samples. Lengths are clipped to 0.001 .. 100 and have no gradient. Their mean and standard deviation
    over the global batch are remembered with rate 0.01 while training: the authors' training script and the paper's
    momentum 0.99; their head class alone would default to 1, the last batch. Both start as theirs, at 20 and 100.
    Unlike theirs, cosines of other classes beyond 0.999 are not clamped.
    """

    default_margin = 0.4
    concentration = 0.333  # the paper's h: two thirds of all lengths get q in -1/3 .. 1/3
    rate = 0.01  # the authors' t_alpha
    epsilon = 1e-3
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        embedding: int,
        classes: int,
        margin: float | None = None,
        scale: float = 64.0,
        gather: Callable[[Tensor], Tensor] = alone,
    ) -> None:
        super().__init__(embedding, classes, margin, scale, gather)
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))

    def target(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """[B] -> cos(theta - m q) - m - m q, updating the statistics first in training mode."""
        lengths = embedding.detach().norm(dim=1)
        if self.training:
            self.observe(self.gather(lengths))
        quality = (clipped(lengths) - self.batch_mean) / (self.batch_std + self.epsilon)
        shift = self.margin * (self.concentration * quality).clamp(-1.0, 1.0)
        angle = cosine.clamp(-1 + self.epsilon, 1 - self.epsilon).acos() - shift
        return angle.clamp(self.epsilon, math.pi - self.epsilon).cos() - self.margin - shift

    @torch.no_grad()
    def observe(self, lengths: Tensor) -> None:
        """Move mean and standard deviation towards those of a global batch of lengths.

        A batch with a length that is not finite leaves them as they were (its step is skipped too), and so does a
        single sample, which has no deviation.
        """
        if len(lengths) < 2:
            return
        usable = torch.isfinite(lengths).all()
        mean, std = clipped(lengths).mean(), clipped(lengths).std()
        self.batch_mean.add_(torch.where(usable, self.rate * (mean - self.batch_mean), 0.0))
        self.batch_std.add_(torch.where(usable, self.rate * (std - self.batch_std), 0.0))


def clipped(lengths: Tensor) -> Tensor:
    """Lengths as AdaFace uses them: one outlier moves nothing far."""
    return lengths.clamp(1e-3, 100.0)
