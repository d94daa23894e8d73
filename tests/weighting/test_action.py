"""From an action to weights: the formula, its range, its neutral point."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.nn.functional import cross_entropy

from facekit.weighting.action import ActionWeights, action_size, weigh
from facekit.weighting.base import LEAST_SUM
from facekit.weighting.errors import OutOfRange, WrongAction
from facekit.weighting.features import FEATURES
from tests.weighting.views import facts, view


def test_linear_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    action = torch.tensor([0.5, -0.25, 0.1])
    expected = torch.tensor([1 + math.tanh(0.1), 1 + math.tanh(0.35)])
    torch.testing.assert_close(weigh(features, action), expected)


def test_one_hidden_layer_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0]])
    # U = [[.1, .2, .3], [.4, .5, .6]], u = [1, -1, 2], b = .5, c = -.25
    action = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1, -1, 2, 0.5, -0.25])
    assert len(action) == action_size(2, hidden=3) == 2 * 3 + 3 + 2
    inner = [math.tanh(1.4), math.tanh(1.7), math.tanh(2.0)]
    expected = 1 + math.tanh(inner[0] - inner[1] + 2 * inner[2] - 0.25)
    torch.testing.assert_close(weigh(features, action, hidden=3), torch.tensor([expected]))


@settings(max_examples=40)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=14, max_size=14),
    st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8),
    st.sampled_from([0, 4]),
)
def test_weights_lie_inside_0_and_2(action: list[float], features: list[float], hidden: int) -> None:
    size = action_size(2, hidden)
    weights = weigh(torch.tensor(features).view(4, 2), torch.tensor(action[:size]), hidden)
    assert ((weights > 0) & (weights < 2)).all()


@pytest.mark.parametrize("score", [-1e30, 1e30])
def test_a_score_beyond_everything_gives_no_0_and_no_2(score: float) -> None:
    (weight,) = weigh(torch.ones(1, 1), torch.tensor([score, 0.0])).tolist()
    assert 0 < weight < 2
    assert weight == pytest.approx(2.0 if score > 0 else 0.0, abs=3e-7)


@pytest.mark.parametrize("hidden", [0, 3])
def test_zeros_are_the_plain_mean_of_cross_entropy(hidden: int) -> None:
    batch = view(size=64)
    rule = ActionWeights(hidden=hidden)
    rule.begin(facts())
    weights = rule.weights(batch)
    assert torch.equal(weights, torch.ones(64))
    logits = batch.logits.double()
    losses = cross_entropy(logits, batch.labels, reduction="none")
    weighted = (weights * losses).sum() / weights.sum().clamp(min=LEAST_SUM)
    torch.testing.assert_close(weighted, cross_entropy(logits, batch.labels), rtol=0, atol=1e-7)


def test_no_gradient_flows_through_weights() -> None:
    batch = view()
    logits = batch.logits.requires_grad_()
    batch = batch._replace(loss=cross_entropy(logits, batch.labels, reduction="none"))
    rule = ActionWeights(tuple(FEATURES))
    rule.begin(facts())
    rule.action = torch.ones_like(rule.action)
    weights = rule.weights(batch)
    assert not weights.requires_grad
    (gradient,) = torch.autograd.grad((weights * batch.loss).sum(), logits)
    expected = weights[:, None] * (logits.softmax(dim=1) - torch.eye(4)[batch.labels])
    torch.testing.assert_close(gradient, expected.detach())


def test_a_negative_weight_of_the_loss_favours_small_losses() -> None:
    batch = view()
    rule = ActionWeights(("loss_norm",))
    rule.begin(facts())
    rule.action = torch.tensor([-2.0, 0.0])
    assert torch.equal(rule.weights(batch).argsort(), batch.loss.argsort(descending=True))


def test_weights_are_float32_under_autocast() -> None:
    generator = Generator().manual_seed(0)
    features, action = torch.randn(8, 2, generator=generator), torch.randn(action_size(2, 5), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = weigh(features, action, hidden=5)
    assert torch.equal(weights, weigh(features, action, hidden=5))


def test_a_resume_goes_on_bit_for_bit() -> None:
    first, second = ActionWeights(("loss_abs", "label")), ActionWeights(("loss_abs", "label"))
    for rule in (first, second):
        rule.begin(facts())
    first.action = torch.tensor([0.3, -1.0, 0.2])
    first.weights(view(seed=1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weights(view(seed=2)), second.weights(view(seed=2)))


@pytest.mark.parametrize(("length", "hidden"), [(2, 0), (4, 0), (3, 1), (10, 3), (0, 0)])
def test_an_action_of_another_length_is_refused(length: int, hidden: int) -> None:
    with pytest.raises(WrongAction, match=f"take {action_size(2, hidden)}") as error:
        weigh(torch.zeros(4, 2), torch.zeros(length), hidden)
    assert error.value.code == "AW-ACTION"


@pytest.mark.parametrize("hidden", [-1, 1001])
def test_a_layer_that_cannot_be_is_refused(hidden: int) -> None:
    with pytest.raises(OutOfRange, match="between 0 and 1000") as error:
        action_size(2, hidden)
    assert error.value.code == "AW-RANGE"
