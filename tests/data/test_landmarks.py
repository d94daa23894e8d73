"""Five points to a crop: against an SVD, against a loop over pixels, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facekit.data.landmarks import SIDE, TEMPLATE, similarity, warp


def umeyama(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Umeyama's equations 40 to 43, literally: [2,3]."""
    mean_x, mean_y = points.mean(0), template.mean(0)
    x, y = points - mean_x, template - mean_y
    u, d, vt = np.linalg.svd(y.T @ x / len(x))
    s = np.diag([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / (x**2).sum(1).mean()
    return np.hstack([scale * rotation, (mean_y - scale * rotation @ mean_x)[:, None]])


@pytest.mark.parametrize("mirrored", [False, True])
def test_similarity_is_umeyamas_without_reflection(mirrored: bool) -> None:
    rng = np.random.default_rng(0)
    points = TEMPLATE * 2.3 + rng.normal(0, 6, (7, 5, 2)) + 40
    if mirrored:  # a mirrored face would be fitted best by a reflection, which is not allowed
        points[..., 0] = 400 - points[..., 0]
    found = similarity(points)
    for one, face in zip(found, points, strict=True):
        np.testing.assert_allclose(one, umeyama(face, TEMPLATE), rtol=1e-9, atol=1e-9)
        assert np.linalg.det(one[:, :2]) > 0


def test_similarity_by_hand() -> None:
    # Twice as large, turned by a quarter, moved by (10, 20): the way back halves, turns back and moves back.
    turned = np.stack([10 - 2 * TEMPLATE[:, 1], 20 + 2 * TEMPLATE[:, 0]], axis=1)
    np.testing.assert_allclose(similarity(turned[None])[0], [[0, 0.5, -10], [-0.5, 0, 5]], atol=1e-12)
    np.testing.assert_allclose(similarity(TEMPLATE[None])[0], [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_what_are_no_five_points_has_no_similarity() -> None:
    faces = np.stack([np.full((5, 2), 30.0), TEMPLATE * np.nan, TEMPLATE * np.inf, TEMPLATE * 1e300, TEMPLATE])
    assert np.isnan(similarity(faces)).all(axis=(1, 2)).tolist() == [True, True, True, True, False]


def literal_warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel, from the definition."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros((*size, image.shape[2]), np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y, _ = inverse @ [column, row, 1]
            value = np.zeros(image.shape[2])
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                        value += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
            out[row, column] = np.floor(value + 0.5)
    return out


def test_warp_is_the_literal_loop_over_the_edges_too() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, 13, 17, 3), np.uint8)
    points = rng.uniform(-4, 20, (3, 5, 2))
    matrices = similarity(points, TEMPLATE * 20 / SIDE)
    found = warp(images, matrices, (20, 22))
    for crop, image, matrix in zip(found, images, matrices, strict=True):
        wanted = literal_warp(image, matrix, (20, 22))
        # float32 may round an exact half the other way
        assert np.abs(crop.astype(int) - wanted).max() <= 1
        assert np.mean(crop != wanted) < 0.002


def test_warp_by_hand() -> None:
    image = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3, 1) * 10  # 10 20 30 / 40 50 60
    as_it_is = warp(image, np.array([[[1.0, 0, 0], [0, 1, 0]]]), (3, 4))[0, :, :, 0]
    assert as_it_is.tolist() == [[10, 20, 30, 0], [40, 50, 60, 0], [0, 0, 0, 0]]
    # Half a pixel to the right and one down: black comes in from the left, half of it.
    moved = warp(image, np.array([[[1.0, 0, 0.5], [0, 1, 1]]]), (3, 4))[0, :, :, 0]
    assert moved.tolist() == [[0, 0, 0, 0], [5, 15, 25, 15], [20, 45, 55, 30]]
    far_away = warp(image, np.array([[[1.0, 0, 900], [0, 1, -900]]]), (3, 4))
    assert not far_away.any()


def test_the_nose_lands_on_its_place() -> None:
    points = TEMPLATE * 1.7 + 30
    image = np.zeros((1, 260, 260, 3), np.uint8)
    x, y = np.rint(points[2]).astype(int)
    image[0, y - 2 : y + 3, x - 2 : x + 3] = 200
    row, column = np.unravel_index(warp(image, similarity(points[None]))[0, :, :, 0].argmax(), (SIDE, SIDE))
    assert abs(column - TEMPLATE[2, 0]) < 2 and abs(row - TEMPLATE[2, 1]) < 2
