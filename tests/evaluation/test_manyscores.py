"""TAR from the best impostor scores alone equals TAR from all of them, ties included."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.evaluation import manyscores as m
from facekit.evaluation import verification as v

FARS = (1e-3, 1e-2, 0.1, 0.3, 1.0)


def scores(seed: int, impostors: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(genuine ascending, impostor): smooth, with many ties, or mostly negative."""
    rng = np.random.default_rng(seed)
    genuine, impostor = rng.normal(0.5, 0.3, 200), rng.normal(0.0, 0.2, impostors)
    if kind == "ties":
        genuine, impostor = np.round(genuine, 1), np.round(impostor, 1)
    if kind == "negative":
        genuine, impostor = genuine - 3, impostor - 3
    return np.sort(genuine), impostor


def pieces(scores: np.ndarray, size: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (scores[i : i + size] for i in range(0, len(scores), size))


@pytest.mark.parametrize("kind", ["smooth", "ties", "negative"])
@pytest.mark.parametrize("size", [77, 5000])
def test_tail_is_the_sorted_end_of_all_scores(kind: str, size: int) -> None:
    genuine, impostor = scores(0, 1500, kind)
    full = v.Scores(genuine, np.sort(impostor))
    for keep in (1, 20, 700, 1500, 9000):
        tail = m.tail_of(pieces(impostor, size), keep)
        assert tail.total == 1500 and len(tail.best) >= min(keep, 1500)
        assert np.array_equal(tail.best, full.impostor[::-1][: len(tail.best)])
        if len(tail.best) < 1500:  # nothing that ties with the last is left out
            assert full.impostor[::-1][len(tail.best)] < tail.best[-1]


@pytest.mark.parametrize("kind", ["smooth", "ties", "negative"])
def test_points_equal_those_of_all_scores(kind: str) -> None:
    for seed in range(5):
        genuine, impostor = scores(seed, 1000, kind)
        full = v.Scores(genuine, np.sort(impostor))
        for far in FARS:
            short = m.tail_of(pieces(impostor, 600), m.depth([far], 1000))
            assert m.tar_at_far(genuine, short, far) == v.tar_at_far(full, far)
            longer = m.tail_of(pieces(impostor, 600), m.depth([far], 1000, times=2))
            assert m.tar_at_far_nearest(genuine, longer, far) == v.tar_at_far_nearest(full, far)


@settings(max_examples=60)
@given(
    genuine=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    impostor=st.lists(st.integers(-3, 3), min_size=1, max_size=25),
    far=st.sampled_from([0.04, 0.05, 0.1, 0.25, 0.29, 0.5, 1.0]),
)
def test_points_equal_those_of_all_scores_where_everything_ties(
    genuine: list[int], impostor: list[int], far: float
) -> None:
    ours, theirs = np.sort(np.array(genuine, float)), np.array(impostor, float)
    full = v.Scores(ours, np.sort(theirs))
    tail = m.tail_of(pieces(theirs, 9), m.depth([far], len(theirs), times=2))
    assert m.tar_at_far(ours, tail, far) == v.tar_at_far(full, far)
    assert m.tar_at_far_nearest(ours, tail, far) == v.tar_at_far_nearest(full, far)


def test_threshold_is_no_bin_edge() -> None:
    """The bin of the wanted score holds many others: a threshold at its edge would let all of them pass."""
    impostor = np.concatenate([np.full(5, 0.9), 0.5 + 1e-4 * np.arange(10), np.zeros(985)])
    genuine = np.array([0.5003, 0.5006, 0.95])
    tail = m.tail_of(pieces(impostor, 100), m.depth([0.01], 1000))
    point = m.tar_at_far(genuine, tail, 0.01)
    assert point.threshold == np.nextafter(0.5 + 1e-4 * 4, 1)  # ten of 1,000: 0.9 five times, .5009 to .5005
    assert (point.n_false, point.value) == (10, 2 / 3)
    edge, _ = m.lower_edge(pieces(impostor, 100), 11)
    assert edge == 0.5 and np.sum(impostor >= edge) == 15


def test_short_tail_is_not_measurable() -> None:
    genuine, impostor = scores(0, 1000, "smooth")
    best = np.sort(impostor)[::-1]
    point = m.tar_at_far(genuine, m.Tail(best[:100], 1000), 0.1)
    assert point.status == "not_measurable" and point.value is None and "100 best of 1,000" in point.note
    assert m.tar_at_far(genuine, m.Tail(best[:101], 1000), 0.1).value is not None
    assert m.tar_at_far(genuine, m.Tail(best[:101], 1000), 1e-4).status == "not_measurable"


@pytest.mark.parametrize("keep", [1, 50, 3000, 70_000])
def test_stream_keeps_the_best_with_their_tags(keep: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 200_000).astype(np.float32)
    values[:10] = [0.0, -0.0, 1e-30, -1e-30, np.inf, -np.inf, 3e38, -3e38, 1.0, -1.0]
    tags = rng.integers(0, 1 << 16, len(values))
    for size in (999, 200_000):
        top = m.TopScores(keep)
        for start in range(0, len(values), size):
            part = slice(start, start + size)
            candidates = values[part] >= top.floor
            top.add(values[part][candidates], tags[part][candidates])
        best, who = top.best()
        order = np.lexsort((tags, values))[::-1][:keep]
        assert np.array_equal(best, values[order])
        assert np.array_equal(who, tags[order])
    assert top.floor == (values[order[-1]] if keep < len(values) else -np.inf)


def test_stream_can_be_read_on_the_way() -> None:
    values = np.random.default_rng(1).normal(0, 1, 1000)
    top = m.TopScores(10)
    for stop in (5, 300, 1000):
        top.add(values[{5: 0, 300: 5, 1000: 300}[stop] : stop], np.zeros(1, np.int64))
        wanted = np.sort(values[:stop].astype(np.float32))[::-1][:10]
        assert np.array_equal(top.best()[0], wanted)


def test_depth() -> None:
    assert m.depth([0.01], 1000) == 12  # the eleventh decides, one more tells that it is not the last
    assert m.depth([0.01, 1e-6], 1000, times=20) == 221
    assert m.depth([1.0], 1000) == 1000
    assert m.depth([], 1000) == 2
