"""A codec in training, tried as it will be used: images really coded, beside what its float likelihoods say of them.

The estimate is what training lowers, the file is what a user gets. They differ by the rounding of the mixture, which is
next to nothing, unless something is broken.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from torch import nn

from facekit.codec.coder import Coder
from facekit.codec.export import exported
from facekit.codec.mixture import Mixture
from facekit.codec.networks import Codec
from facekit.codec.tables import WEIGHT_BITS
from facekit.core.device import Device
from facekit.training.codecdev import estimated

IMAGES = 4
"""Coded after each epoch: without the compiled coder one takes seconds."""
LARGEST_GAP = 0.01
"""More than that between the estimate and the file is a fault, not noise."""


def coded_facts(codec: nn.Module, images: Iterable[np.ndarray], device: Device) -> dict[str, float]:
    """Of the first ``IMAGES`` of uint8 [H,W,3]: numbers that tell a healthy codec from a broken one.

    ``file_bpp`` counts whole files. ``gap`` is what the integer distributions charge over what was estimated, less 1.
    ``clipped`` is the share of latent values that were cut, ``levels`` how many of the 64 scales are in use, and
    ``mixture_entropy`` the mean entropy of the weights in bits (0: one Gaussian does all).
    """
    assert isinstance(codec, Codec)
    coder = Coder(exported(codec, {}), device.torch_device)
    sizes, charged, foretold, clipped, values, mixtures = [], 0.0, 0.0, 0, 0, []
    for image in islice(images, IMAGES):
        latent = coder.latents([image])[0]
        coded, estimate = coder.file(latent), estimated(codec, image, device)
        sizes.append(8 * len(coded.data) / (image.shape[0] * image.shape[1]))
        charged, foretold = charged + coded.bits, foretold + estimate.bits_y + estimate.bits_z
        clipped, values = clipped + latent.clipped, values + latent.y.size + latent.z.size
        mixtures.append(latent.mixture)
    return {
        "file_bpp": float(np.mean(sizes)),
        "gap": charged / foretold - 1,
        "clipped": clipped / values,
        "levels": float(len(set[int]().union(*(np.unique(mixture.level).tolist() for mixture in mixtures)))),
        "mixture_entropy": float(np.mean([entropy(mixture) for mixture in mixtures])),
    }


def entropy(mixture: Mixture) -> float:
    """Of the weights [K,n], in bits: the mean over the n values."""
    share = mixture.weight / (1 << WEIGHT_BITS)
    return float(-(share * np.log2(np.where(share > 0, share, 1))).sum(axis=0).mean())
