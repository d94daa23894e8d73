"""What an action can see of a sample, one number for each name.

The list is that of the authors' code of arXiv 1905.11058, which has ``loss_norm`` and ``entropy_norm`` as its default.
Ours: entropy is divided by its own deviation (there: by the loss's), and ``label`` is the rank of the class by its
number of images (there: the raw number of the class, an order that means nothing).

Statistics are over the global batch: the number of processes changes no feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import unknown_name
from facekit.weighting.average import moving_average
from facekit.weighting.base import Facts, View
from facekit.weighting.errors import SmallBatch, UnknownWeighting

DEFAULT_FEATURES = ("loss_norm", "entropy_norm")
_LEAST_STD = 1e-5


class Known(NamedTuple):
    """What features are told beyond the batch."""

    loss_mean: Tensor
    """Scalar, the moving average of the mean loss of the batches before; ln C before the first."""
    rarity: Tensor
    """float32 [C], see ``rarity``."""


# --- the features --------------------------------------------------------------------------------------------


def loss(view: View, known: Known) -> Tensor:
    """The loss itself, [B]."""
    return view.loss


def loss_abs(view: View, known: Known) -> Tensor:
    """How far the loss is above the moving average of all losses, [B]."""
    return view.loss - known.loss_mean


def loss_norm(view: View, known: Known) -> Tensor:
    """The loss in deviations from the batch's mean, [B]."""
    return standardised(view.loss, view)


def probs(view: View, known: Known) -> Tensor:
    """Probability of the label, [B]."""
    return view.logits.softmax(dim=1).gather(1, view.labels[:, None])[:, 0]


def entropy(view: View, known: Known) -> Tensor:
    """Of the class probabilities in nats, [B]; 0 is certain, ln C knows nothing."""
    logs = view.logits.log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def entropy_norm(view: View, known: Known) -> Tensor:
    """The entropy in deviations from the batch's mean, [B]."""
    return standardised(entropy(view, known), view)


def similarity(view: View, known: Known) -> Tensor:
    """Mean cosine of the sample's logits with those of the batch, its own counting 0, [B].

    The sum over the batch comes before the product: no matrix of pairs.
    """
    units = normalize(view.logits)
    total = view.gather(units.sum(dim=0, keepdim=True)).sum(dim=0)
    return (units * (total - units)).sum(dim=1) / len(view.gather(view.loss))


def label(view: View, known: Known) -> Tensor:
    """How rare the label's class is, [B], from -1 (most images) to 1 (fewest)."""
    return known.rarity[view.labels]


FEATURES: dict[str, Callable[[View, Known], Tensor]] = {
    "loss": loss,
    "loss_abs": loss_abs,
    "loss_norm": loss_norm,
    "probs": probs,
    "entropy": entropy,
    "entropy_norm": entropy_norm,
    "similarity": similarity,
    "label": label,
}


def standardised(own: Tensor, view: View) -> Tensor:
    """(x - mean) / (std + 1e-5) with mean and std (ddof 1) of the global batch; [B] -> [B].

    Raises SmallBatch for fewer than two samples in all.
    """
    values = view.gather(own)
    if len(values) < 2:
        raise SmallBatch(f"a batch of {len(values)} sample cannot be normalised; give --batch 2 or more")
    return (own - values.mean()) / (values.std() + _LEAST_STD)


def rarity(class_count: Tensor) -> Tensor:
    """2 ln(rank) / ln(ranks) - 1 of every class, rank 1 having most images; int64 [C] -> float32 [C].

    Classes of one size share a rank; 0 everywhere where all are of one size, since then rank says nothing.

    >>> rarity(torch.tensor([10, 40, 20, 40]))
    tensor([ 1.0000, -1.0000,  0.2619, -1.0000])
    """
    sizes, which = class_count.unique(return_inverse=True)
    if len(sizes) == 1:
        return torch.zeros(len(class_count), device=class_count.device)
    return 2 * (len(sizes) - which).float().log() / math.log(len(sizes)) - 1


# --- a run's choice of them ----------------------------------------------------------------------------------


class Features:
    """The named features of a batch, side by side.

    Raises UnknownWeighting for a name that is none, for one given twice, and for none at all.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in FEATURES:
                raise UnknownWeighting(str(unknown_name("feature", name, FEATURES)))
        if not names or len(set(names)) < len(names):
            raise UnknownWeighting(f"features are {'/'.join(names) or 'none'}: give one or more, each once")
        self.names = names

    def begin(self, facts: Facts) -> None:
        """Before the first batch of a run."""
        counts = facts.class_count.to(facts.device)
        self.known = Known(torch.tensor(math.log(len(counts)), device=facts.device), rarity(counts))

    def of(self, view: View) -> Tensor:
        """float32 [B,F]. Once for every batch: the moving average of the loss goes on."""
        columns = torch.stack([FEATURES[name](view, self.known) for name in self.names], dim=1)
        if "loss_abs" in self.names:
            mean = moving_average(self.known.loss_mean, view.gather(view.loss).mean())
            self.known = self.known._replace(loss_mean=mean)
        return columns

    def state_dict(self) -> dict[str, Any]:
        """The moving average; the rest follows from the data."""
        return {"loss_mean": self.known.loss_mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moving average."""
        self.known = self.known._replace(loss_mean=state["loss_mean"].to(self.known.loss_mean.device))
