"""FCD and KD against values computed another way, in float64; and the contracts that every loss keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facekit.core.errors import UsageError
from facekit.core.types import Outputs
from facekit.losses import LOSSES, Dims
from facekit.losses.fcd import feature_consistency
from facekit.losses.kd import softened_divergence
from tests.losses.fixture import BATCH, REFLECTION, RELATIONS, ZS, ZT, S, T, close, outputs


def test_the_fixture_itself() -> None:
    assert [round(float(v), 13) for v in S[0, :3]] == [0.0998334166468, 0.4528862853791, 0.7446431199709]
    assert [round(float(v), 13) for v in T[0, :3]] == [0.9800665778412, 0.7451744023449, 0.3058169083783]


def test_fcd_value_gradient_and_invariances() -> None:
    s = S.clone().requires_grad_()
    t = T.clone().requires_grad_()
    loss = feature_consistency(s, t).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert close(loss, 1.0983561270516926)
    assert s.grad is not None and close(s.grad.norm(), 0.15573424022788282)
    assert t.grad is None
    assert close(feature_consistency(S @ REFLECTION, T).mean(), 0.9967853635818812)
    assert close(feature_consistency(S @ REFLECTION, T @ REFLECTION).mean(), 1.0983561270516926)
    assert close(feature_consistency(S * (1 + torch.arange(6.0)[:, None]), T).mean(), 1.0983561270516926)
    order = [3, 0, 4, 1, 5, 2]
    assert close(feature_consistency(S[order], T[order]).mean(), 1.0983561270516926)


def test_fcd_of_a_zero_row_is_finite() -> None:
    s = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    loss = feature_consistency(s, T[:1]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 1.0 and s.grad is not None and torch.isfinite(s.grad).all()


def test_kd_values_and_limit() -> None:
    assert close(softened_divergence(ZS, ZT, 4.0).mean(), 2.288605930229556)
    assert close(softened_divergence(ZS, ZT, 1.0).mean(), 1.310534243099159)
    assert close(softened_divergence(ZT, ZS, 4.0).mean(), 2.264783284492015)  # the wrong direction differs
    centred = (ZS - ZS.mean(1, keepdim=True)) - (ZT - ZT.mean(1, keepdim=True))
    limit = float(centred.square().sum(1).mean()) / (2 * 5)
    assert abs(float(softened_divergence(ZS, ZT, 1e3).mean()) - 2.5205) < 1e-4
    assert abs(limit - 2.5210) < 1e-4


def test_students_equal_to_their_teacher_cost_nothing() -> None:
    s = S.clone().requires_grad_()
    loss = feature_consistency(s, S).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) <= 1e-12 and s.grad is not None and float(s.grad.abs().max()) <= 1e-12
    assert float(softened_divergence(ZS, ZS, 4.0).mean()) <= 1e-12


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_keeps_the_contract(name: str) -> None:
    loss = LOSSES[name](Dims(8, 8, 5), {}, RELATIONS).double()
    student = S.clone().requires_grad_()
    teacher = T.clone().requires_grad_()
    value = loss(outputs(student), outputs(teacher), BATCH)
    assert value.shape == ((6,) if loss.kind == "pointwise" else ())
    value.mean().backward()
    assert torch.isfinite(value).all() and student.grad is not None and float(student.grad.norm()) > 0
    assert teacher.grad is None
    assert all(p.grad is not None and bool(p.grad.any()) for p in loss.parameters())
    if not list(loss.parameters()):  # trained maps differ from each other
        equal = loss(outputs(S), outputs(S), BATCH)
        assert float(equal.abs().max()) <= 1e-12
    with pytest.raises(UsageError, match="no option 'nonsense'"):
        LOSSES[name](Dims(8, 8, 5), {"nonsense": 1}, RELATIONS)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_for_any_widths_takes_any(name: str) -> None:
    narrow = S[:, :5].clone().requires_grad_()
    if LOSSES[name].widths == "same":
        with pytest.raises(UsageError, match="widths 5 .student. and 8 .teacher."):
            LOSSES[name](Dims(5, 8, 5), {}, RELATIONS)
    else:
        loss = LOSSES[name](Dims(5, 8, 5), {}, RELATIONS).double()
        logits = narrow @ torch.ones(5, 5, dtype=torch.float64).tril()
        loss(Outputs(narrow, logits=logits), outputs(T), BATCH).sum().backward()
        assert narrow.grad is not None and float(narrow.grad.norm()) > 0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_is_not_finite_is_not_hidden(name: str) -> None:
    loss = LOSSES[name](Dims(8, 8, 5), {}, RELATIONS).double()
    for bad in (torch.nan, torch.inf):
        broken = S.clone()
        broken[2, 3] = bad
        for student, teacher in ((broken, T), (T, broken)):
            assert not torch.isfinite(loss(outputs(student), outputs(teacher), BATCH)).all()


class Sizes(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self.largest = max(self.largest, part.numel())
        return result


@pytest.mark.parametrize("name", sorted(name for name in LOSSES if LOSSES[name].kind == "relational"))
def test_relations_of_a_batch_need_no_cube(name: str) -> None:
    count, width = 128, 160
    loss = LOSSES[name](Dims(width, width, 5), {}, RELATIONS)
    student, teacher = torch.randn(2, count, width, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    with Sizes() as sizes:
        loss(Outputs(student), Outputs(teacher), BATCH).backward()
    assert count * width <= sizes.largest <= count**3 / 4


def test_unusable_input_is_named() -> None:
    with pytest.raises(UsageError, match="widths 4 .student. and 8 .teacher."):
        LOSSES["fcd"](Dims(4, 8, 0), {}, {})
    with pytest.raises(UsageError, match="at least 2 classes"):
        LOSSES["kd"](Dims(8, 8, 0), {}, {})
    with pytest.raises(UsageError, match="tau is 0"):
        LOSSES["kd"](Dims(8, 8, 5), {"tau": 0}, {})
    with pytest.raises(TypeError, match="floating point"):
        feature_consistency(torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2))
    with pytest.raises(ValueError, match="as many rows"):
        feature_consistency(torch.ones(2, 3), torch.ones(3, 3))
