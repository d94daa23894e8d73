"""The image codec: its synthesis against the rate of matrix products, and faces a second."""

from __future__ import annotations

import numpy as np
import torch

from bench.coder import LOG_SCALE
from bench.latents import draw
from bench.timing import REPEATS, Paired, Row, at_least, cpu_seconds, interleave
from facekit.codec import container, rans
from facekit.codec.arch import Arch
from facekit.codec.coder import Coder
from facekit.codec.costs import costs
from facekit.codec.export import exported
from facekit.codec.inference import Precision
from facekit.codec.mixture import quantised
from facekit.codec.networks import Codec
from facekit.codec.timing import sample_picture
from facekit.core.device import Device

HEIGHT, WIDTH = 512, 768
ARCH = Arch(128, 192)
MATRIX = 4096
FACE, FACE_ARCH, FACE_BATCH = 112, Arch(64, 96), 8
FACES_BAR = 100
"""A second and core."""


class Codings:
    """A codec of random weights at work on one thread, its latents as a trained one has them.

    Random weights give latents that are nearly all 0. So y and its distributions are drawn (0.75 values a pixel: .87
    bits a pixel) and take the place of the networks' own between entropy coder and synthesis; z is its own.
    """

    def __init__(
        self, arch: Arch, height: int, width: int, precision: Precision = "fp32", batch: int = 1, seed: int = 0
    ) -> None:
        Device.pick("cpu", "fp32", threads=1)
        torch.manual_seed(seed)
        self.coder = Coder(exported(Codec(arch), {}), synthesis=precision)
        self.images = [sample_picture(height, width)] * batch
        own = self.coder.latents(self.images[:1])[0]
        floats, values = draw(arch.k, own.y.size, log_scale=LOG_SCALE)
        self.latent = own._replace(y=values.reshape(own.y.shape), mixture=quantised(*floats))
        self.stream = self.coder.stream(container.unpack(self.coder.file(own).data, self.coder.model_id))
        self.y = rans.encode(values, self.latent.mixture)
        self.bpp = 8 * len(self.coder.file(self.latent).data) / (height * width)

    def encode(self) -> None:
        """Images to files."""
        for _ in self.coder.latents(self.images):
            self.coder.file(self.latent)

    def entropy(self) -> list[np.ndarray]:
        """Streams to latents: z, the hyper-decoder, rounding, y."""
        latents = []
        for _ in self.images:
            self.coder.begun(self.stream)
            latents.append(rans.decode(self.y, self.latent.mixture).reshape(self.latent.y.shape))
        return latents

    def decode(self) -> None:
        """Streams to images."""
        self.coder.pictures([self.latent.shape] * len(self.images), self.entropy())


# --- the synthesis ----------------------------------------------------------------------------------------


def codec_synthesis() -> Row:
    """g_s in float32."""
    return synthesis_share("fp32")


def codec_synthesis_bf16() -> Row:
    """g_s in bfloat16: fast only where the processor multiplies it."""
    return synthesis_share("bf16")


def synthesis_share(precision: Precision) -> Row:
    """Share of the rate at which the machine multiplies large matrices of the same kind."""
    frozen = Codings(ARCH, HEIGHT, WIDTH, precision).coder.frozen
    y = torch.randn(1, ARCH.m, HEIGHT // 16, WIDTH // 16).to(frozen.dtype, memory_format=torch.channels_last)
    a = torch.randn(MATRIX, MATRIX, dtype=frozen.dtype)
    flop = 2 * costs(ARCH, HEIGHT, WIDTH)["synthesis"].macs
    with torch.inference_mode():
        paired = interleave(lambda: a @ a, lambda: frozen.synthesis(y.clone()))  # it changes what it is given
    scaled = Paired(paired.a / (2 * MATRIX**3), paired.b / flop)
    note = (
        f"{WIDTH}x{HEIGHT}, N {ARCH.n}, M {ARCH.m}, one thread: {np.median(paired.b):.3f} CPU s for {flop / 2e9:.1f} "
        f"GMAC; {MATRIX}x{MATRIX} matrices at {1e-9 / np.median(scaled.a):.0f} GFLOP/s"
    )
    return at_least(f"g_s, share of the {precision} matmul rate", scaled, 0.45, note)


# --- faces ------------------------------------------------------------------------------------------------


def codec_faces() -> Row:
    """Faces a second and core, through the slower of the two directions."""
    faces = Codings(FACE_ARCH, FACE, FACE, batch=FACE_BATCH)
    faces.encode()
    faces.decode()
    rates = {
        way.__name__: Paired(np.full(REPEATS, FACE_BATCH), np.array([cpu_seconds(way) for _ in range(REPEATS)])).ratio()
        for way in (faces.encode, faces.decode)
    }
    slower = min(rates, key=lambda name: rates[name][0])
    value, low, high = rates[slower]
    told = ", ".join(f"{name} {rate:.0f}" for name, (rate, _, _) in rates.items())
    note = (
        f"{FACE}x{FACE}, N {FACE_ARCH.n}, M {FACE_ARCH.m}, K {FACE_ARCH.k}, enhancement none, fp32, {faces.bpp:.2f} "
        f"bpp, {FACE_BATCH} at a time, one thread: {told}"
    )
    return Row(f"faces, {slower}", value, low, high, f">= {FACES_BAR}", value >= FACES_BAR, "faces/s", note)
