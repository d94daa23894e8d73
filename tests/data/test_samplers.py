"""Orders of an epoch: how many of which group stand in a batch, how often each group comes, and what decides it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import InputError, UsageError
from facekit.data.batches import Batches, epoch_order
from facekit.data.samplers import check_sampler, class_uniform, earlier, uniform
from facekit.data.sources import open_source

# 99.9 % points of chi-square
CHI_SQUARE = {6: 22.5, 12: 32.9, 40: 73.4}


def uneven(groups: int, most: int, seed: int = 0) -> np.ndarray:
    """Labels of groups with 1 to ``most`` images, in mixed order."""
    sizes = np.unique(np.geomspace(1, most, groups).round(), return_counts=False)
    sizes = np.concatenate([sizes, np.full(groups - len(sizes), most)]).astype(int)
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), sizes))


@st.composite
def settings(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Labels, batch, images of each group: any that fit."""
    groups = draw(st.integers(1, 12))
    labels = np.repeat(np.arange(groups), [draw(st.integers(1, 9)) for _ in range(groups)])
    several, k = draw(st.integers(1, groups)), draw(st.integers(1, 5))
    return np.array(draw(st.permutations(labels.tolist()))), several * k, k


@given(settings(), st.integers(0, 2**31), st.integers(0, 50))
def test_every_batch_has_so_many_groups_and_so_many_images_of_each(
    given_: tuple[np.ndarray, int, int], seed: int, epoch: int
) -> None:
    labels, batch, k = given_
    rows = class_uniform(labels, batch, k, seed)(epoch)
    assert rows.dtype == np.int64 and len(rows) == len(labels) // batch * batch
    for of_batch in rows.reshape(-1, batch // k, k):
        groups = labels[of_batch]
        assert (groups == groups[:, :1]).all()  # side by side
        assert len(np.unique(groups[:, 0])) == batch // k
        for images, group in zip(of_batch, groups[:, 0], strict=True):
            assert len(np.unique(images)) == min(k, (labels == group).sum())  # repeated only where there are too few


@given(settings(), st.integers(0, 2**31))
def test_groups_and_their_images_take_turns(given_: tuple[np.ndarray, int, int], seed: int) -> None:
    """Within a round of the shuffle no group comes twice; of a group, no image before all the others did."""
    labels, batch, k = given_
    rows = class_uniform(labels, batch, k, seed)(0)
    count = len(np.unique(labels))
    turns = labels[rows[::k]]
    per_round = count // (batch // k) * (batch // k)
    for first in range(0, len(turns), per_round):
        assert max(Counter(turns[first : first + per_round].tolist()).values()) == 1
    for group in np.unique(turns):
        own = rows[labels[rows] == group]
        size = int((labels == group).sum())
        assert all(len({*own[i : i + size]}) == len(own[i : i + size]) for i in range(0, len(own), size))
        assert np.array_equal(own[size:], own[: max(0, len(own) - size)])  # cycled


def chi_square(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2).sum() / counts.mean())


@pytest.mark.parametrize(("batch", "k"), [(8, 2), (20, 4), (13, 1)])
def test_groups_are_seen_equally_often_however_uneven(batch: int, k: int) -> None:
    labels = uneven(13, 200)
    order = class_uniform(labels, batch, k, seed=1)
    counts = sum(np.bincount(labels[order(epoch)], minlength=13) for epoch in range(300)) / k
    assert counts.min() > 300 and chi_square(counts) < CHI_SQUARE[12]
    assert chi_square(np.bincount(labels, minlength=13)) > 10 * CHI_SQUARE[12]  # as they would be seen at random


def test_images_of_a_group_are_seen_equally_often() -> None:
    labels = np.repeat([0, 1, 2], [7, 41, 60])
    order = class_uniform(labels, 4, 2, seed=2)
    seen = sum(np.bincount(order(epoch), minlength=len(labels)) for epoch in range(200))
    for group, size in ((0, 7), (1, 41)):
        assert chi_square(seen[labels == group]) < CHI_SQUARE[size - 1]
    first = [int(order(epoch)[labels[order(epoch)] == 1][0]) for epoch in range(100)]
    assert len({*first}) > 30  # 41 (1 - 1/e) of 100 draws at random are 37


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    labels = uneven(13, 200)
    first, again, other = (class_uniform(labels, 20, 4, seed) for seed in (5, 5, 6))
    epochs = [first(epoch) for epoch in range(3)]
    assert all(np.array_equal(again(epoch), epochs[epoch]) for epoch in (2, 0, 1))
    for a, b in ((epochs[0], epochs[1]), (epochs[0], other(0))):
        assert (labels[a] == labels[b]).mean() < 0.2
    assert np.array_equal(uniform(7, 100)(3), epoch_order(7, 3, 100))


def test_golden_order() -> None:
    """Recorded runs depend on it."""
    assert class_uniform(np.array([0, 0, 1, 1, 1, 2, 2, 2, 2]), 4, 2, seed=3)(1).tolist() == [2, 3, 5, 6, 0, 1, 8, 7]


def test_only_who_is_with_whom_matters() -> None:
    labels = uneven(13, 60)
    wanted = class_uniform(labels, 20, 4, seed=5)(1)
    renamed = np.array(random.Random(0).sample(range(1000), 13))[labels]
    for same in (renamed, renamed.astype(np.int32)):
        assert np.array_equal(class_uniform(same, 20, 4, seed=5)(1), wanted)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_earlier_counts_what_stands_further_left(numbers: list[int]) -> None:
    assert earlier(np.array(numbers, np.int64)).tolist() == [numbers[:i].count(x) for i, x in enumerate(numbers)]


@pytest.mark.parametrize(
    ("batch", "k", "world", "error", "message"),
    [
        (10, 4, 1, UsageError, "--batch 10 is no multiple of --per-class 4"),
        (10, 0, 1, UsageError, "--batch 10 is no multiple of --per-class 0"),
        (10, -2, 1, UsageError, "--per-class -2"),
        (12, 4, 2, UsageError, "has 3 classes, which 2 processes cannot share evenly; give a batch of a multiple of 8"),
        (24, 2, 1, InputError, "needs 12 classes or superclasses and there are 9"),
    ],
)
def test_batches_that_cannot_be(batch: int, k: int, world: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_sampler(batch, k, 9, world)
    with pytest.raises(error, match=message):
        class_uniform(np.arange(90) % 9, batch, k, seed=0, world=world)


def test_images_without_a_label_are_refused() -> None:
    with pytest.raises(InputError, match="2 of 5 images have no label"):
        class_uniform(np.array([0, -1, 1, -1, 1]), 2, 1, seed=0)
    with pytest.raises(InputError, match="needs 1 classes or superclasses and there are 0"):
        class_uniform(np.array([], np.int64), 2, 2, seed=0)


# --- as training uses them --------------------------------------------------------------------------------


def test_batches_follow_the_order_from_any_step(people: Path) -> None:
    source = open_source(people)

    def make(**options: object) -> Batches:
        order = class_uniform(source.labels, 4, 2, seed=5)
        settings = {"batch": 4, "seed": 5, "flip": True, "put": lambda t: t, "order": order, **options}
        return Batches(source, **settings)  # type: ignore[arg-type]

    whole = list(make().epoch(3))
    assert len(whole) == make().steps_per_epoch == 2
    rows = class_uniform(source.labels, 4, 2, seed=5)(3)
    assert torch.cat([batch.index for batch in whole]).tolist() == rows.tolist()
    for batch in whole:
        assert np.array_equal(batch.labels.numpy(), source.labels[batch.index.numpy()])
        assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), source.read(batch.index.numpy()))
    (rest,) = make(cache="none").epoch(3, start=1)
    assert torch.equal(rest.index, whole[1].index) and torch.equal(rest.view, whole[1].view)
    halves = [list(make(rank=rank, world=2).epoch(3)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.index, torch.cat([part.index for part in parts]))
        assert all(len(part.labels.unique()) == 1 for part in parts)  # one whole group each
    views: dict[int, int] = {}
    for batch in whole:  # an image that comes twice looks the same
        for index, view in zip(batch.index.tolist(), batch.view.tolist(), strict=True):
            assert views.setdefault(index, view) == view


def test_steps_are_those_of_the_order(people: Path) -> None:
    def order(epoch: int) -> np.ndarray:
        return np.array([3, 1, 4, 1, 5]) + epoch

    for drop_last, wanted in ((True, [[4, 2], [5, 2]]), (False, [[4, 2], [5, 2], [6]])):
        options = {"batch": 2, "seed": 0, "flip": True, "order": order, "drop_last": drop_last}
        batches = Batches(open_source(people), put=lambda t: t, **options)  # type: ignore[arg-type]
        assert batches.steps_per_epoch == len(wanted)
        assert [batch.index.tolist() for batch in batches.epoch(1)] == wanted


def test_an_order_of_fewer_rows_than_a_batch(people: Path) -> None:
    source = open_source(people)
    order = class_uniform(source.labels, 12, 3, seed=0)
    with pytest.raises(InputError, match="10 images are fewer than one batch of 12"):
        Batches(source, batch=12, seed=0, flip=True, put=lambda t: t, order=order)
