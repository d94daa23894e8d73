"""Virtual people, where there are no other faces to align against: mixed from training people, drawn, or noise.

The idea of candidates that nobody has seen is that of the abstract of arXiv 2103.01559; the recipes are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekit.alignment.bank import LEAST_ENTRIES, SupportBank, bank_of
from facekit.alignment.errors import PoorVirtualBank
from facekit.alignment.rows import unit
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics

NEAREST = 10
PARTNERS = 2
HELD_OUT = 0.1
"""Share of the training people whose images say how far from a prototype a new person lies."""
HELD_OUT_IMAGES = 200
LEAST_SPEARMAN = 0.3
LARGEST_SIGMA = 8.0
CALIBRATED = 1000
"""Candidates that sigma is set with."""


# --- who may judge them --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """Training people in two: those that candidates are mixed from, and those that are held back to judge them."""

    prototypes: SupportBank
    held_out: SupportBank


def split_people(bank: SupportBank, seed: int) -> Split:
    """Hold back 10 % of the people, or as many as have 200 images together, at most half."""
    images = np.bincount(bank.labels, minlength=len(bank.identities))
    people = stream(seed, "held out").permutation(np.flatnonzero(images))
    enough = int(np.searchsorted(np.cumsum(images[people]), HELD_OUT_IMAGES)) + 1
    count = min(max(round(HELD_OUT * len(people)), enough), len(people) // 2)
    away = np.isin(bank.labels, people[:count])
    return Split(rows_of(bank, ~away), rows_of(bank, away))


def rows_of(bank: SupportBank, chosen: np.ndarray) -> SupportBank:
    """The bank with only the chosen rows bool [R]."""
    samples = tuple(np.array(bank.sample_ids, dtype=object)[chosen])
    return dataclasses.replace(
        bank,
        embeddings=bank.embeddings[chosen],
        labels=bank.labels[chosen],
        source=bank.source[chosen],
        sample_ids=samples,
    )


def judged(virtual: SupportBank, split: Split) -> SupportBank:
    """The virtual bank, its report saying how well it tells crowded faces from lonely ones: on the held-out images.

    Raises ALIGN-VIRTUAL where it does not, or has fewer than ten people.
    """
    images = split.held_out.embeddings
    if len(virtual.labels) < LEAST_ENTRIES:
        raise PoorVirtualBank(
            f"only {len(virtual.labels)} virtual people passed, and {LEAST_ENTRIES} are needed; "
            "raise --candidates, or use a cohort of other people"
        )
    found = agreement(virtual, split.prototypes, images)
    if not found >= LEAST_SPEARMAN:
        raise PoorVirtualBank(
            f"the {virtual.kind} bank ranks {len(images)} held-out images as real people do with a Spearman "
            f"correlation of {found:.2f}, and {LEAST_SPEARMAN} is needed; use a cohort of other people"
        )
    report = {**virtual.report, "spearman": found, "held_out_images": len(images)}
    notes = virtual.notes
    if len(images) < HELD_OUT_IMAGES:
        notes = (*notes, f"the {virtual.kind} bank was judged on {len(images)} images only, not {HELD_OUT_IMAGES}")
    return dataclasses.replace(virtual, report=report, notes=notes)


def agreement(virtual: SupportBank, real: SupportBank, images: np.ndarray) -> float:
    """Spearman correlation of the mean similarity of images [N,D] to their neighbours in either bank."""
    first, second = (BankStatistics(bank, Settings())(images).m for bank in (virtual, real))
    return spearman(first, second)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two lists; 0 where one of them is constant."""
    a, b = ranks(first), ranks(second)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties share their mean rank, float64 [n]."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


# --- mixed in the space of embeddings ------------------------------------------------------------------------


def latentmix(bank: SupportBank, *, candidates: int, partners: str = "near", seed: int = 0) -> SupportBank:
    """Virtual people mixed from the training people of ``bank``: no images needed.

    sigma is set so that the median similarity of a candidate to its nearest prototype is that of the held-out images.
    Raises ALIGN-VIRTUAL where the candidates do not tell crowded faces from lonely ones.
    """
    if bank.reduce == "max":
        bank = dataclasses.replace(bank, reduce="single")
    split = split_people(bank, seed)
    mixture = Mixture(split.prototypes, candidates, partners, stream(seed, "latentmix"))
    closest = BankStatistics(split.prototypes, Settings(neighbours=1))
    wanted = float(np.median(closest(split.held_out.embeddings).m))
    sigma = falling_root(lambda s: float(np.median(closest(mixture.at(s, CALIBRATED)).m)) - wanted, LARGEST_SIGMA)
    report = {"sigma": sigma, "partners": partners, "median_nearest": wanted}
    return judged(virtual_bank(mixture.at(sigma), "latentmix", bank, seed, report), split)


def falling_root(height: Callable[[float], float], high: float) -> float:
    """Where a falling function on [0, high] crosses zero, by bisection to high / 2^20; an end where it does not."""
    low = 0.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if height(middle) > 0 else (low, middle)
    return (low + high) / 2


def virtual_bank(
    vectors: np.ndarray, kind: str, parent: SupportBank, seed: int, report: Mapping[str, Any]
) -> SupportBank:
    """A bank of candidates [N,D], each a person of its own, made from the people of ``parent``."""
    names = candidate_names(kind, len(vectors))
    return bank_of(
        vectors,
        names,
        names,
        kind,
        model_sha=parent.model_sha,
        preproc_sha=parent.preproc_sha,
        seed=seed,
        parent=parent.sha,
        report=report,
    )


def candidate_names(kind: str, count: int) -> list[str]:
    """``latentmix:00017``: in string order as in number order."""
    return [f"{kind}:{i:0{len(str(count))}d}" for i in range(count)]


def noise(width: int, *, candidates: int, model_sha: str, preproc_sha: str, seed: int = 0) -> SupportBank:
    """White noise on the sphere: the control that must not help."""
    names = candidate_names("noise", candidates)
    vectors = unit(stream(seed, "noise").standard_normal((candidates, width)))
    return bank_of(vectors, names, names, "noise", model_sha=model_sha, preproc_sha=preproc_sha, seed=seed)


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose, that no other code draws from the same seed."""
    return np.random.default_rng([seed, *purpose.encode()])


class Mixture:
    """Candidates e = unit(unit(sum lambda p) + sigma n / sqrt(D)), from one set of draws for every sigma.

    p: a prototype and two partners, of its ten nearest (``near``) or of all (``global``); lambda uniform on the
    simplex; n standard normal. ``parents`` int64 [N,3] are the entries mixed, ``centres`` [N,D] what becomes of them.
    """

    def __init__(self, prototypes: SupportBank, count: int, partners: str, rng: np.random.Generator) -> None:
        entries = prototypes.entries()
        first = rng.integers(0, len(entries), count)
        if partners == "near":
            around = BankStatistics(prototypes, Settings(neighbours=NEAREST))
            near = around(entries.vectors[first], [entries.people[i] for i in first]).idx
            pick = rng.permuted(np.tile(np.arange(near.shape[1]), (count, 1)), axis=1)[:, :PARTNERS]
            others = np.take_along_axis(near, pick, axis=1)
        else:
            others = (first[:, None] + rng.integers(1, len(entries), (count, PARTNERS))) % len(entries)
        self.parents = np.column_stack([first, others])
        weights = rng.dirichlet(np.ones(1 + PARTNERS), count)
        self.centres = unit(np.einsum("nk,nkd->nd", weights, entries.vectors[self.parents].astype(np.float64)))
        self.noise = rng.standard_normal(self.centres.shape) / np.sqrt(self.centres.shape[1])

    def at(self, sigma: float, count: int | None = None) -> np.ndarray:
        """Unit rows float64 [N,D], or the first ``count`` of them."""
        return unit(self.centres[:count] + sigma * self.noise[:count])
