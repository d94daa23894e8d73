"""Noise makers against the binomial distribution, counts worked out elsewhere, and each other."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from facekit import configs
from facekit.core.errors import FacekitError, InputError, UsageError
from facekit.data.cifar import PixelSource
from facekit.data.noise import RELABEL, make_plan
from facekit.data.noiseplan import KINDS, LONG_TAIL


def pictures(labels: np.ndarray, classes: int) -> PixelSource:
    """One grey 2x2 picture for each label."""
    pixels = np.broadcast_to(
        (np.arange(len(labels)) % 251).astype(np.uint8)[:, None, None, None], (len(labels), 2, 2, 3)
    )
    names = [f"c/{i:06d}" for i in range(len(labels))]
    identities = tuple(f"class{k}" for k in range(classes))
    return PixelSource(names, np.ascontiguousarray(pixels), labels.astype(np.int64), identities, ())


@pytest.fixture(scope="module")
def ten() -> PixelSource:
    """50,000 pictures of 10 classes, 5,000 each."""
    return pictures(np.arange(50_000) % 10, 10)


def test_the_kinds_are_those_a_user_can_choose() -> None:
    assert typing.get_args(configs.NoiseKind) == KINDS and set(KINDS) == {*RELABEL, LONG_TAIL}


@pytest.mark.parametrize(
    "kind, p, wrong", [("sym", 0.4, 0.36), ("sym", 0.3, 0.27), ("sym", 0.6, 0.54), ("flip", 0.4, 0.4)]
)
def test_the_share_of_wrong_labels_is_in_the_binomial_band(ten: PixelSource, kind: str, p: float, wrong: float) -> None:
    for seed in range(3):
        plan = make_plan(ten, kind, p, seed)
        band = 2.576 * (wrong * (1 - wrong) / len(plan)) ** 0.5
        assert abs(plan.wrong.mean() - wrong) < 1.5 * band  # 3.9 sigma: three seeds of four settings never leave it
        assert (plan.true_label == ten.labels).all() and (plan.sample_id == np.arange(50_000)).all()


def test_the_seed_of_the_specification_is_in_the_99_percent_band(ten: PixelSource) -> None:
    assert abs(make_plan(ten, "sym", 0.4, 0).wrong.mean() - 0.36) <= 0.0056


def test_symmetric_noise_prefers_no_class(ten: PixelSource) -> None:
    plan = make_plan(ten, "sym", 0.4, 1)
    table = np.zeros((10, 10))
    np.add.at(table, (plan.true_label, plan.noisy_label), 1)
    expected = 5_000 * (0.04 * np.ones((10, 10)) + 0.6 * np.eye(10))
    sigma = np.sqrt(expected * (1 - expected / 5_000))
    assert (np.abs(table - expected) < 4.5 * sigma).all()


def test_without_the_true_class_p_is_the_share_of_wrong_labels(ten: PixelSource) -> None:
    plan = make_plan(ten, "sym", 0.4, 2, exclude_self=True)
    assert abs(plan.wrong.mean() - 0.4) < 0.0085
    assert len(set(zip(plan.true_label[plan.wrong], plan.noisy_label[plan.wrong], strict=True))) == 90
    assert (plan.noisy_label == make_plan(ten, "face-image", 0.4, 2).noisy_label).all()


def test_flipped_labels_of_a_class_all_go_to_one_other(ten: PixelSource) -> None:
    seen = set()
    for seed in range(5):
        plan = make_plan(ten, "flip", 0.4, seed)
        pairs = set(zip(plan.true_label[plan.wrong].tolist(), plan.noisy_label[plan.wrong].tolist(), strict=True))
        assert {a for a, _ in pairs} == {b for _, b in pairs} == set(range(10)) and len(pairs) == 10
        seen.add(frozenset(pairs))
    assert len(seen) == 5
    two = make_plan(pictures(np.arange(100) % 2, 2), "flip", 0.5)
    assert (two.noisy_label[two.wrong] == 1 - two.true_label[two.wrong]).all()


@pytest.mark.parametrize(
    "each, counts, total",
    [
        (4_500, [4500, 2697, 1617, 969, 581, 348, 208, 125, 75, 45], 11_165),
        (5_000, None, 12_406),
    ],
)
def test_long_tails_have_the_counts_of_the_specification(each: int, counts: list[int] | None, total: int) -> None:
    source = pictures(np.arange(10 * each) % 10, 10)
    plan = make_plan(source, LONG_TAIL, seed=3)
    assert len(plan) == total and not plan.wrong.any() and (np.diff(plan.sample_id) > 0).all()
    assert counts is None or np.bincount(plan.true_label).tolist() == counts
    other = make_plan(source, LONG_TAIL, seed=4)
    assert len(other) == total and (other.sample_id != plan.sample_id).any()
    last = plan.sample_id[plan.true_label == 9]
    assert len(last) < each * 0.02 and last.max() - last.min() > each * 5  # of the whole class, not its beginning


def test_a_long_tail_keeps_no_more_than_there_is_and_may_empty_a_class() -> None:
    sizes = [10, 2, 8]
    source = pictures(np.repeat(np.arange(3), sizes), 3)
    assert np.bincount(make_plan(source, LONG_TAIL, imbalance=4).true_label).tolist() == [10, 2, 2]
    assert np.bincount(make_plan(source, LONG_TAIL, imbalance=100).true_label, minlength=3).tolist() == [10, 1, 0]
    assert len(make_plan(source, LONG_TAIL, imbalance=1)) == 20


def test_some_identities_lose_all_their_labels_and_the_others_none() -> None:
    source = pictures(np.arange(2_550) % 255, 255)
    plan = make_plan(source, "face-id", 0.3)
    lost = np.bincount(plan.true_label[plan.wrong], minlength=255)
    assert sorted(set(lost.tolist())) == [0, 10] and (lost == 10).sum() == 76
    assert len(set(plan.noisy_label[plan.wrong].tolist())) > 200, "each image is given away for itself"
    hundred = pictures(np.arange(100), 100)
    assert make_plan(hundred, "face-id", 0.29).wrong.sum() == 29  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize("kind", KINDS)
def test_draws_belong_to_seed_and_image(ten: PixelSource, kind: str) -> None:
    plan, again, other = (make_plan(ten, kind, 0.4, seed) for seed in (7, 7, 8))
    assert plan.sha256 == again.sha256 != other.sha256
    if kind in ("sym", "flip", "face-image"):
        fewer = make_plan(pictures(ten.labels[:1_000], 10), kind, 0.4, 7)
        assert (fewer.noisy_label == plan.noisy_label[:1_000]).all()
        more = make_plan(ten, kind, 0.5, 7)
        assert (more.wrong | ~plan.wrong).all(), "a higher p adds wrong labels and takes none back"


def word(*words: int) -> int:
    """Chained splitmix64 in whole numbers of any length: what a draw is, whatever numpy does."""
    state, most = 0, (1 << 64) - 1
    for each in words:
        state = (state + each + 0x9E3779B97F4A7C15) & most
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & most
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & most
        state ^= state >> 31
    return state


def test_the_draws_can_be_worked_out_without_numpy() -> None:
    noise, seed = int.from_bytes(b"noise"), 1
    plan = make_plan(pictures(np.full(200, 4), 5), "sym", 0.7, seed)
    assert plan.noisy_label.tolist() == [
        (word(seed, noise, 2, i) >> 32) * 5 >> 32 if word(seed, noise, 1, i) / 2**64 < 0.7 else 4 for i in range(200)
    ]
    ring = sorted(range(5), key=lambda k: word(seed, noise, 3, k))
    flipped = make_plan(pictures(np.arange(200) % 5, 5), "flip", 0.7, seed)
    follower = dict(zip(ring, ring[1:] + ring[:1], strict=True))
    assert flipped.noisy_label.tolist() == [
        follower[i % 5] if word(seed, noise, 1, i) / 2**64 < 0.7 else i % 5 for i in range(200)
    ]


def test_no_noise_changes_no_label(ten: PixelSource) -> None:
    for kind in RELABEL:
        assert not make_plan(ten, kind, 0.0, 5).wrong.any()


@pytest.mark.parametrize(
    "settings",
    [
        *({"p": p} for p in (1.0, -0.1, float("nan"))),
        *({"imbalance": imbalance} for imbalance in (0.5, float("inf"))),
        *({"seed": seed} for seed in (-1, 10**400)),
    ],
)
def test_numbers_out_of_range_are_refused(ten: PixelSource, settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range: it must be") as refused:
        make_plan(ten, **{"kind": "sym", "p": 0.4, **settings})  # type: ignore[arg-type]
    assert refused.value.code == "AW-RANGE"


def test_what_has_no_classes_is_refused(ten: PixelSource) -> None:
    with pytest.raises(FacekitError, match=r"unknown kind of noise 'symm'\. Did you mean 'sym'\?"):
        make_plan(ten, "symm", 0.4)
    with pytest.raises(UsageError, match="--exclude-self belongs to --kind sym, and flip"):
        make_plan(ten, "flip", 0.4, exclude_self=True)
    with pytest.raises(InputError, match="1 of 3 images have none"):
        make_plan(pictures(np.array([0, -1, 1]), 2), "sym", 0.4)
    with pytest.raises(InputError, match="there are 1 classes"):
        make_plan(pictures(np.zeros(3), 1), "sym", 0.4)
