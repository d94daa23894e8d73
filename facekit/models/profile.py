"""What a network costs: parameters, multiply-accumulates, size, and the time of one image."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from facekit.core.device import Device
from facekit.core.errors import unknown_name
from facekit.core.preprocess import Preprocess
from facekit.models import BACKBONES, build_backbone
from facekit.models.loading import Model, frozen_model, load_model


@dataclass(frozen=True)
class Profile:
    """One network's costs. ``latency_ms`` is a median over single images, preprocessing included."""

    name: str
    embedding: int
    parameters: int
    macs: int
    size_bytes: int
    latency_ms: float
    device: dict[str, Any]
    processor: str
    preprocess: dict[str, Any]
    licence: str


def open_or_build(model: str, embedding: int, device: Device, channels: str | None, scaling: str | None) -> Model:
    """A stored model, or a freshly built backbone where ``model`` is a backbone's name and no such file exists."""
    if model not in BACKBONES and not Path(model).exists() and Path(model).name == model and not Path(model).suffix:
        raise unknown_name("backbone or file", model, BACKBONES)
    if Path(model).exists() or model not in BACKBONES:
        return load_model(model, device=device, channels=channels, scaling=scaling)
    architecture = {"name": model, "embedding": embedding, "dropout": 0.0}
    return frozen_model(build_backbone(model, embedding), architecture, Preprocess(embedding=embedding), device)


def profile(model: Model, repeats: int) -> Profile:
    """Count and time ``model`` on its own device."""
    return Profile(
        name=model.name,
        embedding=model.preprocess.embedding,
        parameters=model.parameters,
        macs=model.macs(),
        size_bytes=model.size_bytes,
        latency_ms=model.latency_ms(repeats),
        device={**model.device.describe(), "threads": torch.get_num_threads()},
        processor=platform.processor() or platform.machine(),
        preprocess=model.preprocess.to_dict(),
        licence=model.licence,
    )
