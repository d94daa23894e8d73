"""Retrieval as person re-identification measures it: mean average precision, CMC, recall at K.

For each query the gallery is ranked, without what is junk to it: its own image, and its person's images under the same
camera, which are too easy. A tie between a match and another image counts against the match.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facekit.core.errors import InputError
from facekit.data.retrieval import RetrievalSet
from facekit.evaluation.identification import LAST_RANK, on_grid, same_width, side_at
from facekit.evaluation.rates import Rates, SearchBootstrap, delta_rows, plain_rate, rate_rows
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import Asked, CmcCurve, Measured, Scorer, Side, Table, label_of, marked
from facekit.evaluation.vectors import unit_vectors

CELLS = 1 << 22
"""Scores held at once: 32 MB, and a few copies."""


class Retrieved(NamedTuple):
    """What is kept of Q queries; NaN and 0 where a query has no match in the gallery."""

    average_precision: np.ndarray
    """float64 [Q], mean over the matches of k / rank of the k-th match"""
    first: np.ndarray
    """int64 [Q], rank of the best match from 1"""
    recall: np.ndarray
    """float64 [Q,K], share of the query's matches within each rank asked for"""

    @property
    def answerable(self) -> np.ndarray:
        """bool [Q]"""
        return self.first > 0


def retrieve(
    scorer: Scorer, query: Side, gallery: Side, bench: RetrievalSet, ranks: Sequence[int], cells: int = CELLS
) -> Retrieved:
    """Rank the gallery for every query, ``cells`` scores at a time; the result does not depend on their number.

    Matches at ranks 1 and 3 of a query with two: average precision (1/1 + 2/3) / 2 = 0.83, first 1, recall at 1: 0.5.
    """
    rows = max(1, cells // len(gallery.vectors))
    grid = on_grid(gallery.vectors)
    parts = []
    for start in range(0, len(query.vectors), rows):
        part = slice(start, start + rows)
        some = side_at(query, part)
        scores = scorer.combine(on_grid(some.vectors) @ grid.T, gallery.terms[None], some.terms[:, None])
        same = bench.query_person[part, None] == bench.gallery_person
        seen_alike = (bench.query_camera[part, None] == bench.gallery_camera) & (bench.gallery_camera >= 0)
        junk = (bench.query_content[part, None] == bench.gallery_content) | (same & seen_alike)
        parts.append(judge(scores, same & ~junk, ~same & ~junk, ranks))
    return Retrieved(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def judge(scores: np.ndarray, match: np.ndarray, other: np.ndarray, ranks: Sequence[int]) -> Retrieved:
    """Scores [q,G] of some queries, where their matches are, and what competes with them (bool [q,G])."""
    query, column = np.nonzero(match)
    score = scores[query, column]
    order = np.lexsort((-score, query))
    query, score = query[order], score[order]
    count = np.bincount(query, minlength=len(scores))
    begin = np.cumsum(count) - count
    place = np.arange(len(query)) - begin[query] + 1
    rank = place + at_least(np.sort(np.where(other, scores, -np.inf), axis=1), query, score)
    first = np.zeros(len(scores), np.int64)
    first[count > 0] = rank[begin[count > 0]]
    values = [place / rank, *(rank <= k for k in ranks)]
    total = np.stack([np.bincount(query, weights=value, minlength=len(scores)) for value in values])
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return Retrieved(mean[0], first, mean[1:].T)


def at_least(ascending: np.ndarray, row: np.ndarray, value: np.ndarray) -> np.ndarray:
    """How many numbers of ``ascending[row]`` are >= ``value``, int64 [n]: bisection of all rows [q,G] at once."""
    width = ascending.shape[1]
    low, high = np.zeros(len(row), np.int64), np.full(len(row), width)
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        below = ascending[row, np.minimum(middle, width - 1)] < value
        low, high = np.where(below & (low < high), middle + 1, low), np.where(below, high, middle)
    return width - low


# --- measuring --------------------------------------------------------------------------------------------


def measure_retrieval(bench: RetrievalSet, table: Table, asked: Asked) -> Measured:
    """``map``, ``cmc`` and ``recall@k`` at the ranks asked for, for every scorer, each held against the first.

    ``n_genuine`` counts the queries that have a match; the others have no say.
    """
    query, gallery = (unit_vectors(table(s), asked.flip, s.names) for s in (bench.query, bench.gallery))
    same_width(gallery, query)
    found = Measured([], [])
    first: list[Rates] | None = None
    boot: SearchBootstrap | None = None
    for scorer in asked.scorers:
        # Nobody knows in operation who is in the gallery of a retrieval: terms are told no names.
        sides = Side(query, scorer.terms(query)), Side(gallery, scorer.terms(gallery))
        retrieved = retrieve(scorer, *sides, bench, asked.ranks)
        if not retrieved.answerable.any():
            raise InputError(f"no query of {bench.path} has a match in the gallery under another camera")
        if boot is None and asked.draws:
            boot = SearchBootstrap(bench.query_person, retrieved.answerable, draws=asked.draws, seed=asked.seed)
        row = marked(retrieval_row(bench, retrieved, asked), scorer)
        measured = rates_of(retrieved, asked.ranks, boot)
        for rates in measured:
            found.rows.extend(rate_rows(rates, row, boot))
        if first is None:
            first = measured
        else:
            for before, after in zip(first, measured, strict=True):
                found.rows.extend(delta_rows(before, after, row, boot))
        if asked.curves:
            found.curves.append(cmc_curve(bench.name, label_of(scorer), retrieved, len(gallery)))
    return found


def retrieval_row(bench: RetrievalSet, retrieved: Retrieved, asked: Asked) -> Row:
    """The columns that all numbers of one set share."""
    return dataclasses.replace(
        asked.stamp,
        benchmark=bench.name,
        variant=f"flip-{asked.flip}",
        n_genuine=int(retrieved.answerable.sum()),
        n_images=len(bench.query) + len(bench.gallery),
        n_identities=len(np.unique(bench.query_person)),
        n_failed=bench.failed,
    )


def rates_of(retrieved: Retrieved, ranks: Sequence[int], boot: SearchBootstrap | None) -> list[Rates]:
    """Means over the queries that have a match."""
    kept = retrieved.answerable
    silent = int((~kept).sum())
    note = f"{silent} of {len(kept)} queries have no match in the gallery and no say" if silent else ""
    within = (retrieved.first[kept, None] <= np.array(ranks)).astype(float)
    values = {
        "map": ([None], retrieved.average_precision[kept, None]),
        "cmc": (ranks, within),
        "recall@k": (ranks, retrieved.recall[kept]),
    }
    return [
        Rates(
            protocol="retrieval",
            metric=metric,
            at=at,
            points=[plain_rate(float(np.mean(column)), note) for column in columns.T],
            drawn=[None if boot is None else boot.mean(column) for column in columns.T],
        )
        for metric, (at, columns) in values.items()
    ]


def cmc_curve(benchmark: str, label: str, retrieved: Retrieved, gallery: int) -> CmcCurve:
    """Share of the answerable queries with a match within each rank."""
    rank = np.arange(1, min(LAST_RANK, gallery) + 1)
    first = np.sort(retrieved.first[retrieved.answerable])
    return CmcCurve(benchmark, label, rank, np.searchsorted(first, rank, side="right") / len(first))
