"""Faces on a sphere, some of them in a crowd: the set-up behind most numbers in these tests.

An identity is unit(a c + sqrt(1 - a^2) u) with u random, an image unit(identity + n / sqrt(D)) with n normal; images of
one identity have cosine 0.5. Group A crowds around c (a = 0.7), group B does not (a = 0). Pairs lie within a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from facekit.alignment.bank import SupportBank, bank_of
from facekit.alignment.rows import unit
from facekit.alignment.scorers import AnyScorer, build_scorers
from facekit.alignment.search import Search
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics, reference_of
from facekit.evaluation.verification import Scores, pair_cosines, tar_at_far

WIDTH = 128
SEEDS = (0, 1, 2, 3)
FAR = 1e-3
MODEL, PREPROC = "a" * 64, "b" * 64


@dataclass(frozen=True, eq=False)
class Sphere:
    """Test images of both groups, their pairs, and more people from the same distribution."""

    vectors: np.ndarray
    identity: np.ndarray
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    bias: tuple[float, float]
    centres: np.ndarray
    seed: int

    @cached_property
    def cosines(self) -> np.ndarray:
        """Of all pairs."""
        return pair_cosines(self.vectors, self.vectors, self.left, self.right)

    @staticmethod
    @cache
    def of(seed: int, bias: tuple[float, float] = (0.7, 0.0), people: int = 300, pairs: int = 5000) -> Sphere:
        """``people`` of each group with five images, ``pairs`` genuine and ten times as many impostor pairs of each."""
        rng = np.random.default_rng(seed)
        centres = unit(rng.standard_normal((2, WIDTH)))
        vectors = np.concatenate([images(rng, centres[g], bias[g], people, 5) for g in (0, 1)])
        identity = np.repeat(np.arange(2 * people), 5)
        listed = [group_pairs(rng, people, pairs, g * people * 5) for g in (0, 1)]
        left, right, same = (np.concatenate(parts) for parts in zip(*listed, strict=True))
        return Sphere(vectors, identity, left, right, same, bias, centres, seed)

    def bank(
        self, of_a: int = 500, of_b: int = 500, each: int = 1, reduce: str = "single", draw: int = 1
    ) -> SupportBank:
        """New people of both groups, ``each`` so many images; other people for every ``draw``."""
        rng, counts = np.random.default_rng([self.seed, draw]), (of_a, of_b)
        rows = np.concatenate([images(rng, self.centres[g], self.bias[g], counts[g], each) for g in (0, 1)])
        people = [f"bank {draw}.{i}" for i in range(of_a + of_b) for _ in range(each)]
        return made(rows, people, reduce=reduce)

    def pair_scores(self, scorer: AnyScorer) -> np.ndarray:
        """Scores of all pairs."""
        terms = scorer.terms(self.vectors)
        return scorer.combine(self.cosines, terms[self.left], terms[self.right])

    def tar(self, scores: np.ndarray) -> float:
        """Strict TAR at FAR 1e-3."""
        value = tar_at_far(Scores.of(scores, self.same), FAR).value
        assert value is not None
        return value

    def tars(
        self, bank: SupportBank, names: tuple[str, ...], settings: Settings | None = None, search: Search | None = None
    ) -> dict[str, float]:
        """TAR of scores by name."""
        settings = settings or Settings()
        source = BankStatistics(bank, settings, search=search)
        reference = reference_of(source.own())
        scorers = build_scorers(names, settings, source, cosines=pair_cosines, support="cohort", reference=reference)
        return {scorer.name: self.tar(self.pair_scores(scorer)) for scorer in scorers}


def images(rng: np.random.Generator, centre: np.ndarray, a: float, people: int, each: int) -> np.ndarray:
    """float64 [people * each, D], person by person."""
    identities = unit(a * centre + np.sqrt(1 - a * a) * unit(rng.standard_normal((people, WIDTH))))
    noise = rng.standard_normal((people * each, WIDTH)) / np.sqrt(WIDTH)
    return unit(np.repeat(identities, each, axis=0) + noise)


def group_pairs(
    rng: np.random.Generator, people: int, genuine: int, offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left, right, same) of one group whose images start at ``offset``."""
    person = rng.integers(0, people, genuine)
    first = rng.integers(0, 5, genuine)
    second = (first + rng.integers(1, 5, genuine)) % 5
    one = rng.integers(0, people, 10 * genuine)
    other = (one + rng.integers(1, people, 10 * genuine)) % people
    left = np.concatenate([5 * person + first, 5 * one + rng.integers(0, 5, 10 * genuine)])
    right = np.concatenate([5 * person + second, 5 * other + rng.integers(0, 5, 10 * genuine)])
    return left + offset, right + offset, np.arange(11 * genuine) < genuine


def made(rows: np.ndarray, people: Sequence[str], kind: str = "cohort", reduce: str = "single") -> SupportBank:
    """A bank with made-up hashes."""
    samples = [f"{i:06d}" for i in range(len(rows))]
    return bank_of(rows, people, samples, kind, model_sha=MODEL, preproc_sha=PREPROC, reduce=reduce)


def random_bank(people: int, each: int = 1, width: int = 16, seed: int = 0, reduce: str = "single") -> SupportBank:
    """Nobody in particular."""
    rows = unit(np.random.default_rng(seed).standard_normal((people * each, width)))
    return made(rows, [f"bank {i // each}" for i in range(len(rows))], reduce=reduce)


def random_images(count: int, width: int = 16, seed: int = 1) -> np.ndarray:
    """Unit rows float64 [N,D]."""
    return unit(np.random.default_rng(seed).standard_normal((count, width)))
