"""The five networks of the image codec and their sum, as they are trained.

Analysis, synthesis and the hyper-networks follow the base network that the authors of EDIC released (layer for layer);
channel attention, the mixture head and the enhancement are our designs after the abstract of arXiv 2002.03370.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from facekit.codec.arch import Arch
from facekit.codec.attention import ChannelAttention
from facekit.codec.enhancement import enhancement
from facekit.codec.gdn import GDN
from facekit.codec.layers import convolution, full_precision, initialised, upsampling
from facekit.codec.priors import FactorisedPrior, Parameters, bits, mixture_likelihood

Quantisation = Literal["noise", "ste", "round"]

STRIDE = 64
"""Height and width of what the networks see are multiples of this: y has a 16th of them, z a 64th."""
Y_RANGE = (-511, 510)
Z_RANGE = (-127, 127)
"""What files can hold; beyond it values are cut."""
CALM = 0.1
"""The mixture head starts with weights this much smaller, so that scales start near 1 and not at their bounds."""


def attended(channels: int, arch: Arch) -> list[nn.Module]:
    """Channel attention, where the codec has it."""
    return [ChannelAttention(channels, arch.reduction)] if arch.attention else []


class Analysis(nn.Sequential):
    """g_a: image [B,3,H,W] in 0..1 -> y [B,M,H/16,W/16]."""

    def __init__(self, arch: Arch) -> None:
        widths = (3, arch.n, arch.n, arch.n)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [convolution(inputs, outputs, 5, stride=2), GDN(outputs), *attended(outputs, arch)]
        super().__init__(*layers, convolution(arch.n, arch.m, 5, stride=2), *attended(arch.m, arch))


class Synthesis(nn.Module):
    """g_s: y [B,M,h,w] -> image [B,3,16h,16w], about 0..1 and not clamped. The last layer runs in full precision."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        widths = (arch.m, arch.n, arch.n, arch.n)
        layers = attended(arch.m, arch)
        for inputs, outputs in pairwise(widths):
            layers += [upsampling(inputs, outputs), GDN(outputs, inverse=True), *attended(outputs, arch)]
        self.layers = nn.Sequential(*layers)
        self.last = upsampling(arch.n, 3)

    def forward(self, y: Tensor) -> Tensor:
        """[B,M,h,w] -> [B,3,16h,16w]."""
        with full_precision(self.layers(y)) as hidden:
            image: Tensor = self.last(hidden)
            return image


class HyperAnalysis(nn.Sequential):
    """h_a: y [B,M,h,w] -> z [B,N,h/4,w/4]. It sees signs (no absolute value), since the mixture has means."""

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            convolution(arch.m, arch.n, 3),
            nn.ReLU(),
            convolution(arch.n, arch.n, 5, stride=2),
            nn.ReLU(),
            convolution(arch.n, arch.n, 5, stride=2),
        )


class HyperSynthesis(nn.Module):
    """h_s with the mixture head: z [B,N,h,w] -> the mixture of each value of y, [B,K,M,4h,4w]."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.shape = (3, arch.k, arch.m)
        wide = 3 * arch.m // 2
        head = convolution(wide, 3 * arch.k * arch.m, 1)
        with torch.no_grad():
            head.weight *= CALM
        self.layers = nn.Sequential(
            upsampling(arch.n, arch.n),
            nn.ReLU(),
            upsampling(arch.n, arch.n),
            nn.ReLU(),
            initialised(nn.ConvTranspose2d(arch.n, wide, 3, padding=1)),
            nn.ReLU(),
            head,
        )

    def forward(self, z: Tensor) -> Parameters:
        """Output channels are ordered [mean, log scale, logit][K][M]."""
        return Parameters(*self.layers(z).unflatten(1, self.shape).unbind(1))


class CodecOutputs(NamedTuple):
    """What a training step or a measurement needs."""

    x_hat: Tensor
    """[B,3,H,W], not clamped."""
    bits_y: Tensor
    """[B], estimated."""
    bits_z: Tensor
    """[B], estimated."""


class Codec(nn.Module):
    """All networks and the prior of z. What draws noise takes it from torch's global generator."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.arch = arch
        self.analysis: nn.Sequential = Analysis(arch)
        self.synthesis = Synthesis(arch)
        self.hyper_analysis: nn.Sequential = HyperAnalysis(arch)
        self.hyper_synthesis = HyperSynthesis(arch)
        self.enhancement = enhancement(arch.enhancement)
        self.prior = FactorisedPrior(arch.n)

    def forward(self, images: Tensor, mode: Quantisation) -> CodecOutputs:
        """[B,3,H,W] in 0..1, sides multiples of 64. Under autocast the hyper-networks and likelihoods stay in float32.

        ``noise``: uniform noise of one step stands for rounding everywhere. ``ste``: the networks see rounded values,
        whose gradient is passed straight through, the likelihoods still see noise. ``round``: what is written.
        """
        with full_precision(self.analysis(images)) as y:
            z = self.hyper_analysis(y)
            z_measured, z_seen = quantised(z, mode, Z_RANGE)
            y_measured, y_seen = quantised(y, mode, Y_RANGE)
            bits_z = bits(self.prior(z_measured))
            bits_y = bits(mixture_likelihood(y_measured, self.hyper_synthesis(z_seen)))
        return CodecOutputs(self.enhancement(self.synthesis(y_seen)), bits_y, bits_z)


def quantised(latent: Tensor, mode: Quantisation, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(what is measured, what the networks see)."""
    if mode == "round":
        whole = latent.round().clamp(*limits)
        return whole, whole
    noisy = latent + torch.rand_like(latent) - 0.5
    if mode == "noise":
        return noisy, noisy
    return noisy, latent + (latent.round() - latent).detach()
