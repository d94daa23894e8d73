"""One update of actor and critic, step by step in numpy; targets that follow; values that end with an episode."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from facekit.weighting.ddpg import Ddpg
from facekit.weighting.profiles import PROFILES
from facekit.weighting.replaybuffer import Transitions

# Linear networks, and everything that an update may do. The first weights are large enough to bend the tanh.
LINEAR = replace(
    PROFILES["short"],
    actor_hidden=(),
    critic_hidden=(),
    actor_std=0.4,
    norm_cost=0.3,
    follow=0.1,
    weight_decay=0.02,
    clip_norm=0.5,
)
STAGES = 2
NETWORKS = ("critic", "actor", "critic_target", "actor_target")


def two_transitions() -> Transitions:
    """The first goes on to the second stage, the second is the last."""
    return Transitions(
        state=torch.tensor([[0.0, 0.9, 0.2, 1.0], [1.0, 0.4, 0.8, 0.1]]),
        action=torch.tensor([[0.5], [-1.5]]),
        reward=torch.tensor([0.7, -0.4]),
        following=torch.tensor([[1.0, 0.4, 0.8, 0.1], [2.0, 0.3, 0.9, 0.1]]),
        done=torch.tensor([0.0, 1.0]),
    )


class ByHand:
    """The same update in float64 from formulas: a = 3 tanh(u x + c), Q = w x + v a + b, x = [one-hot, l, m, rate]."""

    def __init__(self, learner: Ddpg) -> None:
        self.actor = np.append(weights(learner.actor.layers[0]), 0.0)  # u, c
        self.critic = np.append(weights(learner.critic.layers[0]), 0.0)  # w, v, b
        self.actor_target, self.critic_target = self.actor.copy(), self.critic.copy()
        self.moments = {
            name: [np.zeros_like(getattr(self, name)), np.zeros_like(getattr(self, name))] for name in RATES
        }
        self.steps = 0

    def update(self, batch: Transitions) -> None:
        x, following = (inputs(states) for states in (batch.state, batch.following))
        action, reward, done = (part.double().numpy() for part in (batch.action[:, 0], batch.reward, batch.done))
        self.steps += 1

        y = reward + 0.9 * (1 - done) * q(self.critic_target, following, act(self.actor_target, following))
        wrong = q(self.critic, x, action) - y
        self.adam("critic", (2 * wrong[:, None] * critic_slope(x, action)).mean(0))

        said = act(self.actor, x)
        slope = -self.critic[-2] + 0.3 * np.sign(said)  # of -Q + 0.3 |a|, for a
        self.adam("actor", ((slope * 3 * (1 - (said / 3) ** 2))[:, None] * with_one(x)).mean(0))

        self.actor_target += 0.1 * (self.actor - self.actor_target)
        self.critic_target += 0.1 * (self.critic - self.critic_target)

    def adam(self, name: str, gradient: np.ndarray) -> None:
        """Clip to norm 0.5, add the decay, step."""
        gradient = gradient * min(1.0, 0.5 / (np.linalg.norm(gradient) + 1e-6)) + 0.02 * getattr(self, name)
        first, second = self.moments[name]
        first[:] = 0.9 * first + 0.1 * gradient
        second[:] = 0.999 * second + 0.001 * gradient**2
        fair = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
        setattr(self, name, getattr(self, name) - RATES[name] * fair[0] / (np.sqrt(fair[1]) + 1e-8))


RATES = {"actor": 1e-3, "critic": 3e-3}


def weights(linear: nn.Module) -> np.ndarray:
    """[widths], without the bias."""
    return next(linear.parameters()).detach().double().numpy()[0]


def inputs(states: Tensor) -> np.ndarray:
    """[2,5]: the stage one-hot, and the rest."""
    one_hot = [[stage == 0, stage == 1] for stage in states[:, 0].tolist()]
    return np.concatenate([np.array(one_hot, np.float64), states[:, 1:].double().numpy()], axis=1)


def with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def critic_slope(x: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Of Q for [w, v, b]."""
    return np.concatenate([x, action[:, None], np.ones((len(x), 1))], axis=1)


def act(actor: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(3 * np.tanh(with_one(x) @ actor))


def q(critic: np.ndarray, x: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.asarray(critic_slope(x, action) @ critic)


def flat(network: nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double().numpy()


def test_four_updates_by_hand() -> None:
    """Four, since Adam's first step hardly depends on the gradient's length; float64, so that no difference hides."""
    learner = Ddpg(LINEAR, STAGES, 1, Generator().manual_seed(0))
    for name in NETWORKS:
        getattr(learner, name).double()
    hand = ByHand(learner)
    for i in range(4):
        batch = Transitions(*(part.double() for part in two_transitions()))
        batch = batch._replace(reward=batch.reward * (i + 1))
        learner.update(batch)
        hand.update(batch)
        for name in NETWORKS:
            np.testing.assert_allclose(flat(getattr(learner, name)), getattr(hand, name), rtol=0, atol=1e-12)
    assert learner.updates == 4


def test_done_stops_bootstrapping() -> None:
    learner = Ddpg(PROFILES["short"], STAGES, 1, Generator().manual_seed(0))
    batch = two_transitions()
    with torch.no_grad():
        later = learner.critic_target(batch.following, learner.actor_target(batch.following))
    assert (later != 0).all()
    worth = learner.bootstrapped(batch)
    assert worth[1] == batch.reward[1]
    assert worth[0].item() == pytest.approx(0.7 + 0.9 * later[0].item())


def test_the_loss_is_the_mean_squared_error_of_the_value() -> None:
    learner = Ddpg(PROFILES["paper"], STAGES, 1, Generator().manual_seed(0))
    batch = two_transitions()._replace(done=torch.ones(2))
    with torch.no_grad():
        wanted = ((learner.critic(batch.state, batch.action) - batch.reward) ** 2).mean()
    assert learner.update(batch).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_every_parameter_learns_and_targets_start_as_copies() -> None:
    learner = Ddpg(PROFILES["paper"], STAGES, 1, Generator().manual_seed(0))
    assert np.array_equal(flat(learner.actor), flat(learner.actor_target))
    assert np.array_equal(flat(learner.critic), flat(learner.critic_target))
    before = copy.deepcopy({name: getattr(learner, name).state_dict() for name in ("actor", "critic")})
    learner.update(two_transitions())
    for name, state in before.items():
        for key, tensor in getattr(learner, name).state_dict().items():
            assert not torch.equal(tensor, state[key]), f"{name} {key}"


def test_a_loaded_state_stays_the_callers() -> None:
    learner = Ddpg(PROFILES["short"], STAGES, 1, Generator().manual_seed(0))
    learner.update(two_transitions())
    saved = copy.deepcopy(learner.state_dict())
    ends = []
    for _ in range(2):
        learner.load_state_dict(saved)
        learner.update(two_transitions())
        ends.append(flat(learner.actor))
    assert np.array_equal(ends[0], ends[1])
    assert learner.updates == 2
