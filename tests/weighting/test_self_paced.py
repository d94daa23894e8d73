"""Thresholds against NumPy's quantiles, and what is remembered between epochs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facekit.weighting.errors import OutOfRange, UnknownWeighting
from facekit.weighting.self_paced import FORMS, SelfPaced, quantile_of_seen
from tests.weighting.replays import losing
from tests.weighting.views import facts

INFINITE = torch.tensor(math.inf)


@pytest.mark.parametrize("form", FORMS)
def test_an_infinite_threshold_is_uniform(form: str) -> None:
    assert FORMS[form](torch.tensor([0.0, 1.0, 1e30]), INFINITE).tolist() == [1, 1, 1]


def test_the_two_forms_by_hand() -> None:
    losses, threshold = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor(2.0)
    assert FORMS["hard"](losses, threshold).tolist() == [1, 1, 0, 0]
    assert FORMS["linear"](losses, threshold).tolist() == [1, 0.5, 0, 0]
    assert FORMS["linear"](torch.zeros(2), torch.tensor(0.0)).tolist() == [1, 1]


def test_the_quantile_is_numpys_of_what_was_seen() -> None:
    losses = torch.rand(101, generator=torch.Generator().manual_seed(0))
    seen = losses.clone()
    losses = torch.cat([losses, torch.full((30,), math.nan)])[torch.randperm(131)]
    for share in (0.0, 0.31, 0.5, 0.8, 1.0):
        assert quantile_of_seen(losses, share).item() == np.quantile(seen.numpy(), share, method="lower")


def test_the_share_rises_from_start_to_rho_max() -> None:
    weighter = SelfPaced(start=0.5, rho_max=0.8, warm_up=5)
    weighter.begin(facts(epochs=12))
    assert [round(weighter.share(epoch), 6) for epoch in range(5, 12)] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
    weighter.begin(facts(epochs=6))
    assert weighter.share(5) == 0.5, "one epoch is the first"


def run(weighter: SelfPaced, losses: torch.Tensor, steps: range) -> list[list[float]]:
    """Two batches an epoch, of images 0-4 and 5-9; losses [steps,5]."""
    batches = torch.arange(10).view(2, 5)
    return [weighter.weights(losing(losses[s], s, index=batches[s % 2])).tolist() for s in steps]


def test_the_threshold_is_of_the_epoch_before() -> None:
    weighter = SelfPaced(start=0.5, rho_max=0.5, warm_up=1)
    weighter.begin(facts(epochs=3, steps_per_epoch=2))
    losses = torch.arange(30.0).view(6, 5)  # epoch 0: 0..9, epoch 1: 10..19, epoch 2: 20..29
    losses[2] = torch.tensor([3.0, 4.0, 5.0, 0.0, 9.0])
    losses[4] = torch.tensor([6.9, 7.0, 15.0, 16.0, 1.0])
    weights = run(weighter, losses, range(6))
    assert weights[:2] == [[1] * 5] * 2
    assert weights[2] == [1, 0, 0, 1, 0], "the loss of rank floor(9/2) of 0..9 is 4"
    assert weights[3] == [0] * 5
    assert weights[4] == [1, 1, 0, 0, 1], "epoch 1 had 0 3 4 5 9 15 16 17 18 19: its threshold is 9"


def test_a_resume_anywhere_goes_on_bit_for_bit() -> None:
    told = facts(epochs=5, steps_per_epoch=2)
    losses = torch.rand(10, 5, generator=torch.Generator().manual_seed(1))
    whole = SelfPaced(form="linear", warm_up=2)
    whole.begin(told)
    expected = run(whole, losses, range(10))
    assert len({w for row in expected for w in row}) > 5
    for cut in range(1, 10):
        first, second = SelfPaced(form="linear", warm_up=2), SelfPaced(form="linear", warm_up=2)
        first.begin(told)
        before = run(first, losses, range(cut))
        state = {name: value.clone() for name, value in first.state_dict().items()}
        second.begin(told)
        second.load_state_dict(state)
        assert before + run(second, losses, range(cut, 10)) == expected


def test_every_process_remembers_all_losses() -> None:
    index, losses = torch.tensor([3, 1, 0, 2]), torch.tensor([0.3, 0.1, 0.0, 0.2])
    own = slice(2, 4)
    weighter = SelfPaced()
    weighter.begin(facts()._replace(images=5))
    everything = {torch.float32: losses, torch.int64: index}
    weighter.weights(losing(losses[own], index=index[own], gather=lambda own: everything[own.dtype]))
    assert weighter.losses[:4].equal(torch.tensor([0.0, 0.1, 0.2, 0.3])) and weighter.losses[4].isnan()


def test_what_cannot_be_meant_is_refused() -> None:
    for settings in ({"start": 0.0}, {"start": 0.9}, {"rho_max": 1.1}, {"start": math.nan}, {"warm_up": 0}):
        with pytest.raises(OutOfRange):
            SelfPaced(**settings)
    with pytest.raises(UnknownWeighting, match="hard, linear"):
        SelfPaced(form="soft")
