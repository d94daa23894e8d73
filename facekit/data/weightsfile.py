"""``weights.csv`` of a run: how much each training image counted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from facekit.core.errors import ArtefactMismatch, InputError
from facekit.data.columns import read_columns
from facekit.data.protocol import Source

FORM = "index:int name:text label:text weight:text last:text"
"""Weights are text here: an image that was never seen has none."""


class RunWeights(NamedTuple):
    """Of N images; NaN where a run never saw one."""

    weight: np.ndarray
    """float64 [N], mean over the run"""
    last: np.ndarray
    """float64 [N], mean in the last epoch"""


def read_weights(path: Path, source: Source) -> RunWeights:
    """The weights of the images of ``source``, found by their place in it and checked by their name.

    Raises MissingFile, InputError, and ArtefactMismatch for weights of other images, or in another order.
    """
    found = RunWeights(np.full(len(source), np.nan), np.full(len(source), np.nan))
    for index, names, _, weight, last in read_columns(path, FORM, comma=True):
        for place, name in zip(index.tolist(), names.tolist(), strict=True):
            if not 0 <= place < len(source) or source.names[place] != name:
                there = source.names[place] if 0 <= place < len(source) else "nothing"
                raise ArtefactMismatch(
                    f"{path} names {name} as image {place}, and there is {there}: these are other images than the run "
                    "was trained on; give its --data, --exclude, --min-images, --take and --noise-plan, or none of them"
                )
        found.weight[index], found.last[index] = numbers(path, weight), numbers(path, last)
    return found


def numbers(path: Path, texts: np.ndarray) -> np.ndarray:
    """float64 [n]; NaN for an empty field."""
    try:
        return np.where(texts == "", "nan", texts).astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path} holds a weight that is no number: {error}") from None
