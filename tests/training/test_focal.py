"""Focal loss around classes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from facekit.core.types import Outputs
from facekit.models import HEADS
from facekit.training.classes import FocalClasses, MarginClasses, OwnClasses
from facekit.weighting.errors import OutOfRange

LABELS = torch.tensor([0, 2, 1, 1])


def scores(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(4, 3, generator=generator, dtype=dtype)).requires_grad_()


def focal(logits: torch.Tensor, gamma: float) -> torch.Tensor:
    return FocalClasses(OwnClasses(), gamma).loss(Outputs(torch.zeros(len(logits), 1), (), logits), LABELS)


def test_gamma_0_is_cross_entropy_bit_for_bit() -> None:
    logits = scores(torch.float32)
    plain, loss = cross_entropy(logits, LABELS, reduction="none"), focal(logits, 0.0)
    assert torch.equal(plain, loss)
    assert torch.equal(*(torch.autograd.grad(x.mean(), logits)[0] for x in (plain, loss)))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_factor_and_its_gradient(gamma: float) -> None:
    logits = scores()
    p = logits.softmax(1).gather(1, LABELS[:, None])[:, 0]
    loss = focal(logits, gamma)
    torch.testing.assert_close(loss, (1 - p) ** gamma * -p.log())
    # d loss / d p = gamma (1-p)^(gamma-1) ln p - (1-p)^gamma / p, and d p / d logit_k = p (1[k=y] - q_k)
    slope = gamma * (1 - p) ** (gamma - 1) * p.log() - (1 - p) ** gamma / p
    wanted = (slope * p)[:, None] * (torch.eye(3, dtype=torch.float64)[LABELS] - logits.softmax(1))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0], wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_certain_sample_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0, 0]] * 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(focal(logits, gamma).sum(), logits)
    assert bool(torch.isfinite(gradient).all()) and not gradient[0].any(), "the first sample is labelled 0"


def test_a_margin_counts_and_the_head_is_trained() -> None:
    head = HEADS["cosface"](6, 3, 0.35, 16.0)
    classes = FocalClasses(MarginClasses(head))
    outputs = Outputs(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)))
    entropy = cross_entropy(head(outputs.embedding, LABELS), LABELS, reduction="none")
    torch.testing.assert_close(classes.loss(outputs, LABELS), (1 - (-entropy).exp()) ** 2 * entropy)
    assert classes.modules == {"head": head}
    assert torch.equal(classes.logits(outputs), head.cosine_logits(outputs.embedding))


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_powers_that_make_no_sense(gamma: float) -> None:
    with pytest.raises(OutOfRange, match="focal has gamma="):
        FocalClasses(OwnClasses(), gamma)
