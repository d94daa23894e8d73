"""The end that all closed-set networks share: global average pooling and a layer of classes."""

from __future__ import annotations

from torch import Tensor, nn

from facekit.core.errors import UsageError
from facekit.core.types import Outputs
from facekit.models.precision import in_full_precision


def classified(maps: tuple[Tensor, ...], last: Tensor, layer: nn.Module) -> Outputs:
    """Pool ``last`` [B,D,H,W], of any side, to the embedding [B,D] and score the classes, [B,C].

    Both stay in full precision under autocast. ``maps`` are handed on.
    """
    embedding = in_full_precision(_pooled, last)
    return Outputs(embedding, maps, in_full_precision(layer, embedding))


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def initialise(net: nn.Module) -> None:
    """Convolutions as Kaiming normal by fan-out (arXiv 1502.01852), also depth-wise ones by all their outputs."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def refuse_dropout(dropout: float) -> None:
    """Raise UsageError unless ``dropout`` is 0, in a network that was published without it."""
    if dropout != 0:
        raise UsageError(f"--dropout {dropout:g}: this network has no dropout; leave it at 0, or take one of wrn")
