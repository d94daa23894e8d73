"""The hardest pairs: the right ones, in order, with faces only when asked."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from facekit.data.pairs import PairSet
from facekit.evaluation.hardest import THUMBNAIL, hardest_pairs, lowest_of


def test_the_extremes_of_both_classes_by_name(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(60)
    scores = np.random.default_rng(0).normal(size=60).round(1)
    found = hardest_pairs(pairs, scores, "dao, cohort", count=5)
    assert (found.benchmark, found.label) == (pairs.name, "dao, cohort")
    for kept, same, sign in ((found.genuine, True, 1), (found.impostor, False, -1)):
        by_hand = sorted((i for i in range(60) if pairs.same[i] == same), key=lambda i: (sign * scores[i], i))[:5]
        assert [(p.left, p.right, p.score) for p in kept] == [
            (pairs.source.names[pairs.left[i]], pairs.source.names[pairs.right[i]], scores[i]) for i in by_hand
        ]
        assert all(p.left_image is None and p.right_image is None for p in kept)


def test_more_than_there_are(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(60)
    found = hardest_pairs(pairs, np.zeros(60), count=1000)
    assert (len(found.genuine), len(found.impostor)) == (int(pairs.same.sum()), int((~pairs.same).sum()))


def test_lowest_keeps_the_order_of_ties() -> None:
    assert lowest_of(np.array([3, 1, 2, 1, 1.0]), 2).tolist() == [1, 3]
    assert lowest_of(np.array([2.0, 1.0]), 9).tolist() == [1, 0]
    assert lowest_of(np.empty(0), 3).tolist() == []


def test_thumbnails_are_the_images(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(60)
    found = hardest_pairs(pairs, np.arange(60.0), count=2, thumbnails=True)
    names = list(pairs.source.names)
    for pair in (*found.genuine, *found.impostor):
        for name, uri in ((pair.left, pair.left_image), (pair.right, pair.right_image)):
            assert uri is not None and uri.startswith("data:image/jpeg;base64,")
            image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
            pixels = pairs.source.read(np.array([names.index(name)]))[0]
            assert max(image.size) <= THUMBNAIL
            assert np.abs(np.asarray(image, float).mean() - pixels.mean()) < 12, "JPEG, but this image"
