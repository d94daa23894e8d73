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
from facekit.models import BACKBONES, CLASSIFIERS, build_backbone, build_classifier
from facekit.models.loading import Model, frozen_model, load_model
from facekit.models.records import classifier_input, classifier_record
from facekit.models.resnet import SHAPES


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
    classes: int
    """0 for a face embedder."""


def open_or_build(model: str, embedding: int, device: Device, channels: str | None, scaling: str | None) -> Model:
    """A stored model, or a freshly built network where ``model`` is the name of one and no such file exists.

    A classifier has the width, the input side and the number of classes that it was published with.
    """
    names = (*BACKBONES, *CLASSIFIERS)
    if model not in names and not Path(model).exists() and Path(model).name == model and not Path(model).suffix:
        raise unknown_name("network or file", model, names)
    if Path(model).exists() or model not in names:
        return load_model(model, device=device, channels=channels, scaling=scaling)
    if model in CLASSIFIERS:
        return fresh_classifier(model, device)
    architecture = {"name": model, "embedding": embedding, "dropout": 0.0}
    return frozen_model(build_backbone(model, embedding), architecture, Preprocess(embedding=embedding), device)


def fresh_classifier(name: str, device: Device) -> Model:
    """1,000 classes as in ImageNet for the networks of 224-pixel images, 100 as in CIFAR-100 for the others."""
    shape = SHAPES.get(name)
    classes = 1000 if shape is not None and shape.kernel == 7 else 100
    net = build_classifier(name, classes)
    architecture = classifier_record(name, net, [str(i) for i in range(classes)])
    return frozen_model(net, architecture, classifier_input(net.embedding, net.size), device)


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
        classes=len(model.classes),
    )
