"""Exploration: deviations over a search, a wandering process by hand, and resuming in its midst."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Generator

from facekit.weighting.noise import Gaussian, Noise, Wandering

each_noise = pytest.mark.parametrize("settings", [Gaussian(), Wandering(chance=1.0)], ids=["gaussian", "wandering"])


@pytest.mark.parametrize(("episode", "deviation"), [(0, 1.0), (10, 0.75), (35, 0.125), (36, 0.1), (39, 0.1)])
def test_gaussian_noise_falls_to_a_tenth(episode: int, deviation: float) -> None:
    noise = Gaussian().start(actions=20_000, episodes=40)
    noise.begin_episode(episode)
    added = noise(torch.full((20_000,), 2.0), Generator().manual_seed(0)) - 2
    assert added.std().item() == pytest.approx(deviation, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.03 * deviation)


def test_the_wandering_process_by_hand() -> None:
    """Two moves of n, added with scale 0.5 to an action of length 5, then with 0.4998 to one shorter than 1."""
    noise = Wandering(chance=1.0).start(actions=2, episodes=40)
    drawn = Generator().manual_seed(3)
    pushes = []
    for _ in range(2):
        pushes.append(torch.randn(2, generator=drawn))
        torch.rand((), generator=drawn)
    n_1 = 0.02 * pushes[0]
    n_2 = n_1 - 0.15 * 0.01 * n_1 + 0.02 * pushes[1]

    generator = Generator().manual_seed(3)
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.1])
    torch.testing.assert_close(noise(long, generator), long + 0.5 * 5 * n_1)
    torch.testing.assert_close(noise(short, generator), short + 0.4998 * 1 * n_2)


def test_wandering_noise_is_added_to_three_actions_in_ten() -> None:
    noise = Wandering(fall=0.0).start(actions=1, episodes=40)
    generator, action = Generator().manual_seed(0), torch.ones(1)
    moved = sum(bool(noise(action, generator) != action) for _ in range(2_000))
    assert moved / 2_000 == pytest.approx(0.3, abs=0.03)


def test_wandering_starts_anew_with_every_episode_and_its_scale_never_does() -> None:
    noise = Wandering().start(actions=1, episodes=40)
    generator = Generator().manual_seed(0)
    for _ in range(10):
        noise(torch.ones(1), generator)
    assert noise.position != 0
    noise.begin_episode(1)
    assert noise.position == 0
    assert noise.scale == pytest.approx(0.5 - 10 * 2e-4)
    for _ in range(2_500):
        noise(torch.ones(1), generator)
    assert noise.scale == 0


@each_noise
def test_noise_resumes_within_an_episode(settings: Gaussian | Wandering) -> None:
    def go(noise: Noise, generator: Generator) -> list[float]:
        return [noise(torch.ones(1), generator).item() for _ in range(5)]

    noise, generator = settings.start(1, 40), Generator().manual_seed(0)
    noise.begin_episode(20)
    go(noise, generator)
    saved, words = copy.deepcopy(noise.state_dict()), generator.get_state()
    wanted = go(noise, generator)

    resumed, generator = settings.start(1, 40), Generator()
    resumed.load_state_dict(saved)
    generator.set_state(words)
    assert go(resumed, generator) == wanted
