"""Making noise plans: wrong labels and long tails, drawn from a seed.

Every draw is a function of (seed, image or class) alone, by the hash that orders batches: a plan is the same with any
numpy and any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from facekit.core.errors import InputError, UsageError, unknown_name
from facekit.data.batches import mix
from facekit.data.noiseplan import KINDS, LONG_TAIL, NoisePlan, OutOfRange, names_sha256
from facekit.data.protocol import Source

NOISE = 0x6E6F697365
"""The word behind the seed: no epoch number is as high, so that noise is independent of the order of batches."""
WHETHER, WHICH, CLASS, STAY = range(1, 5)
"""What a stream of draws is for: is the label drawn anew, which one is it, which classes, which images stay."""


def symmetric(labels: np.ndarray, classes: int, p: float, seed: int) -> np.ndarray:
    """With probability ``p`` a label drawn from all classes, the true one too: a share p (C-1)/C is wrong."""
    drawn = below(classes, seed, WHICH, len(labels))
    return np.where(chance(p, seed, len(labels)), drawn, labels)


def to_others(labels: np.ndarray, classes: int, p: float, seed: int) -> np.ndarray:
    """With probability ``p`` the label of another class, each equally likely: a share p is wrong."""
    return np.where(chance(p, seed, len(labels)), another(labels, classes, seed), labels)


def flipped(labels: np.ndarray, classes: int, p: float, seed: int) -> np.ndarray:
    """With probability ``p`` the label of the one class that follows the true one in a seeded ring of all classes."""
    ring = shuffled(classes, seed)
    follower = np.empty(classes, np.int64)
    follower[ring] = np.roll(ring, -1)
    return np.where(chance(p, seed, len(labels)), follower[labels], labels)


def of_identities(labels: np.ndarray, classes: int, p: float, seed: int) -> np.ndarray:
    """Of floor(p C) identities every image gets the label of another one, each image for itself."""
    picked = np.zeros(classes, bool)
    picked[shuffled(classes, seed)[: whole(p * classes)]] = True
    return np.where(picked[labels], another(labels, classes, seed), labels)


RELABEL: dict[str, Callable[[np.ndarray, int, float, int], np.ndarray]] = {
    "sym": symmetric,
    "flip": flipped,
    "face-id": of_identities,
    "face-image": to_others,
}
"""(labels int64 [N], classes C, p, seed) -> labels int64 [N]."""


def long_tail(labels: np.ndarray, classes: int, imbalance: float, seed: int) -> np.ndarray:
    """The rows that stay, int64 [n], rising: of class c floor(n_max imbalance^(-c/(C-1))) images, or all it has.

    n_max is the size of the largest class: classes shrink in the order of their numbers. 10 classes of 4,500 at 100
    keep 4500, 2697, 1617, 969, 581, 348, 208, 125, 75, 45.
    """
    most = np.bincount(labels, minlength=classes).max()
    keep = np.array([whole(most / imbalance ** (c / (classes - 1))) for c in range(classes)])
    order = np.lexsort((mix(seed, NOISE, STAY, np.arange(len(labels))), labels))
    sorted_labels = labels[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
    return np.sort(order[place < keep[sorted_labels]])


def make_plan(
    source: Source,
    kind: str,
    p: float = 0.0,
    seed: int = 0,
    *,
    exclude_self: bool = False,
    imbalance: float = 100.0,
) -> NoisePlan:
    """A plan for ``source``, whose images all have labels of two or more classes.

    ``p``: for RELABEL only, in [0, 1). ``exclude_self``: ``sym`` never draws the true class again. ``imbalance``: for
    a long tail only, >= 1. Raises OutOfRange, UsageError, InputError.
    """
    if kind not in KINDS:
        raise unknown_name("kind of noise", kind, KINDS)
    if exclude_self and kind != "sym":
        raise UsageError(f"--exclude-self belongs to --kind sym, and {kind} was asked for")
    check_range("--p", p, 0 <= p < 1, "0 or more and below 1")
    check_range("--imbalance", imbalance, 1 <= imbalance < math.inf, "1 or more")
    check_range("--seed", seed, 0 <= seed < 1 << 63, "0 or more and below 2^63")
    labels, classes = source.labels, len(source.identities)
    unlabelled = int((labels < 0).sum())
    if unlabelled or classes < 2:
        raise InputError(
            f"label noise needs a label for every image, of two classes or more; {unlabelled} of {len(labels)} images "
            f"have none, and there are {classes} classes"
        )
    if kind == LONG_TAIL:
        p, rows = 0.0, long_tail(labels, classes, imbalance, seed)
        noisy = labels[rows]
    else:
        imbalance, rows = 1.0, np.arange(len(labels))
        relabel = to_others if exclude_self else RELABEL[kind]
        noisy = relabel(labels, classes, p, seed)
    return NoisePlan(
        sample_id=rows,
        true_label=labels[rows],
        noisy_label=noisy,
        kind=kind,
        p=float(p),
        seed=seed,
        exclude_self=exclude_self,
        imbalance=float(imbalance),
        fingerprint=source.fingerprint,
        names_sha256=names_sha256(source.names),
    )


def check_range(flag: str, value: float, inside: bool, allowed: str) -> None:
    """Raise OutOfRange unless ``inside``."""
    if not inside:
        raise OutOfRange(f"{flag} is {value}, out of range: it must be {allowed}")


# --- draws -------------------------------------------------------------------------------------------------------


def chance(p: float, seed: int, n: int) -> np.ndarray:
    """True with probability ``p``, bool [n]."""
    return (mix(seed, NOISE, WHETHER, np.arange(n)) >> np.uint64(11)).astype(np.float64) < p * 2.0**53


def below(end: int, seed: int, stream: int, n: int) -> np.ndarray:
    """Whole numbers 0 .. end - 1, each equally likely to within 2^-32 of their number, int64 [n]."""
    words = mix(seed, NOISE, stream, np.arange(n)) >> np.uint64(32)
    return (words * np.uint64(end) >> np.uint64(32)).astype(np.int64)


def another(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """For each label one of the other classes, int64 [N]."""
    return (labels + 1 + below(classes - 1, seed, WHICH, len(labels))) % classes


def shuffled(classes: int, seed: int) -> np.ndarray:
    """0 .. classes - 1 in seeded order, int64."""
    return np.argsort(mix(seed, NOISE, CLASS, np.arange(classes)), kind="stable")


def whole(value: float) -> int:
    """The whole part, also where rounding left 29 as 28.999999999999996."""
    return math.floor(value + 1e-9)
