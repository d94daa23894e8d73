"""Pooling of images to templates: by hand, against a loop, and in every named variant."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.data.ijb import TemplateSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation import pooling
from facekit.evaluation.pooling import pool, template_vectors


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make(template: list[int], media: list[int], faceness: list[float] | None = None) -> TemplateSet:
    """Images only; nothing is listed."""
    count = len(template)
    none = np.empty(0, np.int32)
    return TemplateSet(
        name="ijbc",
        path="toy",
        sha256="",
        source=NamedOnly([f"{i}.jpg" for i in range(count)], np.full(count, -1), ()),
        template=np.array(template, np.int32),
        media=np.array(media),
        faceness=np.ones(count) if faceness is None else np.array(faceness),
        template_id=1000 + np.arange(max(template) + 1),
        left=none,
        right=none,
        same=np.empty(0, bool),
        subject=np.full(max(template) + 1, -1),
        subjects=(),
        galleries=(),
        probe=none,
        failed=0,
        notes=(),
    )


def test_by_hand() -> None:
    images = np.array([[1.0, 0], [3, 0], [0, 5], [0, 7], [2, 2]])
    # Template 0: photograph of [1,0], video of [3,0] and [0,5]; template 1: one video of two.
    pooled = pool(images, np.array([0, 0, 0, 1, 1]), np.array([4, 9, 9, 9, 9]))
    assert pooled.tolist() == [[1 + 1.5, 2.5], [1, 4.5]]


def literal(bench: TemplateSet, images: np.ndarray) -> np.ndarray:
    """All images searched once per template and medium, as the published code does."""
    out = []
    for t in range(len(bench.template_id)):
        mine = bench.template == t
        out.append(sum(images[mine & (bench.media == m)].mean(axis=0) for m in np.unique(bench.media[mine])))
    return unit(np.array(out))


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
@pytest.mark.parametrize("image_norm", ["keep", "unit"])
@pytest.mark.parametrize("faceness", [True, False])
@pytest.mark.parametrize("block", [1, 40, 8192])
def test_every_variant_is_the_literal_one(
    flip: str, image_norm: str, faceness: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "BLOCK", block)
    rng = np.random.default_rng(0)
    template = rng.permutation(np.concatenate([np.arange(20), rng.integers(0, 20, 130)]))
    bench = make(template.tolist(), rng.integers(0, 6, 150).tolist(), rng.uniform(0.1, 1, 150).tolist())
    table = rng.normal(size=(150, 2, 8)).astype(np.float32) * rng.uniform(0.1, 30, (150, 1, 1)).astype(np.float32)
    one, two = table[:, 0].astype(float), table[:, 1].astype(float)
    images = {"none": one, "sum": one + two, "concat": np.concatenate([one, two], axis=1)}[flip]
    if image_norm == "unit":
        images = unit(images)
    if faceness:
        images = images * bench.faceness[:, None]
    found = template_vectors(bench, table, flip, image_norm, faceness)
    np.testing.assert_allclose(found, literal(bench, images), atol=1e-12)


def test_image_norm_means_the_image_not_the_template() -> None:
    """What others call N1 means opposite things: *keep* lets a long vector outweigh a short one, *unit* does not."""
    bench = make([0, 0], [1, 2])
    table = np.array([[[10.0, 0.0]], [[0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(template_vectors(bench, table, "none", "keep"), unit(np.array([[10.0, 1.0]])))
    np.testing.assert_allclose(template_vectors(bench, table, "none", "unit"), unit(np.array([[1.0, 1.0]])))


def test_faceness_weighs_after_the_norm() -> None:
    bench = make([0, 0], [1, 2], [1.0, 0.5])
    table = np.array([[[10.0, 0.0]], [[0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(template_vectors(bench, table, "none", "unit"), unit(np.array([[1.0, 0.5]])))
    np.testing.assert_allclose(template_vectors(bench, table, "none", "unit", False), unit(np.array([[1.0, 1.0]])))


def test_one_medium_of_many_frames_weighs_as_much_as_one_photograph() -> None:
    bench = make([0] * 101, [1] * 100 + [2])
    table = np.concatenate([np.tile([[[1.0, 0.0]]], (100, 1, 1)), [[[0.0, 1.0]]]]).astype(np.float32)
    np.testing.assert_allclose(template_vectors(bench, table, "none"), unit(np.array([[1.0, 1.0]])))


def test_same_medium_in_two_templates_is_two_media() -> None:
    bench = make([0, 1], [5, 5])
    table = np.array([[[3.0, 4.0]], [[0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(template_vectors(bench, table, "none"), [[0.6, 0.8], [0, 1]], atol=1e-7)


def test_templates_that_pool_to_nothing_are_named() -> None:
    bench = make([0, 1, 1], [1, 1, 2], [1.0, 0.0, 0.0])
    table = np.ones((3, 1, 4), np.float32)
    with pytest.raises(InputError, match=r"template 1001 of toy \(its first image is 1.jpg\) pools to zero"):
        template_vectors(bench, table, "none")
    table[0] = np.nan
    with pytest.raises(InputError, match="template 1000"):
        template_vectors(dataclasses.replace(bench, faceness=np.ones(3)), table, "none")
