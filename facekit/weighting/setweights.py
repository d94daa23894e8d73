"""What an action gives the images of a whole set: its features are taken over the set instead of over a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from facekit.core.errors import InputError
from facekit.weighting.action import weigh
from facekit.weighting.audit import Verdicts
from facekit.weighting.base import View
from facekit.weighting.features import rarity, standardised


def whole(values: np.ndarray) -> tuple[Tensor, View]:
    """The values float [M] of a set, and the set as the one batch that they are normalised over."""
    own = torch.from_numpy(values)
    numbers = torch.arange(len(own))
    return own, View(loss=own, logits=own[:, None], labels=numbers, index=numbers, step=0, rate=0.0)


def rarity_of(labels: np.ndarray) -> Tensor:
    """How rare each image's class is, [M]; classes without images have no rank."""
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return rarity(torch.from_numpy(counts))[torch.from_numpy(which)]


OF_A_SET: dict[str, Callable[[Verdicts, np.ndarray], Tensor]] = {
    "loss": lambda verdicts, labels: torch.from_numpy(verdicts.loss),
    "loss_norm": lambda verdicts, labels: standardised(*whole(verdicts.loss)),
    "probs": lambda verdicts, labels: torch.from_numpy(np.exp(-verdicts.loss)),
    "entropy": lambda verdicts, labels: torch.from_numpy(verdicts.entropy),
    "entropy_norm": lambda verdicts, labels: standardised(*whole(verdicts.entropy)),
    "label": lambda verdicts, labels: rarity_of(labels),
}
"""Features of the names of ``features.FEATURES``. The others need a course of training, or all scores at once."""


def check_features(names: tuple[str, ...]) -> None:
    """Raise InputError for a feature that a finished set does not have."""
    unknown = [name for name in names if name not in OF_A_SET]
    if unknown:
        raise InputError(
            f"the policy reads {' and '.join(unknown)}, and an audit of a whole set knows {', '.join(OF_A_SET)}: "
            "leave --policy out, or give one that reads these"
        )


def weights_of_set(
    verdicts: Verdicts, labels: np.ndarray, features: tuple[str, ...], action: tuple[float, ...], hidden: int
) -> np.ndarray:
    """Weights float64 [N] in (0, 2), NaN where nothing can be said of an image; ``labels`` int64 [N].

    Raises InputError for a feature that a finished set does not have.
    """
    check_features(features)
    there = verdicts.judged
    found = Verdicts(*(column[there] for column in verdicts))
    table = torch.stack([OF_A_SET[name](found, labels[there]).float() for name in features], dim=1)
    weights = np.full(len(there), np.nan)
    weights[there] = weigh(table, torch.tensor(action), hidden).numpy()
    return weights
