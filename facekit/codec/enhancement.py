"""What the decoder adds to its picture: a small residual network on the padded image, before it is clamped.

Our design, since the abstract of arXiv 2002.03370 does not say what the authors' enhancement is. Multiply-adds of a
pixel: 15.6 thousand for ``ps2-32x3``, 167.6 thousand for ``full32x9``, which is several times the decoder itself.
"""

from __future__ import annotations

from torch import Tensor, nn

from facekit.codec.arch import EnhancementName
from facekit.codec.layers import convolution

WIDTH = 32


class Around(nn.Sequential):
    """x + layers(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> same."""
        added: Tensor = super().forward(x)
        return x + added


def enhancement(name: EnhancementName) -> nn.Module:
    """[B,3,H,W] -> same; even sides for ``ps2-32x3``. It starts as the identity, since its last layer starts at 0."""
    if name == "none":
        return nn.Identity()
    if name == "ps2-32x3":
        last = silent(convolution(WIDTH, 12, 3))
        return Around(nn.PixelUnshuffle(2), convolution(12, WIDTH, 3), blocks(3), last, nn.PixelShuffle(2))
    groups = Around(*(blocks(3) for _ in range(3)))
    return Around(convolution(3, WIDTH, 3), groups, silent(convolution(WIDTH, 3, 3)))


def blocks(count: int) -> Around:
    """Residual blocks with a skip around all of them."""
    return Around(
        *(Around(convolution(WIDTH, WIDTH, 3), nn.ReLU(), convolution(WIDTH, WIDTH, 3)) for _ in range(count))
    )


def silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Gives 0 until it is trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
