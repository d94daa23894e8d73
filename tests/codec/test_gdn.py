"""GDN against its formula, its bounds, and the folded form against the trained one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facekit.codec import folding
from facekit.codec.bounds import at_least, at_most
from facekit.codec.folding import FoldedGDN
from facekit.codec.gdn import GDN, OFFSET


def drawn(channels: int, inverse: bool = False) -> GDN:
    """Any norm, not the one it starts with."""
    torch.manual_seed(1)
    gdn = GDN(channels, inverse)
    with torch.no_grad():
        gdn.beta_root.uniform_(0.3, 2)
        gdn.gamma_root.uniform_(-0.1, 0.4)
    return gdn


def test_it_starts_as_the_published_function() -> None:
    x = torch.tensor([2.0, -1.0])[None, :, None, None]
    assert GDN(2)(x).flatten().tolist() == pytest.approx([2 / 1.4**0.5, -1 / 1.1**0.5])
    assert GDN(2, inverse=True)(x).flatten().tolist() == pytest.approx([2 * 1.4**0.5, -(1.1**0.5)])


@pytest.mark.parametrize("inverse", [False, True])
def test_every_value_follows_the_formula(inverse: bool) -> None:
    gdn = drawn(3, inverse).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    pedestal = 2.0**-36
    beta = [max(b, (1e-6 + pedestal) ** 0.5) ** 2 - pedestal for b in gdn.beta_root.tolist()]
    gamma = [[max(g, 2.0**-18) ** 2 - pedestal for g in row] for row in gdn.gamma_root.tolist()]
    out = gdn(x)
    for b, i, r, c in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        norm = beta[i] + sum(gamma[i][j] * x[b, j, r, c].item() ** 2 for j in range(3))
        expected = x[b, i, r, c].item() * norm ** (0.5 if inverse else -0.5)
        assert out[b, i, r, c].item() == pytest.approx(expected, rel=1e-12)


def test_roots_below_their_bounds_make_no_negative_weight_and_find_back() -> None:
    gdn = GDN(2)
    with torch.no_grad():
        gdn.beta_root.fill_(-1)
        gdn.gamma_root.fill_(-1)
    assert gdn.beta().detach().tolist() == pytest.approx([1e-6] * 2)
    assert gdn.gamma().abs().max() < 1e-15
    (-gdn.beta().sum() - gdn.gamma().sum()).backward()
    assert gdn.beta_root.grad is not None and (gdn.beta_root.grad < 0).all()
    assert gdn.gamma_root.grad is not None and torch.allclose(gdn.gamma_root.grad, torch.tensor(-2 * OFFSET))


def test_bounds_pass_the_gradient_that_leads_back() -> None:
    def slope(bounded: Tensor, x: Tensor, weight: float) -> float:
        return float(torch.autograd.grad(weight * bounded, x, retain_graph=True)[0])

    low, inside = torch.tensor(0.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    floor, ceiling = at_least(low, 1.0), at_most(inside, 2.0)
    assert (floor.item(), ceiling.item()) == (1.0, 2.0)
    assert [slope(floor, low, w) for w in (-2, 2)] == [-2, 0]
    assert [slope(ceiling, inside, w) for w in (-2, 2)] == [0, 2]
    untouched = at_least(at_most(inside, 4.0), 2.0)
    assert [slope(untouched, inside, w) for w in (-2, 2)] == [-2, 2]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_folded_form_is_the_same_function(
    inverse: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "TILE", 7)  # 2 * 5 * 6 places: several tiles, the last one short
    gdn = drawn(4, inverse)
    x = torch.randn(2, 4, 5, 6).contiguous(memory_format=layout)
    with torch.inference_mode():
        trained = gdn(x)
        torch.testing.assert_close(FoldedGDN(gdn)(x), trained, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_reach_the_norm() -> None:
    gdn, x = drawn(4), torch.randn(1, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gdn(x), gdn(x.clone()))
        reduced = gdn(x.bfloat16())
    assert reduced.dtype == torch.float32
    assert torch.equal(reduced, gdn(x.bfloat16().float()))
