"""Ways to score, by name: the cosine, its alignment, and the alignment's published kin.

A scorer looks at each image once (``terms``) and then works on cosines (``combine``) or on listed pairs (``pairs``).
Scorers built from one support set share its search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from facekit.alignment.cross import cross_moments
from facekit.alignment.errors import UnknownAlignment
from facekit.alignment.fmr import fmr_scale
from facekit.alignment.operators import OPERATORS, Terms, pack, z
from facekit.alignment.rerank import K1, rerank
from facekit.alignment.search import People
from facekit.alignment.settings import Settings, known
from facekit.alignment.statistics import CSLS_NEIGHBOURS, BankStatistics, Reference, StatsSource
from facekit.core.errors import UsageError

SCORES = ("raw", "dao", "znorm", "tnorm", "snorm", "asnorm", "csls", "nicdm", "rerank", "fmr")
WITHOUT_SUPPORT = ("raw", "rerank", "fmr")
"""Scores that look at no neighbours from outside."""
WITHOUT_BANK = ("dao", "asnorm", "nicdm")
"""Scores that an estimator can stand behind; the others look at a part of a bank that it was not fitted to."""
UNSHIFTED = Reference(dbar=0.0, vbar=1.0, rbar=1.0)
_BLOCK = 1 << 18  # pairs combined at once

PairCosines = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(enrolled [N,D], probe [M,D], left [P], right [P]) -> cosines float64 [P]."""
Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(cosine, enrolled terms, probe terms) -> score."""


class Side(Protocol):
    """Unit embeddings [N,D] of one side and their terms [N,T]."""

    @property
    def vectors(self) -> np.ndarray:
        """float64 [N,D]"""

    @property
    def terms(self) -> np.ndarray:
        """float64 [N,T]"""


# --- three ways to score -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Described:
    """What tables say of a score."""

    name: str
    support: str | None = None
    alpha: float | None = None
    neighbours: int | None = None
    transductive: bool = False


@dataclass(frozen=True, kw_only=True)
class Elementwise(Described):
    """A formula of the cosine and a few numbers of each image: works on pairs and on matrices."""

    look: Callable[[np.ndarray, People | None], np.ndarray]
    """Images -> terms."""
    formula: Formula
    cosines: PairCosines

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        """float64 [N,3] d, m, v; [N,0] where the cosine is enough."""
        return self.look(vectors, people)

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Scores of the shape and number type of the cosines."""
        return self.formula(cosine, enrolled, probe)

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Scores of the pairs; beyond them, memory is a block."""
        scores = self.cosines(enrolled.vectors, probe.vectors, left, right)
        for start in range(0, len(left), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores[part] = self.formula(scores[part], enrolled.terms[left[part]], probe.terms[right[part]])
        return scores


@dataclass(frozen=True, kw_only=True)
class CrossSelected(Described):
    """asnorm where each image is measured against the neighbours of the other one."""

    source: BankStatistics
    cosines: PairCosines

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        """float64 [N,4+K]: d, m, v, the entry of the image's own person, the entries of its neighbours."""
        stats = self.source(vectors, people)
        own = self.source.search.own_entries(people, len(vectors))
        # Entry numbers are exact in float64, and K varies within a radius: one width for all sides.
        entries = np.full((len(own), self.source.search.reach), -1.0)
        entries[:, : stats.idx.shape[1]] = stats.idx
        return np.column_stack([pack(stats), own, entries])

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Not from cosines alone."""
        raise UsageError("asnorm with --selection cross needs a list of pairs; use --selection own on this benchmark")

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """z of both sides, each by the neighbours of the other."""
        enrolled_terms = self._against(enrolled, left, probe, right)
        probe_terms = self._against(probe, right, enrolled, left)
        cosine = self.cosines(enrolled.vectors, probe.vectors, left, right)
        settings = dataclasses.replace(self.source.settings, operator="z", sides="both")
        return z(cosine, enrolled_terms, probe_terms, settings, UNSHIFTED)

    def _against(self, side: Side, rows: np.ndarray, other: Side, others: np.ndarray) -> Terms:
        own, neighbours = side.terms[:, 3].astype(np.int64), other.terms[:, 4:].astype(np.int64)
        ddof = self.source.settings.ddof
        mean, deviation = cross_moments(self.source.search, side.vectors, own, rows, neighbours, others, ddof)
        return Terms(mean, mean, deviation)


@dataclass(frozen=True, kw_only=True)
class Reranked(Described):
    """Re-ranking on the union of all images in a list of pairs."""

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        """Nothing: [N,0]."""
        return np.empty((len(vectors), 0))

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Not from cosines alone."""
        raise UsageError("rerank scores whole lists of pairs, so it cannot be used on this benchmark; leave it out")

    def pairs(self, enrolled: Side, probe: Side, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Scores of the pairs; images that no pair names are left out."""
        if enrolled.vectors is probe.vectors:
            used, places = np.unique(np.concatenate([left, right]), return_inverse=True)
            return rerank(enrolled.vectors[used], *np.split(places, 2))
        first, left_places = np.unique(left, return_inverse=True)
        second, right_places = np.unique(right, return_inverse=True)
        union = np.concatenate([enrolled.vectors[first], probe.vectors[second]])
        return rerank(union, left_places, right_places + len(first))


AnyScorer = Elementwise | CrossSelected | Reranked


# --- by name ---------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """A score by an operator."""

    over: str
    """Which bank entries count: ``near`` (the source's own), ``ten`` (nearest) or ``all``."""
    fixed: Mapping[str, Any] = MappingProxyType({})
    """Settings that belong to the score."""
    finish: Callable[[np.ndarray], np.ndarray] = lambda score: score
    """To the scale in which it was published."""


RECIPES = {
    "dao": Recipe("near"),
    "znorm": Recipe("all", {"operator": "z", "sides": "enrol"}),
    "tnorm": Recipe("all", {"operator": "z", "sides": "probe"}),
    "snorm": Recipe("all", {"operator": "z", "sides": "both"}),
    "asnorm": Recipe("near", {"operator": "z", "sides": "both"}),
    "csls": Recipe("ten", {"operator": "add", "sides": "both", "alpha": 1.0}, lambda score: 2 * score),
    "nicdm": Recipe("near", {"operator": "nicdm", "sides": "both"}, lambda score: score - 1),
}


def build_scorers(
    names: Sequence[str],
    settings: Settings,
    source: StatsSource | None = None,
    *,
    cosines: PairCosines,
    support: str | None = None,
    reference: Reference = UNSHIFTED,
    impostors: np.ndarray | None = None,
) -> list[AnyScorer]:
    """Scorers in the order of ``names``, all from one search of the ``source``. See ``build_scorer``."""
    return [
        build_scorer(name, settings, source, cosines=cosines, support=support, reference=reference, impostors=impostors)
        for name in names
    ]


def build_scorer(
    name: str,
    settings: Settings,
    source: StatsSource | None = None,
    *,
    cosines: PairCosines,
    support: str | None = None,
    reference: Reference = UNSHIFTED,
    impostors: np.ndarray | None = None,
) -> AnyScorer:
    """One scorer.

    ``source`` gives the statistics (a bank or an estimator), ``support`` is what tables call it, ``cosines`` computes
    those of listed pairs, ``reference`` is what is usual among dev images (for dao), ``impostors`` are raw scores that
    calibrate fmr. Raises ALIGN-OP for an unknown name, and for one that cannot work with what was given.
    """
    known(name, "score", SCORES)
    if name == "raw":
        return of_cosine(name, lambda cosine: cosine, cosines)
    if name == "fmr":
        if impostors is None:
            raise UnknownAlignment("score 'fmr' needs impostor scores to be calibrated with; give --dev")
        return of_cosine(name, fmr_scale(impostors), cosines)
    if name == "rerank":
        return Reranked(name=name, neighbours=K1, transductive=True)
    if source is None:
        raise UnknownAlignment(
            f"score {name!r} compares with other faces; give --support, or choose from: {', '.join(WITHOUT_SUPPORT)}"
        )
    bank = source if isinstance(source, BankStatistics) else None
    crossed = name == "asnorm" and settings.selection == "cross"
    if bank is None and (name not in WITHOUT_BANK or crossed):
        raise UnknownAlignment(
            f"score {name!r}{' with cross selection' if crossed else ''} needs a bank of faces, and this support set "
            f"has none; choose from: {', '.join(WITHOUT_BANK)}"
        )
    if bank is not None and crossed:
        return CrossSelected(
            name=name,
            support=support,
            neighbours=bank.neighbours,
            transductive=support == "gallery",
            source=bank,
            cosines=cosines,
        )
    recipe = RECIPES[name]
    chosen, neighbours = (source, None) if bank is None else entries_of(bank, recipe.over)
    return Elementwise(
        name=name,
        support=support,
        alpha=settings.alpha if name == "dao" and settings.operator == "add" else None,
        neighbours=neighbours,
        transductive=support == "gallery",
        look=lambda vectors, people: pack(chosen(vectors, people)),
        formula=by_operator(recipe, settings, reference if name == "dao" else UNSHIFTED),
        cosines=cosines,
    )


def entries_of(bank: BankStatistics, over: str) -> tuple[StatsSource, int | None]:
    """(statistics over the entries that count, how many these are where that is fixed)."""
    if over == "all":
        bank.search.want_moments()
        return bank.whole, None
    chosen = bank.nearest(CSLS_NEIGHBOURS) if over == "ten" else bank
    return chosen, chosen.neighbours


def by_operator(recipe: Recipe, settings: Settings, reference: Reference) -> Formula:
    """(cosine, enrolled terms, probe terms) -> score, in the number type of the cosine."""
    fixed = dataclasses.replace(settings, **recipe.fixed)
    operator = OPERATORS[fixed.operator]

    def formula(cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        sides = Terms.of(enrolled, cosine.dtype), Terms.of(probe, cosine.dtype)
        return recipe.finish(operator(cosine, *sides, fixed, reference))

    return formula


def of_cosine(name: str, scale: Callable[[np.ndarray], np.ndarray], cosines: PairCosines) -> Elementwise:
    """A score that asks nothing of the images: a map of the cosine, the same for all pairs."""
    return Elementwise(
        name=name,
        look=lambda vectors, people: np.empty((len(vectors), 0)),
        formula=lambda cosine, enrolled, probe: scale(cosine),
        cosines=cosines,
    )
