"""Other people's classifiers: RepDistiller's networks of 32-pixel images, and torchvision's residual networks.

Depth, widths and the number of classes are read from tensor shapes. Strides and poolings leave no trace there, so that
only the two stems of these families are taken. Classes have no names in such files: they are called "0", "1" and on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from facekit.core.errors import InputError
from facekit.models import Classifier
from facekit.models.adopt import adopt, channels, count, dims
from facekit.models.conv3 import Conv3
from facekit.models.mobilenetv2 import MobileNetV2
from facekit.models.records import classifier_record
from facekit.models.resnet import SHAPES, ResNet, Shape
from facekit.models.wrn import WIDE, Wide, WideResNet

KNOWN = "resnets, wide resnets and MobileNetV2-half of RepDistiller, and torchvision's resnets"


def import_classifier(state: Mapping[str, Tensor]) -> tuple[Classifier, dict[str, Any]] | None:
    """The network with its weights, and its record; None where the keys are of no such family.

    Raises InputError naming what is not as in the family.
    """
    more: dict[str, Any] = {}
    with torch.device("meta"):
        net: Classifier
        if "layer1.0.conv1.weight" in state:
            shape = read_shape(state)
            name = next((n for n, known in SHAPES.items() if known == shape), "resnet")
            net = ResNet(shape, channels(state, "fc.weight"))
            more = {} if name in SHAPES else {"shape": asdict(shape)}
        elif "block1.layer.0.conv1.weight" in state:
            wide = read_wide(state)
            name = next((n for n, known in WIDE.items() if known == wide), "wrn")
            net = WideResNet(wide, channels(state, "fc.weight"))
            more = {} if name in WIDE else {"shape": asdict(wide)}
        elif "blocks.0.0.conv.0.weight" in state:
            name = "mobilenetv2_half"
            net = MobileNetV2(channels(state, "classifier.0.weight"))
        elif {"conv3.weight", "bn3.weight", "fc.weight"} <= state.keys():
            name = "conv3"
            net = Conv3(channels(state, "fc.weight"))
        else:
            return None
    adopt(net, state)
    return net, classifier_record(name, net, [str(i) for i in range(net.classes)]) | more


def read_shape(state: Mapping[str, Tensor]) -> Shape:
    """Blocks, widths and stem of a residual network. Raises InputError for a stem of neither family."""
    stem, stages = dims(state, "conv1.weight"), count(state, "layer")
    names = [f"layer{i + 1}." for i in range(stages)]
    blocks = tuple(count(state, name) for name in names)
    widths = tuple(channels(state, f"{name}0.conv1.weight") for name in names)
    bottleneck = "layer1.0.conv3.weight" in state
    if stem[-1] == 3 and stages == 3:
        return Shape(blocks, widths, stem[0], 3, bottleneck)
    if stem[-1] == 7 and stages == 4:
        return Shape(blocks, widths, stem[0], 7, bottleneck)
    raise InputError(
        f"this ResNet starts with filters of side {stem[-1]} and has {stages} stages; known are side 3 with 3 stages "
        "(RepDistiller) and side 7 with 4 (torchvision). Export it to .onnx and give that file"
    )


def read_wide(state: Mapping[str, Tensor]) -> Wide:
    """Blocks and widening of a wide residual network; what does not fit them shows up when keys are compared."""
    return Wide(count(state, "block1.layer."), max(1, channels(state, "block1.layer.0.conv1.weight") // 16))
