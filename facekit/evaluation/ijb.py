"""The protocols of IJB-B and IJB-C: 1:1 on listed pairs of templates, 1:N in two galleries scored apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from facekit.data.ijb import Gallery, TemplateSet
from facekit.evaluation import manyscores
from facekit.evaluation import verification as v
from facekit.evaluation.identification import LAST_RANK, Searches, cmc, identify, rates_of
from facekit.evaluation.manyscores import Tail
from facekit.evaluation.pairwise import compat_row
from facekit.evaluation.pooling import template_vectors
from facekit.evaluation.rates import Rates, SearchBootstrap, delta_rows, rate_rows
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import Asked, CmcCurve, Measured, People, Scorer, Side, Table, label_of, marked
from facekit.evaluation.taildraws import TailBootstrap
from facekit.evaluation.tailrates import tail_curve, tar_rates, with_wilson

CHUNK = 1 << 20
"""Pairs that are scored at once."""
FLIPS = {"none": "F0", "sum": "F1", "concat": "F1concat"}
"""How published tables call a flip rule."""
STATUSES = ("ok", "low_support", "not_measurable")
SPARE, MOST_SPARE = 20, 1 << 21
"""Some draws' thresholds lie lower than the observed one: the tail goes this much deeper, but no deeper than that."""


def measure_ijb(bench: TemplateSet, table: Table, asked: Asked) -> Measured:
    """Pool the templates once, score them by every scorer, and hold each aligned score against the first.

    Aligned scorers see the pooled vectors. Beyond the pairs (9 bytes each) memory is a cosine and a score for each of
    them. Intervals draw people where the 1:N lists name them, else they are Wilson's of the pairs.
    """
    vectors = template_vectors(bench, table(bench.source), asked.flip, asked.image_norm, asked.faceness)
    base = dataclasses.replace(
        asked.stamp,
        benchmark=bench.name,
        variant=f"{asked.image_norm}-D{int(asked.faceness)}-{FLIPS[asked.flip]}",
        n_images=len(bench.source),
        n_failed=bench.failed,
    )
    found = measure_listed(bench, vectors, asked, base)
    searched = measure_searches(bench, vectors, asked, base) if bench.galleries else Measured([], [])
    return Measured(found.rows + searched.rows, found.curves + searched.curves)


# --- 1:1 ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScores:
    """The scores of all pairs by one scorer, and the best of its impostors."""

    scores: np.ndarray
    """float64 [P]"""
    genuine: np.ndarray
    """Those of the genuine pairs, in the list's order"""
    tail: Tail
    best: np.ndarray
    """int64 [k], the tail's pairs"""


def measure_listed(bench: TemplateSet, vectors: np.ndarray, asked: Asked, base: Row) -> Measured:
    """Strict and compat TAR of every scorer."""
    cosine = pair_cosines(bench, vectors)
    people = people_of(bench)
    boot = pair_bootstrap(bench, asked)
    base = listed_row(bench, base)
    found, first = Measured([], []), None
    for scorer in asked.scorers:
        row = marked(base, scorer)
        scored = scored_pairs(bench, combined(bench, scorer, cosine, scorer.terms(vectors, people)), asked.fars)
        genuine, draw = np.sort(scored.genuine), None if boot is None else partial(drawn_tars, bench, scored, boot)
        tars = tar_rates("1:1", genuine, scored.tail, asked.fars, draw)
        rows = rate_rows(tars, row, boot)
        found.rows.extend(with_wilson(rows) if asked.draws else rows)
        found.rows.extend(compat_rows(genuine, scored.tail, row, asked.fars))
        if first is None:
            first = tars
        else:
            found.rows.extend(delta_rows(first, tars, row, boot))
        if asked.curves:
            passes = partial(impostors, bench, scored.scores)
            found.curves.append(tail_curve(bench.name, label_of(scorer), genuine, scored.tail, passes, draw))
    return found


def listed_row(bench: TemplateSet, base: Row) -> Row:
    """The columns that all numbers of the listed pairs share."""
    known = bench.subject[np.union1d(bench.left, bench.right)]
    n_genuine = int(np.sum(bench.same))
    return dataclasses.replace(
        base,
        n_genuine=n_genuine,
        n_impostor=len(bench.same) - n_genuine,
        n_identities=None if (known < 0).any() else len(np.unique(known)),
    )


def people_of(bench: TemplateSet) -> People | None:
    """The name of the person on each template, as far as the 1:N lists tell."""
    if not bench.subjects:
        return None
    return [bench.subjects[subject] if subject >= 0 else None for subject in bench.subject.tolist()]


def pair_cosines(bench: TemplateSet, vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs, float64 [P]. Of the matrix of all templates only what is listed is computed.

    The list is in the order of its enrolled templates: a piece of it is a few rows of enrolled x searched templates.
    """
    enrolled, row = numbering(bench.left, len(vectors))
    searched, column = numbering(bench.right, len(vectors))
    gallery, probes = vectors[enrolled], vectors[searched]
    found = np.empty(len(bench.left))
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        left, right = row[bench.left[part]], column[bench.right[part]]
        first, last = left[0], left[-1] + 1
        found[part] = v.pair_cosines(gallery[first:last], probes, left - first, right)
    return found


def numbering(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the places that occur, ascending; for each of ``count`` places its number among them)."""
    used = np.bincount(places, minlength=count) > 0
    return np.flatnonzero(used), np.cumsum(used) - 1


def combined(bench: TemplateSet, scorer: Scorer, cosine: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Scores of all pairs [P]; the cosines themselves where the scorer needs nothing else."""
    if not terms.shape[1]:
        nothing = np.empty((len(cosine), 0))
        return scorer.combine(cosine, nothing, nothing)
    found = np.empty_like(cosine)
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = scorer.combine(cosine[part], terms[bench.left[part]], terms[bench.right[part]])
    return found


def impostors(bench: TemplateSet, scores: np.ndarray) -> Iterator[np.ndarray]:
    """The impostor scores, in pieces."""
    for start in range(0, len(scores), CHUNK):
        part = slice(start, start + CHUNK)
        yield scores[part][~bench.same[part]]


def scored_pairs(bench: TemplateSet, scores: np.ndarray, fars: Sequence[float]) -> PairScores:
    """Scores [P] with the tail that the FARs and their draws need."""
    n_impostor = len(scores) - int(np.sum(bench.same))
    spare = min(manyscores.depth(fars, n_impostor, times=SPARE), MOST_SPARE)
    keep = max(manyscores.depth(fars, n_impostor, times=2), spare)
    edge, _ = manyscores.lower_edge(partial(impostors, bench, scores), keep)
    best = np.flatnonzero((scores.astype(np.float32) >= edge) & ~bench.same)
    best = best[np.argsort(-scores[best])]
    return PairScores(scores, scores[bench.same], Tail(scores[best], n_impostor), best)


def pair_bootstrap(bench: TemplateSet, asked: Asked) -> TailBootstrap | None:
    """Draws of the people of the listed pairs, where all of them are known."""
    known = not ((bench.subject[bench.left] < 0).any() or (bench.subject[bench.right] < 0).any())
    if not (known and asked.draws):
        return None
    return TailBootstrap(bench.subject, bench.left, bench.right, bench.same, draws=asked.draws, seed=asked.seed)


def drawn_tars(
    bench: TemplateSet, scored: PairScores, boot: TailBootstrap, fars: Sequence[float]
) -> list[np.ndarray | None]:
    """TAR at each FAR in every draw."""
    return boot.tail_tar(scored.genuine, scored.tail, bench.left[scored.best], bench.right[scored.best], fars)


def compat_rows(genuine: np.ndarray, tail: Tail, base: Row, fars: Sequence[float]) -> Iterator[Row]:
    """TAR at the nearest FAR, as published tables read it."""
    for far in fars:
        if v.support(far, tail.total)[0] != "not_measurable":
            yield compat_row(base, far, *manyscores.tar_at_far_nearest(genuine, tail, far), len(genuine))


# --- 1:N ----------------------------------------------------------------------------------------------------


def measure_searches(bench: TemplateSet, vectors: np.ndarray, asked: Asked, base: Row) -> Measured:
    """Every probe is searched in each gallery alone; whoever is enrolled only in the other is a non-mated search.

    TPIR at FPIR of each gallery and its mean over both; the identification rate is pooled over the mated searches.
    """
    places = [place(bench, (gallery,), asked, base) for gallery in bench.galleries]
    both = place(bench, bench.galleries, asked, base)
    found = Measured([], [])
    first: list[Rates] | None = None
    for scorer in asked.scorers:
        searches = [search(bench, gallery, vectors, scorer) for gallery in bench.galleries]
        pooled = Searches(*(np.concatenate(column) for column in zip(*searches, strict=True)))
        alone = [rates_of(one, asked, p.boot)[1] for one, p in zip(searches, places, strict=True)]
        measured = [*alone, mean_rates(alone), rates_of(pooled, asked, both.boot)[0]]
        for i, (rates, p) in enumerate(zip(measured, [*places, both, both], strict=True)):
            found.rows.extend(rate_rows(rates, marked(p.row, scorer), p.boot))
            if first is not None:
                found.rows.extend(delta_rows(first[i], rates, marked(p.row, scorer), p.boot))
        first = first or measured
        if asked.curves:
            ranks = np.arange(1, LAST_RANK + 1)
            found.curves.append(CmcCurve(bench.name, label_of(scorer), ranks, np.array(cmc(pooled, ranks.tolist()))))
    return found


@dataclass(frozen=True)
class Place:
    """One gallery, or both: its columns and its draws of the searched people, which are the same everywhere."""

    row: Row
    boot: SearchBootstrap | None


def place(bench: TemplateSet, galleries: Sequence[Gallery], asked: Asked, base: Row) -> Place:
    """Columns and draws of searches in some galleries, each scored alone."""
    subject = np.tile(bench.subject[bench.probe], len(galleries))
    enrolled = [bench.subject[gallery.template] for gallery in galleries]
    mated = np.concatenate([np.isin(bench.subject[bench.probe], people) for people in enrolled])
    row = dataclasses.replace(
        base,
        variant=f"{base.variant}-{'+'.join(gallery.name for gallery in galleries)}",
        n_genuine=int(mated.sum()),
        n_impostor=int((~mated).sum()),
        n_identities=len(np.unique(np.concatenate(enrolled))),
    )
    boot = SearchBootstrap(subject, mated, draws=asked.draws, seed=asked.seed) if asked.draws else None
    return Place(row, boot)


def search(bench: TemplateSet, gallery: Gallery, vectors: np.ndarray, scorer: Scorer) -> Searches:
    """All probes in one gallery. Who is on a probe is what the search shall find: its terms may not know it."""
    enrolled, probe = vectors[gallery.template], vectors[bench.probe]
    subject = bench.subject[gallery.template]
    names = [bench.subjects[i] for i in subject.tolist()]
    sides = Side(enrolled, scorer.terms(enrolled, names)), Side(probe, scorer.terms(probe))
    return identify(scorer, sides[0], subject, sides[1], bench.subject[bench.probe])


def mean_rates(rates: Sequence[Rates]) -> Rates:
    """The mean over galleries, in every draw too; measurable where all of them are."""
    points = [mean_point(points) for points in zip(*(r.points for r in rates), strict=True)]
    drawn = [mean_draws(draws) for draws in zip(*(r.drawn for r in rates), strict=True)]
    return dataclasses.replace(rates[0], points=points, drawn=drawn)


def mean_point(points: Sequence[v.OperatingPoint]) -> v.OperatingPoint:
    """Mean of rates whose thresholds were found apart; the least supported one tells how sure it is."""
    weakest = max(points, key=lambda point: STATUSES.index(point.status))
    if weakest.value is None:
        return weakest
    value, achieved = (float(np.mean([getattr(p, name) for p in points])) for name in ("value", "achieved"))
    return v.OperatingPoint(value, None, achieved, sum(p.n_false or 0 for p in points), weakest.status, weakest.note)


def mean_draws(drawn: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Mean in every draw."""
    known = [rates for rates in drawn if rates is not None]
    return np.mean(known, axis=0) if len(known) == len(drawn) else None
