"""SP in both forms against values computed another way, and the identities that must hold."""

from __future__ import annotations

import pytest
import torch

from facekit.losses import LOSSES, Dims
from facekit.losses.cc import correlation_congruence
from facekit.losses.sp import similarity_of_gram
from tests.losses.fixture import BATCH, INDEX, REFLECTION, S, T, close, outputs

SP = 0.321703498792182


def test_value_gradient_and_invariances() -> None:
    student, teacher = S.clone().requires_grad_(), T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(similarity_of_gram(student, teacher), student)
    assert close(gradient.norm(), 0.020868550990939167)
    assert not similarity_of_gram(S, teacher).requires_grad
    order = [3, 0, 4, 1, 5, 2]
    for same in (similarity_of_gram(S, T), similarity_of_gram(S @ REFLECTION, T), similarity_of_gram(3 * S, T)):
        assert close(same, SP)
    assert close(similarity_of_gram(S[order], T[order]), SP)
    assert close(similarity_of_gram(S * (1 + INDEX[:, None]), T), 0.3268078656537694)
    assert float(similarity_of_gram(S, S)) == 0


def test_the_two_forms_are_two_losses() -> None:
    by_gram, by_feature = (LOSSES[f"sp.{form}"](Dims(8, 8), {}, {}) for form in ("gram", "feature"))
    assert close(by_gram(outputs(S), outputs(T), BATCH), SP)
    assert close(by_feature(outputs(S), outputs(T), BATCH), float(correlation_congruence(S, T, "bilinear")))


def test_rows_of_zeros_are_finite() -> None:
    student = S.float()
    student[0] = 0
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(similarity_of_gram(student, T.float()), student)
    assert float(gradient.abs().max()) < 100


def test_unusable_input_is_named() -> None:
    with pytest.raises(ValueError, match="sp needs at least 2 samples"):
        similarity_of_gram(S[:1], T[:1])
    with pytest.raises(ValueError, match="as many rows"):
        similarity_of_gram(S, T[:5])
    with pytest.raises(TypeError, match="floating point"):
        similarity_of_gram(S, T.long())
