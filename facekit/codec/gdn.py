"""Generalised divisive normalisation (GDN, arXiv 1511.06281), in the parameters of the authors' released code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.codec.bounds import at_least
from facekit.codec.layers import full_precision

OFFSET = 2.0**-18
PEDESTAL = OFFSET**2
"""Keeps the slope of the square root finite where a weight is 0."""
LEAST_BETA = 1e-6


class GDN(nn.Module):
    """x_i / sqrt(beta_i + sum_j gamma_ij x_j^2) at each place, or times that root for the inverse: [B,C,H,W] -> same.

    Held are roots: beta = max(b, sqrt(1e-6 + p))^2 - p and gamma = max(g, o)^2 - p with o = 2^-18, p = o^2, so that
    neither turns negative. It starts as x / sqrt(1 + .1 x^2). The norm is computed in full precision.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_root = nn.Parameter(torch.full((channels,), math.sqrt(1 + PEDESTAL)))
        self.gamma_root = nn.Parameter((0.1 * torch.eye(channels) + PEDESTAL).sqrt())

    def beta(self) -> Tensor:
        """[C]."""
        return at_least(self.beta_root, math.sqrt(LEAST_BETA + PEDESTAL)).square() - PEDESTAL

    def gamma(self) -> Tensor:
        """[C,C], row i holds what the other channels add to the norm of channel i."""
        return at_least(self.gamma_root, OFFSET).square() - PEDESTAL

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] in any precision -> float32, or float64 of float64."""
        with full_precision(x) as x:
            norm = F.conv2d(x.square(), self.gamma()[:, :, None, None], self.beta())
            return x * (norm.sqrt() if self.inverse else norm.rsqrt())
