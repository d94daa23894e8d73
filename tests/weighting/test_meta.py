"""L2RW and Meta-Weight-Net against what defines them: the gradient of a clean loss through a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.models import build_classifier
from facekit.weighting.errors import NeedsClean, OutOfRange
from facekit.weighting.l2rw import L2RW, shares
from facekit.weighting.meta import MetaWeighter
from facekit.weighting.mwnet import MWNet
from facekit.weighting.slopes import double_backward_slopes, forward_slopes, gradient
from tests.training.planted import CLEAN, IMAGES, Mlp, planted
from tests.weighting.replays import NetReplay, Turns, losing
from tests.weighting.views import facts

RATE = 0.3


def small_net(norm: bool = True) -> nn.Sequential:
    """8-16-3, float64."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double()


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (count,), generator=generator)


def small_replay(net: nn.Module | None = None) -> NetReplay:
    return NetReplay(net or small_net(), images(12, 1), images(9, 2), RATE)


def clean_loss_after(replay: NetReplay, weights: Tensor) -> Tensor:
    """L_clean(theta - eta grad sum w_i l_i), differentiable by the weights: the definition itself."""
    leaves = {name: p.detach().requires_grad_() for name, p in replay.parameters.items()}
    loss = (weights * replay.losses(leaves)).sum()
    moves = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    return replay.clean_loss({n: p - RATE * m for (n, p), m in zip(leaves.items(), moves, strict=True)})


class Logits(nn.Module):
    """A network as its class scores alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x).logits
        return scores


# --- L2RW ------------------------------------------------------------------------------------------------------


def test_l2rw_is_double_backward_through_the_virtual_step() -> None:
    replay = small_replay()
    eps = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    (by_eps,) = torch.autograd.grad(clean_loss_after(replay, eps), eps)
    expected = (-by_eps).clamp(min=0) / (-by_eps).clamp(min=0).sum()
    weights = L2RW().weights(replay.view())
    assert 2 < (expected > 0).sum() < 12
    assert (weights - expected).abs().max() <= 1e-12


def test_no_helpful_sample_gives_no_weight() -> None:
    assert shares(torch.tensor([-1.0, 0.0, -1e-30])).tolist() == [0, 0, 0]
    assert shares(torch.tensor([-1.0, 1e-30, 3e-30])).tolist() == pytest.approx([0, 0.25, 0.75])


# --- Meta-Weight-Net -----------------------------------------------------------------------------------------------


def some_mwnet(seed: int = 0) -> MWNet:
    """In float64."""
    weighter = MWNet(hidden=7, lr=0.01)
    weighter.begin(facts()._replace(seed=seed))
    weighter.network.double()
    return weighter


def test_mwnet_learns_by_double_backward_through_the_virtual_step() -> None:
    replay, weighter = small_replay(), some_mwnet()
    seen = replay.view()
    said = weighter.network(seen.loss[:, None])[:, 0]
    before = list(weighter.network.parameters())
    expected = torch.autograd.grad(clean_loss_after(replay, said / said.sum()), before)
    weights = weighter.weights(seen)
    for parameter, by in zip(weighter.network.parameters(), expected, strict=True):
        assert parameter.grad is not None and by.abs().max() > 1e-9
        assert (parameter.grad - by).abs().max() <= 1e-12
    assert weights.equal(weighter.network(seen.loss[:, None])[:, 0]), "weights are of V after its step"
    assert not weights.equal(said) and not weights.requires_grad


def test_v_starts_from_the_seed_and_moves_no_other_draw() -> None:
    torch.manual_seed(5)
    first, same, other = some_mwnet(1), some_mwnet(1), some_mwnet(2)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    state = first.network.state_dict()
    assert all(state[name].equal(tensor) for name, tensor in same.network.state_dict().items())
    assert all(not state[name].equal(tensor) for name, tensor in other.network.state_dict().items())


def test_mwnet_resumes_bit_for_bit() -> None:
    seen = small_replay().view()
    whole, resumed = some_mwnet(), some_mwnet()
    for _ in range(2):
        whole.weights(seen)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(3):
        assert whole.weights(seen).equal(resumed.weights(seen))


# --- both -----------------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("build", [L2RW, some_mwnet])


class Squared(torch.autograd.Function):
    """An operator without forward-mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Square(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        return Squared.apply(x) if self.own else x * x


@BOTH
def test_without_forward_mode_double_backward_gives_the_same_and_is_remembered(
    build: Callable[[], MetaWeighter],
) -> None:
    weights = []
    for own in (False, True):
        weighter = build()
        assert not weighter.double_backward
        weights.append(weighter.weights(small_replay(small_net().append(Square(own))).view()))
        assert weighter.double_backward is own
    assert (weights[0] - weights[1]).abs().max() <= 1e-12


@BOTH
def test_nothing_of_the_network_is_changed(build: Callable[[], MetaWeighter]) -> None:
    net = small_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    build().weights(small_replay(net).view())
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@BOTH
def test_two_processes_weigh_as_one(build: Callable[[], MetaWeighter]) -> None:
    """Without BatchNorm, whose statistics are of one process; each has its half of the clean images."""
    net, (x, y), (cx, cy) = small_net(norm=False), images(12, 1), images(8, 2)
    expected = build().weights(NetReplay(net, (x, y), (cx, cy), RATE).view())

    def process(rank: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
        own, clean = slice(6 * rank, 6 * rank + 6), slice(4 * rank, 4 * rank + 4)
        replay = NetReplay(net, (x[own], y[own]), (cx[clean], cy[clean]), RATE)
        return build().weights(replay.view()._replace(gather=gather, own=own))

    assert (torch.cat(Turns().run(process)) - expected).abs().max() <= 1e-12


@BOTH
def test_clean_images_are_needed(build: Callable[[], MetaWeighter]) -> None:
    with pytest.raises(NeedsClean, match="--clean"):
        build().weights(losing(torch.rand(4, dtype=torch.float64)))
    assert build().needs == {"clean"}


def test_what_cannot_be_meant_is_refused() -> None:
    for settings in ({"hidden": 0}, {"lr": 0.0}, {"lr": float("nan")}):
        with pytest.raises(OutOfRange):
            MWNet(**settings)


@pytest.mark.parametrize(("build", "steps", "margin"), [(L2RW, 40, 1.5), (MWNet, 80, 1.1)])
def test_mislabelled_samples_get_less_weight(build: Callable[[], MetaWeighter], steps: int, margin: float) -> None:
    torch.manual_seed(0)
    data, net, weighter = planted(0, noise=0.4), Logits(Mlp()), build()
    weighter.begin(facts())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    generator = Generator().manual_seed(0)
    sums, counts = torch.zeros(2), torch.zeros(2)
    for _ in range(steps):
        own, clean = (torch.randint(size, (100,), generator=generator) for size in (IMAGES, CLEAN))
        batch = data.points[own], data.labels[own]
        weights = weighter.weights(NetReplay(net, batch, (data.clean_points[clean], data.clean_labels[clean])).view())
        optimiser.zero_grad()
        ((weights * cross_entropy(net(batch[0]), batch[1], reduction="none")).sum() / weights.sum()).backward()
        optimiser.step()
        right = data.truth[own].long()
        sums.index_add_(0, right, weights)
        counts.index_add_(0, right, torch.ones(100))
    wrong, correct = (sums / counts).tolist()
    assert correct > margin * wrong


def test_forward_mode_goes_through_a_network_of_ours() -> None:
    torch.manual_seed(0)
    net = build_classifier("resnet8", 10).to(memory_format=torch.channels_last)
    inputs, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    replay = NetReplay(Logits(net), (inputs, labels), (inputs.flip(3), labels))
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    along = gradient(replay.clean_loss, replay.parameters, lambda own: own)
    fast, slow = (f(replay.losses, replay.parameters, along) for f in (forward_slopes, double_backward_slopes))
    assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()
    assert all(buffer.equal(before[name]) for name, buffer in net.named_buffers())
