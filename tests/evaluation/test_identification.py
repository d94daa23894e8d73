"""1:N identification against loops over every pair of probe and template, on scores full of ties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import ArtefactMismatch
from facekit.data.galleries import GallerySet
from facekit.data.protocol import Source
from facekit.data.vectors import NamedOnly
from facekit.evaluation.identification import (
    Searches,
    cmc,
    draw_tpir,
    identify,
    measure_galleries,
    on_grid,
    search,
    tpir_at_fpir,
)
from facekit.evaluation.rates import SearchBootstrap
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import RAW, Asked, CmcCurve, People, Raw, Side


@dataclass(frozen=True)
class Shifted(Raw):
    """Cosine minus what either image knows of itself: no longer symmetric, no longer bounded by one."""

    name: str = "shifted"

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        return cosine - 0.5 * enrolled[..., 0] + 0.25 * probe[..., 0]


def coarse(rng: np.random.Generator, n: int, width: int = 4) -> Side:
    """Few distinct unit vectors and few distinct terms, so that every second comparison is a tie."""
    vectors = rng.choice([-0.5, 0.5], (n, width)) if width == 4 else np.eye(width)[rng.integers(0, width, n)]
    return Side(vectors, rng.integers(0, 3, (n, 1)) / 4)


def oracle(scorer: Raw, gallery: Side, who: np.ndarray, probe: Side, searched: np.ndarray) -> list[tuple[float, ...]]:
    """(mate, other, rank) of each probe, one comparison at a time."""
    found = []
    for p, person in enumerate(searched.tolist()):
        best: dict[int, float] = {}
        for g, enrolled in enumerate(who.tolist()):
            cosine = np.array(sum(a * b for a, b in zip(gallery.vectors[g], probe.vectors[p], strict=True)))
            score = float(scorer.combine(cosine, gallery.terms[g], probe.terms[p]))
            best[enrolled] = max(score, best.get(enrolled, -math.inf))
        mate = best.pop(person, math.nan)
        rank = 0 if math.isnan(mate) else 1 + sum(score >= mate for score in best.values())
        found.append((mate, max(best.values(), default=-math.inf), rank))
    return found


@pytest.mark.parametrize("scorer", [RAW, Shifted()], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(4))
def test_ranks_and_scores_equal_a_loop_whatever_the_block(scorer: Raw, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gallery, probe = coarse(rng, 23), coarse(rng, 17)
    who, searched = rng.integers(0, 9, 23), rng.integers(0, 12, 17)
    wanted = oracle(scorer, gallery, who, probe, searched)
    for block in (1, 7, 8, 64, 4096):
        found = identify(scorer, gallery, who, probe, searched, block=block)
        np.testing.assert_array_equal(np.stack([found.mate, found.other, found.rank], axis=1), np.array(wanted))
        assert found.mated.tolist() == np.isin(searched, who).tolist()


def test_blocks_cannot_change_the_last_bit_of_ordinary_vectors() -> None:
    rng = np.random.default_rng(0)
    gallery, probe = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 60, 96)))
    gallery[30:] = gallery[:30]  # every image is enrolled twice, under two names: only exact ties rank them alike
    who, searched = np.arange(60), np.arange(60) % 30
    sides = Side(gallery, np.empty((60, 0))), Side(probe, np.empty((60, 0)))
    whole = identify(RAW, sides[0], who, sides[1], searched)
    for block in (1, 7, 100):
        for a, b in zip(whole, identify(RAW, sides[0], who, sides[1], searched, block=block), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (whole.rank >= 2).all()  # the other name ties with the mate, and a tie counts against it
    exact = [[Fraction(x) for x in row] for row in on_grid(gallery[:3]).tolist()]
    for i, row in enumerate(exact):
        dot = sum(a * Fraction(b) for a, b in zip(row, on_grid(probe[i : i + 1])[0].tolist(), strict=True))
        assert Fraction(float(whole.mate[i])) == dot  # no rounding at all
    np.testing.assert_allclose(on_grid(gallery), gallery, atol=2.0**-27, rtol=0)


@dataclass(frozen=True)
class Small(Raw):
    """Refuses to be shown more scores at once than it may be."""

    most: int = 0

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        assert cosine.ndim == 1 or cosine.size <= self.most
        return cosine


def test_no_tile_is_larger_than_asked() -> None:
    rng = np.random.default_rng(0)
    gallery, probe = coarse(rng, 300), coarse(rng, 200)
    for block in (1, 16, 64):
        scorer = Small(most=block * max(1, block // 8))
        identify(scorer, gallery, rng.integers(0, 9, 300), probe, rng.integers(0, 12, 200), block=block)


def test_one_person_with_many_templates_counts_once() -> None:
    """Five templates of a stranger above the mate are one rank, not five."""
    gallery = Side(np.eye(3)[[0, 0, 0, 0, 0, 1]], np.empty((6, 0)))
    probe = Side(np.array([[0.8, 0.6, 0.0]]), np.empty((1, 0)))
    for block in (1, 2, 4, 6):
        found = identify(RAW, gallery, np.array([7, 7, 7, 7, 7, 3]), probe, np.array([3]), block=block)
        assert found.rank.tolist() == [2]


def test_a_second_template_of_the_mate_helps_it() -> None:
    gallery = Side(np.eye(3), np.empty((3, 0)))
    probe = Side(np.array([[0.0, 0.6, 0.8]]), np.empty((1, 0)))
    assert identify(RAW, gallery, np.array([3, 7, 3]), probe, np.array([3])).rank.tolist() == [1]
    assert identify(RAW, gallery, np.array([3, 7, 8]), probe, np.array([3])).rank.tolist() == [3]


# --- rates ------------------------------------------------------------------------------------------------


def searches(mate: list[float], other: list[float], rank: list[int] | None = None) -> Searches:
    """By default rank 1 where the mate is above the best other one, else 2."""
    m, o = np.array(mate), np.array(other)
    default = np.where(np.isnan(m), 0, np.where(m > o, 1, 2))
    return Searches(np.arange(len(m)), m, o, default if rank is None else np.array(rank))


NAN = math.nan


def test_cmc_by_hand() -> None:
    found = searches([0.9, 0.9, 0.9, NAN], [0.1] * 4, [1, 3, 2, 0])
    assert cmc(found, (1, 2, 3)) == [1 / 3, 2 / 3, 1.0]  # the search of a stranger has no say
    assert math.isnan(cmc(searches([NAN], [0.3]), (1,))[0])


def loop_tpir(found: Searches, fpir: Fraction, rank: int) -> tuple[float, int]:
    """(TPIR, false alarms): try every threshold that could matter."""
    strangers = [float(t) for t, r in zip(found.top, found.rank, strict=True) if r == 0]
    mates = [(float(m), int(r)) for m, r in zip(found.mate, found.rank, strict=True) if r]
    candidates = sorted({-math.inf, *(np.nextafter(t, math.inf) for t in strangers)})
    threshold = next(t for t in candidates if Fraction(sum(s >= t for s in strangers), len(strangers)) <= fpir)
    hits = sum(m >= threshold and r <= rank for m, r in mates)
    return hits / len(mates), sum(s >= threshold for s in strangers)


levels = st.integers(0, 5).map(lambda k: k / 5)


@given(
    st.lists(st.tuples(levels, levels, st.integers(1, 4)), min_size=1, max_size=12),
    st.lists(levels, min_size=2, max_size=12),
    st.sampled_from(["0.1", "0.25", "0.29", "0.5", "1"]),
    st.sampled_from([1, 2, 20]),
)
def test_tpir_equals_a_search_over_thresholds(
    mates: list[tuple[float, float, int]], strangers: list[float], fpir: str, rank: int
) -> None:
    found = searches(
        [*(m for m, _, _ in mates), *(NAN for _ in strangers)],
        [*(o for _, o, _ in mates), *strangers],
        [*(r for _, _, r in mates), *(0 for _ in strangers)],
    )
    point = tpir_at_fpir(found, float(fpir), rank)
    if Fraction(fpir) * len(strangers) < 1:
        assert (point.status, point.value, point.threshold) == ("not_measurable", None, None)
        return
    assert (point.value, point.n_false) == loop_tpir(found, Fraction(fpir), rank)
    assert point.achieved is not None and point.achieved <= float(fpir) and point.status == "low_support"


def test_the_index_minus_one_rule_is_one_false_alarm_too_strict() -> None:
    """FPIR 0.2 of ten strangers allows two false alarms; the peers' index int(2) - 1 = 1 with > allows one."""
    strangers = [k / 20 for k in range(10)]  # 0 .. 0.45
    found = searches([0.38, 0.9], [0.0, 0.0])
    found = Searches(*(np.concatenate(x) for x in zip(found, searches([NAN] * 10, strangers), strict=True)))
    point = tpir_at_fpir(found, 0.2)
    assert (point.value, point.n_false, point.achieved) == (1.0, 2, 0.2)  # 0.38 lies above the third, 0.35
    peers = sorted(strangers, reverse=True)[max(int(0.2 * 10) - 1, 0)]
    assert np.mean([m > peers for m in (0.38, 0.9)]) == 0.5 and sum(s > peers for s in strangers) == 1
    assert tpir_at_fpir(found, 0.1).value == 0.5 and tpir_at_fpir(found, 0.1).n_false == 1


def test_fpir_below_one_false_alarm_is_not_measurable() -> None:
    """The peers silently read the top score there."""
    found = searches([0.9, *[NAN] * 9], [0.1] * 10)
    point = tpir_at_fpir(found, 0.1)
    assert point.status == "not_measurable" and point.value is None
    assert point.note == "FPIR 0.1 needs at least 10 searches of people who are not enrolled, there are 9"
    assert tpir_at_fpir(searches([0.9], [0.1]), 0.1).status == "not_measurable"
    assert tpir_at_fpir(searches([NAN] * 10, [0.1] * 10), 0.1).status == "not_measurable"


def test_support_is_low_below_thirty_false_alarms() -> None:
    for strangers, status in ((299, "low_support"), (300, "ok")):
        assert tpir_at_fpir(searches([0.9, *[NAN] * strangers], [0.1] * (strangers + 1)), 0.1).status == status


def test_galleries_that_are_joined_lose_their_strangers() -> None:
    """Scored alone, each gallery's own strangers are the other's people; scored jointly nobody is a stranger."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    probe, people = Side(vectors, np.empty((8, 0))), np.arange(8)
    alone = [
        identify(RAW, Side(vectors[s], np.empty((4, 0))), people[s], probe, people) for s in (slice(4), slice(4, 8))
    ]
    assert [int((~a.mated).sum()) for a in alone] == [4, 4]
    assert [tpir_at_fpir(a, 0.25).value for a in alone] == [1.0, 1.0]
    joined = identify(RAW, Side(vectors, np.empty((8, 0))), people, probe, people)
    assert tpir_at_fpir(joined, 0.25).status == "not_measurable"


# --- intervals --------------------------------------------------------------------------------------------


def written_out(found: Searches, times: np.ndarray) -> Searches:
    """Each search as often as its person was drawn."""
    people = np.unique(found.subject)
    again = np.repeat(np.arange(len(found.subject)), times[np.searchsorted(people, found.subject)])
    return Searches(*(x[again] for x in found))


def test_every_draw_equals_writing_the_searches_down_as_often_as_drawn() -> None:
    rng = np.random.default_rng(1)
    n = 60
    mated = rng.random(n) < 0.5
    found = Searches(
        np.where(mated, rng.integers(0, 9, n), rng.integers(20, 35, n)),
        np.where(mated, rng.integers(0, 8, n) / 8, NAN),
        rng.integers(0, 8, n) / 8,
        np.where(mated, rng.integers(1, 4, n), 0),
    )
    boot = SearchBootstrap(found.subject, found.mated, draws=40, seed=3)
    drawn = {(fpir, rank): draw_tpir(boot, found, fpir, rank) for fpir in (0.1, 0.29, 1.0) for rank in (1, 2)}
    ranks = {rank: boot.mean(found.rank[found.mated] <= rank) for rank in (1, 2, 3)}
    for r in range(40):
        again = written_out(found, boot.multiplicity[:, r])
        assert [ranks[k][r] for k in (1, 2, 3)] == cmc(again, (1, 2, 3))
        for (fpir, rank), values in drawn.items():
            assert values[r] == tpir_at_fpir(again, fpir, rank).value
    assert boot.trials == len(np.unique(found.subject[mated])) and boot.method == "identity_bootstrap"


# --- measuring --------------------------------------------------------------------------------------------


def table(source: Source) -> np.ndarray:
    assert isinstance(source, NamedOnly) and source.embeddings is not None
    return source.embeddings


def embedded(rng: np.random.Generator, centres: np.ndarray, subject: np.ndarray) -> NamedOnly:
    vectors = centres[subject] + 1.2 * rng.normal(size=(len(subject), centres.shape[1])) / centres.shape[1] ** 0.5
    names = [f"{person}/{i}.jpg" for i, person in enumerate(subject)]
    return NamedOnly(names, subject, tuple(map(str, range(len(centres)))), vectors[:, None].astype(np.float32))


@pytest.fixture
def bench() -> GallerySet:
    """30 people enrolled twice; 60 people searched twice."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 16))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    enrolled, searched = np.repeat(np.arange(30), 2), np.repeat(np.arange(60), 2)
    gallery, probe = embedded(rng, centres, enrolled), embedded(rng, centres, searched)
    return GallerySet("toy", "g p", gallery, probe, enrolled, searched, tuple(map(str, range(60))), 3, ())


@dataclass(frozen=True)
class Nosy(Raw):
    """Remembers what it was told, and takes a constant off two of three enrolled people."""

    name: str = "nosy"
    support: str | None = "cohort"
    alpha: float | None = 0.5

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        assert (people is not None) == (len(vectors) == 60)  # who is on a probe is what the search shall find
        return 0.9 * (np.arange(len(vectors)) // 2 % 3 > 0)[:, None]

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        return cosine - enrolled[..., 0]


def test_measured_rows_say_what_was_counted(bench: GallerySet) -> None:
    stamp = Row(model="m", seed=7)
    asked = Asked(scorers=(RAW, Nosy()), fpirs=(0.5, 0.1, 0.01), ranks=(1, 5), draws=60, stamp=stamp, curves=True)
    rows, curves = measure_galleries(bench, table, asked)
    unit = [
        table(s)[:, 0] / np.linalg.norm(table(s)[:, 0], axis=1, keepdims=True) for s in (bench.gallery, bench.probe)
    ]
    for scorer in asked.scorers:
        searches = search(scorer, unit[0].astype(np.float64), unit[1].astype(np.float64), bench)
        mine = {(r.metric, r.at): r for r in rows if r.score == scorer.name}
        for rank in asked.ranks:
            row = mine["cmc", rank]
            assert row.value == pytest.approx(cmc(searches, (rank,))[0]) and row.protocol == "1:N-closed"
            assert row.low is not None and row.high is not None and row.value is not None
            assert row.low <= row.value <= row.high and row.ci_method in ("identity_bootstrap", "wilson")
        for fpir in (0.5, 0.1):
            row, point = mine["tpir@fpir", fpir], tpir_at_fpir(searches, fpir)
            assert (row.value, row.n_false) == (point.value, point.n_false) and row.protocol == "1:N-open"
            assert row.threshold == pytest.approx(point.threshold) and row.achieved == point.achieved
            assert row.status == ("ok" if fpir == 0.5 else "low_support") and row.low is not None
            assert mine["smallest_effect.tpir@fpir", fpir].value is not None
        assert mine["tpir@fpir", 0.01].status == "not_measurable" and mine["tpir@fpir", 0.01].value is None
    assert {(r.support, r.alpha) for r in rows} == {(None, None), ("cohort", 0.5)}
    for r in rows:
        assert (r.n_genuine, r.n_impostor, r.n_images, r.n_identities, r.n_failed) == (60, 60, 180, 30, 3)
        assert (r.model, r.seed, r.benchmark, r.variant) == ("m", 7, "toy", "flip-none")
    assert all(isinstance(c, CmcCurve) and c.rank.tolist() == list(range(1, 31)) for c in curves)
    assert [c.label for c in curves] == ["raw", "nosy, cohort"] and curves[0].rate[-1] == 1.0


def test_a_delta_is_the_difference_over_the_same_draws(bench: GallerySet) -> None:
    asked = Asked(scorers=(RAW, Nosy(), Raw(name="again")), fpirs=(0.5, 0.01), ranks=(1,), draws=100)
    rows = measure_galleries(bench, table, asked).rows
    value = {(r.score, r.metric, r.at): r for r in rows}
    assert not any(r.score == "raw" and r.metric.startswith("delta") for r in rows)
    for metric, at in (("cmc", 1), ("tpir@fpir", 0.5)):
        delta = value["nosy", f"delta.{metric}", at]
        a, b = value["raw", metric, at].value, value["nosy", metric, at].value
        assert a is not None and b is not None and delta.value == pytest.approx(b - a) and b < a
        assert delta.protocol == "paired" and delta.high is not None and delta.high < 0
        assert delta.note.startswith("worse: more than chance")
        assert value["nosy", f"smallest_effect.delta.{metric}", at].value is not None
        same = value["again", f"delta.{metric}", at]
        assert same.value == 0 and same.note.startswith("undecided") and same.low == -3 / 30 and same.high == 3 / 30
    unknown = value["nosy", "delta.tpir@fpir", 0.01]
    assert (
        unknown.value is None and unknown.status == "not_measurable" and unknown.note.startswith("undecided: FPIR 0.01")
    )


def test_without_draws_there_are_values_alone(bench: GallerySet) -> None:
    rows, curves = measure_galleries(bench, table, Asked(scorers=(RAW, Nosy()), fpirs=(0.5,), ranks=(1,), draws=0))
    assert [r.metric for r in rows] == ["cmc", "tpir@fpir", *["cmc", "tpir@fpir", "delta.cmc", "delta.tpir@fpir"]]
    assert all(r.value is not None and r.low is None for r in rows) and curves == []


def test_two_models_do_not_meet(bench: GallerySet) -> None:
    def of_two_models(source: Source) -> np.ndarray:
        return table(source)[..., :8] if source is bench.probe else table(source)

    with pytest.raises(ArtefactMismatch, match="16 numbers, the probes' 8"):
        measure_galleries(bench, of_two_models, Asked())
