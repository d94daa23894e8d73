"""RKD against values computed another way, its gradient against autograd of the definition, and its identities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from facekit.losses import LOSSES, Dims
from facekit.losses.distances import distances
from facekit.losses.rkd import relational_angles, relational_distances
from tests.losses.fixture import BATCH, INDEX, REFLECTION, S, T, close, outputs

Pair = Callable[[Tensor, Tensor], Tensor]
DISTANCE, ANGLE = 0.284107684359920, 0.168004600155067
BOTH = pytest.mark.parametrize(
    "loss, wanted", [(relational_distances, DISTANCE), (relational_angles, ANGLE)], ids=["distance", "angle"]
)


def distances_as_defined(student: Tensor, teacher: Tensor) -> Tensor:
    sides = []
    for rows in (student, teacher):
        pair = (rows[:, None] - rows[None]).square().sum(dim=2)
        apart = pair > 0
        pair = torch.where(apart, pair, 1.0).sqrt() * apart
        sides.append(pair / pair[apart].mean())
    return smooth_l1_loss(*sides)


def angles_as_defined(student: Tensor, teacher: Tensor) -> Tensor:
    sides = []
    for rows in (student, teacher):
        edges = rows[None] - rows[:, None]
        apart = (edges != 0).any(dim=2, keepdim=True)
        edges = edges * apart / torch.where(apart, edges, 1.0).norm(dim=2, keepdim=True)
        sides.append(torch.einsum("ijd,ikd->ijk", edges, edges))
    return smooth_l1_loss(*sides)


def with_gradient(loss: Pair, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]


def random_rows(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@BOTH
def test_values_and_invariances(loss: Pair, wanted: float) -> None:
    order = [3, 0, 4, 1, 5, 2]
    for student in (S, 3 * S, S @ REFLECTION, S + 5.0, torch.cat((S, torch.zeros_like(S)), dim=1)):
        assert close(loss(student, T), wanted)
    assert close(loss(S[order], T[order]), wanted)
    value, gradient = with_gradient(loss, S, S)
    assert float(value) <= 1e-12 and float(gradient.abs().max()) <= 1e-12


def test_lengths_of_rows_count() -> None:
    assert close(relational_distances(S * (1 + INDEX[:, None]), T), 0.2380193383498648)


def test_the_usual_mixture() -> None:
    def mixture(student: Tensor, teacher: Tensor) -> Tensor:
        return 25 * relational_distances(student, teacher) + 50 * relational_angles(student, teacher)

    value, gradient = with_gradient(mixture, S, T)
    assert close(value, 15.5029221167514) and close(gradient.norm(), 3.7359861783253074)
    terms = (LOSSES[f"rkd.{name}"](Dims(8, 8), {}, {}) for name in ("distance", "angle"))
    assert [close(term(outputs(S), outputs(T), BATCH), v) for term, v in zip(terms, (DISTANCE, ANGLE), strict=True)]


@pytest.mark.parametrize(
    "loss, defined", [(relational_distances, distances_as_defined), (relational_angles, angles_as_defined)]
)
@pytest.mark.parametrize("sizes", [(3, 2, 2), (9, 4, 7), (20, 32, 5)], ids=str)
def test_value_and_gradient_are_those_of_the_definition(loss: Pair, defined: Pair, sizes: tuple[int, int, int]) -> None:
    rows, ours, theirs = sizes
    student, teacher = random_rows(1, rows, ours), random_rows(2, rows, theirs)
    student[-1] = 4 * student[-1]
    for got, wanted in zip(
        with_gradient(loss, student, teacher), with_gradient(defined, student, teacher), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


def test_cosines_that_differ_by_more_than_one_count_linearly() -> None:
    line, folded = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [0.0], [1.5]])
    plain = (relational_angles(line.double(), folded.double()), angles_as_defined(line.double(), folded.double()))
    assert close(plain[0], float(plain[1])) and close(plain[0], 6 / 27)  # 4 cosines of 27 differ by 2


def test_how_many_anchors_are_held_at_once_does_not_count() -> None:
    whole = with_gradient(relational_angles, S, T)
    for chunk in (1, 72, 108, 144):  # 1, 2, 3 and 4 of 6 anchors
        parts = with_gradient(lambda s, t, c=chunk: relational_angles(s, t, c), S, T)  # type: ignore[misc]
        torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-15)


@BOTH
def test_the_teacher_gets_no_gradient(loss: Pair, wanted: float) -> None:
    student, teacher = S.clone().requires_grad_(), T.clone().requires_grad_()
    loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and teacher.grad is None
    assert not loss(S, teacher).requires_grad


@pytest.mark.parametrize(
    "loss, defined", [(relational_distances, distances_as_defined), (relational_angles, angles_as_defined)]
)
def test_rows_that_coincide_have_no_direction(loss: Pair, defined: Pair) -> None:
    student, teacher = S.clone(), T.clone()
    student[4], teacher[2] = student[1], teacher[5]
    value, gradient = with_gradient(loss, student, teacher)
    assert close(value, float(defined(student, teacher)))
    torch.testing.assert_close(gradient, with_gradient(defined, student, teacher)[1], rtol=1e-10, atol=1e-14)
    for rows in (torch.zeros(6, 8), torch.full((6, 8), 1e3)):  # nothing but coinciding rows
        value, gradient = with_gradient(loss, rows, teacher.float())
        assert bool(torch.isfinite(value)) and not gradient.any()
    assert bool(torch.isfinite(loss(student, torch.zeros(6, 8, dtype=torch.float64))))


def test_rounding_does_not_tear_equal_rows_apart() -> None:
    rows = 30 + random_rows(0, 64, 509).float()
    twice = torch.cat((rows, rows))
    _, squared, apart = distances(twice)
    equal = torch.arange(128) % 64
    assert torch.equal(apart, equal[:, None] != equal[None]) and float(squared.min()) >= 0
    value, gradient = with_gradient(relational_angles, twice, random_rows(1, 128, 16).float())
    assert bool(torch.isfinite(value)) and float(gradient.abs().max()) < 1


@BOTH
@pytest.mark.parametrize("offset, spread", [(0.0, 1.0), (10.0, 1.0), (0.0, 0.1), (100.0, 0.3)])
def test_float32_is_enough_for_clusters_far_from_the_origin(
    loss: Pair, wanted: float, offset: float, spread: float
) -> None:
    classes = torch.arange(64) % 10
    student, teacher = (
        (offset + random_rows(seed, 10, 48)[classes] + spread * random_rows(seed + 1, 64, 48)).float()
        for seed in (0, 2)
    )
    value, gradient = with_gradient(loss, student, teacher)
    exact, slope = with_gradient(loss, student.double(), teacher.double())
    assert abs(float(value) - float(exact)) < 1e-6 * float(exact)
    assert float((gradient - slope).norm()) < 1e-4 * float(slope.norm())


def test_unusable_input_is_named() -> None:
    with pytest.raises(ValueError, match="rkd.distance needs at least 2 samples in a batch, got 1"):
        relational_distances(S[:1], T[:1])
    with pytest.raises(ValueError, match="rkd.angle needs at least 3 samples in a batch, got 2"):
        relational_angles(S[:2], T[:2])
    for loss in (relational_distances, relational_angles):
        with pytest.raises(ValueError, match="as many rows"):
            loss(S, T[:5])
        with pytest.raises(TypeError, match="floating point"):
            loss(S, T.long())
