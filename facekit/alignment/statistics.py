"""What is known of an image from the faces around it: its discrepancy d, and the mean m and deviation v behind it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np
import torch

from facekit.alignment.bank import SupportBank
from facekit.alignment.search import Found, People, Search, Tile
from facekit.alignment.settings import Settings

CSLS_NEIGHBOURS = 10
LEAST_IN_RADIUS = 10
MOST_IN_RADIUS = 200
LEAK_SHARE = 0.01
"""More images than this with a neighbour above ``same_above``, and the bank shares people with the test set."""
MOST_PAIRS = 2_000_000
RADIUS_QUANTILE = 0.99
_CPU = torch.device("cpu")


class Stats(NamedTuple):
    """Statistics of N images."""

    d: np.ndarray
    """float64 [N] discrepancy: how similar the image is to strangers"""
    m: np.ndarray
    """float64 [N] mean similarity to its neighbours"""
    v: np.ndarray
    """float64 [N] standard deviation of the similarity to its neighbours"""
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count, which nobody asks of statistics
    """int64 [N] neighbours"""
    idx: np.ndarray
    """int64 [N,K] their bank entries, closest first, -1 from ``count`` on; [N,0] where they are not listed"""


class StatsSource(Protocol):
    """Anything that gives statistics: a support bank, or an estimator that needs none."""

    def __call__(self, vectors: np.ndarray, people: People | None = None) -> Stats:
        """Unit rows [N,D] of images, and who is on them where that is known."""


class Reference(NamedTuple):
    """What is usual: means over dev images, or over the bank's own entries. Keeps old thresholds roughly valid."""

    dbar: float
    """of d"""
    vbar: float
    """of v"""
    rbar: float
    """of 1 - m"""


def reference_of(stats: Stats) -> Reference:
    """Means over the images of ``stats``."""
    return Reference(float(np.mean(stats.d)), float(np.mean(stats.v)), float(np.mean(1 - stats.m)))


class BankStatistics:
    """Statistics against the nearest entries of a support bank: K of them, or those within a radius.

    ``nearest(k)`` and ``whole`` are other statistics of the same images from the same search; whoever will ask for
    ``whole`` says so first (``search.want_moments``), or the search is done twice. ``memory`` is the
    largest tile of similarities in bytes. Raises ALIGN-SMALL and ALIGN-GALLERY at once, ALIGN-EMB and ALIGN-FEW when
    called.
    """

    def __init__(
        self,
        bank: SupportBank,
        settings: Settings,
        *,
        memory: int | None = None,
        place: torch.device = _CPU,
        search: Search | None = None,
    ) -> None:
        self.settings = settings
        self.search = search or Search(
            bank,
            max(settings.neighbours, CSLS_NEIGHBOURS) if settings.radius is None else MOST_IN_RADIUS,
            same_above=settings.same_above,
            tile=None if memory is None else Tile.within(memory),
            place=place,
        )

    def __call__(self, vectors: np.ndarray, people: People | None = None) -> Stats:
        """Unit rows [N,D] of images; ``people`` are left out of their own neighbours by name."""
        found = self.search(vectors, people)
        return summarise(found, self.count(found), self.settings)

    def count(self, found: Found) -> np.ndarray:
        """How many of the closest entries are neighbours of each image, int64 [N]."""
        if self.neighbours is not None:
            return np.minimum(found.usable, self.neighbours)
        inside = np.sum(found.values >= self.settings.radius, axis=1)
        return np.minimum(found.usable, np.clip(inside, LEAST_IN_RADIUS, MOST_IN_RADIUS))

    @property
    def neighbours(self) -> int | None:
        """K, None within a radius."""
        return None if self.settings.radius is not None else min(self.settings.neighbours, self.search.reach)

    def nearest(self, neighbours: int) -> BankStatistics:
        """The plain mean over the K nearest, of the same search."""
        settings = dataclasses.replace(self.settings, neighbours=neighbours, radius=None, statistic="mean")
        return BankStatistics(self.search.bank, settings, search=self.search)

    def whole(self, vectors: np.ndarray, people: People | None = None) -> Stats:
        """Mean and deviation over the whole bank, d = m."""
        self.search.want_moments()
        found = self.search(vectors, people)
        mean = found.total / found.usable
        spread = np.maximum(found.squares - found.usable * mean**2, 0.0)
        deviation = np.sqrt(spread / (found.usable - self.settings.ddof))
        return Stats(mean, mean, deviation, found.usable, np.empty((len(mean), 0), np.int64))

    def own(self) -> Stats:
        """Statistics of the bank's own entries, each without itself."""
        entries = self.search.entries
        names = np.repeat(np.array(entries.people, dtype=object), np.diff(entries.starts))
        return self(entries.vectors, names.tolist())

    def notes(self) -> list[str]:
        """What the user should know, after the images have been seen."""
        search, notes = self.search, list(self.search.bank.notes)
        wanted, people = self.settings.neighbours, len(search.entries)
        if self.settings.radius is None and wanted > people:
            notes.append(f"the {search.bank.kind} bank has {people} people, so K is {people} and not {wanted}")
        if search.renormalised:
            notes.append(f"{search.renormalised} embeddings were not of unit length and were renormalised")
        if search.suspected > LEAK_SHARE * search.images:
            notes.append(
                f"identity leak: {search.suspected} of {search.images} images have a neighbour above "
                f"{search.same_above} in the {search.bank.kind} bank; it seems to hold people of the test set"
            )
        return notes


# --- formulas ----------------------------------------------------------------------------------------------


def summarise(found: Found, count: np.ndarray, settings: Settings) -> Stats:
    """Statistics of the ``count`` [N] closest of the entries found."""
    width = int(count.max(initial=1))
    near = np.arange(width) < count[:, None]
    values = found.values[:, :width].astype(np.float64)
    mean, deviation = masked_moments(values, near, settings.ddof)
    if settings.statistic == "lse":
        d = soft_maximum(values, near, settings.tau)
    else:
        d = mean if settings.statistic == "mean" else values[:, 0]
    return Stats(d, mean, deviation, count, np.where(near, found.entries[:, :width], -1))


def masked_moments(values: np.ndarray, counted: np.ndarray, ddof: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [N] of the counted ones of each row of [N,K]; 0 where there are none."""
    count = np.maximum(counted.sum(axis=1), 1)
    mean = np.where(counted, values, 0.0).sum(axis=1) / count
    spread = np.where(counted, values - mean[:, None], 0.0)
    return mean, np.sqrt((spread**2).sum(axis=1) / np.maximum(count - ddof, 1))


def soft_maximum(values: np.ndarray, near: np.ndarray, tau: float) -> np.ndarray:
    """q1 + tau log mean exp((q - q1)/tau) [N] over the near of falling similarities q [N,K].

    tau -> 0 gives the maximum, tau -> infinity the mean; ours, after the log-odds of a softmax of scale 1/tau. In
    this form a large tau loses no digits: tau (logsumexp(q/tau) - log K) in float32 is off by 4e-3 at tau = 1e4.
    """
    first = values[:, :1]
    below = np.where(near, values - first, 0.0)
    share = np.expm1(below / tau).sum(axis=1) / near.sum(axis=1)
    return np.asarray(first[:, 0] + tau * np.log1p(share))


def stranger_similarity(bank: SupportBank, quantile: float = RADIUS_QUANTILE, seed: int = 0) -> float:
    """The similarity that this share of the pairs of different people in the bank stays below.

    0.99 is a usual ``Settings.radius``, 0.9999 the raw threshold at FAR 1e-4. Over all pairs of rows, or 2,000,000
    random ones where there are more.
    """
    rows = len(bank.labels)
    if rows * (rows - 1) // 2 > MOST_PAIRS:
        left, right = np.random.default_rng(seed).integers(0, rows, (2, MOST_PAIRS))
    else:
        left, right = np.triu_indices(rows, 1)
    apart = bank.labels[left] != bank.labels[right]
    return float(np.quantile(pair_cosines(bank.embeddings, left[apart], right[apart]), quantile))


def pair_cosines(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``rows[left] . rows[right]`` [P], a block of pairs at a time."""
    blocks = [slice(start, start + 4096) for start in range(0, len(left), 4096)]
    return np.concatenate([np.einsum("pd,pd->p", rows[left[part]], rows[right[part]]) for part in blocks])
