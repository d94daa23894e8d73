"""Every score by name, against loops; re-ranking against its published steps; what cannot work is refused."""

from __future__ import annotations

import dataclasses
import itertools
import typing

import numpy as np
import pytest

from facekit import configs
from facekit.alignment.bank import KINDS, REDUCE
from facekit.alignment.errors import BadEmbedding, RerankTooLarge, UnknownAlignment
from facekit.alignment.fmr import fmr_scale
from facekit.alignment.rerank import rerank
from facekit.alignment.rows import unit
from facekit.alignment.scorers import RECIPES, SCORES, WITHOUT_BANK, WITHOUT_SUPPORT, build_scorer, build_scorers
from facekit.alignment.search import People
from facekit.alignment.settings import OPERATORS, SELECTIONS, SIDES, STATISTICS, Settings
from facekit.alignment.statistics import BankStatistics, Reference, Stats
from facekit.core.errors import UsageError
from facekit.evaluation.scoring import RAW, Scorer, Side
from facekit.evaluation.verification import pair_cosines
from tests.alignment.sphere import Sphere, random_bank, random_images

REFERENCE = Reference(0.2, 0.1, 0.8)
IMAGES = random_images(12)
LEFT, RIGHT = (np.array(side) for side in zip(*itertools.combinations(range(12), 2), strict=True))


def source(settings: Settings | None = None, reduce: str = "single") -> BankStatistics:
    return BankStatistics(random_bank(60, each=2, reduce=reduce), settings or Settings(neighbours=15))


def scorer_of(name: str, settings: Settings, support: BankStatistics | None = None) -> Scorer:
    return build_scorer(
        name,
        settings,
        support or source(settings),
        cosines=pair_cosines,
        support="cohort",
        reference=REFERENCE,
        impostors=np.linspace(-0.5, 0.5, 100),
    )


def scores_of(scorer: Scorer, people: People | None = None) -> np.ndarray:
    side = Side(IMAGES, scorer.terms(IMAGES, people))
    return scorer.pairs(side, side, LEFT, RIGHT)


def test_names_are_those_a_user_can_choose() -> None:
    assert typing.get_args(configs.Score) == SCORES
    assert typing.get_args(configs.Operator) == OPERATORS
    assert typing.get_args(configs.Statistic) == STATISTICS
    assert typing.get_args(configs.Sides) == SIDES
    assert typing.get_args(configs.Reduce) == REDUCE
    assert set(typing.get_args(configs.BankKind)) < set(KINDS)
    assert set(SELECTIONS) == {"own", "cross"}
    assert {*RECIPES, *WITHOUT_SUPPORT} == set(SCORES)
    assert set(WITHOUT_BANK) < set(RECIPES)


@pytest.mark.parametrize("name", SCORES)
def test_pairs_and_matrices_agree(name: str) -> None:
    scorer = scorer_of(name, Settings(neighbours=15))
    terms = scorer.terms(IMAGES)
    scores = scores_of(scorer)
    assert scores.shape == LEFT.shape
    if name == "rerank":
        with pytest.raises(UsageError, match="whole lists"):
            scorer.combine(IMAGES @ IMAGES.T, terms[:, None], terms[None])
        return
    matrix = scorer.combine(IMAGES @ IMAGES.T, terms[:, None], terms[None])
    np.testing.assert_allclose(scores, matrix[LEFT, RIGHT], atol=1e-12)
    assert scorer.combine((IMAGES @ IMAGES.T).astype(np.float32), terms[:, None], terms[None]).shape == (12, 12)


def test_scores_equal_their_formulas() -> None:
    settings = Settings(neighbours=15, alpha=0.7)
    bank = random_bank(60, each=2)
    rows = bank.entries().vectors.astype(np.float64)
    cosine = (IMAGES @ IMAGES.T)[LEFT, RIGHT]
    q = -np.sort(-(IMAGES @ rows.T), axis=1)
    mean, near_mean, ten = q.mean(axis=1), q[:, :15].mean(axis=1), q[:, :10].mean(axis=1)
    sd, near_sd = q.std(axis=1), q[:, :15].std(axis=1)

    def z(m: np.ndarray, v: np.ndarray, side: np.ndarray) -> np.ndarray:
        return (cosine - m[side]) / v[side]

    wanted = {
        "raw": cosine,
        "dao": cosine - 0.7 * ((near_mean[LEFT] + near_mean[RIGHT]) / 2 - 0.2),
        "znorm": z(mean, sd, LEFT),
        "tnorm": z(mean, sd, RIGHT),
        "snorm": (z(mean, sd, LEFT) + z(mean, sd, RIGHT)) / 2,
        "asnorm": (z(near_mean, near_sd, LEFT) + z(near_mean, near_sd, RIGHT)) / 2,
        "csls": 2 * cosine - ten[LEFT] - ten[RIGHT],
        "nicdm": -(1 - cosine) / np.sqrt((1 - near_mean[LEFT]) * (1 - near_mean[RIGHT])),
    }
    support = BankStatistics(bank, settings)
    for name, scores in wanted.items():
        np.testing.assert_allclose(scores_of(scorer_of(name, settings, support)), scores, atol=2e-6, err_msg=name)


def test_alpha_zero_is_the_cosine() -> None:
    scores = scores_of(scorer_of("dao", Settings(alpha=0.0)))
    np.testing.assert_array_equal(scores, (pair_cosines(IMAGES, IMAGES, LEFT, RIGHT)))


def test_what_tables_say() -> None:
    settings = Settings(neighbours=15, alpha=0.3)
    support = source(settings)
    told = {s.name: (s.support, s.alpha, s.neighbours, s.transductive) for s in all_of(settings, support, "cohort")}
    assert told == {
        "raw": (None, None, None, False),
        "dao": ("cohort", 0.3, 15, False),
        "znorm": ("cohort", None, None, False),
        "tnorm": ("cohort", None, None, False),
        "snorm": ("cohort", None, None, False),
        "asnorm": ("cohort", None, 15, False),
        "csls": ("cohort", None, 10, False),
        "nicdm": ("cohort", None, 15, False),
        "rerank": (None, None, 20, True),
        "fmr": (None, None, None, False),
    }
    assert all(s.transductive for s in all_of(settings, support, "gallery") if s.support)
    assert scorer_of("dao", Settings(operator="z")).alpha is None
    assert scorer_of("dao", Settings(radius=0.1)).neighbours is None


def all_of(settings: Settings, support: BankStatistics, name: str) -> list[Scorer]:
    impostors = np.linspace(-0.5, 0.5, 100)
    return list(build_scorers(SCORES, settings, support, cosines=pair_cosines, support=name, impostors=impostors))


def test_raw_is_the_evaluators_raw() -> None:
    (raw,) = build_scorers(("raw",), Settings(), cosines=pair_cosines)
    np.testing.assert_array_equal(scores_of(raw), scores_of(RAW))


def test_a_pair_knows_its_people() -> None:
    people = [f"bank {i}" if i % 2 else None for i in range(12)]
    stats = source()(IMAGES, people)
    scores = scores_of(scorer_of("dao", Settings(neighbours=15)), people)
    wanted = (IMAGES @ IMAGES.T)[LEFT, RIGHT] - 0.5 * ((stats.d[LEFT] + stats.d[RIGHT]) / 2 - 0.2)
    np.testing.assert_allclose(scores, wanted, atol=1e-12)


# --- cross selection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["single", "max"])
@pytest.mark.parametrize("settings", [Settings(neighbours=15), Settings(radius=0.2, ddof=1)])
def test_cross_selection_equals_the_loop(settings: Settings, reduce: str) -> None:
    settings = dataclasses.replace(settings, selection="cross")
    people = [f"bank {i}" if i % 2 else None for i in range(12)]
    support = source(settings, reduce)
    bank = support.search.bank
    entries = bank.entries()
    if reduce == "max":
        rows = entries.vectors.reshape(60, 2, 16)
        q = np.einsum("nd,med->nme", IMAGES, rows).max(axis=2)
    else:
        q = IMAGES @ entries.vectors.T
    stats = support(IMAGES, people)
    scores = scores_of(scorer_of("asnorm", settings, support), people)
    for left, right, found in zip(LEFT, RIGHT, scores, strict=True):
        cosine, wanted = IMAGES[left] @ IMAGES[right], 0.0
        for image, other in ((left, right), (right, left)):
            own = entries.number.get(people[image] or "")
            values = [q[image, c] for c in stats.idx[other] if c not in (-1, own)]
            wanted += (cosine - np.mean(values)) / np.std(values, ddof=settings.ddof) / 2
        assert found == pytest.approx(wanted, abs=1e-5)


def test_cross_selection_between_two_sides_and_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(neighbours=15, selection="cross")
    scorer = scorer_of("asnorm", settings)
    enrolled, probe = random_images(30, seed=6), random_images(9, seed=7)
    sides = Side(enrolled, scorer.terms(enrolled)), Side(probe, scorer.terms(probe))
    left, right = (part.ravel() for part in np.meshgrid(np.arange(30), np.arange(9), indexing="ij"))
    whole = scorer.pairs(*sides, left, right)
    monkeypatch.setattr("facekit.alignment.cross._CHUNK", 40)
    monkeypatch.setattr(scorer.source.search, "tile", type(scorer.source.search.tile)(4, 60))  # type: ignore[attr-defined]
    np.testing.assert_allclose(scorer.pairs(*sides, left, right), whole, atol=1e-6)
    with pytest.raises(UsageError, match="--selection own"):
        scorer.combine(np.ones(1), sides[0].terms[:1], sides[1].terms[:1])


# --- re-ranking -----------------------------------------------------------------------------------------------


def rerank_by_loops(vectors: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.3) -> np.ndarray:
    """d* [N,N] of every row as the probe, by the published steps with sets."""
    n = len(vectors)
    d = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    d = d / d.max(axis=1, keepdims=True)
    rank = [list(np.argsort(row, kind="stable")) for row in d]

    def mutual(p: int, k: int) -> set[int]:
        return {g for g in rank[p][: k + 1] if p in rank[g][: k + 1]}

    v = np.zeros((n, n))
    for p in range(n):
        members = set(mutual(p, k1))
        for c in mutual(p, k1):
            theirs = mutual(c, round(k1 / 2))
            if len(theirs & mutual(p, k1)) > 2 / 3 * len(theirs):
                members |= theirs
        v[p, list(members)] = np.exp(-d[p, list(members)])
        v[p] /= v[p].sum()
    v = np.array([v[rank[p][:k2]].mean(axis=0) for p in range(n)])
    jaccard = np.array(
        [[1 - np.minimum(v[p], v[g]).sum() / np.maximum(v[p], v[g]).sum() for g in range(n)] for p in range(n)]
    )
    return (1 - share) * jaccard + share * d


def test_rerank_equals_the_published_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    people = unit(rng.standard_normal((9, 24)))
    vectors = unit(np.repeat(people, 8, axis=0) + 0.8 * rng.standard_normal((72, 24)) / np.sqrt(24) * 1.5)
    left, right = (part.ravel() for part in np.meshgrid(np.arange(72), np.arange(72), indexing="ij"))
    wanted = -rerank_by_loops(vectors)[right, left]
    np.testing.assert_allclose(rerank(vectors, left, right), wanted, atol=1e-5)
    monkeypatch.setattr("facekit.alignment.rerank._BLOCK", 7)
    np.testing.assert_allclose(rerank(vectors, left, right), wanted, atol=1e-5)


def test_rerank_takes_the_union_of_the_images_in_the_list() -> None:
    scorer = scorer_of("rerank", Settings())
    vectors = random_images(40)
    left, right = np.array([3, 5, 7, 3]), np.array([9, 11, 13, 11])
    empty = np.empty((40, 0))
    used = np.array([3, 5, 7, 9, 11, 13])
    wanted = rerank(vectors[used], np.searchsorted(used, left), np.searchsorted(used, right))
    side = Side(vectors, empty)
    np.testing.assert_array_equal(scorer.pairs(side, side, left, right), wanted)
    apart = scorer.pairs(Side(vectors[:9], empty[:9]), Side(vectors[9:], empty[9:]), left, right - 9)
    np.testing.assert_array_equal(apart, wanted)


def test_rerank_helps_where_people_have_many_images() -> None:
    sphere = Sphere.of(0)
    scorer = scorer_of("rerank", Settings())
    few = (sphere.left < 300) & (sphere.right < 300)
    side = Side(sphere.vectors, np.empty((len(sphere.vectors), 0)))
    scores = scorer.pairs(side, side, sphere.left[few], sphere.right[few])
    same = sphere.same[few]
    raw = sphere.cosines[few]
    apart = [(s[same].mean() - s[~same].mean()) / s.std() for s in (raw, scores)]
    assert apart[1] > apart[0]


def test_copies_of_one_image_do_not_break_rerank() -> None:
    vectors = np.repeat(random_images(1), 50, axis=0)
    assert np.isfinite(rerank(vectors, np.arange(50), np.arange(50)[::-1])).all()


def test_rerank_of_too_long_a_list_is_refused() -> None:
    vectors = np.ones((20_001, 1))
    with pytest.raises(RerankTooLarge, match="20,001") as refused:
        rerank(vectors, np.array([0]), np.array([1]))
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-RERANK-SIZE", 1)


# --- fmr ------------------------------------------------------------------------------------------------------


def test_fmr_by_hand() -> None:
    scale = fmr_scale(np.array([0.4, 0.1, 0.3, 0.2]))
    np.testing.assert_allclose(
        10 ** -scale(np.array([-1.0, 0.1, 0.15, 0.2, 0.35, 0.4, 0.9])), [1, 1, 0.75, 0.75, 0.25, 0.25, 0.25]
    )
    scores = np.random.default_rng(0).uniform(-0.5, 0.7, 500)
    order = np.argsort(scores)
    assert (np.diff(fmr_scale(scores[:100])(scores[order])) >= 0).all()
    for broken in (np.array([]), np.array([0.1, np.nan])):
        with pytest.raises(BadEmbedding):
            fmr_scale(broken)


# --- refusals -------------------------------------------------------------------------------------------------


def estimated(vectors: np.ndarray, people: People | None = None) -> Stats:
    d = vectors[:, 0]
    return Stats(d, d, np.full(len(d), 0.1), np.zeros(len(d), np.int64), np.empty((len(d), 0), np.int64))


@pytest.mark.parametrize("name", RECIPES)
def test_scores_that_need_faces_say_so(name: str) -> None:
    with pytest.raises(UnknownAlignment, match="--support") as refused:
        build_scorer(name, Settings(), cosines=pair_cosines)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-OP", 2)


@pytest.mark.parametrize("name", RECIPES)
def test_an_estimator_stands_behind_some_scores(name: str) -> None:
    if name in WITHOUT_BANK:
        scorer = build_scorer(name, Settings(), estimated, cosines=pair_cosines, support="learned")
        assert (scorer.support, scorer.neighbours) == ("learned", None)
        assert np.isfinite(scores_of(scorer)).all()
        return
    with pytest.raises(UnknownAlignment, match="needs a bank"):
        build_scorer(name, Settings(), estimated, cosines=pair_cosines)


def test_what_else_cannot_work() -> None:
    with pytest.raises(UnknownAlignment, match="cross selection"):
        build_scorer("asnorm", Settings(selection="cross"), estimated, cosines=pair_cosines)
    with pytest.raises(UnknownAlignment, match="--dev"):
        build_scorer("fmr", Settings(), cosines=pair_cosines)
    with pytest.raises(UnknownAlignment, match="Did you mean 'asnorm'"):
        build_scorer("asnom", Settings(), cosines=pair_cosines)
