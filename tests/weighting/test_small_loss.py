"""Which losses are kept, counted by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekit.weighting.errors import OutOfRange
from facekit.weighting.small_loss import SmallLoss, keep_rate, kept, smallest
from tests.weighting.replays import losing
from tests.weighting.views import facts


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.4, 0.9])
def test_the_rate_falls_from_one_to_one_minus_tau_and_stays(tau: float) -> None:
    assert keep_rate(0, tau) == 1 and keep_rate(10, tau) == keep_rate(99, tau) == 1 - tau
    assert keep_rate(5, tau) == pytest.approx(1 - tau / 2)
    assert keep_rate(3, tau, ramp=3) == 1 - tau


@given(percent=st.integers(0, 100), size=st.integers(1, 2000))
def test_the_count_is_the_floor_of_the_decimal_product(percent: int, size: int) -> None:
    assert kept(percent / 100, size) == math.floor(Fraction(percent, 100) * size)


@given(losses=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), data=st.data())
def test_the_smallest_are_kept_and_ties_go_by_position(losses: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(losses)))
    expected = sorted(range(len(losses)), key=lambda i: (losses[i], i))[:count]
    assert smallest(torch.tensor(losses), count).nonzero()[:, 0].tolist() == sorted(expected)


def test_a_loss_that_is_no_number_is_the_last_to_be_kept() -> None:
    assert smallest(torch.tensor([math.nan, 3.0, math.inf]), 2).tolist() == [0, 1, 1]


def test_the_weighter_follows_the_epochs() -> None:
    weighter = SmallLoss(tau=0.4, ramp=10)
    weighter.begin(facts(steps_per_epoch=3))
    losses = torch.arange(50.0).flip(0)
    ones = [int(weighter.weights(losing(losses, step)).sum()) for step in (0, 2, 3, 15, 29, 30, 50)]
    assert ones == [50, 50, 48, 40, 32, 30, 30], "epochs 0 0 1 5 9 10 16"
    weights = weighter.weights(losing(losses, 30))
    assert weights.dtype == torch.float32 and weights[-30:].all() and not weights[:20].any()


def test_the_count_is_of_the_global_batch() -> None:
    weighter = SmallLoss(tau=0.5, ramp=1)
    weighter.begin(facts(steps_per_epoch=1))
    all_losses = torch.tensor([1.0, 2.0, 7.0, 5.0, 6.0, 3.0])
    own = slice(3, 6)
    weights = weighter.weights(losing(all_losses[own], 1, gather=lambda _: all_losses, own=own))
    assert weights.tolist() == [0, 0, 1]


def test_what_cannot_be_meant_is_refused() -> None:
    for tau, ramp in ((-0.1, 10), (1.0, 10), (math.nan, 10), (0.4, 0)):
        with pytest.raises(OutOfRange):
            SmallLoss(tau, ramp)
    weighter = SmallLoss(tau=0.9)
    weighter.begin(facts(steps_per_epoch=1))
    with pytest.raises(OutOfRange, match="keeps nothing of a batch of 9"):
        weighter.weights(losing(torch.rand(9)))
    weighter.weights(losing(torch.rand(10)))
