"""1:N identification: who of the enrolled people is on the probe, if any.

A *search* compares one probe with a whole gallery. It is *mated* where the probe's person is enrolled. Templates of
one person combine by their best score; a tie between the mate and somebody else counts against the mate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from facekit.core.errors import ArtefactMismatch
from facekit.data.galleries import GallerySet
from facekit.evaluation import verification as v
from facekit.evaluation.rates import Rates, SearchBootstrap, delta_rows, plain_rate, rate_rows
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import Asked, CmcCurve, Measured, Scorer, Side, Table, label_of, marked
from facekit.evaluation.vectors import unit_vectors

LAST_RANK = 100
"""How far the curve of a report goes."""
GRID = 2.0**26
"""Unit rows are rounded to multiples of 1/GRID (7e-9, less than float32 resolves)."""


class Searches(NamedTuple):
    """What is kept of P searches; enough for every metric below."""

    subject: np.ndarray
    """int64 [P], the person on the probe"""
    mate: np.ndarray
    """float64 [P], best score over the templates of the probe's person; NaN where that person is not enrolled"""
    other: np.ndarray
    """float64 [P], best score of anybody else; -inf where nobody else is enrolled"""
    rank: np.ndarray
    """int64 [P], 1 + #{other people whose best score >= mate}; 0 where the person is not enrolled"""

    @property
    def mated(self) -> np.ndarray:
        """bool [P]"""
        return self.rank > 0

    @property
    def top(self) -> np.ndarray:
        """float64 [P], the best score of the whole gallery."""
        return np.fmax(self.mate, self.other)


def identify(
    scorer: Scorer,
    gallery: Side,
    gallery_subject: np.ndarray,
    probe: Side,
    probe_subject: np.ndarray,
    block: int = 4096,
) -> Searches:
    """Search the unit rows of ``probe`` [P] in ``gallery`` [G]; subjects are numbers >= 0 (int64 [G], [P]).

    Memory: tiles of ``block`` templates by block/8 probes, nothing else grows with G x P. The result does not depend
    on ``block``, bit for bit. Gallery a, a, b, c with the scores .2, .9, .9, .1 for a probe of a: mate .9, other .9,
    rank 2.
    """
    order = np.argsort(gallery_subject, kind="stable")
    enrolled, first = np.unique(gallery_subject[order], return_index=True)
    searches = Searches(
        probe_subject,
        mate_scores(scorer, gallery, gallery_subject, probe, probe_subject),
        np.full(len(probe_subject), -np.inf),
        np.isin(probe_subject, enrolled).astype(np.int64),
    )
    rows = max(1, block // 8)
    for start in range(0, len(probe_subject), rows):
        part = slice(start, start + rows)
        mate, other, rank = (x[part] for x in (searches.mate, searches.other, searches.rank))
        own = np.searchsorted(enrolled, probe_subject[part])  # an unenrolled person's place is never looked at
        for people, best in best_of_people(scorer, gallery, order, first, side_at(probe, part), block):
            mine = np.flatnonzero((rank > 0) & (own >= people.start) & (own < people.stop))
            best[mine, own[mine] - people.start] = -np.inf
            rank += (best >= mate[:, None]).sum(axis=1)  # NaN, not enrolled: nothing is counted
            np.maximum(other, best.max(axis=1), out=other)
    return searches


def mate_scores(
    scorer: Scorer, gallery: Side, gallery_subject: np.ndarray, probe: Side, probe_subject: np.ndarray
) -> np.ndarray:
    """The best score of each probe with its own person's templates, float64 [P]; NaN where there is none."""
    order = np.argsort(gallery_subject, kind="stable")
    begin = np.searchsorted(gallery_subject[order], probe_subject)
    count = np.searchsorted(gallery_subject[order], probe_subject, side="right") - begin
    mate = np.where(count > 0, -np.inf, np.nan)
    pair = np.concatenate([[0], np.cumsum(count)])
    for start in range(0, int(pair[-1]), 4096):
        number = np.arange(start, min(start + 4096, int(pair[-1])))
        searched = np.searchsorted(pair, number, side="right") - 1
        template = order[begin[searched] + number - pair[searched]]
        left, right = side_at(gallery, template), side_at(probe, searched)
        cosine = np.einsum("pd,pd->p", on_grid(left.vectors), on_grid(right.vectors))
        np.maximum.at(mate, searched, scorer.combine(cosine, left.terms, right.terms))
    return mate


def best_of_people(
    scorer: Scorer, gallery: Side, order: np.ndarray, first: np.ndarray, probe: Side, block: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """The best score [p,n] of each probe with each of the n people of a slice, slice by slice of the gallery.

    ``order`` sorts the gallery by person, ``first`` is where each person begins in that order.
    """
    searched = on_grid(probe.vectors)
    unfinished: np.ndarray | None = None
    for start in range(0, len(order), block):
        stop = min(start + block, len(order))
        tile = side_at(gallery, order[start:stop])
        cosine = searched @ on_grid(tile.vectors).T
        scores = scorer.combine(cosine, tile.terms[None], probe.terms[:, None])
        begin, end = np.searchsorted(first, start, side="right") - 1, np.searchsorted(first, stop)
        best = np.maximum.reduceat(scores, np.maximum(first[begin:end] - start, 0), axis=1)
        if unfinished is not None:
            np.maximum(best[:, 0], unfinished, out=best[:, 0])
            unfinished = None
        if stop < len(order) and (end == len(first) or first[end] != stop):
            # The last person goes on in the next tile, and may be counted only once.
            unfinished, best, end = best[:, -1].copy(), best[:, :-1], end - 1
        if end > begin:
            yield slice(int(begin), int(end)), best


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Unit rows rounded to multiples of 2^-26.

    Their products are multiples of 2^-52 and no partial sum reaches 2, so float64 adds them without any rounding:
    cosines do not depend on the order of summation, which changes with block size, threads and processor. Without it
    an image enrolled twice might win or lose a tie against itself.
    """
    return np.rint(vectors * GRID) / GRID


def side_at(side: Side, rows: np.ndarray | slice) -> Side:
    """Some rows of a side."""
    return Side(side.vectors[rows], side.terms[rows])


# --- rates ------------------------------------------------------------------------------------------------


def cmc(searches: Searches, ranks: Sequence[int]) -> list[float]:
    """Share of the mated searches with the mate within the first r people, for each r; NaN without any."""
    rank = np.sort(searches.rank[searches.mated])
    return [int(np.searchsorted(rank, r, side="right")) / len(rank) if len(rank) else np.nan for r in ranks]


def tpir_at_fpir(searches: Searches, fpir: float, rank: int = 1) -> v.OperatingPoint:
    """Strict TPIR = 1 - FNIR at FPIR: mated searches with the mate within ``rank`` and at or above the threshold.

    The threshold is the lowest at which no more than floor(FPIR x P_nm) of the P_nm non-mated searches have anybody at
    or above it. ``achieved`` and ``n_false`` are the FPIR there and its false alarms.
    """
    top = np.sort(searches.top[~searches.mated])
    status, note = support(fpir, len(top))
    if not searches.mated.any():
        status, note = "not_measurable", "no probe's person is enrolled, so there is nobody to find"
    if status == "not_measurable":
        return v.OperatingPoint(None, None, None, None, status, note)
    threshold = v.strict_threshold(top, v.allowed_false(fpir, len(top)))
    if threshold is None:
        threshold = float(min(top[0], np.nanmin(searches.mate)))
    n_false = len(top) - int(np.searchsorted(top, threshold))
    found = (searches.rank <= rank) & (searches.mate >= threshold)
    value = int(np.sum(found[searches.mated])) / int(np.sum(searches.mated))
    return v.OperatingPoint(value, threshold, n_false / len(top), n_false, status, note)


def support(fpir: float, non_mated: int) -> tuple[str, str]:
    """Whether an FPIR can be measured on so many non-mated searches: (status, one sentence)."""
    status, _ = v.support(fpir, non_mated)
    least = math.ceil(1 / Fraction(str(fpir)))
    notes = {
        "not_measurable": f"FPIR {fpir:g} needs at least {least:,} searches of people who are not enrolled, "
        f"there are {non_mated:,}",
        "low_support": f"FPIR {fpir:g} of {non_mated:,} non-mated searches is {fpir * non_mated:.3g} false alarms "
        "(< 30)",
        "ok": "",
    }
    return status, notes[status]


# --- measuring --------------------------------------------------------------------------------------------


def measure_galleries(bench: GallerySet, table: Table, asked: Asked) -> Measured:
    """Closed set (mated probes alone) and open set, for every scorer, each held against the first.

    ``n_genuine`` counts mated probes, ``n_impostor`` non-mated ones, ``n_identities`` the enrolled people.
    """
    gallery, probe = (unit_vectors(table(s), asked.flip, s.names) for s in (bench.gallery, bench.probe))
    same_width(gallery, probe)
    boot = (
        SearchBootstrap(bench.probe_subject, bench.mated, draws=asked.draws, seed=asked.seed) if asked.draws else None
    )
    base = gallery_row(bench, asked)
    found, first = Measured([], []), None
    for scorer in asked.scorers:
        row = marked(base, scorer)
        searches = search(scorer, gallery, probe, bench)
        measured = rates_of(searches, asked, boot)
        for rates in measured:
            found.rows.extend(rate_rows(rates, row, boot))
        if first is None:
            first = measured
        else:
            for before, after in zip(first, measured, strict=True):
                found.rows.extend(delta_rows(before, after, row, boot))
        if asked.curves:
            ranks = np.arange(1, min(LAST_RANK, len(np.unique(bench.gallery_subject))) + 1)
            found.curves.append(CmcCurve(bench.name, label_of(scorer), ranks, np.array(cmc(searches, ranks.tolist()))))
    return found


def search(scorer: Scorer, gallery: np.ndarray, probe: np.ndarray, bench: GallerySet) -> Searches:
    """Unit rows of both sides -> searches."""
    names = [bench.people[subject] for subject in bench.gallery_subject.tolist()]
    # Who is on a probe is what the search shall find: its terms may not know it.
    sides = Side(gallery, scorer.terms(gallery, names)), Side(probe, scorer.terms(probe))
    return identify(scorer, sides[0], bench.gallery_subject, sides[1], bench.probe_subject)


def same_width(gallery: np.ndarray, probe: np.ndarray) -> None:
    """Both sides are of one model."""
    if gallery.shape[1] != probe.shape[1]:
        raise ArtefactMismatch(
            f"the gallery's embeddings have {gallery.shape[1]} numbers, the probes' {probe.shape[1]}: they are of two "
            "models; embed both with one"
        )


def gallery_row(bench: GallerySet, asked: Asked) -> Row:
    """The columns that all numbers of one set share."""
    return dataclasses.replace(
        asked.stamp,
        benchmark=bench.name,
        variant=f"flip-{asked.flip}",
        n_genuine=int(bench.mated.sum()),
        n_impostor=int((~bench.mated).sum()),
        n_images=len(bench.gallery) + len(bench.probe),
        n_identities=len(np.unique(bench.gallery_subject)),
        n_failed=bench.failed,
    )


def rates_of(searches: Searches, asked: Asked, boot: SearchBootstrap | None) -> tuple[Rates, Rates]:
    """(identification rate at each rank, TPIR at each FPIR)."""
    rank = searches.rank[searches.mated]
    closed = Rates(
        protocol="1:N-closed",
        metric="cmc",
        at=asked.ranks,
        points=[plain_rate(rate) for rate in cmc(searches, asked.ranks)],
        drawn=[None if boot is None else boot.mean(rank <= r) for r in asked.ranks],
    )
    points = [tpir_at_fpir(searches, fpir) for fpir in asked.fpirs]
    opened = Rates(
        protocol="1:N-open",
        metric="tpir@fpir",
        at=asked.fpirs,
        points=points,
        drawn=[
            None if boot is None or point.value is None else draw_tpir(boot, searches, fpir)
            for fpir, point in zip(asked.fpirs, points, strict=True)
        ],
    )
    return closed, opened


def draw_tpir(boot: SearchBootstrap, searches: Searches, fpir: float, rank: int = 1) -> np.ndarray:
    """Strict TPIR in each draw of people [R], the threshold found anew in every draw."""
    within = searches.rank <= rank
    if fpir >= 1:
        return boot.mean(within[searches.mated])
    found = np.where(within, searches.mate, -np.inf)
    return boot.tar_at_far(np.where(searches.mated, found, searches.top), [fpir])[0]
