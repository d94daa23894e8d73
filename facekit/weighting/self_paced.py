"""Self-paced learning: samples below a loss that rises with the epochs (Kumar, Packer and Koller 2010).

The threshold of an epoch is a quantile of the losses of the epoch before. The schedule of the quantile is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from facekit.core.errors import unknown_name
from facekit.weighting.base import Facts, Need, View, Weighter
from facekit.weighting.errors import OutOfRange, UnknownWeighting


def hard(losses: Tensor, threshold: Tensor) -> Tensor:
    """1[l < threshold], [B]."""
    return (losses < threshold).to(losses.dtype)


def linear(losses: Tensor, threshold: Tensor) -> Tensor:
    """max(0, 1 - l / threshold), [B]; 1 for every loss at an infinite threshold."""
    smallest = torch.finfo(losses.dtype).tiny  # all losses of an epoch may be 0
    return (1 - losses / threshold.clamp(min=smallest)).clamp(min=0)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"hard": hard, "linear": linear}
"""(losses [B], threshold, a scalar) -> weights [B]."""


def quantile_of_seen(losses: Tensor, share: float) -> Tensor:
    """The loss of rank floor(share (n - 1)), from 0, among the n that are not NaN: a scalar that stays on the device.

    >>> quantile_of_seen(torch.tensor([4.0, float("nan"), 1.0, 3.0, 2.0]), 0.5)
    tensor(2.)
    """
    ranked = losses.sort().values  # NaN comes last
    last = (~losses.isnan()).sum() - 1
    return ranked.take((share * last).long().clamp(max=last))


class SelfPaced(Weighter):
    """Weights by ``form`` from the last known loss of every image.

    All weigh the same for ``warm_up`` epochs; then the share of images below the threshold rises linearly from
    ``start`` to ``rho_max`` in the last epoch. An image that an epoch left out keeps its older loss. One float32 per
    image stays on the device, the same on every process.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"sample_id"})

    def __init__(self, form: str = "hard", start: float = 0.5, rho_max: float = 0.8, warm_up: int = 5) -> None:
        if form not in FORMS:
            raise UnknownWeighting(str(unknown_name("form", form, FORMS)))
        if not 0 < start <= rho_max <= 1:
            raise OutOfRange(f"start is {start} and rho_max {rho_max}, but must be 0 < start <= rho_max <= 1")
        if warm_up < 1:
            raise OutOfRange(f"warm_up is {warm_up}, but must be 1 or more: the first threshold is that of an epoch")
        self.form, self.start, self.rho_max, self.warm_up = form, start, rho_max, warm_up

    def begin(self, facts: Facts) -> None:
        """No image was seen, and none is above the threshold."""
        self.steps_per_epoch, self.epochs = facts.steps_per_epoch, facts.epochs
        self.losses = torch.full((facts.images,), math.nan, device=facts.device)
        self.threshold = torch.tensor(math.inf, device=facts.device)

    def share(self, epoch: int) -> float:
        """Of the images below the threshold in a 0-based epoch after the warm-up."""
        weighed = self.epochs - 1 - self.warm_up
        return self.start + (self.rho_max - self.start) * (epoch - self.warm_up) / max(1, weighed)

    def weights(self, view: View) -> Tensor:
        """[B]."""
        epoch, position = divmod(view.step, self.steps_per_epoch)
        if position == 0 and epoch >= self.warm_up:
            self.threshold = quantile_of_seen(self.losses, self.share(epoch))
        self.losses[view.gather(view.index)] = view.gather(view.loss)
        return FORMS[self.form](view.loss, self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """All losses, and the threshold of the epoch."""
        return {"losses": self.losses, "threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.losses.copy_(state["losses"])
        self.threshold.copy_(state["threshold"])
