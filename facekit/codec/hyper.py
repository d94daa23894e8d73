"""The hyper-decoder as both directions use it: integers z to the integer mixture of every value of y.

Encoder and decoder must arrive at the same integers, or all later symbols are lost. A numeric mode is a way to ensure
that; a file names its mode.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from facekit.codec.mixture import Mixture, quantised
from facekit.codec.networks import HyperSynthesis


class Float64Hyper:
    """Mode ``f64``: plain convolutions in float64, then the rounding of ``mixture.quantised``.

    Orders of summation (threads, layouts, libraries) change the floats by about 1e-14, and so a rounded value only
    where it lies that close to a half: not never, but so rarely that the latent checksum of a file is enough. One
    image at a time, since a batch may be summed in another order. Float32 changes integers in most images.
    """

    def __init__(self, net: HyperSynthesis, place: torch.device) -> None:
        exact = copy.deepcopy(net).to(place, torch.float64).requires_grad_(False)
        self.net = exact.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.place = place

    @torch.inference_mode()
    def __call__(self, z: np.ndarray) -> Mixture:
        """int16 [N,h,w] -> the mixture [K, M * 4h * 4w], in the order channel, row, column. Raises FiniteError."""
        parameters = self.net(torch.from_numpy(z)[None].to(self.place, torch.float64))
        mean, log_scale, logit = (values[0].flatten(1).cpu().numpy() for values in parameters)
        return quantised(mean, log_scale, logit)
