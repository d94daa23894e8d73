"""Actor and critic: widths, first weights, what they see of a stage."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from facekit.weighting.networks import Actor, Critic, layers
from facekit.weighting.profiles import PROFILES, Profile

STAGES, ACTIONS = 40, 3
each_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def states(count: int) -> Tensor:
    generator = Generator().manual_seed(0)
    stage = torch.arange(count) % STAGES
    return torch.cat([stage[:, None].float(), torch.rand(count, 3, generator=generator)], dim=1)


def widths(network: nn.Module) -> list[int]:
    """Of the input, the hidden layers and the output."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return [linear[0].in_features, *(module.out_features for module in linear)]


def test_the_paper_networks_have_the_published_widths() -> None:
    actor, critic = (kind(PROFILES["paper"], STAGES, ACTIONS) for kind in (Actor, Critic))
    assert widths(actor) == [19, 256, 512, 256, 3]
    assert widths(critic) == [22, 256, 512, 256, 1]
    assert all(network.state_dict()["input.table"].shape == (50, 16) for network in (actor, critic))


def test_the_short_networks_see_the_stage_one_hot() -> None:
    actor, critic = (kind(PROFILES["short"], STAGES, ACTIONS) for kind in (Actor, Critic))
    assert widths(actor) == [43, 64, 64, 3]
    assert widths(critic) == [46, 64, 64, 1]
    seen = actor.input(torch.tensor([[2.0, 0.5, 0.6, 0.7], [40.0, 0.5, 0.6, 0.7]]))
    assert seen[0].nonzero().flatten().tolist() == [2, 40, 41, 42]
    assert seen[1].nonzero().flatten().tolist() == [40, 41, 42], "what follows the last stage is no stage"


def test_layers_compute_linear_relu_linear() -> None:
    network = layers((2, 2, 1), 1.0, Generator())
    first, last = (module for module in network if isinstance(module, nn.Linear))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        last.weight.copy_(torch.tensor([[3.0, 5.0]]))
    assert [type(module) for module in network] == [nn.Linear, nn.ReLU, nn.Linear]
    assert network(torch.tensor([[1.0, 1.0]])).tolist() == [[9.0]]


def test_first_weights_have_the_profile_deviation_and_biases_are_zero() -> None:
    paper = PROFILES["paper"]
    for network, wanted in ((Actor(paper, STAGES, 3), 0.05), (Critic(paper, STAGES, 3), 0.01)):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                assert not module.bias.any()
                if module.weight.numel() > 4_000:
                    assert module.weight.std().item() == pytest.approx(wanted, rel=0.05)


@each_profile
def test_actions_stay_inside_the_bound(profile: Profile) -> None:
    actor = Actor(profile, STAGES, ACTIONS)
    actions = actor(states(80))
    assert actions.shape == (80, ACTIONS)
    assert (actions != 0).all()
    with torch.no_grad():
        linear = [module for module in actor.modules() if isinstance(module, nn.Linear)]
        linear[-1].bias.fill_(100.0)
    assert (actor(states(80)) == 3.0).all()


@each_profile
def test_the_critic_judges_state_and_action(profile: Profile) -> None:
    critic = Critic(profile, STAGES, ACTIONS)
    state, action = states(5), torch.ones(5, ACTIONS)
    value = critic(state, action)
    assert value.shape == (5,)
    assert (value != critic(state, 2 * action)).all()
    assert (value != critic(state + torch.tensor([1.0, 0.0, 0.0, 0.0]), action)).all(), "another stage"
    assert (value != critic(state + torch.tensor([0.0, 1.0, 0.0, 0.0]), action)).all(), "another loss"


@each_profile
def test_building_leaves_the_global_generator_alone(profile: Profile) -> None:
    before = torch.get_rng_state()
    first, second = (Actor(profile, STAGES, ACTIONS, Generator().manual_seed(seed)) for seed in (1, 2))
    Critic(profile, STAGES, ACTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first(states(1)), second(states(1)))
