"""How uint8 RGB pixels become a network's input: a table that travels with every model.

A missing or wrong colour order or scale is the most repeated silent failure in face recognition, so
the table is stored in every checkpoint, in ONNX metadata and in every embedding-cache key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facekit.core.errors import InputError

PerChannel = float | tuple[float, float, float]
"""One number, or one each for red, green and blue: in this order also where ``channels`` is bgr."""


@dataclass(frozen=True)
class Preprocess:
    """``y = x * scale + shift`` on 0..255 RGB input, with the crop the model expects.

    >>> Preprocess().describe()
    '112x112 rgb, x*0.00784314-1, crop arcface-5pt-112, flip sum'
    """

    size: tuple[int, int] = (112, 112)  # height, width
    channels: str = "rgb"
    scale: PerChannel = 1.0 / 127.5
    shift: PerChannel = -1.0
    layout: str = "NCHW"
    crop: str = "arcface-5pt-112"
    interpolation: str = "bilinear"
    border: int = 0
    flip: str = "sum"
    normalised_output: bool = False
    embedding: int = 512

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "bgr"):
            raise InputError(f"preprocessing channels {self.channels!r} is not one of rgb, bgr")
        if self.flip not in ("sum", "concat", "none"):
            raise InputError(f"preprocessing flip {self.flip!r} is not one of sum, concat, none")
        if min(self.size) < 1 or self.embedding < 1:
            raise InputError(f"preprocessing size {self.size} and embedding {self.embedding} must be positive")
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            numbers = value if isinstance(value, tuple) and len(value) == 3 else (value,)
            if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
                raise InputError(f"preprocessing {name} {value!r} is neither a finite number nor three of them")

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 RGB [B,3,H,W] -> the network's input [B,3,H,W], keeping the memory format."""
        if images.shape[-2:] != self.size:
            raise InputError(
                f"images are {images.shape[-2]}x{images.shape[-1]}, the model expects "
                f"{self.size[0]}x{self.size[1]} ({self.crop}); crop or resize them first"
            )
        if self.channels == "bgr":
            images = images.flip(1)
        y = images.to(dtype)
        if not isinstance(self.scale, tuple) and not isinstance(self.shift, tuple):
            return y.mul_(self.scale).add_(self.shift)
        order = (0, 1, 2) if self.channels == "rgb" else (2, 1, 0)
        for plane, colour in enumerate(order):  # numbers, not a tensor: its copy to the device would be waited for
            y[:, plane].mul_(_of(self.scale, colour)).add_(_of(self.shift, colour))
        return y

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as in run.json and ONNX metadata."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_dict(table: Mapping[str, Any]) -> Preprocess:
        """Read the JSON form; unknown keys are ignored so that newer files still load."""
        known = {f.name for f in dataclasses.fields(Preprocess)}
        values = {k: v for k, v in table.items() if k in known}
        if "size" in values:
            values["size"] = (int(values["size"][0]), int(values["size"][1]))
        for name in ("scale", "shift"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return Preprocess(**values)

    def hash(self) -> str:
        """Eight bytes in hex that name this table in cache keys."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line for a terminal."""
        return (
            f"{self.size[0]}x{self.size[1]} {self.channels}, x*{_shown(self.scale)}{_shown(self.shift, '+')}, "
            f"crop {self.crop}, flip {self.flip}"
        )


def _of(value: PerChannel, colour: int) -> float:
    return value[colour] if isinstance(value, tuple) else value


def _shown(value: PerChannel, sign: str = "") -> str:
    """``0.5``, or ``[0.5,0.25,1]``; with a sign ``+0.5`` or ``+[0.5,0.25,1]``."""
    if isinstance(value, tuple):
        return f"{sign}[{','.join(f'{n:.6g}' for n in value)}]"
    return f"{value:{sign}.6g}"
