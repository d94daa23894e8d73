"""Networks by name: backbones and margin heads. Stored and foreign networks come through ``loading``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from facekit.core.errors import unknown_name
from facekit.models.heads import AdaFace, ArcFace, ArcFaceExact, CosFace, MarginHead
from facekit.models.iresnet import BLOCKS, IResNet
from facekit.models.mbf import SHAPES, MobileFaceNet

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
