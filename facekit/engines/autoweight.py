"""``facekit autoweight search | apply``: a weighting policy learned from the data, and a training that uses it."""

from __future__ import annotations

import dataclasses

from facekit.configs import PolicyApplyConfig, PolicySearchConfig, TrainConfig
from facekit.engines.classifying import train
from facekit.engines.fitting import opened_device
from facekit.engines.searching import search as search_policy


def search(config: PolicySearchConfig) -> None:
    """Search a policy."""
    with opened_device(config) as device:
        search_policy("autoweight search", config, device)


def apply(config: PolicyApplyConfig) -> None:
    """Train with the weights of a policy."""
    same = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "policy"}
    training = TrainConfig(**same, weighter=f"law:{config.policy}")
    with opened_device(training) as device:
        train("autoweight apply", training, device)
