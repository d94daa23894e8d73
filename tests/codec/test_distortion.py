"""What is lost, by hand."""

from __future__ import annotations

import pytest
import torch

from facekit.codec.distortion import DISTORTIONS, dissimilarity, mse
from facekit.core.msssim import ms_ssim


def test_mse_of_each_image_by_hand() -> None:
    original = torch.zeros(2, 3, 2, 2)
    decoded = original.clone()
    decoded[0] += 0.1
    decoded[1, 0, 0, 0] = 1.2  # beyond what a file can show, and still counted in full
    torch.testing.assert_close(mse(decoded, original), torch.tensor([0.01, 1.44 / 12]))


@pytest.mark.parametrize("name", DISTORTIONS)
def test_equal_images_lose_nothing_and_worse_ones_more(name: str) -> None:
    torch.manual_seed(0)
    original = torch.rand(2, 3, 32, 32)
    noise = torch.randn_like(original)
    equal, little, much = (DISTORTIONS[name](original + level * noise, original) for level in (0.0, 0.02, 0.1))
    torch.testing.assert_close(equal, torch.zeros(2), atol=1e-6, rtol=0)
    assert (equal < little).all() and (little < much).all()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_step_against_the_gradient_loses_less(name: str) -> None:
    torch.manual_seed(1)
    original = torch.rand(1, 3, 24, 24)
    decoded = (original + 0.1 * torch.randn_like(original)).requires_grad_()
    lost = DISTORTIONS[name](decoded, original).sum()
    (gradient,) = torch.autograd.grad(lost, decoded)
    better = decoded.detach() - 0.05 * gradient / gradient.norm()
    assert float(DISTORTIONS[name](better, original)) < float(lost.detach())


def test_dissimilarity_is_what_ms_ssim_lacks() -> None:
    torch.manual_seed(2)
    x, y = torch.rand(2, 2, 3, 16, 16)
    torch.testing.assert_close(dissimilarity(x, y) + ms_ssim(x, y), torch.ones(2))
