"""From a loose crop to the 112x112 crop that networks expect: five points, a similarity, a bilinear warp."""

from __future__ import annotations

import numpy as np

SIDE = 112
LARGEST = 1e6
"""Coordinates beyond it are no pixels."""
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where left eye, right eye, nose, left and right mouth corner (x, y; left in the image) go in the arcface crop."""


def similarity(points: np.ndarray, template: np.ndarray = TEMPLATE) -> np.ndarray:
    """The least-squares similarities [N,2,3] that take points [N,K,2] to the template [K,2].

    Scale, rotation and translation, never a reflection: what Umeyama (1991) finds by an SVD. In the plane it is the
    regression w = a z + b of complex numbers. NaN where the points of a face are one, or are no points of an image.
    """
    sane = (np.abs(points) <= LARGEST).all(axis=(1, 2), keepdims=True)  # False for NaN, too
    points = np.where(sane, points, 0.0)
    z, w = points[..., 0] + 1j * points[..., 1], template[:, 0] + 1j * template[:, 1]
    middle, target = z.mean(axis=1), w.mean()
    centred = z - middle[:, None]
    spread = (np.abs(centred) ** 2).sum(axis=1)
    a = np.divide(
        centred.conj() @ (w - target), spread, out=np.full(len(z), complex(np.nan, np.nan)), where=spread > 1e-6
    )
    b = target - a * middle
    return np.stack([np.stack([a.real, -a.imag, b.real], 1), np.stack([a.imag, a.real, b.imag], 1)], axis=1)


def warp(images: np.ndarray, matrices: np.ndarray, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Images uint8 [N,H,W,C] moved by similarities [N,2,3] into crops uint8 [N,*size,C].

    Bilinear; what lies outside the image is 0, and fades in over its last pixel. Half a grey level is rounded up.
    """
    count, height, width, channels = images.shape
    # One black pixel around the image: whatever is farther out is as black as that one.
    padded = np.zeros((count, height + 2, width + 2, channels), np.uint8)
    padded[:, 1:-1, 1:-1] = images
    x, y = sources(matrices, size)
    x, y = np.clip(x, -1, width) + 1, np.clip(y, -1, height) + 1
    left, top = np.minimum(x.astype(np.int64), width), np.minimum(y.astype(np.int64), height)
    corner = (np.arange(count)[:, None, None] * (height + 2) + top) * (width + 2) + left
    pixels = padded.reshape(-1, channels)

    def at(offset: int) -> np.ndarray:
        return pixels.take(corner + offset, axis=0).astype(np.float32)

    right, below = (x - left).astype(np.float32)[..., None], (y - top).astype(np.float32)[..., None]
    upper = mixed(at(0), at(1), right)
    lower = mixed(at(width + 2), at(width + 3), right)
    return (mixed(upper, lower, below) + np.float32(0.5)).astype(np.uint8)


def mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + share (second - first), in the memory of ``second``."""
    second -= first
    second *= share
    second += first
    return second


def sources(matrices: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the crops comes from: x and y float64 [N,*size]."""
    a = (matrices[:, 0, 0] + 1j * matrices[:, 1, 0])[:, None, None]
    b = (matrices[:, 0, 2] + 1j * matrices[:, 1, 2])[:, None, None]
    rows, columns = np.mgrid[: size[0], : size[1]]
    z = (columns + 1j * rows - b) / a
    return z.real, z.imag
