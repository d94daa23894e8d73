"""Train an image codec: bits per pixel, plus lambda times what is lost, plus what a recogniser loses.

Rate, lambda and the two stand-ins for rounding follow the authors' released base network (arXiv 2002.03370); the change
from one to the other, the average that ships and the recogniser's term are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.codec.distortion import Distortion
from facekit.codec.networks import STRIDE, Codec, Quantisation
from facekit.core.augment import mirror
from facekit.core.device import Device
from facekit.core.loop import Phase, Terms
from facekit.core.types import Batch
from facekit.losses.fcd import feature_consistency


class CodecTask:
    """One phase; ``modules["model"]`` is the average of the weights, which is measured and ships.

    ``lam`` weighs the distortion of images in 0..1 (.001 of MSE is 30 dB) against bits per pixel. ``total`` counts the
    batches of the whole run; in its last share ``phase2_share`` the decoder sees rounded latents, and the enhancement
    learns too. ``recogniser`` must pass gradients on to the images, float [B,3,H,W] in -1..1 -> embeddings [B,D]
    (``training.gan.Recogniser``): it is shown batches of ``face_size`` only, since patches of scenes are no faces.
    """

    def __init__(
        self,
        codec: Codec,
        distortion: Distortion,
        lam: float,
        device: Device,
        optimiser: Callable[[list[nn.Module]], Optimizer],
        *,
        total: int,
        phase2_share: float = 0.2,
        ema_decay: float = 0.999,
        recogniser: Callable[[Tensor], Tensor] | None = None,
        fcd_weight: float = 1.0,
        face_size: tuple[int, int] = (112, 112),
    ) -> None:
        self.average = device.module(copy.deepcopy(codec).requires_grad_(False))
        self.codec = device.module(codec)
        self.modules: dict[str, nn.Module] = {"model": self.average, "codec": self.codec}
        self.optimisers = {"main": optimiser([self.codec])}
        self.distortion, self.lam, self.device = distortion, lam, device
        self.rounding_from, self.ema_decay = round(total * (1 - phase2_share)), ema_decay
        self.recogniser, self.fcd_weight, self.face_size = recogniser, fcd_weight, face_size
        self.steps = 0

    @property
    def quantisation(self) -> Quantisation:
        """What stands for rounding at this step: noise is a smooth loss, rounding is what will be decoded."""
        return "ste" if self.steps >= self.rounding_from else "noise"

    def phases(self, batch: Batch) -> Iterator[Phase]:
        """One update of all networks and of the prior."""

        def terms() -> Terms:
            original = mirror(batch.images, batch.view).float() / 255
            height, width = original.shape[-2:]
            mode = self.quantisation
            # It is there for what rounding does to a picture, so it waits for rounded latents.
            self.codec.enhancement.requires_grad_(mode == "ste")
            with self.device.autocast():
                coded = self.codec(padded(original), mode)
            decoded = coded.x_hat[..., :height, :width].float()
            found = {
                "rate_y": coded.bits_y.mean() / (height * width),
                "rate_z": coded.bits_z.mean() / (height * width),
                "distortion": self.lam * self.distortion(decoded, original).mean(),
            }
            if self.recogniser and (height, width) == self.face_size:
                found["fcd"] = self.fcd_weight * lost_identity(self.recogniser, decoded, original).mean()
            return found

        yield "main", terms

    def measured(self) -> Mapping[str, Tensor]:
        """Not measured: there is no embedding that all terms share."""
        return {}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Move the average."""
        # A short memory first: an average that remembers the untrained weights is of no use for thousands of steps.
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.codec.parameters()), 1 - decay)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """How many batches were seen; average and codec are modules both."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count."""
        self.steps = int(state["steps"])


def padded(images: Tensor) -> Tensor:
    """Repeat the last column and row up to multiples of 64, as files are made: [B,3,H,W] -> [B,3,H',W']."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def lost_identity(recogniser: Callable[[Tensor], Tensor], decoded: Tensor, original: Tensor) -> Tensor:
    """1 - cosine between the embeddings of decoded and original faces, [B]; images in 0..1, gradient to ``decoded``."""
    with torch.no_grad():
        wanted = recogniser(original * 2 - 1)
    return feature_consistency(recogniser(decoded.clamp(0, 1) * 2 - 1), wanted)
