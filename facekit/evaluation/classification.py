"""Closed-set classification: is the class with the largest score the true one, and is that more than chance?

A tie of scores goes to the lowest class number, so that constant scores are right on one class, not on all. Images
share neither people nor thresholds, so they are drawn one by one: intervals are percentiles over seeded draws of
images, and networks are compared over the same draws. A class alone has Wilson's interval on its images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from facekit.core.crops import centre_crop
from facekit.core.device import Device
from facekit.core.errors import InputError, NonFinite
from facekit.data.classes import ClassSet, columns_of
from facekit.data.embeddings import ALONE, embed_source
from facekit.data.protocol import Source
from facekit.evaluation.imagedraws import ImageBootstrap
from facekit.evaluation.rates import Rates, plain_rate, rate_rows
from facekit.evaluation.results import CLASS, Row
from facekit.evaluation.scoring import Asked, Classifier, ClassRates, Measured, Table
from facekit.evaluation.statistics import LEVEL, wilson
from facekit.evaluation.versus import RateDraws

Logits = Callable[[Tensor], Tensor]
"""uint8 RGB [n,3,H,W] -> float32 [n,C]."""
TOP = {"top1": 1, "top5": 5}
"""Metric -> among how many classes the true one must be; left out where a network has no more classes than that."""
BINS = 15
"""Of the calibration error, as Guo et al. 2017 (arXiv 1706.04599) count it."""
_ROWS = 4096
"""Images judged at once."""


# --- scores ----------------------------------------------------------------------------------------------


def class_scores(
    logits: Logits,
    source: Source,
    size: tuple[int, int],
    *,
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
    device: Device = ALONE,
) -> np.ndarray:
    """Class scores float32 [N,C] of all images, or of their middles where they are larger than the input ``size``.

    The other arguments are those of ``embed_source``; ``key`` must differ from that of the network's embeddings. Raises
    InputError for smaller images and NonFinite naming the image.
    """
    table = embed_source(
        fitted(logits, source.size, size, device),
        source,
        batch=batch,
        key=key,
        cache_dir=cache_dir,
        progress=progress,
        device=device,
    )
    return table[:, 0]


def fitted(logits: Logits, given: tuple[int, int], size: tuple[int, int], device: Device) -> Logits:
    """``logits`` for images of the ``given`` height and width: as they are, or their middle square of ``size``."""
    if given == size:
        return logits
    side = size[0]
    if size != (side, side) or min(given) < side:
        raise InputError(
            f"the images are {given[0]}x{given[1]} and the model takes {size[0]}x{size[1]}: of larger images the "
            "middle is cut out, smaller ones cannot be used; resize them first"
        )
    return lambda images: logits(centre_crop(device.put(images), side))


# --- judging ---------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What is kept of N classified images."""

    place: np.ndarray
    """int64 [N], classes with a better score than the true one"""
    surprise: np.ndarray
    """float64 [N], -log p of the true class, in nats"""
    confidence: np.ndarray
    """float64 [N], p of the first class"""
    classes: int
    """The network's"""

    def within(self) -> dict[str, np.ndarray]:
        """Metric -> bool [N], whether the image counts as right."""
        return {name: self.place < top for name, top in TOP.items() if top == 1 or self.classes > top}


def judge(logits: np.ndarray, truth: np.ndarray) -> Judged:
    """Scores [N,C] and true columns [N]. Ties go to the lower column.

    Scores (1, 3, 3) put a true class 1 first and a true class 2 second. Raises ValueError for a score that is not
    finite.
    """
    parts = [judge_some(logits[i : i + _ROWS], truth[i : i + _ROWS]) for i in range(0, len(truth), _ROWS)]
    place, surprise, confidence = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Judged(place, surprise, confidence, logits.shape[1])


def judge_some(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place, surprise, confidence) of a few."""
    scores = logits.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a class score is not finite")
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    before = np.arange(scores.shape[1]) < truth[:, None]
    place = np.sum((scores > own) | ((scores == own) & before), axis=1)
    largest = scores.max(axis=1)
    spread = np.log(np.exp(scores - largest[:, None]).sum(axis=1))
    return place, largest - own[:, 0] + spread, np.exp(-spread)


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin of confidence.

    Two images at confidence 0.9, one of them right: 0.4.
    """
    cell = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(cell, weights=right - confidence, minlength=BINS)).sum() / len(right))


def measure_top(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``{"top1": 0.93, "top5": 0.99}`` of scores [N,C] and true columns [N]; top5 with more than 5 classes only."""
    return {name: float(np.mean(right)) for name, right in judge(logits, labels).within().items()}


def class_accuracy(classifier: Classifier, bench: ClassSet) -> dict[str, float]:
    """``measure_top`` on a class set, without intervals: to choose an epoch."""
    return {name: float(np.mean(right)) for name, right in classified(classifier, bench).within().items()}


def require_classes(classifier: Classifier | None, bench: ClassSet) -> Classifier:
    """Raises InputError where a network gives embeddings only."""
    if classifier is None:
        raise InputError(
            f"{bench.path}: classification needs a network with classes of its own, and this one gives embeddings "
            "only; give one that was trained with a class layer, such as resnet20, or measure this one on pairs"
        )
    return classifier


def named_alike(bench: ClassSet, classifier: Classifier | None) -> ClassSet:
    """The set, with a note where names do not vouch for its classes. Raises InputError where they are unknown."""
    _, note = columns_of(bench, require_classes(classifier, bench).names)
    return dataclasses.replace(bench, notes=(*bench.notes, note)) if note else bench


def classified(classifier: Classifier, bench: ClassSet) -> Judged:
    """Ask for the scores of all images and judge them. Raises InputError for unknown classes, NonFinite."""
    columns, _ = columns_of(bench, classifier.names)
    scores, source = classifier.scores(bench.source), bench.source
    if scores.shape != (len(source), len(classifier.names)):
        raise InputError(
            f"the network returned class scores of shape {scores.shape} for {len(source)} images and "
            f"{len(classifier.names)} classes"
        )
    try:
        return judge(scores, columns[source.labels])
    except ValueError as error:
        first = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise NonFinite(f"the class scores of {source.names[first]} are not finite") from error


# --- measuring -------------------------------------------------------------------------------------------


def measure_classes(bench: ClassSet, table: Table, asked: Asked) -> Measured:
    """``top1``, ``top5``, ``nll`` and ``ece``, and ``top1@class.NAME`` of each class. Embeddings are not looked at."""
    judged = classified(require_classes(asked.classifier, bench), bench)
    boot = ImageBootstrap(len(bench.source), draws=asked.draws, seed=asked.seed) if asked.draws else None
    base = dataclasses.replace(
        asked.stamp,
        benchmark=bench.name,
        variant="plain",
        protocol="closed-set",
        n_images=len(bench.source),
        n_identities=len(bench.source.identities),
        n_failed=bench.failed,
    )
    found = Measured([], [])
    for metric, values in (*judged.within().items(), ("nll", judged.surprise)):
        found.rows.extend(rate_rows(mean_of(metric, values, boot), base, boot))
    right = judged.place == 0
    found.rows.append(dataclasses.replace(base, metric="ece", value=calibration_error(right, judged.confidence)))
    by_class = [*class_rows(right, bench, base, intervals=boot is not None)]
    found.rows.extend(by_class)
    if asked.curves and boot is not None:
        found.curves.append(class_rates(bench.name, by_class))
    return found


def mean_of(metric: str, values: np.ndarray, boot: ImageBootstrap | None) -> Rates:
    """The mean over the images, in every draw too."""
    point = plain_rate(float(np.mean(values)))
    return Rates("closed-set", metric, [None], [point], [None if boot is None else boot.mean(values)])


def class_rows(right: np.ndarray, bench: ClassSet, base: Row, *, intervals: bool) -> Iterator[Row]:
    """Accuracy of each class on its own images."""
    names, labels = bench.source.identities, bench.source.labels
    images = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels, weights=right, minlength=len(names))
    for name, k, n in zip(names, hits.tolist(), images.tolist(), strict=True):
        if not n:
            continue  # packed data may name a class of which it holds no image
        row = dataclasses.replace(base, metric=f"{CLASS}{name}", value=k / n, n_images=n, n_identities=1)
        if intervals:
            low, high = wilson(k, n)
            row = dataclasses.replace(row, low=low, high=high, level=LEVEL, ci_method="wilson_images")
        yield row


def class_rates(benchmark: str, rows: Sequence[Row]) -> ClassRates:
    """The rows of all classes for the figure."""
    columns = np.array([(row.value, row.low, row.high) for row in rows], np.float64).T
    return ClassRates(benchmark, "raw", tuple(row.metric.removeprefix(CLASS) for row in rows), *columns)


# --- comparing networks ----------------------------------------------------------------------------------


def draw_top(judged: Judged, boot: ImageBootstrap) -> RateDraws:
    """Accuracies of one network, observed and in every draw of images."""
    found = judged.within().values()
    observed = tuple(plain_rate(float(np.mean(right))) for right in found)
    return RateDraws(observed, np.stack([boot.mean(right) for right in found]))
