"""How likely latent values are, in floats and with gradients: what training and estimates of size use.

Written files use the integers of ``mixture.py`` and of ``z_edges`` instead.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.codec.bounds import at_least, at_most
from facekit.codec.mixture import FiniteError
from facekit.codec.tables import GREATEST_SCALE, LEAST_LOG_SCALE, PRECISION, STATIC_SYMBOLS

LEAST_LIKELIHOOD = 1e-9
"""No value costs more than 29.9 bits."""
STAGES = 3


class Parameters(NamedTuple):
    """Of a mixture of K Gaussians for each latent value, each [B,K,M,h,w]."""

    mean: Tensor
    log_scale: Tensor
    """Natural logarithm of the standard deviation, before it is clamped to ln .11 .. ln 64."""
    logit: Tensor
    """Softmax over K gives the weights."""


def mixture_likelihood(y: Tensor, parameters: Parameters) -> Tensor:
    """The mass of the mixture within half a step of y: [B,M,h,w] -> same, at least 1e-9.

    A value at the mean of one Gaussian with scale 1 has erf(.5 / sqrt 2) = .3829. Clamped scales and likelihoods pass
    a gradient that leads back into the range.
    """
    mean, log_scale, logit = parameters
    # Bounded before the exponential, which would overflow.
    inverse = torch.exp(-at_most(at_least(log_scale, LEAST_LOG_SCALE), math.log(GREATEST_SCALE)))
    # By symmetry on the lower side, where differences of Phi keep their digits.
    below = -(y.unsqueeze(1) - mean).abs()
    mass = normal_cdf((below + 0.5) * inverse) - normal_cdf((below - 0.5) * inverse)
    return at_least((logit.softmax(dim=1) * mass).sum(dim=1), LEAST_LIKELIHOOD)


def normal_cdf(x: Tensor) -> Tensor:
    """Phi, with relative accuracy in the lower tail."""
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def bits(likelihood: Tensor) -> Tensor:
    """What an ideal coder spends on each image: [B,...] -> [B]."""
    return -likelihood.log2().flatten(1).sum(dim=1)


class FactorisedPrior(nn.Module):
    """One learned distribution for each channel of z, the same everywhere in the image (arXiv 1802.01436, 6.1).

    Its cumulative distribution is sigmoid(f4(f3(f2(f1(z))))) of monotone functions: f(x) = u + tanh(u) tanh(a) with
    u = x softplus(h) + b, without the tanh in the last. In the parameters of the authors' released code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(0.01 * torch.randn(STAGES + 1, channels))
        self.shift = nn.Parameter(0.01 * torch.randn(STAGES + 1, channels))
        self.bend = nn.Parameter(0.01 * torch.randn(STAGES, channels))

    def logits(self, z: Tensor) -> Tensor:
        """The logit of the cumulative distribution, [...,C,h,w] -> same."""
        scale, shift, bend = F.softplus(self.scale), self.shift, torch.tanh(self.bend)
        for stage in range(STAGES):
            u = z * column(scale[stage]) + column(shift[stage])
            z = u + torch.tanh(u) * column(bend[stage])
        return z * column(scale[STAGES]) + column(shift[STAGES])

    def forward(self, z: Tensor) -> Tensor:
        """The mass within half a step of z: [B,C,h,w] -> same, at least 1e-9."""
        low, high = self.logits(z - 0.5), self.logits(z + 0.5)
        # 1 - sigmoid(x) = sigmoid(-x): mirrored onto the lower side, where differences keep their digits.
        side = torch.where(low + high > 0, -1.0, 1.0).to(z.dtype)
        mass = (torch.sigmoid(side * high) - torch.sigmoid(side * low)).abs()
        return at_least(mass, LEAST_LIKELIHOOD)


def column(values: Tensor) -> Tensor:
    """[C] -> [C,1,1]."""
    return values[:, None, None]


@torch.no_grad()
def z_edges(prior: FactorisedPrior) -> np.ndarray:
    """The prior as cumulative frequencies of the 255 symbols z + 127, uint32 [C,256], from 0 to 2^24.

    Made once, at export, and part of the model file: another machine's maths library might give other integers.
    Every symbol gets at least one count. Raises FiniteError.
    """
    points = torch.arange(STATIC_SYMBOLS + 1, dtype=torch.float64) - STATIC_SYMBOLS / 2
    exact = copy.deepcopy(prior).to("cpu", torch.float64)
    below = torch.sigmoid(exact.logits(points[None, :, None]))[:, :, 0].numpy()
    if not np.isfinite(below).all():
        raise FiniteError("the prior of the hyper-latent is not finite")
    counts = np.floor(below * ((1 << PRECISION) - STATIC_SYMBOLS)).astype(np.int64)
    # A rounding error may lower the cumulative sum by one count where it is flat.
    edges = np.maximum.accumulate(counts, axis=1) + np.arange(STATIC_SYMBOLS + 1)
    edges[:, 0], edges[:, -1] = 0, 1 << PRECISION
    return edges.astype(np.uint32)
