"""Folds never hold one class, never share people where that was promised, and say how they came about."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facekit.data.folds import (
    both_classes,
    connected_groups,
    contiguous_tenths,
    make_folds,
    people_disjoint,
    position_within_class,
    ten_blocks,
    within_class_tenths,
)

edges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60)


def test_contiguous_tenths_give_the_first_folds_the_rest() -> None:
    assert contiguous_tenths(12).tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert np.bincount(contiguous_tenths(6000)).tolist() == [600] * 10


def test_lfws_layout_is_recognised_and_others_are_not() -> None:
    same = np.tile([True] * 3 + [False] * 3, 10)
    found = ten_blocks(same)
    assert found is not None and found.fold is not None
    assert found.fold.tolist() == np.repeat(np.arange(10), 6).tolist()
    assert ten_blocks(~same) is None and ten_blocks(np.sort(same)) is None and ten_blocks(same[:-1]) is None


def test_calfws_layout_takes_tenths_of_each_class() -> None:
    same = np.array([True] * 20 + [False] * 30)
    found = within_class_tenths(same)
    assert found is not None and found.fold is not None
    assert found.fold[:20].tolist() == np.repeat(np.arange(10), 2).tolist()
    assert found.fold[20:].tolist() == np.repeat(np.arange(10), 3).tolist()
    assert within_class_tenths(~same) is None and within_class_tenths(same[:-1]) is None


def test_every_tenth_pair_of_each_class() -> None:
    same = np.array([True] * 11 + [False] * 12)
    found = position_within_class(same)
    assert found.fold is not None and found.rule == "position within its class mod 10"
    assert found.fold.tolist() == [*range(10), 0, *range(10), 0, 1]


def test_few_pairs_make_fewer_folds_or_none() -> None:
    found = position_within_class(np.array([True] * 3 + [False] * 9))
    assert found.fold is not None and found.fold.max() == 2 and found.rule.endswith("mod 3")
    assert position_within_class(np.array([True, False, False])).fold is None


def brute_force_groups(pairs: list[tuple[int, int]]) -> dict[int, frozenset[int]]:
    groups = {person: {person} for pair in pairs for person in pair}
    for a, b in pairs:
        merged = groups[a] | groups[b]
        for person in merged:
            groups[person] = merged
    return {person: frozenset(group) for person, group in groups.items()}


@given(edges)
def test_connected_groups_equal_merging_sets(pairs: list[tuple[int, int]]) -> None:
    found = connected_groups(np.array(pairs))
    for person, group in brute_force_groups(pairs).items():
        assert found[person] == min(group)


def test_a_chain_of_thousands_is_one_group() -> None:
    order = np.random.default_rng(0).permutation(5000)
    assert (connected_groups(np.stack([order[:-1], order[1:]], axis=1)) == 0).all()


@given(st.integers(0, 1000), st.integers(40, 120), st.integers(1, 4))
def test_people_disjoint_folds_share_nobody_and_are_balanced(seed: int, people: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    genuine = np.repeat(np.arange(people), each)
    couples = rng.permutation(people)[: people // 2 * 2].reshape(-1, 2)
    who = np.concatenate([np.stack([genuine, genuine], 1), np.repeat(couples, each, axis=0)])
    same = np.arange(len(who)) < len(genuine)
    shuffle = rng.permutation(len(who))
    who, same = who[shuffle], same[shuffle]
    fold = people_disjoint(same, who)
    if fold is None:
        groups = connected_groups(who)[who[:, 0]]
        assert np.bincount(groups).max() > 0.05 * len(who) or len(couples) < 10
        return
    assert both_classes(fold, same)
    used = [set(who[fold == k].ravel().tolist()) for k in range(10)]
    assert all(not used[a] & used[b] for a in range(10) for b in range(a))
    assert np.bincount(fold).max() <= 2 * np.bincount(fold).min() + 3 * each


def test_one_large_group_falls_back_to_positions() -> None:
    who = np.array([[0, 0]] * 30 + [[0, 1]] * 30)
    found = make_folds(np.arange(60) < 30, who)
    assert found.rule == "position within its class mod 10" and found.fold is not None
    assert make_folds(np.arange(60) < 30, None).rule == found.rule


@given(st.lists(st.booleans(), min_size=4, max_size=80), st.integers(0, 99))
def test_no_fold_ever_holds_one_class(labels: list[bool], seed: int) -> None:
    same = np.array(labels)
    people = np.random.default_rng(seed).integers(0, 40, (len(same), 2))
    people[same, 1] = people[same, 0]
    for who in (None, people):
        found = make_folds(same, who)
        if found.fold is None:
            assert min(same.sum(), (~same).sum()) < 2
        else:
            assert both_classes(found.fold, same) and found.fold.min() == 0
