"""Virtual people: sigma, splits, determinism; and that the filter of drawn faces keeps no one who breaks a rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from facekit.alignment.candidates import apart_from_earlier, greedy, keep_candidates
from facekit.alignment.errors import PoorVirtualBank
from facekit.alignment.rows import unit
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics
from facekit.alignment.virtual import (
    Mixture,
    falling_root,
    judged,
    latentmix,
    noise,
    spearman,
    split_people,
    stream,
    virtual_bank,
)
from facekit.evaluation import statistics as judge
from tests.alignment.sphere import MODEL, PREPROC, WIDTH, Sphere, random_bank, random_images

# --- mixing ---------------------------------------------------------------------------------------------------


def test_candidates_are_as_far_from_a_prototype_as_new_people() -> None:
    bank = Sphere.of(0).bank(each=4)
    virtual = latentmix(bank, candidates=1000, seed=3)
    split = split_people(bank, 3)
    nearest = BankStatistics(split.prototypes, Settings(neighbours=1))
    new, mixed = (float(np.median(nearest(rows).m)) for rows in (split.held_out.embeddings, virtual.embeddings))
    assert mixed == pytest.approx(new, abs=1e-3)
    assert 0 < virtual.report["sigma"] < 8
    assert (virtual.kind, virtual.parent, virtual.model_sha) == ("latentmix", bank.sha, bank.model_sha)
    assert len(virtual.identities) == 1000


def test_a_seed_gives_the_same_people_again_and_another_one_others() -> None:
    bank = Sphere.of(0).bank(60, 60, each=4)
    first, again, other = (latentmix(bank, candidates=50, seed=seed) for seed in (0, 0, 1))
    assert first.sha == again.sha != other.sha
    widths = {"candidates": 20, "model_sha": MODEL, "preproc_sha": PREPROC}
    assert noise(8, seed=0, **widths).sha == noise(8, seed=0, **widths).sha != noise(8, seed=1, **widths).sha


def test_noise_is_not_drawn_from_the_stream_of_the_seed() -> None:
    white = noise(8, candidates=20, model_sha=MODEL, preproc_sha=PREPROC, seed=0).embeddings
    assert not np.allclose(white, unit(np.random.default_rng(0).standard_normal((20, 8))), atol=1e-3)


def test_held_out_people_are_not_mixed_from() -> None:
    bank = random_bank(100, each=3)
    split = split_people(bank, 0)
    kept, away = ({part.identities[i] for i in part.labels} for part in (split.prototypes, split.held_out))
    assert not kept & away
    assert len(kept | away) == 100
    assert len(split.held_out.labels) == 150, "half of the people, as 200 images would take more"
    assert len(split_people(random_bank(1000, each=1), 0).held_out.labels) == 200
    assert len(split_people(random_bank(5000, each=1), 0).held_out.labels) == 500


def test_a_mixture_is_of_a_person_and_two_of_its_ten_nearest() -> None:
    bank = random_bank(60)
    mixture = Mixture(bank, 200, "near", stream(0, "test"))
    rows = bank.entries().vectors.astype(np.float64)
    within = np.argsort(-(rows @ rows.T), axis=1)[:, 1:11]
    seen = set()
    for (first, *others), centre in zip(mixture.parents.tolist(), mixture.centres, strict=True):
        assert len(set(others)) == 2 and set(others) <= set(within[first])
        corners = rows[[first, *others]].T
        weights = np.linalg.lstsq(corners, centre, rcond=None)[0]
        np.testing.assert_allclose(corners @ weights, centre, atol=1e-9)
        assert (weights > 0).all()
        seen |= {list(within[first]).index(other) for other in others}
    assert seen == set(range(10))
    anywhere = Mixture(bank, 200, "global", stream(0, "test")).parents
    assert (anywhere[:, 1:] != anywhere[:, :1]).all()
    assert not all(set(others) <= set(within[first]) for first, *others in anywhere.tolist())


def test_without_noise_a_mixture_is_its_centre() -> None:
    mixture = Mixture(random_bank(30), 20, "global", stream(0, "test"))
    np.testing.assert_allclose(mixture.at(0.0), mixture.centres, atol=1e-12)
    cosine = [float(np.mean(np.sum(mixture.at(s) * mixture.centres, axis=1))) for s in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(cosine, [1 / np.sqrt(1 + s * s) for s in (0.5, 1.0, 2.0)], atol=0.08)


def test_the_root_of_a_falling_function() -> None:
    assert falling_root(lambda s: 2.5 - s, 8.0) == pytest.approx(2.5, abs=1e-5)
    assert falling_root(lambda s: -1.0, 8.0) < 1e-5
    assert falling_root(lambda s: 1.0, 8.0) > 8 - 1e-5


def test_too_few_or_meaningless_candidates_are_refused() -> None:
    sphere = Sphere.of(0)
    training = sphere.bank(100, 100, each=4)
    split = split_people(training, 0)
    few = virtual_bank(random_images(9, width=WIDTH), "cgan", training, 0, {})
    with pytest.raises(PoorVirtualBank, match="only 9") as refused:
        judged(few, split)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-VIRTUAL", 1)
    with pytest.raises(PoorVirtualBank, match="Spearman"):
        judged(virtual_bank(random_images(200, width=WIDTH), "cgan", training, 0, {}), split)
    real = virtual_bank(sphere.bank(100, 100, draw=2).embeddings, "cgan", training, 0, {"kept": 200})
    assert judged(real, split).report["spearman"] > 0.8
    assert judged(real, split).report["kept"] == 200
    tiny = dataclasses.replace(split, held_out=split_people(split.held_out, 0).held_out)
    assert any("images only" in note for note in judged(real, tiny).notes)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_is_that_of_the_evaluation(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(side, float) for side in zip(*pairs, strict=True))
    if np.ptp(first) and np.ptp(second):
        assert spearman(first, second) == pytest.approx(judge.spearman(first, second), abs=1e-12)
    else:
        assert spearman(first, second) == 0.0


# --- the filter of drawn faces --------------------------------------------------------------------------------


def greedy_loop(conflict: np.ndarray) -> list[bool]:
    kept: list[bool] = []
    for i in range(len(conflict)):
        kept.append(not any(kept[j] and conflict[i, j] for j in range(i)))
    return kept


@given(st.integers(0, 12), st.floats(0, 1), st.integers(0, 10_000))
def test_the_greedy_choice_is_that_of_the_loop(n: int, density: float, seed: int) -> None:
    conflict = np.tril(np.random.default_rng(seed).random((n, n)) < density, -1)
    assert greedy(conflict).tolist() == greedy_loop(conflict)


def test_the_greedy_choice_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_images(300, width=6)
    whole = apart_from_earlier(vectors, 1000)
    wanted = greedy_loop(np.tril(vectors @ vectors.T >= 0.4, -1))
    assert whole.tolist() == wanted
    monkeypatch.setattr("facekit.alignment.candidates._BLOCK", 17)
    np.testing.assert_array_equal(apart_from_earlier(vectors, 1000), whole)
    few = apart_from_earlier(vectors, 5)
    np.testing.assert_array_equal(np.flatnonzero(few), np.flatnonzero(whole)[:5])


@examples(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.0, 2.0), st.floats(0.2, 0.9), st.booleans(), st.integers(1, 60))
def test_no_candidate_that_breaks_a_rule_is_kept(
    seed: int, spread: float, threshold: float, with_norms: bool, most: int
) -> None:
    rng = np.random.default_rng(seed)
    conditions = unit(rng.standard_normal((50, 8)))
    vectors = unit(conditions + spread * rng.standard_normal((50, 8)) / np.sqrt(8))
    prototypes = unit(rng.standard_normal((5, 8)))
    norms, real_norms = rng.uniform(0, 30, 50), rng.uniform(10, 30, 40)
    given_norms = {"norms": norms, "real_norms": real_norms} if with_norms else {}
    found = keep_candidates(
        vectors, np.sum(vectors * conditions, axis=1), prototypes, threshold=threshold, most=most, **given_norms
    )
    rows = found.rows
    assert (np.sum(vectors[rows] * conditions[rows], axis=1) >= 0.3).all()
    assert (vectors[rows] @ prototypes.T < threshold).all()
    assert not with_norms or (norms[rows] > np.percentile(real_norms, 5)).all()
    assert (np.tril(vectors[rows] @ vectors[rows].T, -1) < 0.4).all()
    assert len(rows) <= most
    rules = [found.report[rule] for rule in ("unlike_condition", "real_person", "small_norm", "twice")]
    assert sum(count for count in rules if isinstance(count, int)) + found.report["kept"] == 50
    assert isinstance(rules[2], int) == with_norms
    assert found.report["acceptance"] == len(rows) / 50


def test_good_candidates_are_kept() -> None:
    conditions = np.eye(8)
    found = keep_candidates(conditions, np.ones(len(conditions)), np.empty((0, 8)), threshold=0.3)
    assert found.rows.tolist() == list(range(8))
    assert keep_candidates(conditions[:0], np.ones(0), conditions, threshold=0.3).report["kept"] == 0
