"""Hints: values, what is trained, maps of other sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from facekit.core.errors import UsageError
from facekit.core.types import Outputs
from facekit.losses import LOSSES, Dims
from facekit.losses.hint import Hint, averaged, squared_gap
from tests.losses.fixture import BATCH, S, T, close, grid

MAPS = Dims(8, 8, 0, (2, 4), (6, 3))


def maps(rows: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.sin(0.7 * grid(rows, channels * height * width)).view(rows, channels, height, width)


def outputs(*features: torch.Tensor) -> Outputs:
    return Outputs(torch.zeros(len(features[0]), 8, dtype=torch.float64), features)


def built(dims: Dims, stage: int | None = None) -> Hint:
    loss = LOSSES["hint"](dims, {"hint_stage": stage}, {}).double()
    assert isinstance(loss, Hint)
    return loss


def test_values_without_a_regressor() -> None:
    assert squared_gap(S, T).shape == (6,)
    assert close(squared_gap(S, T).mean(), 1.1148769262729357)
    assert close(squared_gap(normalize(S), normalize(T)).mean(), 0.2745890317629231)


def test_the_embedding_goes_through_a_trained_linear_map() -> None:
    loss = built(Dims(8, 5))
    assert loss.needs == {"embedding"} and isinstance(loss.regress, nn.Linear) and loss.regress.bias is not None
    student, teacher = S.clone().requires_grad_(), T[:, :5].clone().requires_grad_()
    value = loss(Outputs(student), Outputs(teacher), BATCH)
    torch.testing.assert_close(value, (S @ loss.regress.weight.t() + loss.regress.bias - T[:, :5]).square().mean(dim=1))
    value.mean().backward()
    assert student.grad is not None and bool(student.grad.any()) and teacher.grad is None
    assert all(p.grad is not None and bool(p.grad.any()) for p in loss.parameters())
    identity = built(Dims(8, 8))
    assert isinstance(identity.regress, nn.Linear)
    nn.init.eye_(identity.regress.weight)
    nn.init.zeros_(identity.regress.bias)
    assert close(identity(Outputs(S), Outputs(T), BATCH).mean(), 1.1148769262729357)


def test_a_stage_counts_from_one_and_goes_through_a_trained_convolution() -> None:
    loss = built(MAPS, 2)
    assert loss.needs == {"features"} and LOSSES["hint"].needs == {"embedding"}
    student, teacher = (maps(2, 2, 4, 4), maps(2, 4, 3, 3)), (maps(2, 6, 4, 4), maps(2, 3, 3, 3).cos())
    value = loss(outputs(*student), outputs(*teacher), BATCH)
    assert isinstance(loss.regress, nn.Conv2d) and loss.regress.bias is not None
    weight, bias = loss.regress.weight[:, :, 0, 0], loss.regress.bias
    by_pixel = torch.einsum("bchw,dc->bdhw", student[1], weight) + bias[:, None, None]
    torch.testing.assert_close(value, (by_pixel - teacher[1]).square().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("student, teacher", [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((6, 2), (2, 4)), ((5, 3), (3, 2))])
def test_the_larger_map_is_averaged_down(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    loss = built(MAPS, 1)
    ours, theirs = maps(3, 2, *student).requires_grad_(), maps(3, 6, *teacher)
    value = loss(outputs(ours), outputs(theirs), BATCH)
    size = (min(student[0], teacher[0]), min(student[1], teacher[1]))
    pool = nn.AdaptiveAvgPool2d(size)
    torch.testing.assert_close(value, squared_gap(pool(loss.regress(ours)), pool(theirs)))
    (gradient,) = torch.autograd.grad(value.sum(), ours)
    assert bool((gradient != 0).all())


def test_averaging_by_hand() -> None:
    assert averaged(torch.arange(8.0).view(1, 1, 2, 4), (1, 2)).flatten().tolist() == [2.5, 4.5]
    same = maps(1, 2, 3, 3)
    assert torch.equal(averaged(same, (3, 3)), same)


@pytest.mark.parametrize("stage", [0, -1, 3, 1.0, True])
def test_stages_that_are_not_there_are_refused(stage: object) -> None:
    with pytest.raises(UsageError, match=f"hint has no stage {stage} of the student: it has stages 1 to 2"):
        LOSSES["hint"](MAPS, {"hint_stage": stage}, {})


def test_unusable_input_is_named() -> None:
    with pytest.raises(UsageError, match="no stage 2 of the teacher: it has stages 1 to 1"):
        built(Dims(8, 8, 0, (2, 4), (6,)), 2)
    with pytest.raises(UsageError, match="no stage 1 of the teacher: it gives no feature maps; leave the stage out"):
        built(Dims(8, 8, 0, (2, 4)), 1)
    with pytest.raises(ValueError, match="hint needs the feature maps of student and teacher"):
        built(MAPS, 2)(outputs(maps(2, 2, 4, 4)), outputs(maps(2, 6, 4, 4)), BATCH)
    with pytest.raises(ValueError, match="features differ in shape"):
        squared_gap(S, T[:, :5])
    with pytest.raises(TypeError, match="floating point"):
        squared_gap(S.long(), T)
