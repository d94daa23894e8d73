"""Train a conditional GAN on real faces and their embeddings: it learns to draw the face of an embedding.

Hinge loss, an identity term through a frozen recogniser, R1 on the real images (arXiv 1801.04406, every few steps as in
arXiv 1912.04958), differentiable augmentation (after arXiv 2006.10738), an averaged generator that ships.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from facekit.alignment.generator import LATENT, Pair
from facekit.core.augment import mirror
from facekit.core.device import Device
from facekit.core.errors import InputError
from facekit.core.loop import Phase, Terms
from facekit.core.types import Batch
from facekit.models.loading import Model, TorchNetwork
from facekit.training.teachers import Teacher


@dataclass(frozen=True)
class GanSettings:
    """How the two networks are trained; the defaults are ours."""

    lr: float = 2e-4
    identity_weight: float = 5.0
    r1: float = 1.0
    r1_every: int = 16
    ema: float = 0.999


class Gan:
    """Two phases a batch: the discriminator, then the generator. ``modules["model"]`` is the averaged generator."""

    def __init__(
        self, pair: Pair, embeddings: Teacher, recogniser: Recogniser, device: Device, settings: GanSettings
    ) -> None:
        self.generator, self.discriminator = device.module(pair.generator), device.module(pair.discriminator)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.modules: dict[str, nn.Module] = {
            "model": self.average,
            "generator": self.generator,
            "discriminator": self.discriminator,
        }
        # Fused: the loop's guard relies on their skippable step.
        self.optimisers: dict[str, Optimizer] = {
            name: Adam(self.modules[name].parameters(), lr=settings.lr, betas=(0.0, 0.99), fused=True)
            for name in ("discriminator", "generator")
        }
        self.embeddings, self.recogniser, self.device, self.settings = embeddings, recogniser, device, settings
        self.steps = 0

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of the discriminator, one of the generator, on the same images and conditions."""
        c = F.normalize(self.embeddings(batch).embedding)
        real = resized(to_unit(mirror(batch.images, batch.view)), self.generator.shape.side)

        def judge() -> Terms:
            with torch.no_grad():
                fake = self.draw(c)
            shown = augmented(torch.cat([real, fake]))
            with self.device.autocast():
                on_real, on_fake = self.discriminator(shown, torch.cat([c, c])).float().chunk(2)
            terms = {"judge": hinge(on_real, on_fake)}
            if self.settings.r1 > 0 and self.steps % self.settings.r1_every == 0:
                # Weighted by the steps it is left out, so that the interval changes its cost and not its strength.
                weight = self.settings.r1 / 2 * self.settings.r1_every
                terms["r1"] = weight * r1_penalty(self.discriminator, shown[: len(real)], c)
            return terms

        def deceive() -> Terms:
            fake = self.draw(c)
            with frozen(self.discriminator), self.device.autocast():
                scores = self.discriminator(augmented(fake), c).float()
            identity = 1 - F.cosine_similarity(self.recogniser(fake), c)
            return {"deceive": -scores.mean(), "identity": self.settings.identity_weight * identity.mean()}

        yield "discriminator", judge
        yield "generator", deceive

    def draw(self, c: Tensor) -> Tensor:
        """One face for each condition, float32 [B,3,side,side] in -1..1."""
        z = torch.randn(len(c), LATENT, device=c.device)
        with self.device.autocast():
            images: Tensor = self.generator(z, c)
        return images.float()

    def measured(self) -> Mapping[str, Tensor]:
        """Not measured: there is no embedding that all terms share."""
        return {}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Move the averaged generator."""
        # A short memory first: an average that remembers the untrained weights draws noise for thousands of steps.
        decay = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """How many steps were taken; the averaged generator is one of the modules."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count."""
        self.steps = int(state["steps"])


class Recogniser:
    """A frozen recogniser that passes gradients on to the images it sees."""

    def __init__(self, model: Model, device: Device) -> None:
        """Raises InputError for an ONNX file, which has no gradients."""
        if not isinstance(model.network, TorchNetwork):
            raise InputError(
                f"{model.path} is an ONNX file and gives no gradients, which the generator learns from: train it with "
                "a student of that model (run folder or weights file), and let the .onnx embed the finished faces in "
                "facekit align-eval bank --kind cgan"
            )
        self.net, self.preprocess, self.device = model.network.net, model.preprocess, device

    def __call__(self, images: Tensor) -> Tensor:
        """Float [B,3,S,S] in -1..1, any S -> embeddings float32 [B,D], not normalised."""
        pixels = (resized(images, *self.preprocess.size) + 1) * 127.5
        x = self.preprocess(pixels).contiguous(memory_format=torch.channels_last)
        with self.device.autocast():
            embedding: Tensor = self.net(x).embedding
        return embedding.float()


# --- losses ----------------------------------------------------------------------------------------------


def hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The discriminator's loss: real should score above 1, drawn below -1. Scores 0.5 and -2 give 0.5."""
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()


def r1_penalty(discriminator: nn.Module, images: Tensor, c: Tensor) -> Tensor:
    """Mean squared norm of the score's gradient at real images, in full precision."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images, c).sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the network and none is computed for its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


# --- images ----------------------------------------------------------------------------------------------


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Float -1..1 -> uint8 0..255."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def resized(images: Tensor, height: int, width: int | None = None) -> Tensor:
    """[B,3,H,W] -> [B,3,height,width], bilinear; smaller ones without aliasing. Differentiable."""
    size = (height, width or height)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=images.shape[-1] > size[1])


def augmented(images: Tensor) -> Tensor:
    """Change colours, shift by up to an eighth, cut out a square of half the side: each image in its own way.

    Both real and drawn images pass here, so that the discriminator cannot learn the few real ones by heart.
    [B,3,S,S] in -1..1 -> the same shape; differentiable.
    """
    return cut_out(shifted(recoloured(images)))


def recoloured(images: Tensor) -> Tensor:
    """Brightness +-0.5, saturation x0..2, contrast x0.5..1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + contrast)


def shifted(images: Tensor) -> Tensor:
    """Move by up to an eighth of the side in both directions; what comes in is grey."""
    count, _, _, side = images.shape
    reach = side // 8
    dy, dx = torch.randint(-reach, reach + 1, (2, count, 1, 1), device=images.device)
    place = torch.arange(side, device=images.device)
    # As products with 0/1 matrices: gathering has no repeatable gradient on GPUs.
    rows, columns = ((place[:, None] + move == place).to(images.dtype).unsqueeze(1) for move in (dy, dx))
    return rows @ images @ columns.mT


def cut_out(images: Tensor) -> Tensor:
    """Grey out a square of half the side, centred anywhere."""
    count, _, _, side = images.shape
    y, x = torch.randint(0, side, (2, count, 1), device=images.device)
    place = torch.arange(side, device=images.device)
    inside_y, inside_x = ((place - centre).abs() * 4 < side for centre in (y, x))
    return images * ~(inside_y[:, None, :, None] & inside_x[:, None, None, :])
