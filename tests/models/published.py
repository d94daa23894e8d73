"""Files of weights as RepDistiller and torchvision name their tensors, and what they compute: written from the names.

Independent of facekit's networks: made-up tensors under published keys, and functions of such a dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class State(dict[str, Tensor]):
    """Tensors by name, drawn so that no BatchNorm is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(4)

    def conv(self, name: str, inputs: int, outputs: int, side: int) -> None:
        scale = (2 / (inputs * side * side)) ** 0.5
        self[f"{name}.weight"] = scale * torch.randn(outputs, inputs, side, side, generator=self.generator)

    def norm(self, name: str, width: int) -> None:
        for key, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3)):
            self[f"{name}.{key}"] = low + (high - low) * torch.rand(width, generator=self.generator)
        self[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.generator)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self[f"{name}.weight"] = torch.randn(outputs, inputs, generator=self.generator)
        self[f"{name}.bias"] = torch.randn(outputs, generator=self.generator)


def conv(s: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = s[f"{name}.weight"].to(x.dtype)
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)


def norm(s: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        s[f"{name}.{key}"].to(x.dtype) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, var, weight, bias)


# --- residual networks -----------------------------------------------------------------------------------


def resnet_state(
    blocks: Sequence[int], widths: Sequence[int], stem: int, side: int, classes: int, wide: int
) -> dict[str, Tensor]:
    """``wide`` is 1 for blocks of two convolutions, 4 for bottlenecks."""
    s = State()
    s.conv("conv1", 3, stem, side)
    s.norm("bn1", stem)
    inputs = stem
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for i in range(count):
            name = f"layer{stage}.{i}"
            sides = (3, 3) if wide == 1 else (1, 3, 1)
            channels = [inputs, *[width] * (len(sides) - 1), wide * width]
            for k, kernel in enumerate(sides):
                s.conv(f"{name}.conv{k + 1}", channels[k], channels[k + 1], kernel)
                s.norm(f"{name}.bn{k + 1}", channels[k + 1])
            if inputs != wide * width or (stage > 1 and i == 0):
                s.conv(f"{name}.downsample.0", inputs, wide * width, 1)
                s.norm(f"{name}.downsample.1", wide * width)
            inputs = wide * width
    s.linear("fc", inputs, classes)
    return dict(s)


def resnet(s: dict[str, Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Maps after the ReLU, and class scores."""
    if s["conv1.weight"].shape[-1] == 7:
        x = F.max_pool2d(F.relu(norm(s, "bn1", conv(s, "conv1", x, 2))), 3, 2, 1)
    else:
        x = F.relu(norm(s, "bn1", conv(s, "conv1", x)))
    maps = []
    for stage in range(1, 5):
        for i in range(100):
            name = f"layer{stage}.{i}"
            if f"{name}.conv1.weight" not in s:
                break
            stride = 2 if stage > 1 and i == 0 else 1
            if f"{name}.conv3.weight" in s:  # torchvision's stride sits on the 3x3 convolution
                y = F.relu(norm(s, f"{name}.bn1", conv(s, f"{name}.conv1", x)))
                y = F.relu(norm(s, f"{name}.bn2", conv(s, f"{name}.conv2", y, stride)))
                y = norm(s, f"{name}.bn3", conv(s, f"{name}.conv3", y))
            else:
                y = F.relu(norm(s, f"{name}.bn1", conv(s, f"{name}.conv1", x, stride)))
                y = norm(s, f"{name}.bn2", conv(s, f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in s:
                x = norm(s, f"{name}.downsample.1", conv(s, f"{name}.downsample.0", x, stride))
            x = F.relu(x + y)
        if f"layer{stage}.0.conv1.weight" in s:
            maps.append(x)
    pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return maps, F.linear(pooled, s["fc.weight"].to(x.dtype), s["fc.bias"].to(x.dtype))


# --- wide residual networks ------------------------------------------------------------------------------


def wrn_state(blocks: int, widen: int, classes: int) -> dict[str, Tensor]:
    s = State()
    s.conv("conv1", 3, 16, 3)
    inputs = 16
    for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), 1):
        for i in range(blocks):
            name = f"block{stage}.layer.{i}"
            s.norm(f"{name}.bn1", inputs)
            s.conv(f"{name}.conv1", inputs, width, 3)
            s.norm(f"{name}.bn2", width)
            s.conv(f"{name}.conv2", width, width, 3)
            if inputs != width:
                s.conv(f"{name}.convShortcut", inputs, width, 1)
            inputs = width
    s.norm("bn1", inputs)
    s.linear("fc", inputs, classes)
    return dict(s)


def wrn(s: dict[str, Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The sums that end the stages, and class scores."""
    x = conv(s, "conv1", x)
    maps = []
    for stage in (1, 2, 3):
        for i in range(100):
            name = f"block{stage}.layer.{i}"
            if f"{name}.conv1.weight" not in s:
                break
            stride = 2 if stage > 1 and i == 0 else 1
            active = F.relu(norm(s, f"{name}.bn1", x))
            if f"{name}.convShortcut.weight" in s:
                x = conv(s, f"{name}.convShortcut", active, stride)
            x = x + conv(s, f"{name}.conv2", F.relu(norm(s, f"{name}.bn2", conv(s, f"{name}.conv1", active, stride))))
        maps.append(x)
    pooled = F.avg_pool2d(F.relu(norm(s, "bn1", x)), 8).flatten(1)
    return maps, F.linear(pooled, s["fc.weight"].to(x.dtype), s["fc.bias"].to(x.dtype))


# --- MobileNetV2 -----------------------------------------------------------------------------------------

TABLE = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride at full width."""


def mobilenet_state(classes: int) -> dict[str, Tensor]:
    s = State()
    s.conv("conv1.0", 3, 16, 3)
    s.norm("conv1.1", 16)
    inputs = 16
    for stage, (expansion, full, count, _) in enumerate(TABLE):
        for i in range(count):
            name, hidden, width = f"blocks.{stage}.{i}.conv", expansion * inputs, full // 2
            s.conv(f"{name}.0", inputs, hidden, 1)
            s.norm(f"{name}.1", hidden)
            s.conv(f"{name}.3", 1, hidden, 3)
            s.norm(f"{name}.4", hidden)
            s.conv(f"{name}.6", hidden, width, 1)
            s.norm(f"{name}.7", width)
            inputs = width
    s.conv("conv2.0", inputs, 1280, 1)
    s.norm("conv2.1", 1280)
    s.linear("classifier.0", 1280, classes)
    return dict(s)


def mobilenet(s: dict[str, Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The projections that end the stages of each side, and class scores."""
    x = F.relu(norm(s, "conv1.1", conv(s, "conv1.0", x, 2)))
    ends = []
    for stage, (_, _, count, first) in enumerate(TABLE):
        for i in range(count):
            name, stride = f"blocks.{stage}.{i}.conv", first if i == 0 else 1
            y = F.relu(norm(s, f"{name}.1", conv(s, f"{name}.0", x)))
            y = F.relu(norm(s, f"{name}.4", conv(s, f"{name}.3", y, stride, groups=y.shape[1])))
            y = norm(s, f"{name}.7", conv(s, f"{name}.6", y))
            x = x + y if stride == 1 and x.shape == y.shape else y
        ends.append(x)
    last = F.relu(norm(s, "conv2.1", conv(s, "conv2.0", x)))
    pooled = F.avg_pool2d(last, 2).flatten(1)
    scores = F.linear(pooled, s["classifier.0.weight"].to(x.dtype), s["classifier.0.bias"].to(x.dtype))
    return [ends[1], ends[2], ends[4], ends[6]], scores
