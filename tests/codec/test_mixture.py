"""Rounding to the grid, and the integer distribution against the Gaussian mixture that it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.latents import draw
from facekit.codec.mixture import FiniteError, Mixture, bits, cdf, heaviest, intervals, quantised
from facekit.codec.tables import PRECISION, SYMBOLS, level_scales
from tests.codec.extremes import any_mixture

WHOLE = 1 << PRECISION
EVERY = np.arange(SYMBOLS + 1)[:, None]


def one(mean: float, log_scale: float, *logits: float) -> Mixture:
    """One value; all its components alike but for their logits."""
    k = len(logits)
    return quantised(np.full((k, 1), mean), np.full((k, 1), log_scale), np.array(logits)[:, None])


def normal(x: np.ndarray) -> np.ndarray:
    """Phi, by torch."""
    return torch.special.ndtr(torch.from_numpy(x)).numpy()


# --- rounding -------------------------------------------------------------------------------------------------


def test_a_case_by_hand() -> None:
    mixture = one(1.5, math.log(0.11), 0, 0)
    assert [array.dtype.name for array in mixture] == ["int16", "uint8", "uint16"]
    assert [array[:, 0].tolist() for array in mixture] == [[24, 24], [0, 0], [2048, 2048]]


def test_halves_go_to_the_even_neighbour() -> None:
    means = np.array([[1, 3, 5, -1, -3]]) / 32
    assert quantised(means, 0 * means, 0 * means).mean.tolist() == [[0, 2, 2, 0, -2]]


def test_what_rounding_down_leaves_goes_to_the_first_weight() -> None:
    assert one(0, 0, 0, 0, 0).weight[:, 0].tolist() == [1366, 1365, 1365]
    assert one(0, 0, 0, 20).weight[:, 0].tolist() == [0, 4096]
    assert one(0, 0, -1e300, 1e300, -1e300).weight[:, 0].tolist() == [0, 4096, 0]


@pytest.mark.parametrize("value", [1e5, 1e300])
def test_out_of_range_is_cut(value: float) -> None:
    high, low = one(value, value, value), one(-value, -value, -value)
    assert [array.item() for array in high] == [32767, 63, 4096]
    assert [array.item() for array in low] == [-32768, 0, 4096]


def test_every_scale_finds_its_level_and_the_middle_between_two() -> None:
    logs = np.log(level_scales())[None]
    assert quantised(0 * logs, logs, 0 * logs).level[0].tolist() == list(range(64))
    step = logs[0, 1] - logs[0, 0]
    assert quantised(0 * logs, logs + 0.49 * step, 0 * logs).level[0].tolist() == list(range(64))
    assert quantised(0 * logs, logs + 0.51 * step, 0 * logs).level[0].tolist() == [*range(1, 64), 63]


def test_weights_are_the_softmax_of_logits_in_sixteenths() -> None:
    logit = np.random.default_rng(0).normal(0, 3, (5, 20_000))
    weight = quantised(0 * logit, 0 * logit, logit).weight
    assert (weight.sum(axis=0, dtype=int) == 4096).all()
    exact = np.exp(np.rint(16 * logit) / 16)
    error = weight - 4096 * exact / exact.sum(axis=0)
    assert np.abs(error[1:]).max() < 3  # rounded shares, then rounded down
    assert np.abs(error[0]).max() < 6


def test_more_values_than_are_rounded_at_a_time() -> None:
    floats, _ = draw(2, 40_000)
    whole = quantised(*floats)
    for i in (0, 16_383, 16_384, 39_999):
        for array, alone in zip(whole, quantised(*(x[:, i : i + 1] for x in floats)), strict=True):
            np.testing.assert_array_equal(array[:, i : i + 1], alone)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(which: int, bad: float) -> None:
    floats = [np.zeros((2, 30_000)) for _ in range(3)]
    floats[which][1, -1] = bad
    with pytest.raises(FiniteError):
        quantised(*floats)


def test_the_heaviest_component_and_the_first_of_equal_ones() -> None:
    mean = np.array([[160, 7, -32768], [-160, 8, 0], [0, 9, 0]], np.int16)
    weight = np.array([[1000, 2000, 4096], [1548, 2000, 0], [1548, 96, 0]], np.uint16)
    assert heaviest(Mixture(mean, np.zeros((3, 3), np.uint8), weight)).tolist() == [502, 512, 0]


# --- the distribution ------------------------------------------------------------------------------------------


def test_a_distribution_by_hand() -> None:
    """Scale 64, mean 0: Phi(-0.5/64) of the mass lies below symbol 512, and each symbol below has its one count."""
    mixture = one(0, math.log(64), 0)
    below = round(WHOLE * 0.5 * math.erfc(0.5 / 64 / math.sqrt(2)))
    assert cdf(mixture, np.array([512])).tolist() == [(below * (WHOLE - 1024) >> 24) + 512]
    assert cdf(mixture, np.array([0, 1024])[:, None]).ravel().tolist() == [0, WHOLE]


@pytest.mark.parametrize("components", [1, 3])
def test_extreme_parameters_give_every_symbol_a_share(components: int) -> None:
    edges = cdf(any_mixture(components, 500), EVERY).astype(np.int64)
    assert (edges[0] == 0).all()
    assert (edges[-1] == WHOLE).all()
    assert (np.diff(edges, axis=0) >= 1).all()


@pytest.mark.parametrize("sets", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_integers_are_the_float_mixture_of_the_same_parameters(sets: int) -> None:
    scales = np.array(level_scales())
    for start in range(0, sets, 500):
        mixture = quantised(*draw(3, 500, seed=start, log_scale=0.5)[0])
        edges = cdf(mixture, EVERY)
        assert (edges[0] == 0).all()
        assert (edges[-1] == WHOLE).all()
        assert (edges[1:] > edges[:-1]).all()
        below = normal((EVERY[:, :, None] - 512.5 - mixture.mean.T / 16) / scales[mixture.level.T])
        exact = (below * mixture.weight.T / 4096).sum(axis=2)
        assert np.abs(edges / WHOLE - exact).max() < 1e-4


def test_bits_are_within_two_thousandths_of_the_ideal() -> None:
    floats, values = draw(3, 100_000)
    weight = np.exp(floats.logit) / np.exp(floats.logit).sum(axis=0)
    away = -np.abs(values - floats.mean)  # in the lower tail differences keep their digits
    width = np.exp(floats.log_scale)
    likely = weight * (normal((away + 0.5) / width) - normal((away - 0.5) / width))
    ideal = -np.log2(likely.sum(axis=0)).sum()
    assert ideal * 0.999 < bits(quantised(*floats), values) < ideal * 1.002


def test_equal_components_are_one_gaussian_whatever_their_weights() -> None:
    three, one_gaussian = one(3.25, 0.3, 0.1, 2, -1), one(3.25, 0.3, 0)
    assert set(three.weight[:, 0]) != {4096}
    np.testing.assert_array_equal(cdf(three, EVERY), cdf(one_gaussian, EVERY))


def test_intervals_tile_the_range() -> None:
    values = np.arange(-512, 512)
    one_of_many = Mixture(*(np.repeat(array, 1024, axis=1) for array in one(-7.3, 1.2, 0, 1)))
    low, width = intervals(one_of_many, values)
    assert low[0] == 0
    np.testing.assert_array_equal(low[1:], low[:-1] + width[:-1])
    assert low[-1] + width[-1] == WHOLE
    assert bits(one_of_many, values) == pytest.approx(-np.log2(width / WHOLE).sum())
