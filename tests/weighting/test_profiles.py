"""The controller's constants are those of the published code and of our measured set-up."""

from __future__ import annotations

import typing
from dataclasses import asdict

import pytest

from facekit.weighting.errors import OutOfRange
from facekit.weighting.noise import Gaussian, Wandering
from facekit.weighting.profiles import PROFILES, ProfileName, profile_for


def test_the_paper_profile_is_the_published_code() -> None:
    assert asdict(PROFILES["paper"]) == {
        "name": "paper",
        "stage_width": 16,
        "actor_hidden": (256, 512, 256),
        "critic_hidden": (256, 512, 256),
        "actor_std": 0.05,
        "critic_std": 0.01,
        "exploration": {"chance": 0.3, "theta": 0.15, "sigma": 0.2, "dt": 0.01, "scale": 0.5, "fall": 2e-4},
        "actor_rate": 1e-5,
        "critic_rate": 1e-3,
        "discount": 0.99,
        "follow": 0.001,
        "norm_cost": 0.001,
        "learn_after": "transition",
        "bound": 3.0,
        "weight_decay": 1e-5,
        "clip_norm": 5.0,
        "capacity": 500,
        "batch": 32,
        "passes": 8,
    }


def test_the_short_profile_is_the_measured_set_up() -> None:
    short = PROFILES["short"]
    assert (short.stage_width, short.actor_hidden, short.critic_hidden) == (None, (64, 64), (64, 64))
    assert (short.actor_std, short.critic_std, short.exploration) == (0.05, 0.1, Gaussian(least=0.1))
    assert (short.actor_rate, short.critic_rate, short.discount, short.follow) == (1e-3, 3e-3, 0.9, 0.02)
    assert (short.norm_cost, short.learn_after) == (0.0, "episode")
    assert (short.bound, short.capacity, short.batch, short.passes) == (3.0, 500, 32, 8)


def test_the_middle_profile_differs_from_the_paper_in_two_rates() -> None:
    middle, paper = asdict(PROFILES["middle"]), asdict(PROFILES["paper"])
    assert {name: value for name, value in middle.items() if value != paper[name]} == {
        "name": "middle",
        "actor_rate": 1e-4,
        "follow": 0.01,
    }
    assert isinstance(PROFILES["middle"].exploration, Wandering)


def test_names_are_the_table() -> None:
    assert set(typing.get_args(ProfileName)) == set(PROFILES)
    assert all(name == profile.name for name, profile in PROFILES.items())


@pytest.mark.parametrize(
    ("episodes", "name"),
    [(1, "short"), (99, "short"), (100, "middle"), (300, "middle"), (301, "paper"), (1000, "paper")],
)
def test_the_length_of_a_search_picks_its_profile(episodes: int, name: str) -> None:
    assert profile_for(episodes).name == name


def test_a_search_without_episodes_is_refused() -> None:
    with pytest.raises(OutOfRange, match="0 episodes"):
        profile_for(0)
