"""Likelihoods against closed forms and plain loops, and the float model against the integers of files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.latents import draw
from facekit.codec import rans
from facekit.codec.mixture import FiniteError, quantised
from facekit.codec.mixture import bits as integer_bits
from facekit.codec.priors import FactorisedPrior, Parameters, bits, mixture_likelihood, z_edges


def single(mean: Tensor, log_scale: Tensor, logit: float = 0.0, components: int = 1) -> Parameters:
    """The same Gaussian in every component; [n] each."""
    shape = (1, components, 1, 1, len(mean))
    spread = torch.linspace(0, logit, components, dtype=mean.dtype)[:, None, None, None].expand(shape)
    return Parameters(mean.expand(shape), log_scale.expand(shape), spread)


def drawn_prior(channels: int, seed: int = 0) -> FactorisedPrior:
    """As training may leave it: no scale, shift or bend at its start."""
    torch.manual_seed(seed)
    prior = FactorisedPrior(channels)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(0, 0.7)
    return prior


# --- the mixture ----------------------------------------------------------------------------------------------


def test_a_case_by_hand() -> None:
    p = mixture_likelihood(torch.zeros(1, 1, 1, 1), Parameters(*torch.zeros(3, 1, 1, 1, 1, 1)))
    assert p.item() == pytest.approx(math.erf(0.5 / math.sqrt(2)))
    assert bits(torch.tensor([[0.5, 0.25], [1.0, 0.125]])).tolist() == [3, 3]


@pytest.mark.parametrize(("components", "logit"), [(1, 0.0), (3, 0.0), (3, 7.0)])
def test_equal_components_are_the_single_gaussian(components: int, logit: float) -> None:
    torch.manual_seed(0)
    y = torch.randint(-20, 21, (500,), dtype=torch.float64)
    mean, log_scale = y + 2 * torch.randn(500, dtype=torch.float64), torch.randn(500, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, log_scale.exp().clamp(0.11, 64))
    expected = (normal.cdf(y + 0.5) - normal.cdf(y - 0.5)).clamp(min=1e-9)
    found = mixture_likelihood(y.view(1, 1, 1, -1), single(mean, log_scale, logit, components))
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-7, atol=1e-15)


def test_tails_keep_their_digits_in_float32() -> None:
    mean, log_scale = torch.linspace(-5.6, 5.6, 57), torch.zeros(57)
    y = torch.zeros(1, 1, 1, 57)
    low, high = (mixture_likelihood(y.to(kind), single(mean.to(kind), log_scale.to(kind))) for kind in
                 (torch.float32, torch.float64))  # fmt: skip
    assert (low / high - 1).abs().max() < 1e-5
    assert high.min() < 1e-6


def test_scales_are_clamped_and_learn_their_way_back() -> None:
    log_scale = torch.tensor([-9.0, 9.0], requires_grad=True)
    y = torch.zeros(1, 1, 1, 2)
    at_bounds = torch.tensor([0.11, 64.0]).log()
    wide = mixture_likelihood(y, single(torch.tensor([1.0, 200.0]), log_scale))
    torch.testing.assert_close(wide, mixture_likelihood(y, single(torch.tensor([1.0, 200.0]), at_bounds)))
    near, far = (torch.autograd.grad(-wide.log()[..., i].sum(), log_scale, retain_graph=True)[0][i] for i in (0, 1))
    assert near < 0 and far == 0  # a miss wants wider scales: the first may, the second is at its end
    hit = mixture_likelihood(y, single(torch.zeros(2), log_scale))
    near, far = (torch.autograd.grad(-hit.log()[..., i].sum(), log_scale, retain_graph=True)[0][i] for i in (0, 1))
    assert near == 0 and far > 0


def test_the_rarest_value_costs_thirty_bits_and_still_pulls() -> None:
    mean = torch.tensor([50.0], requires_grad=True)
    p = mixture_likelihood(torch.zeros(1, 1, 1, 1), single(mean, torch.zeros(1)))
    assert p.item() == pytest.approx(1e-9)
    assert torch.isfinite(torch.autograd.grad(bits(p).sum(), mean)[0]).all()


def test_estimated_bits_are_those_of_the_integers() -> None:
    floats, values = draw(3, 20_000)
    shape = (1, 3, 1, 1, -1)
    p = mixture_likelihood(
        torch.from_numpy(values).double().view(1, 1, 1, -1),
        Parameters(*(torch.from_numpy(array).reshape(shape) for array in floats)),
    )
    assert integer_bits(quantised(*floats), values) == pytest.approx(bits(p).item(), rel=2e-3)


# --- the prior of z -------------------------------------------------------------------------------------------


def test_the_prior_follows_its_formula() -> None:
    prior, z = drawn_prior(3), [-3.0, 0.0, 2.0]

    def cumulative(x: float, c: int) -> float:
        def affine(x: float, stage: int) -> float:
            return x * math.log1p(math.exp(prior.scale[stage, c].item())) + prior.shift[stage, c].item()

        for stage in range(3):
            u = affine(x, stage)
            x = u + math.tanh(u) * math.tanh(prior.bend[stage, c].item())
        return 1 / (1 + math.exp(-affine(x, 3)))

    found = prior(torch.tensor(z).expand(1, 3, 1, 3))
    for c in range(3):
        expected = [cumulative(x + 0.5, c) - cumulative(x - 0.5, c) for x in z]
        assert found[0, c, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_the_prior_sums_to_one_and_keeps_its_tails() -> None:
    prior = drawn_prior(8)
    z = torch.arange(-400.0, 401).expand(1, 8, 1, -1)
    exact = drawn_prior(8).double()(z.double()).detach()
    assert (exact.sum(dim=-1) - 1).abs().max() < 1e-4
    assert (prior(z) / exact - 1).abs().max() < 1e-3
    assert exact.min().item() == pytest.approx(1e-9)


def test_where_both_sides_cancel_the_mass_is_whole() -> None:
    prior = FactorisedPrior(1)
    with torch.no_grad():
        prior.shift.zero_()
    above = torch.sigmoid(prior.logits(torch.full((1, 1, 1), 0.5)))
    assert prior(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(2 * above.item() - 1, abs=1e-6)


def test_the_tables_are_cumulative_frequencies() -> None:
    prior = drawn_prior(6)
    edges = z_edges(prior)
    assert (edges.dtype, edges.shape) == (np.uint32, (6, 256))
    steps = np.diff(edges.astype(np.int64))
    assert steps.min() >= 1
    assert (edges[:, 0] == 0).all() and (edges[:, 255] == 1 << 24).all()
    with torch.no_grad():
        inside = prior.double()(torch.arange(-126.0, 127).double().expand(1, 6, 1, -1))[0, :, 0].numpy()
    assert np.abs(steps[:, 1:-1] / 2**24 - inside).max() < 256 / 2**24


def test_priors_beyond_the_range_still_give_every_symbol_a_count() -> None:
    prior = FactorisedPrior(3)
    with torch.no_grad():
        prior.scale.fill_(8.0)
        prior.bend.fill_(-30.0)  # flat at its middle: tanh is -1 to the last bit
        prior.shift.copy_(torch.tensor([-1e6, 0.0, 1e6]).expand(4, 3))
    edges = z_edges(prior)
    assert np.diff(edges.astype(np.int64)).min() >= 1 and (edges[:, 255] == 1 << 24).all()
    with torch.no_grad():
        prior.shift[0, 0] = torch.nan
    with pytest.raises(FiniteError, match="prior"):
        z_edges(prior)


def test_coded_hyper_latents_cost_what_the_prior_says() -> None:
    prior = drawn_prior(4)
    edges = z_edges(prior)
    rng = np.random.default_rng(0)
    drawn = np.stack([np.searchsorted(row, rng.integers(0, 1 << 24, 800), side="right") - 1 for row in edges])
    z = (drawn - 127).astype(np.int16).reshape(4, 20, 40)
    stream = rans.encode_static(z, edges)
    with torch.no_grad():
        estimate = bits(prior(torch.from_numpy(z)[None].float())).item()
    assert 8 * (len(stream) - 8) == pytest.approx(estimate, rel=5e-3)
    assert np.array_equal(rans.decode_static(stream, edges, z.shape), z)
