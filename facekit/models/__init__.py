"""Networks by name: backbones, classifiers and margin heads. Stored and foreign networks come through ``loading``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from facekit.core.errors import unknown_name
from facekit.models import resnet
from facekit.models.conv3 import Conv3
from facekit.models.heads import AdaFace, ArcFace, ArcFaceExact, CosFace, MarginHead
from facekit.models.iresnet import BLOCKS, IResNet
from facekit.models.mbf import SHAPES, MobileFaceNet
from facekit.models.mobilenetv2 import MobileNetV2
from facekit.models.resnet import ResNet
from facekit.models.wrn import WIDE, WideResNet

BACKBONES: dict[str, Callable[[int, float], MobileFaceNet | IResNet]] = {
    "mbf_nano": partial(MobileFaceNet, SHAPES["mbf_nano"]),
    "mbf_half": partial(MobileFaceNet, SHAPES["mbf_half"]),
    "mbf_s1": partial(MobileFaceNet, SHAPES["mbf_s1"]),
    "mbf": partial(MobileFaceNet, SHAPES["mbf"]),
    "mbf_large": partial(MobileFaceNet, SHAPES["mbf_large"]),
    "r18": partial(IResNet, BLOCKS["r18"]),
    "r34": partial(IResNet, BLOCKS["r34"]),
    "r50": partial(IResNet, BLOCKS["r50"]),
    "r100": partial(IResNet, BLOCKS["r100"]),
    "r200": partial(IResNet, BLOCKS["r200"]),
}
"""Face embedders: (embedding width, dropout) -> network."""

Classifier = ResNet | WideResNet | MobileNetV2 | Conv3

CLASSIFIERS: dict[str, Callable[[int, float], Classifier]] = {
    "resnet8": partial(ResNet, resnet.SHAPES["resnet8"]),
    "resnet14": partial(ResNet, resnet.SHAPES["resnet14"]),
    "resnet20": partial(ResNet, resnet.SHAPES["resnet20"]),
    "resnet32": partial(ResNet, resnet.SHAPES["resnet32"]),
    "resnet44": partial(ResNet, resnet.SHAPES["resnet44"]),
    "resnet56": partial(ResNet, resnet.SHAPES["resnet56"]),
    "resnet110": partial(ResNet, resnet.SHAPES["resnet110"]),
    "resnet8x4": partial(ResNet, resnet.SHAPES["resnet8x4"]),
    "resnet32x4": partial(ResNet, resnet.SHAPES["resnet32x4"]),
    "wrn16_1": partial(WideResNet, WIDE["wrn16_1"]),
    "wrn16_2": partial(WideResNet, WIDE["wrn16_2"]),
    "wrn40_1": partial(WideResNet, WIDE["wrn40_1"]),
    "wrn40_2": partial(WideResNet, WIDE["wrn40_2"]),
    "mobilenetv2_half": MobileNetV2,
    "conv3": Conv3,
    "resnet18": partial(ResNet, resnet.SHAPES["resnet18"]),
    "resnet34": partial(ResNet, resnet.SHAPES["resnet34"]),
    "resnet50": partial(ResNet, resnet.SHAPES["resnet50"]),
}
"""Closed-set networks, with a class layer of their own: (number of classes, dropout) -> network."""

HEADS: dict[str, type[MarginHead]] = {
    "arcface": ArcFace,
    "arcface_exact": ArcFaceExact,
    "cosface": CosFace,
    "adaface": AdaFace,
}


def build_backbone(name: str, embedding: int = 512, dropout: float = 0.0) -> nn.Module:
    """A freshly initialised network (torch's global generator); ``forward(x [B,3,H,W]) -> Outputs``.

    Raises UsageError with a suggestion for an unknown name.
    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name](embedding, dropout)


def build_classifier(name: str, classes: int, dropout: float = 0.0) -> Classifier:
    """A freshly initialised network of that many classes; its outputs have logits, its ``embedding`` is their input.

    Raises UsageError for an unknown name, with a suggestion, and for dropout in a network that has none.
    """
    if name not in CLASSIFIERS:
        raise unknown_name("classifier", name, CLASSIFIERS)
    return CLASSIFIERS[name](classes, dropout)
