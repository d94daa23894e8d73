"""A learned policy on disk: ``policy.json``, which people can read, and its actor in ``policy.safetensors`` beside it.

The JSON holds the hash of the actor's file and a hash of itself: a byte that changed in either is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facekit.core.checkpoints import read_tensors, write_tensors
from facekit.core.errors import CorruptFile, MissingFile, UsageError, unknown_name
from facekit.core.files import plain, read_json, sha256_file, write_json
from facekit.weighting.action import action_size, check_action
from facekit.weighting.errors import NotANumber, OtherSearch, UnknownWeighting, WrongAction
from facekit.weighting.features import Features
from facekit.weighting.networks import STATE, Actor
from facekit.weighting.profiles import PROFILES
from facekit.weighting.stages import check_stages

SCHEMA = "facekit.policy/1"
_HEADER_ROOM = 1 << 16  # bytes of a file of tensors beyond the tensors


class Moment(NamedTuple):
    """What the controller saw at the start of a stage, and did."""

    state: tuple[float, ...]
    """[4]: stage, loss average / ln C, weight average, share of the first learning rate."""
    action: tuple[float, ...]
    """[A]"""


@dataclass(frozen=True, eq=False)
class Policy:
    """An actor, and all that its actions depend on.

    Raises UnknownWeighting, OutOfRange or WrongStages for settings that no search has, WrongAction for an actor or a
    trace whose actions have another length than the features take, OtherSearch for an actor of another profile or other
    stages, NotANumber for one that is not finite.
    """

    actor: Mapping[str, Tensor]
    """state_dict of ``networks.Actor``."""
    features: tuple[str, ...]
    hidden: int
    """Hidden layer between features and weight; 0 is linear."""
    stages: int
    warm_up: int
    """Stages with weights 1."""
    profile: str
    bound: float
    """Numbers of an action lie in (-bound, bound)."""
    reward: float
    """Mean over the validation episodes that it was chosen by."""
    trace: tuple[Moment, ...] = ()
    """Of the best of these episodes: a moment for each stage after the warm-up."""
    source: Mapping[str, str] = field(default_factory=dict)
    """What it was searched on: hashes of data, noise plan, split and configuration."""

    def __post_init__(self) -> None:
        expected = blank_actor(self.features, self.hidden, self.stages, self.warm_up, self.profile)
        size = action_size(len(self.features), self.hidden)
        for moment in self.trace:
            check_action(len(moment.action), len(self.features), self.hidden)
            if len(moment.state) != STATE:
                raise OtherSearch(f"the trace holds a state of {len(moment.state)} numbers, expected {STATE}")
        if self.bound != expected.bound:
            raise OtherSearch(f"actions within {self.bound}: profile {self.profile} has {expected.bound}")
        check_tensors(self.actor, expected.state_dict(), size)

    def network(self) -> Actor:
        """The actor, on the CPU, without gradients."""
        actor = blank_actor(self.features, self.hidden, self.stages, self.warm_up, self.profile)
        actor.load_state_dict(dict(self.actor))
        return actor.requires_grad_(False).eval()


def blank_actor(features: tuple[str, ...], hidden: int, stages: int, warm_up: int, profile: str) -> Actor:
    """An untrained actor of these settings, whose sizes are checked first."""
    Features(features)
    check_stages(stages, warm_up)
    for name, constants in PROFILES.items():
        if name == profile:
            return Actor(constants, stages, action_size(len(features), hidden))
    raise UnknownWeighting(str(unknown_name("profile", profile, PROFILES)))


def check_tensors(actor: Mapping[str, Tensor], expected: Mapping[str, Tensor], size: int) -> None:
    """Raise OtherSearch, WrongAction or NotANumber for tensors that are no actor of these settings."""
    if actor.keys() != expected.keys():
        raise OtherSearch(f"the actor holds {', '.join(sorted(actor))}, expected {', '.join(sorted(expected))}")
    last = list(expected)[-1]
    if actor[last].dim() == 1 and len(actor[last]) != size:
        raise WrongAction(f"the actor gives actions of {len(actor[last])} numbers, its features take {size}")
    for name, wanted in expected.items():
        if actor[name].shape != wanted.shape or actor[name].dtype != wanted.dtype:
            raise OtherSearch(f"the actor's {name} is {tuple(actor[name].shape)}, expected {tuple(wanted.shape)}")
        if not torch.isfinite(actor[name]).all():
            raise NotANumber(f"the actor's {name} holds a number that is not finite; search again")


# --- files -----------------------------------------------------------------------------------------------------


def write_policy(path: Path | str, policy: Policy) -> Path:
    """Write ``path`` (.json) and the actor's file beside it, each atomically; the JSON comes last."""
    path = Path(path)
    tensors = write_tensors(actor_file(path), policy.actor)
    content = {
        "schema": SCHEMA,
        "features": policy.features,
        "hidden": policy.hidden,
        "stages": policy.stages,
        "warm_up": policy.warm_up,
        "profile": policy.profile,
        "bound": policy.bound,
        "reward": policy.reward,
        "trace": [moment._asdict() for moment in policy.trace],
        "source": policy.source,
        "actor_sha256": sha256_file(tensors),
    }
    return write_json(path, content | {"sha256": digest(content)})


def read_policy(path: Path | str) -> Policy:
    """Read what ``write_policy`` wrote.

    Raises MissingFile, CorruptFile for a damaged or foreign policy.json, OtherSearch where the file of the actor is
    another one, and what ``Policy`` raises.
    """
    path = Path(path)
    content = whole(path, read_json(path))
    try:
        settings: dict[str, Any] = {
            "features": tuple(content["features"]),
            "hidden": integer(content["hidden"]),
            "stages": integer(content["stages"]),
            "warm_up": integer(content["warm_up"]),
            "profile": content["profile"],
        }
        tensors = actor_tensors(path, content["actor_sha256"], blank_actor(**settings))
        return Policy(
            actor=tensors,
            **settings,
            bound=number(content["bound"]),
            reward=number(content["reward"]),
            trace=tuple(
                Moment(tuple(map(number, m["state"])), tuple(map(number, m["action"]))) for m in content["trace"]
            ),
            source={str(name): str(value) for name, value in content["source"].items()},
        )
    except (WrongAction, OtherSearch, NotANumber) as error:
        raise type(error)(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise OtherSearch(f"{path} is not a policy that this version can use: {error}; search again") from error


def actor_file(path: Path) -> Path:
    """``policy.json`` -> ``policy.safetensors``."""
    return path.with_suffix(".safetensors")


def actor_tensors(path: Path, wanted: str, expected: Actor) -> dict[str, Tensor]:
    """The tensors beside ``path``. Size and hash are compared before anything is read."""
    file = actor_file(path)
    if not file.is_file():
        raise MissingFile(f"{file} does not exist; {path.name} needs it beside it")
    most = sum(tensor.nbytes for tensor in expected.state_dict().values()) + _HEADER_ROOM
    if file.stat().st_size > most or sha256_file(file) != wanted:
        raise OtherSearch(f"{file} is not the actor that {path.name} describes: damaged, or of another search")
    return read_tensors(file)[0]


def whole(path: Path, content: Any) -> dict[str, Any]:
    """The content of policy.json. Raises CorruptFile for another schema, or where it differs from its own hash."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise CorruptFile(f"{path} is no policy of schema {SCHEMA}; give the policy.json of facekit autoweight search")
    rest = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256") != digest(rest):
        raise CorruptFile(f"{path} differs from its own hash: it is damaged or was edited; search again")
    return rest


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever its order and layout."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()


def integer(value: Any) -> int:
    """A whole number as JSON holds it; TypeError for anything else."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def number(value: Any) -> float:
    """A number as JSON holds it; TypeError for anything else."""
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
