"""Class-uniform batches at the size of a large face data set: CPU seconds to lay out an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from bench.timing import Row
from facekit.data.samplers import class_uniform, uniform

IMAGES, CLASSES, BATCH, PER_CLASS = 5_000_000, 93_000, 512, 4
EPOCHS = 5


def class_uniform_epoch() -> Row:
    """The order of an epoch; the uniform order of as many images is in the note."""
    labels = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
    start = time.process_time()
    order = class_uniform(labels, BATCH, PER_CLASS, seed=0)
    once = time.process_time() - start
    value, plain = seconds_an_epoch(order), seconds_an_epoch(uniform(seed=0, n=IMAGES))
    note = (
        f"{IMAGES:,} images, {CLASSES:,} classes, batch {BATCH}, {PER_CLASS} a class; CPU seconds, median of {EPOCHS}; "
        f"grouping them once {once:.1f}; the uniform order {plain:.1f}"
    )
    return Row("class-uniform order of an epoch", value, None, None, "none", True, "s", note)


def seconds_an_epoch(order: Callable[[int], np.ndarray]) -> float:
    """Median over epochs."""
    seconds = []
    for epoch in range(EPOCHS):
        start = time.process_time()
        order(epoch)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))
