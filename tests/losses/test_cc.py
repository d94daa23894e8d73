"""CC in all its forms against values computed another way (float64), and the identities that must hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.errors import UsageError
from facekit.losses import CC_PRESETS, LOSSES, Dims, weight_warning
from facekit.losses.cc import (
    KERNELS,
    REDUCTIONS,
    CorrelationCongruence,
    Form,
    congruence,
    correlation_congruence,
    rbf_of_cosine,
    taylor,
)
from facekit.losses.cc_presets import PROJECTION, Projections, adjacent_products
from facekit.losses.fcd import feature_consistency
from facekit.losses.kd import softened_divergence
from tests.losses.fixture import BATCH, INDEX, REFLECTION, ZS, ZT, S, T, close, outputs

SHUFFLED = [3, 0, 4, 1, 5, 2]
BILINEAR, ORDER_2 = 1.3067284076491275, 0.191960249714029
ALL_FORMS = [
    Form(kernel, normalize=unit, reduction=reduction, center=center)
    for kernel in KERNELS
    for unit in (True, False)
    for reduction in REDUCTIONS
    for center in (True, False)
]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, ORDER_2),
        ({"kernel": "bilinear"}, BILINEAR),
        ({"kernel": "bilinear", "normalize": False}, 22.0218557597871),
        ({"kernel": "bilinear", "center": True}, 1.3004048213573771),
        ({"kernel": "rbf"}, 0.22534246700538801),
        ({"kernel": "rbf", "normalize": False}, 0.31973233480626934),
        ({"order": 1}, 0.168847305900198),
        ({"order": 3}, 0.222482460800095),
        ({"order": 10}, 0.225342466520327),
        ({"normalize": False}, 5.7850423497687995),
        ({"reduction": "offdiag_mean"}, 0.23035229965683476),
        ({"kernel": "mmd", "normalize": False}, 0.3666151463455526),
    ],
)
def test_cc_values(options: dict[str, Any], wanted: float) -> None:
    assert close(correlation_congruence(S, T, **options), wanted)


def test_gradient_norm_and_nothing_for_the_teacher() -> None:
    student, teacher = S.clone().requires_grad_(), T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(correlation_congruence(student, teacher), student)
    assert close(gradient.norm(), 0.03745468078750398)
    assert not correlation_congruence(S, teacher).requires_grad


def test_cckd_adds_up() -> None:
    total = 0.5 * cross_entropy(ZS, torch.arange(4)) + 0.5 * softened_divergence(ZS, ZT, 4.0).mean()
    assert close(total + 100 * correlation_congruence(S, T), 22.678920603419552)


def test_blocks_of_a_batch_are_another_loss() -> None:
    blocks = [correlation_congruence(S[rows], T[rows]) for rows in (slice(0, 3), slice(3, 6))]
    assert close(torch.stack(blocks).mean(), 0.0971182257377887)


@pytest.mark.parametrize(
    "z, exact, cut",
    [
        (-1.0, 0.201896517995, (0.089865792823, 0.233651061341, 0.195308323070)),
        (-0.5, 0.301194211912, (0.269597378470, 0.305543695600, 0.300750853316)),
        (0.0, 0.449328964117, (0.449328964117, 0.449328964117, 0.449328964117)),
        (0.5, 0.670320046036, (0.629060549764, 0.665006866893, 0.669799709177)),
        (1.0, 1.0, (0.808792135411, 0.952577403929, 0.990920142200)),
    ],
)
def test_kernel_values(z: float, exact: float, cut: tuple[float, ...]) -> None:
    at = torch.tensor(z, dtype=torch.float64)
    assert abs(float(rbf_of_cosine(at, 0.4)) - exact) < 1e-12
    assert all(abs(float(taylor(at, 0.4, order)) - value) < 1e-12 for order, value in enumerate(cut, start=1))


def test_what_the_series_leaves_is_bounded() -> None:
    z = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for gamma in (0.05, 0.4, 2.0):
        for order in range(12):
            left = (taylor(z, gamma, order) - rbf_of_cosine(z, gamma)).abs()
            lagrange = math.exp(-2 * gamma) * (2 * gamma * z.abs()) ** (order + 1) / math.factorial(order + 1)
            assert bool((left <= lagrange * torch.exp(2 * gamma * z.clamp_min(0)) + 1e-15).all())
    assert abs(float(taylor(torch.ones(1), 0.4, 10)) - 1) < 1e-6


def test_order_one_is_bilinear_and_a_narrow_rbf_too() -> None:
    for gamma in (0.1, 0.4, 1.0):
        share = (2 * gamma * math.exp(-2 * gamma)) ** 2
        assert close(correlation_congruence(S, T, gamma=gamma, order=1), share * BILINEAR)
    for gamma, wanted, digits in ((1e-2, 0.9634099, 7), (1e-3, 0.9962681, 7), (1e-4, 0.99963, 5)):
        ratio = correlation_congruence(S, T, "rbf", gamma=gamma) / (4 * gamma**2 * BILINEAR)
        assert round(float(ratio), digits) == wanted


@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_invariances_and_zero(form: Form) -> None:
    value = float(congruence(S, T, form))
    assert close(congruence(S[SHUFFLED], T[SHUFFLED], form), value)
    if form.kernel != "mmd":  # a mean over entries turns with the axes
        assert close(congruence(S @ REFLECTION, T, form), value)
        wider = torch.cat((S, torch.zeros_like(S)), dim=1)
        assert close(congruence(wider, T, form), value)
    if form.normalize:
        assert close(congruence(3 * S, T, form), value)
    student = S.clone().requires_grad_()
    zero = congruence(student, S, form)
    (gradient,) = torch.autograd.grad(zero, student)
    assert float(zero.detach()) <= 1e-12 and float(gradient.abs().max()) <= 1e-12


def test_lengths_of_rows_do_not_count_for_unit_rows() -> None:
    stretched = S * (1 + INDEX[:, None])
    assert close(correlation_congruence(stretched, T), ORDER_2)
    assert not close(correlation_congruence(stretched, T, normalize=False), 5.7850423497687995)


def test_bilinear_is_bounded_by_eight_times_fcd() -> None:
    assert 8 * float(feature_consistency(S, T).mean()) >= BILINEAR
    near = T + 0.01 * S
    assert float(correlation_congruence(near, T, "bilinear")) <= 8 * float(feature_consistency(near, T).mean())


@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_rows_of_zeros_and_equal_rows_are_finite(form: Form) -> None:
    student = torch.stack((torch.zeros(8), torch.ones(8), torch.ones(8), S[3].float())).requires_grad_()
    teacher = torch.stack((S[0].float(), torch.zeros(8), T[2].float(), T[2].float()))
    value = congruence(student, teacher, form)
    (gradient,) = torch.autograd.grad(value, student)
    assert bool(torch.isfinite(value)) and float(gradient.abs().max()) < 100


def test_reduced_precision_is_not_used_for_relations() -> None:
    loss = LOSSES["cc.taylor"](Dims(8, 8), {}, {})
    student, teacher = S.bfloat16(), T.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(outputs_of(student), outputs_of(teacher), BATCH)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, correlation_congruence(student.float(), teacher.float()))


def outputs_of(embedding: Tensor) -> Any:
    return outputs(embedding.double())._replace(embedding=embedding)


@pytest.mark.parametrize(
    "term, options, form",
    [
        ("cc.bilinear", {"normalize": False, "center": True}, Form("bilinear", normalize=False, center=True)),
        ("cc.rbf", {"gamma": 0.7, "reduction": "fro_b2"}, Form("rbf", gamma=0.7, reduction="fro_b2")),
        ("cc.taylor", {"gamma": 0.7, "order": 4}, Form("taylor", gamma=0.7, order=4)),
        ("cc.mmd", {"reduction": "offdiag_mean"}, Form("mmd", normalize=False, reduction="offdiag_mean")),
    ],
)
def test_terms_take_the_options_that_they_read(term: str, options: dict[str, Any], form: Form) -> None:
    loss = LOSSES[term](Dims(8, 8), options, {})
    assert close(loss(outputs(S), outputs(T), BATCH), float(congruence(S, T, form)))


PRESET_VALUES = {
    "cc.paper": ORDER_2,
    "cc.aberhu": ORDER_2,
    "cc.tface": 0.168847305900198,
    "cc.torchdistill": 0.40086858298812983,
    "cc.repdistiller": 6.272481616410753,
}


def preset_loss(term: str) -> Any:
    """A preset whose trained maps, where it has any, are put to the identity."""
    loss = LOSSES[term](Dims(8, 8), {}, {}).double()
    for layer in loss.modules():
        if isinstance(layer, nn.Linear):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
    return loss


def test_presets_are_what_they_say() -> None:
    assert set(CC_PRESETS) == set(PRESET_VALUES) <= set(LOSSES)
    for term, wanted in PRESET_VALUES.items():
        assert close(preset_loss(term)(outputs(S), outputs(T), BATCH), wanted)
        assert not LOSSES[term].options
        form = CC_PRESETS[term].form
        if form is not None:
            assert close(congruence(S, T, form), wanted)
            loss = LOSSES[term](Dims(8, 8), {}, {})
            assert isinstance(loss, CorrelationCongruence) and loss.form == form
    assert {term for term, preset in CC_PRESETS.items() if preset.weight is None} == {"cc.paper", "cc.tface"}
    unit = Form(reduction="fro_b2")
    assert abs(float(congruence(S, T, unit)) - 0.073022114176) < 1e-12
    assert close(PRESET_VALUES["cc.tface"] / BILINEAR, 0.129213771516579)


@pytest.mark.parametrize("term", ["cc.torchdistill", "cc.repdistiller"])
def test_maps_of_a_preset_are_trained_on_both_sides_and_the_teacher_is_not(term: str) -> None:
    loss = LOSSES[term](Dims(8, 5), {}, {}).double()
    student, teacher = S.clone().requires_grad_(), T[:, :5].clone().requires_grad_()
    value = loss(outputs(S)._replace(embedding=student), outputs(T)._replace(embedding=teacher), BATCH)
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        "project.student.weight": (PROJECTION, 8),
        "project.student.bias": (PROJECTION,),
        "project.teacher.weight": (PROJECTION, 5),
        "project.teacher.bias": (PROJECTION,),
    }
    value.backward()
    assert student.grad is not None and float(student.grad.norm()) > 0 and teacher.grad is None
    assert all(p.grad is not None and bool(p.grad.any()) for p in loss.parameters())


def test_repdistillers_form_depends_on_the_order_of_samples_and_on_the_axes() -> None:
    assert close(adjacent_products(S, T), 6.272481616410753)
    assert close(adjacent_products(S[SHUFFLED], T[SHUFFLED]), 5.442795055556024)
    assert close(adjacent_products(S @ REFLECTION, T @ REFLECTION), 6.078751289053992)


@pytest.mark.parametrize(
    "term, options, weight, words",
    [
        ("cc.taylor", {}, 0.003, "unit rows, where a weight of 0.003"),
        ("cc.taylor", {}, 0.1, None),
        ("cc.taylor", {}, 100.0, None),
        ("cc.taylor", {"normalize": False}, 0.003, None),
        ("cc.taylor", {"normalize": False}, 100.0, "raw rows, whose products grow"),
        ("cc.bilinear", {"normalize": False}, 1.5, "raw rows"),
        ("cc.rbf", {"normalize": True}, 0.05, "unit rows"),
        ("cc.rbf", {"normalize": False}, 100.0, None),  # its entries are at most 1
        ("cc.mmd", {}, 0.003, None),
        ("cc.mmd", {}, 100.0, None),
        ("cc.paper", {}, 0.005, "unit rows"),
        ("cc.tface", {}, 100.0, None),
        ("cc.torchdistill", {}, 100.0, "raw rows"),
        ("cc.repdistiller", {}, 2.0, "raw rows"),
        ("sp.gram", {}, 0.003, None),
    ],
)
def test_weights_of_the_other_scale_are_noticed(
    term: str, options: dict[str, Any], weight: float, words: str | None
) -> None:
    warning = weight_warning(term, options, weight)
    assert warning is None if words is None else warning is not None and term in warning and words in warning


def test_published_weights_fit_their_presets() -> None:
    for term, preset in CC_PRESETS.items():
        assert preset.weight is None or weight_warning(term, {}, preset.weight) is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gamma": 0.0}, "gamma is 0, out of range"),
        ({"gamma": math.inf}, "gamma is inf, out of range"),
        ({"order": -1}, "order is -1, out of range"),
        ({"order": 1.5}, "order is 1.5, out of range"),
        ({"reduction": "sum"}, "unknown reduction of cc 'sum'.*mean, fro_b2, offdiag_mean"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        correlation_congruence(S, T, **options)
    with pytest.raises(UsageError, match=message):
        LOSSES["cc.taylor"](Dims(8, 8), options, {})


def test_unusable_kernels_and_tensors_are_named() -> None:
    with pytest.raises(UsageError, match="unknown kernel of cc 'cosine'.*bilinear, rbf, taylor, mmd"):
        correlation_congruence(S, T, "cosine")
    with pytest.raises(ValueError, match="cc needs at least 2 samples in a batch, got 1"):
        correlation_congruence(S[:1], T[:1])
    with pytest.raises(ValueError, match="as many rows"):
        correlation_congruence(S, T[:5])
    with pytest.raises(TypeError, match="floating point"):
        correlation_congruence(S.long(), T)
    with pytest.raises(ValueError, match="differ in precision"):
        correlation_congruence(S.float(), T)
    with pytest.raises(ValueError, match="differ in width"):
        adjacent_products(S, T[:, :5])
    with pytest.raises(ValueError, match="cc.repdistiller needs at least 2 samples"):
        adjacent_products(S[:1], T[:1])
    with pytest.raises(ValueError, match="as many rows"):
        Projections(Dims(8, 8)).double()(S, T[:5])


def test_order_zero_is_a_constant_kernel() -> None:
    student = S.clone().requires_grad_()
    value = correlation_congruence(student, T, order=0)
    (gradient,) = torch.autograd.grad(value, student)
    assert float(value.detach()) == 0 and not gradient.any()
