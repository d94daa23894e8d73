"""``facekit train``: a network on labelled images; ``facekit route-train record``: the same, its way kept."""

from __future__ import annotations

from dataclasses import replace

from facekit.configs import RouteRecordConfig, TrainConfig
from facekit.core.errors import UsageError
from facekit.engines.classifying import train
from facekit.engines.fitting import opened_device


def run(config: TrainConfig) -> None:
    """Train on one device, or as one of the processes that torchrun started."""
    with opened_device(config) as device:
        train("train", config, device)


def record(config: RouteRecordConfig) -> None:
    """Train and keep the states on the way: every 5 % of the epochs where --save-route says nothing."""
    if config.seeds:
        raise UsageError("--seeds trains several networks, and a route is that of one: give --seed")
    every = config.save_route or max(1, round(config.epochs / 20))
    with opened_device(config) as device:
        train("route-train record", replace(config, save_route=every), device)
