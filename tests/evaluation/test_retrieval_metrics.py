"""Retrieval against loops over every ranking, on scores full of ties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.data.protocol import Source
from facekit.data.retrieval import RetrievalSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation.retrieval import at_least, measure_retrieval, retrieve
from facekit.evaluation.scoring import RAW, Asked, Raw, Side

RANKS = (1, 2, 5)


def make(rng: np.random.Generator, queries: int, images: int, people: int, cameras: int) -> RetrievalSet:
    """Coarse unit vectors; some distractors; some images without a camera; some copies of queries in the gallery."""
    sides = []
    for n in (queries, images):
        vectors = rng.choice([-0.5, 0.5], (n, 1, 4)).astype(np.float32)
        sides.append(NamedOnly([f"{i}.jpg" for i in range(n)], np.full(n, -1), (), vectors))
    content = np.concatenate([np.arange(queries), rng.integers(0, queries + 3 * images, images)])
    return RetrievalSet(
        name="toy",
        path="toy",
        query=sides[0],
        gallery=sides[1],
        query_person=rng.integers(0, people, queries),
        gallery_person=rng.integers(-1, people, images),
        query_camera=rng.integers(-1, cameras, queries),
        gallery_camera=rng.integers(-1, cameras, images),
        query_content=content[:queries],
        gallery_content=content[queries:],
        failed=2,
        notes=(),
    )


def table(source: Source) -> np.ndarray:
    assert isinstance(source, NamedOnly) and source.embeddings is not None
    return source.embeddings


def sides(bench: RetrievalSet) -> tuple[Side, Side]:
    query, gallery = (table(s)[:, 0].astype(np.float64) for s in (bench.query, bench.gallery))
    return Side(query, np.empty((len(query), 0))), Side(gallery, np.empty((len(gallery), 0)))


def oracle(bench: RetrievalSet, q: int) -> tuple[float, int, list[float]]:
    """(average precision, rank of the best match, recalls) of one query: write the ranking down and walk along it."""
    query, gallery = (side.vectors for side in sides(bench))
    ranking = []
    for g in range(len(gallery)):
        same = bench.query_person[q] == bench.gallery_person[g]
        camera = bench.query_camera[q] == bench.gallery_camera[g] and bench.query_camera[q] >= 0
        if bench.query_content[q] == bench.gallery_content[g] or (same and camera):
            continue
        ranking.append((-float(query[q] @ gallery[g]), bool(same)))  # in a tie others come before matches
    ranking.sort()
    places = [i for i, (_, match) in enumerate(ranking, 1) if match]
    if not places:
        return math.nan, 0, [math.nan] * len(RANKS)
    precision = [k / place for k, place in enumerate(places, 1)]
    return sum(precision) / len(places), places[0], [sum(p <= k for p in places) / len(places) for k in RANKS]


@pytest.mark.parametrize("seed", range(5))
def test_every_query_equals_its_written_ranking(seed: int) -> None:
    bench = make(np.random.default_rng(seed), queries=24, images=40, people=9, cameras=3)
    wanted = [oracle(bench, q) for q in range(24)]
    for cells in (1, 7 * 40, 1 << 22):
        found = retrieve(RAW, *sides(bench), bench, RANKS, cells=cells)
        np.testing.assert_allclose(found.average_precision, [w[0] for w in wanted], rtol=1e-12)
        assert found.first.tolist() == [w[1] for w in wanted]
        np.testing.assert_allclose(found.recall, [w[2] for w in wanted], rtol=1e-12)
    assert 0 < int(found.answerable.sum()) <= 24


def one(person: list[int], camera: list[int], cosine: list[float]) -> RetrievalSet:
    """One query of person 0 under camera 0, at the given angles to the gallery."""
    n = len(person)
    gallery = np.array([[c, math.sqrt(1 - c * c)] for c in cosine], np.float32)
    query = NamedOnly(["q"], np.array([-1]), (), np.array([[[1.0, 0.0]]], np.float32))
    images = NamedOnly([str(i) for i in range(n)], np.full(n, -1), (), gallery[:, None])
    numbers = np.arange(n + 1)
    zero = np.zeros(1, np.int64)
    return RetrievalSet(
        "one", "one", query, images, zero, np.array(person), zero, np.array(camera), numbers[:1], numbers[1:], 0, ()
    )


def test_the_example_of_the_docstring() -> None:
    bench = one([0, 1, 0, 2], [1, 1, 2, 1], [0.9, 0.8, 0.7, 0.6])
    found = retrieve(RAW, *sides(bench), bench, (1, 3))
    assert found.average_precision[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.first.tolist() == [1] and found.recall.tolist() == [[0.5, 1.0]]


def test_the_same_camera_is_junk_a_distractor_is_not() -> None:
    bench = one([0, -1, 0], [0, 1, 1], [0.99, 0.9, 0.8])  # its own camera, a distractor, the match
    assert retrieve(RAW, *sides(bench), bench, (1,)).first.tolist() == [2]
    unknown = replace(bench, query_camera=np.array([-1]), gallery_camera=np.array([-1, -1, -1]))
    assert retrieve(RAW, *sides(unknown), unknown, (1,)).first.tolist() == [1]  # no camera, no rule
    itself = replace(unknown, gallery_content=np.array([0, 2, 3]))
    assert retrieve(RAW, *sides(itself), itself, (1,)).first.tolist() == [2]  # but never its own image


def test_counting_by_bisection() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 3, 7, 8, 9):
        table = np.sort(rng.integers(0, 4, (5, width)).astype(float), axis=1)
        table[0] = -np.inf
        row, value = rng.integers(0, 5, 40), rng.integers(-1, 6, 40).astype(float)
        wanted = [int((table[r] >= x).sum()) for r, x in zip(row, value, strict=True)]
        assert at_least(table, row, value).tolist() == wanted


def test_measured_rows() -> None:
    bench = make(np.random.default_rng(1), queries=60, images=80, people=20, cameras=3)
    asked = Asked(scorers=(RAW, Raw(name="again")), ranks=(1, 5), draws=50, curves=True)
    rows, curves = measure_retrieval(bench, table, asked)
    wanted = [oracle(bench, q) for q in range(60)]
    known = [w for w in wanted if w[1]]
    value = {(r.score, r.metric, r.at): r for r in rows}
    assert value["raw", "map", None].value == pytest.approx(np.mean([w[0] for w in known]))
    assert value["raw", "cmc", 5].value == pytest.approx(np.mean([w[1] <= 5 for w in known]))
    assert value["raw", "recall@k", 5].value == pytest.approx(np.mean([w[2][2] for w in known]))
    assert len(known) < 60 and f"{60 - len(known)} of 60 queries have no match" in value["raw", "map", None].note
    for r in rows:
        assert r.n_genuine == len(known) and r.n_images == 140 and r.n_failed == 2
    interval = value["raw", "map", None]
    assert interval.low is not None and interval.high is not None and interval.value is not None
    assert interval.low < interval.value < interval.high and interval.ci_method == "identity_bootstrap"
    assert value["again", "delta.map", None].value == 0 and value["again", "delta.cmc", 1].protocol == "paired"
    assert curves[0].rate[4] == pytest.approx(value["raw", "cmc", 5].value) and curves[0].rank[0] == 1  # type: ignore[union-attr]


def test_queries_without_any_match_are_no_result() -> None:
    with pytest.raises(InputError, match="no query of one has a match"):
        measure_retrieval(one([0, 1], [0, 1], [0.9, 0.8]), table, Asked())
