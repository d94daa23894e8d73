"""What a benchmark is measured with: how embeddings become similarities, and what a measurement hands back.

A *scorer* turns unit embeddings into similarities. Most need a few numbers per image (its mean similarity to its
neighbours, say) and then work element by element, on pairs, on templates and on tiles of a gallery x probe matrix
alike. Alignments are handed in from outside; ``RAW`` is the cosine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from facekit.data.protocol import Source
from facekit.evaluation import verification as v
from facekit.evaluation.results import Row

Table = Callable[[Source], np.ndarray]
"""A source -> float32 [N,V,D] un-normalised embeddings of its images in the views that the flip rule needs."""
People = Sequence[str | None]
"""The name of the person on each image, None where unknown."""


class Scorer(Protocol):
    """One way to score. Higher = more similar."""

    @property
    def name(self) -> str:
        """As in the ``score`` column: raw, dao, asnorm ..."""

    @property
    def support(self) -> str | None:
        """Where the neighbours come from: cohort, train, gallery ...; None without any."""

    @property
    def alpha(self) -> float | None:
        """Strength of the alignment, where it has one."""

    @property
    def neighbours(self) -> int | None:
        """Neighbours of an image, where they are counted."""

    @property
    def transductive(self) -> bool:
        """True where a score depends on other test images."""

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        """Unit rows [N,D] -> what the score needs to know of each image, float64 [N,T]; T may be 0."""

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Cosines [...] and terms broadcast against them, [...,T] each -> scores [...].

        Raises UsageError for a scorer that needs whole lists of pairs.
        """

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Scores float64 [P] of ``enrolled[left]`` against ``probe[right]``."""


class Side(NamedTuple):
    """Unit embeddings float64 [N,D] of one side and their terms [N,T]."""

    vectors: np.ndarray
    terms: np.ndarray


@dataclass(frozen=True)
class Raw:
    """The cosine."""

    name: str = "raw"
    support: str | None = None
    alpha: float | None = None
    neighbours: int | None = None
    transductive: bool = False

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        """Nothing: [N,0]."""
        return np.empty((len(vectors), 0))

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """The cosine itself."""
        return cosine

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosines of the pairs."""
        return v.pair_cosines(enrolled.vectors, probe.vectors, left, right)


RAW: Scorer = Raw()


def people_on(source: Source) -> People | None:
    """Who is on each image, None where the source does not tell."""
    if not source.identities:
        return None
    return [source.identities[label] if label >= 0 else None for label in source.labels.tolist()]


def label_of(scorer: Scorer) -> str:
    """How tables and legends call it: ``dao, cohort``."""
    return scorer.name if scorer.support is None else f"{scorer.name}, {scorer.support}"


def marked(base: Row, scorer: Scorer) -> Row:
    """The columns that say how it was scored."""
    return dataclasses.replace(
        base,
        score=scorer.name,
        support=scorer.support,
        alpha=scorer.alpha,
        neighbours=scorer.neighbours,
        transductive=scorer.transductive,
    )


@dataclass(frozen=True)
class Classifier:
    """A network with classes of its own, as the evaluator sees it."""

    names: tuple[str, ...]
    """Class of each column"""
    scores: Callable[[Source], np.ndarray]
    """A source -> float32 [N,C] class scores (logits) of its images"""


# --- what a measurement hands back ------------------------------------------------------------------------


@dataclass(frozen=True)
class RocCurve:
    """Strict TAR over FAR with a 95 % band, and both score histograms: what the report draws of a 1:1 score."""

    benchmark: str
    label: str
    far: np.ndarray
    """[n] ascending, from where ten impostors pass"""
    tar: np.ndarray
    band_far: np.ndarray
    low: np.ndarray | None
    """[m] at ``band_far``; None without a bootstrap"""
    high: np.ndarray | None
    bins: np.ndarray
    """[b+1] edges of the histograms"""
    genuine_density: np.ndarray
    """[b], sums to 1"""
    impostor_density: np.ndarray


@dataclass(frozen=True)
class CmcCurve:
    """Identification rate over rank."""

    benchmark: str
    label: str
    rank: np.ndarray
    """int [n], from 1"""
    rate: np.ndarray


@dataclass(frozen=True)
class ClassRates:
    """Top-1 accuracy of each of K classes with its 95 % interval."""

    benchmark: str
    label: str
    names: tuple[str, ...]
    rate: np.ndarray
    """[K]"""
    low: np.ndarray
    high: np.ndarray


Curve = RocCurve | CmcCurve | ClassRates


class Measured(NamedTuple):
    """Rows for the document, curves for the report."""

    rows: list[Row]
    curves: list[Curve]


@dataclass(frozen=True)
class Asked:
    """What is asked of every benchmark; each protocol reads what concerns it."""

    flip: str = "none"
    """Fusion with the mirrored image: none | sum | concat."""
    scorers: tuple[Scorer, ...] = (RAW,)
    fars: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    fpirs: tuple[float, ...] = (0.1, 0.01, 0.003)
    ranks: tuple[int, ...] = (1, 5, 10)
    draws: int = 1000
    """Bootstrap draws; 0 leaves intervals out."""
    seed: int = 0
    stamp: Row = field(default_factory=Row)
    """Run, model, seed and checkpoint, for every row."""
    curves: bool = False
    """Whether the report will draw them."""
    image_norm: str = "keep"
    """IJB: keep | unit, the norm of an image's embedding before pooling."""
    faceness: bool = True
    """IJB: weigh images by their detection score."""
    ties: str = "pessimistic"
    """MegaFace: who wins a tie."""
    classifier: Classifier | None = None
    """Closed sets: the network's own classes; None where it gives embeddings only."""
