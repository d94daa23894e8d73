"""MS-SSIM: the formula written out with loops, a case by hand, gradients, small images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facekit.core.msssim import C1, C2, WEIGHTS, ms_ssim, scales


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """One channel [H,W], window by window as the paper says it; odd rows and columns are averaged alone."""
    offset = np.arange(11) - 5.0
    bell = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    bell /= bell.sum()
    found = 1.0
    count = scales(*x.shape)
    for scale in range(count):
        terms = []
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mean_a, mean_b = (bell * a).sum(), (bell * b).sum()
                var_a, var_b = (bell * (a - mean_a) ** 2).sum(), (bell * (b - mean_b) ** 2).sum()
                both = (bell * (a - mean_a) * (b - mean_b)).sum()
                structure = (2 * both + C2) / (var_a + var_b + C2)
                luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
                terms.append(structure * (luminance if scale == count - 1 else 1.0))
        found *= float(np.mean(terms)) ** (WEIGHTS[scale] * sum(WEIGHTS) / sum(WEIGHTS[:count]))
        x, y = (halved(image) for image in (x, y))
    return found


def halved(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return np.array([[image[i : i + 2, j : j + 2].mean() for j in range(0, width, 2)] for i in range(0, height, 2)])


def some_images(shape: tuple[int, ...], noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.rand(shape, dtype=torch.float64)
    return x, (x + noise * torch.randn_like(x)).clamp(0, 1)


@pytest.mark.parametrize("size", [(11, 12), (23, 26), (44, 45)])
def test_it_is_the_formula(size: tuple[int, int]) -> None:
    x, y = some_images((2, 2, *size))
    wanted = [np.mean([by_loops(*(t[i, c].numpy() for t in (x, y))) for c in range(2)]) for i in range(2)]
    assert np.allclose(ms_ssim(x, y).numpy(), wanted, rtol=1e-10)


def test_two_flat_images_differ_in_luminance_at_the_coarsest_scale_only() -> None:
    a, b = 0.2, 0.6
    flat = torch.ones(1, 3, 161, 161, dtype=torch.float64)
    wanted = ((2 * a * b + C1) / (a * a + b * b + C1)) ** WEIGHTS[-1]
    assert ms_ssim(a * flat, b * flat).item() == pytest.approx(wanted, rel=1e-9)


def test_equal_images_are_one_and_noise_lowers_it() -> None:
    x, y = some_images((1, 3, 40, 40))
    assert ms_ssim(x, x).item() == pytest.approx(1.0, abs=1e-12)
    assert ms_ssim(*some_images((1, 3, 40, 40), 0.3)).item() < ms_ssim(x, y).item() < 0.999
    assert torch.allclose(ms_ssim(x.float(), y.float()), ms_ssim(x, y).float(), atol=1e-5)


def test_its_gradient_is_right_and_finite_where_structure_is_negative() -> None:
    x, y = some_images((1, 1, 12, 22))
    y.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda image: ms_ssim(x, image), y, fast_mode=True)
    against = (1 - x).requires_grad_(True)
    value = ms_ssim(x, against)
    value.sum().backward()
    assert math.isfinite(value.item()) and value.item() < 0.01
    assert against.grad is not None and torch.isfinite(against.grad).all()


@pytest.mark.parametrize(("side", "count"), [(11, 1), (20, 1), (21, 2), (112, 4), (160, 4), (161, 5), (5000, 5)])
def test_small_images_have_fewer_scales(side: int, count: int) -> None:
    assert scales(side, 6000) == scales(6000, side) == count


def test_what_has_no_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels, the image has 10x40"):
        ms_ssim(*some_images((1, 3, 10, 40)))
    with pytest.raises(ValueError, match="two shapes"):
        ms_ssim(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))
