"""IJB's 1:1 and 1:N from the definitions, by loops over pairs and searches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from facekit.data.ijb import Gallery, TemplateSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation import ijb, taildraws
from facekit.evaluation import verification as v
from facekit.evaluation.ijb import measure_ijb
from facekit.evaluation.manyscores import Tail
from facekit.evaluation.pooling import template_vectors
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import RAW, Asked, Measured, People, RocCurve, Scorer
from facekit.evaluation.statistics import IdentityBootstrap
from facekit.evaluation.taildraws import TailBootstrap

PEOPLE, ENROLLED, SEARCHED = 12, 24, 60


@dataclass(frozen=True)
class Shifted:
    """A stand-in for an alignment; it remembers whose names it was told."""

    name: str = "shifted"
    support: str | None = "toy"
    alpha: float | None = 0.5
    neighbours: int | None = 3
    transductive: bool = False
    told: list[tuple[np.ndarray, People | None]] = dataclasses.field(default_factory=list)

    def terms(self, vectors: np.ndarray, people: People | None = None) -> np.ndarray:
        self.told.append((vectors, people))
        return vectors[:, :1] ** 2

    def combine(self, cosine: np.ndarray, enrolled: np.ndarray, probe: np.ndarray) -> np.ndarray:
        return np.asarray(cosine - 0.9 * enrolled[..., 0] - 0.3 * probe[..., 0])

    def pairs(self, enrolled: object, probe: object, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def make(seed: int = 0, noise: float = 1.4, coarse: bool = False) -> tuple[TemplateSet, np.ndarray]:
    """(a set, its embeddings [N,2,D]): two enrolled templates and five searched ones of each of twelve people.

    The first half of the people is in G1, the rest in G2. ``coarse`` templates are of one image of few values, so that
    scores tie.
    """
    rng = np.random.default_rng(seed)
    subject = np.concatenate([np.repeat(np.arange(PEOPLE), 2), np.repeat(np.arange(PEOPLE), 5)])
    images = np.ones(len(subject), int) if coarse else rng.integers(1, 5, len(subject))
    template = np.repeat(np.arange(len(subject)), images)
    width = 8 if coarse else 16
    centre = rng.normal(size=(PEOPLE, width))
    table = (centre[subject[template], None] + noise * rng.normal(size=(len(template), 2, width))).astype(np.float32)
    if coarse:
        for row in table[:, 0]:
            row[:] = 0
            row[rng.choice(width, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    left, right = np.meshgrid(np.arange(ENROLLED), np.arange(ENROLLED, len(subject)), indexing="ij")
    left, right = left.ravel().astype(np.int32), right.ravel().astype(np.int32)
    names = tuple(f"p{i:02d}" for i in range(PEOPLE))
    bench = TemplateSet(
        name="ijbc",
        path="toy",
        sha256="",
        source=NamedOnly([f"{i}.jpg" for i in range(len(template))], np.full(len(template), -1), ()),
        template=template.astype(np.int32),
        media=rng.integers(0, 3, len(template)),
        faceness=np.ones(len(template)) if coarse else rng.uniform(0.3, 1, len(template)),
        template_id=np.arange(len(subject)),
        left=left,
        right=right,
        same=subject[left] == subject[right],
        subject=subject,
        subjects=names,
        galleries=(Gallery("G1", np.arange(12, dtype=np.int32)), Gallery("G2", np.arange(12, 24, dtype=np.int32))),
        probe=np.arange(ENROLLED, len(subject), dtype=np.int32),
        failed=3,
        notes=(),
    )
    return bench, table


def measure(bench: TemplateSet, table: np.ndarray, asked: Asked, norm: str = "keep", faceness: bool = True) -> Measured:
    return measure_ijb(bench, lambda source: table, dataclasses.replace(asked, image_norm=norm, faceness=faceness))


def rows_of(found: Measured, metric: str, score: str = "raw", variant: str | None = None) -> dict[float | None, Row]:
    return {r.at: r for r in found.rows if (r.metric, r.score) == (metric, score) and variant in (None, r.variant)}


def literal_scores(bench: TemplateSet, vectors: np.ndarray, scorer: Scorer) -> np.ndarray:
    terms = scorer.terms(vectors)
    return np.array(
        [
            float(scorer.combine(np.array([vectors[a] @ vectors[b]]), terms[[a]], terms[[b]])[0])
            for a, b in zip(bench.left, bench.right, strict=True)
        ]
    )


FARS = (0.5, 0.1, 0.01, 0.001)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("scorer", [RAW, Shifted()])
@pytest.mark.parametrize("chunk", [50, 1 << 20])
def test_strict_and_compat_are_those_of_all_pairs(
    coarse: bool, scorer: Scorer, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ijb, "CHUNK", chunk)
    bench, table = make(coarse=coarse)
    found = measure(bench, table, Asked(flip="none", scorers=(scorer,), fars=FARS, draws=0))
    vectors = template_vectors(bench, table, "none")
    full = v.Scores.of(literal_scores(bench, vectors, scorer).round(12), bench.same)
    strict, compat = (rows_of(found, metric, scorer.name) for metric in ("tar@far", "tar@far_nearest"))
    n_impostor = int((~bench.same).sum())
    for far in FARS:
        point = v.tar_at_far(full, far)
        assert strict[far].value == point.value and strict[far].n_false == point.n_false
        assert strict[far].threshold == pytest.approx(point.threshold)
        assert (compat[far].value, compat[far].achieved) == pytest.approx(v.tar_at_far_nearest(full, far))
        assert (strict[far].n_genuine, strict[far].n_impostor) == (len(bench.same) - n_impostor, n_impostor)
    assert strict[0.1].variant == "keep-D1-F0" and strict[0.1].n_failed == 3 and strict[0.1].n_identities == 12


def test_variant_names_say_what_was_done() -> None:
    bench, table = make()
    values = {}
    for norm in ("keep", "unit"):
        for faceness in (True, False):
            for flip in ("none", "sum"):
                found = measure(bench, table, Asked(flip=flip, fars=(0.01,), draws=0), norm, faceness)
                row = rows_of(found, "tar@far")[0.01]
                values[row.variant] = row.value
    assert sorted(str(name) for name in values) == [
        f"{norm}-D{d}-F{f}" for norm in ("keep", "unit") for d in (0, 1) for f in (0, 1)
    ]
    assert len(set(values.values())) > 1


def test_far_that_cannot_be_measured_has_no_value() -> None:
    bench, table = make()
    found = measure(bench, table, Asked(fars=(1e-2, 1e-5), draws=50))
    row = rows_of(found, "tar@far")[1e-5]
    assert row.value is None and row.status == "not_measurable" and "1,320" in row.note
    assert rows_of(found, "tar@far")[1e-2].status == "low_support"
    assert 1e-5 not in rows_of(found, "tar@far_nearest")


def test_intervals_draw_people_where_they_are_known() -> None:
    bench, table = make()
    asked = Asked(scorers=(RAW, Shifted()), fars=(0.1,), draws=150, seed=2)
    found = measure(bench, table, asked)
    vectors = template_vectors(bench, table, "none")
    scores = [literal_scores(bench, vectors, scorer) for scorer in asked.scorers]
    whole = IdentityBootstrap(bench.subject[bench.left], bench.subject[bench.right], bench.same, draws=150, seed=2)
    drawn = [whole.tar_at_far(one, [0.1])[0] for one in scores]
    row = rows_of(found, "tar@far")[0.1]
    low, high = np.percentile(drawn[0], [2.5, 97.5])
    assert (row.low, row.high, row.ci_method) == (pytest.approx(low), pytest.approx(high), "identity_bootstrap")
    delta = rows_of(found, "delta.tar@far", "shifted")[0.1]
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5])
    assert (delta.low, delta.high) == (pytest.approx(low), pytest.approx(high))
    aligned = rows_of(found, "tar@far", "shifted")[0.1]
    assert delta.value == pytest.approx(aligned.value - row.value)  # type: ignore[operator]
    assert (delta.protocol, delta.support, delta.alpha) == ("paired", "toy", 0.5)


def test_intervals_are_wilsons_where_people_are_not_known() -> None:
    bench, table = make()
    bench = dataclasses.replace(bench, subject=np.full(84, -1), subjects=(), galleries=(), probe=bench.probe[:0])
    found = measure(bench, table, Asked(scorers=(RAW, Shifted()), fars=(0.1,), draws=100))
    row = rows_of(found, "tar@far")[0.1]
    assert row.ci_method == "wilson_pairs" and row.low < row.value < row.high  # type: ignore[operator]
    assert row.n_identities is None
    assert "undecided" in rows_of(found, "delta.tar@far", "shifted")[0.1].note
    assert {r.protocol for r in found.rows} == {"1:1", "paired"}
    assert rows_of(measure(bench, table, Asked(fars=(0.1,), draws=0)), "tar@far")[0.1].low is None


@pytest.mark.parametrize("dense", [True, False])
def test_tail_draws_are_those_of_all_pairs(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    people = 15 if dense else 80
    subject = np.concatenate([np.arange(people), rng.integers(0, people, 20)]) + 7
    left, right = rng.integers(0, len(subject), (2, 900))
    same = subject[left] == subject[right]
    monkeypatch.setattr(taildraws, "CHUNK", 128)
    ours = TailBootstrap(subject, left, right, same, draws=60, seed=1)
    theirs = IdentityBootstrap(subject[left], subject[right], same, draws=60, seed=1)
    assert np.array_equal(ours.impostor_total, theirs.impostor_total)
    assert np.array_equal(ours.genuine_total, theirs.genuine_total)
    scores = rng.normal(size=900).round(1) + same
    best = np.flatnonzero(~same)[np.argsort(-scores[~same], kind="stable")]
    fars = [0.01, 0.1, 0.3]
    wanted = theirs.tar_at_far(scores, fars)
    for keep in (len(best), 500):
        some = best[:keep]
        drawn = ours.tail_tar(scores[same], Tail(scores[some], len(best)), left[some], right[some], fars)
        for rates, expected in zip(drawn, wanted, strict=True):
            assert rates is not None
            np.testing.assert_allclose(rates, expected)
    short = best[:90]
    drawn = ours.tail_tar(scores[same], Tail(scores[short], len(best)), left[short], right[short], fars)
    assert drawn[0] is not None and drawn[1] is None  # some draw allows more than the 90 best


def test_curves_are_those_of_the_rows() -> None:
    bench, table = make()
    found = measure(bench, table, Asked(fars=(0.1, 0.02), draws=40, curves=True))
    roc = next(c for c in found.curves if isinstance(c, RocCurve))
    full = v.Scores.of(literal_scores(bench, template_vectors(bench, table, "none"), RAW), bench.same)
    np.testing.assert_allclose(roc.tar, v.roc(full, roc.far))
    assert roc.far[0] == pytest.approx(10 / len(full.impostor)) and 0.1 < roc.far[-1] <= 0.5
    assert roc.impostor_density.sum() == pytest.approx(1) and roc.genuine_density.sum() == pytest.approx(1)
    assert roc.low is not None and roc.high is not None and (roc.low <= roc.high).all()
    assert len(roc.low) == len(roc.band_far)


# --- 1:N --------------------------------------------------------------------------------------------------


def literal_search(
    bench: TemplateSet, vectors: np.ndarray, scorer: Scorer, gallery: Gallery
) -> list[tuple[bool, float, float, int]]:
    """(mated, best mate, best of anybody else, rank) of every probe."""
    terms, found = scorer.terms(vectors), []
    for p in bench.probe:
        best: dict[int, float] = {}
        for g in gallery.template:
            score = float(scorer.combine(np.array([vectors[g] @ vectors[p]]), terms[[g]], terms[[p]])[0])
            who = int(bench.subject[g])
            best[who] = max(best.get(who, -np.inf), round(score, 12))
        own = best.pop(int(bench.subject[p]), None)
        others = list(best.values())
        found.append((own is not None, own or 0.0, max(others), 1 + sum(s >= (own or 0.0) for s in others)))
    return found


def literal_tpir(searches: list[tuple[bool, float, float, int]], fpir: float) -> float:
    tops = sorted((other for mated, _, other, _ in searches if not mated), reverse=True)
    bound = tops[int(Fraction(str(fpir)) * len(tops))]
    return float(np.mean([rank == 1 and mate > bound for mated, mate, _, rank in searches if mated]))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("scorer", [RAW, Shifted()])
def test_each_gallery_is_scored_alone(coarse: bool, scorer: Scorer) -> None:
    bench, table = make(coarse=coarse, noise=2.0)
    found = measure(bench, table, Asked(scorers=(scorer,), fpirs=(0.1, 0.2), ranks=(1, 2, 5), draws=0))
    vectors = template_vectors(bench, table, "none")
    searches = [literal_search(bench, vectors, scorer, gallery) for gallery in bench.galleries]
    for fpir in (0.1, 0.2):
        alone = [literal_tpir(one, fpir) for one in searches]
        for gallery, wanted in zip(("G1", "G2"), alone, strict=True):
            row = rows_of(found, "tpir@fpir", scorer.name, f"keep-D1-F0-{gallery}")[fpir]
            assert row.value == pytest.approx(wanted) and (row.n_genuine, row.n_impostor) == (30, 30)
        both = rows_of(found, "tpir@fpir", scorer.name, "keep-D1-F0-G1+G2")[fpir]
        assert both.value == pytest.approx(np.mean(alone)) and both.threshold is None
        assert (both.n_genuine, both.n_impostor, both.protocol) == (60, 60, "1:N-open")
    ranks = [rank for one in searches for mated, _, _, rank in one if mated]
    for rank, row in rows_of(found, "cmc", scorer.name).items():
        assert row.value == pytest.approx(np.mean(np.array(ranks) <= rank)) and row.variant == "keep-D1-F0-G1+G2"


def test_joined_galleries_would_have_no_false_alarms() -> None:
    """All probes are mated in the joined gallery: TPIR at FPIR does not exist there, and nobody calls it so."""
    bench, table = make()
    joined = dataclasses.replace(bench, galleries=(Gallery("joined", np.arange(24, dtype=np.int32)),))
    found = measure(joined, table, Asked(fpirs=(0.1,), draws=20))
    row = rows_of(found, "tpir@fpir", variant="keep-D1-F0-joined")[0.1]
    assert row.status == "not_measurable" and row.value is None and row.n_impostor == 0
    apart = rows_of(measure(bench, table, Asked(fpirs=(0.1,), draws=20)), "tpir@fpir", variant="keep-D1-F0-G1+G2")
    assert apart[0.1].value is not None


def test_mean_needs_both_galleries() -> None:
    bench, table = make()
    found = measure(bench, table, Asked(fpirs=(0.01, 0.1), draws=20))
    for variant in ("G1", "G2", "G1+G2"):
        row = rows_of(found, "tpir@fpir", variant=f"keep-D1-F0-{variant}")
        assert row[0.01].status == "not_measurable"  # one in a hundred of thirty
        assert row[0.1].status == "low_support"


def test_mean_is_drawn_over_the_same_people() -> None:
    bench, table = make(noise=2.5)
    found = measure(bench, table, Asked(scorers=(RAW, Shifted()), fpirs=(0.2,), ranks=(1,), draws=200))
    both = rows_of(found, "tpir@fpir", variant="keep-D1-F0-G1+G2")[0.2]
    alone = [rows_of(found, "tpir@fpir", variant=f"keep-D1-F0-{name}")[0.2] for name in ("G1", "G2")]
    assert both.low is not None and both.high is not None and both.ci_method == "identity_bootstrap"
    widths = [(row.high or 0) - (row.low or 0) for row in alone]
    assert both.high - both.low < max(widths)
    delta = rows_of(found, "delta.tpir@fpir", "shifted", "keep-D1-F0-G1+G2")[0.2]
    assert delta.low is not None and delta.value is not None
    assert rows_of(found, "delta.cmc", "shifted")[1].value is not None


def test_terms_see_fused_templates_and_names_of_the_enrolled_only() -> None:
    bench, table = make()
    scorer = Shifted()
    scorer.told.clear()
    measure(bench, table, Asked(scorers=(scorer,), draws=0))
    vectors = template_vectors(bench, table, "none")
    (pairs, named), *searches = scorer.told
    assert np.array_equal(pairs, vectors) and named == [f"p{i:02d}" for i in bench.subject]
    assert [people is None for _, people in searches] == [False, True, False, True]
    assert np.array_equal(searches[0][0], vectors[:12]) and np.array_equal(searches[1][0], vectors[24:])
