"""The networks of the conditional GAN: shapes, gradients, what depends on what."""

import pytest
import torch

from facekit.alignment.generator import LATENT, SHAPES, Discriminator, Generator, Shape, build_gan
from facekit.core.errors import UsageError

SMALL = Shape(4, (16, 8))


@pytest.mark.parametrize("side", list(SHAPES))
def test_shapes_and_a_gradient_to_every_parameter(side: str) -> None:
    torch.manual_seed(0)
    generator, discriminator = build_gan(side, 24)
    assert str(generator.shape.side) == side
    c = torch.nn.functional.normalize(torch.randn(2, 24))
    images = generator(torch.randn(2, LATENT), c)
    assert images.shape == (2, 3, int(side), int(side)) and images.abs().max() <= 1
    scores = discriminator(images, c)
    assert scores.shape == (2,)
    scores.sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_what_is_drawn_depends_on_noise_and_condition_and_on_no_neighbour() -> None:
    torch.manual_seed(0)
    generator = Generator(SMALL, 12)
    z, c = torch.randn(4, LATENT), torch.nn.functional.normalize(torch.randn(4, 12))
    drawn = generator(z, c)
    assert (generator(z, c.roll(1, 0)) - drawn).abs().mean() > 0.01
    assert (generator(z.roll(1, 0), c) - drawn).abs().mean() > 0.01
    torch.testing.assert_close(generator(z[:1], c[:1]), drawn[:1])


def test_the_score_depends_on_image_and_condition() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL, 12)
    images, c = torch.rand(4, 3, 8, 8) * 2 - 1, torch.nn.functional.normalize(torch.randn(4, 12))
    scores = discriminator(images, c)
    assert not torch.allclose(discriminator(images, c.roll(1, 0)), scores)
    assert not torch.allclose(discriminator(images.roll(1, 0), c), scores)


def test_every_weight_of_the_discriminator_has_spectral_norm_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(SMALL, 12)
    images, c = torch.rand(2, 3, 8, 8), torch.randn(2, 12)
    for _ in range(60):  # each pass in training mode is one more power iteration
        discriminator(images, c)
    layers = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        torch.testing.assert_close(norm, torch.ones(()), rtol=1e-2, atol=0)


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown side '48'"):
        build_gan("48", 12)
