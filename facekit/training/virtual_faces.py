"""Faces drawn by a trained generator, and their embeddings: the candidates of a virtual support bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facekit.alignment.generator import LATENT, SHAPES, Generator
from facekit.core.checkpoints import load_checkpoint
from facekit.core.device import Device
from facekit.core.errors import InputError
from facekit.models.adopt import adopt
from facekit.training.gan import resized, to_pixels

VERB = "fit-generator"


@dataclass(frozen=True)
class FaceGenerator:
    """A trained generator and the recogniser whose embeddings it draws."""

    network: Generator
    device: Device
    path: Path
    recogniser: str
    """Hash of its weights."""
    preprocess: str
    """Hash of its input table."""

    def provenance(self, embedded_by: str) -> dict[str, str]:
        """Both hashes, for the bank: a student may stand in for the model that embeds the finished faces."""
        return {"generator": self.path.as_posix(), "drawn_for": self.recogniser, "embedded_by": embedded_by}


def load_generator(path: Path, device: Device) -> FaceGenerator:
    """The averaged generator of a run folder of ``align-eval fit-generator``.

    Raises MissingFile, CorruptFile, or InputError for a run of another verb and for a file that contradicts itself.
    """
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    if meta.get("verb") != VERB:
        raise InputError(f"{path} is no run of align-eval {VERB} but of {meta.get('verb')!r}; give its run folder")
    try:
        side, width = str(meta["generator"]["side"]), int(meta["generator"]["width"])
        recogniser, preprocess = str(meta["recogniser"]["sha256"]), str(meta["recogniser"]["preprocess"])
        with torch.device("meta"):
            network = Generator(SHAPES[side], width)
        adopt(network, checkpoint.tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not describe a generator of this version: {error}") from error
    network = device.module(network.eval().requires_grad_(False))
    return FaceGenerator(network, device, path, recogniser, preprocess)


def draw_faces(generator: FaceGenerator, conditions: np.ndarray, *, batch: int = 64, seed: int = 0) -> Iterator[Tensor]:
    """One face for each condition [N,D] (unit rows of the generator's recogniser), a batch at a time.

    uint8 RGB [n,3,side,side] on the device. Face i depends on (seed, i, its condition), up to the rounding of another
    batch size. Raises InputError for conditions of another width.
    """
    network, device = generator.network, generator.device
    if conditions.ndim != 2 or conditions.shape[1] != network.width:
        raise InputError(
            f"{generator.path} draws faces of embeddings of {network.width} numbers, and these have shape "
            f"{conditions.shape}; take them from the model that it was trained with"
        )
    # All noise at once (512 bytes a face): torch's generator gives other numbers when asked in other portions.
    noise = torch.randn(len(conditions), LATENT, generator=torch.Generator().manual_seed(seed))
    for start in range(0, len(conditions), batch):
        rows = slice(start, start + batch)
        c = torch.from_numpy(np.ascontiguousarray(conditions[rows], np.float32))
        with torch.inference_mode():
            yield to_pixels(network(device.put(noise[rows]), device.put(c)))


def draw_candidates(
    generator: FaceGenerator,
    conditions: np.ndarray,
    embed: Callable[[Tensor], Tensor],
    *,
    size: tuple[int, int],
    views: tuple[int, ...] = (0,),
    batch: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embeddings f(G(z,c)) of drawn faces, float32 [N,V,D], not normalised; views as in ``embed_source``.

    ``embed`` takes uint8 [n,3,H,W] of ``size``: drawn faces are resized to it (bilinear). Holds one batch of images.
    """
    blocks = []
    for faces in draw_faces(generator, conditions, batch=batch, seed=seed):
        images = resized(faces.float(), *size).round().to(torch.uint8)
        blocks.append(torch.stack([embed(images.flip(3) if view else images).cpu() for view in views], dim=1))
        if progress:
            progress(len(images))
    return torch.cat(blocks).numpy()
