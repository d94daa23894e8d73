"""The fast backward pass of PReLU against PyTorch's own, zeros included."""

import pytest
import torch
from torch import Tensor, nn

from facekit.models.prelu import PReLU

SHAPES = [(4, 3), (2, 5, 7), (3, 6, 4, 5)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal values of which about a third are exactly 0, some of them -0."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[x.abs() < 0.4] *= 0.0
    assert (x == 0).any() and (torch.signbit(x) & (x == 0)).any()
    return x.to(dtype)


def gradients(layer: nn.PReLU, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    dx, dw = torch.autograd.grad(y, (x, layer.weight), upstream)
    return y.detach(), dx, dw


def pair(channels: int) -> tuple[PReLU, nn.PReLU]:
    """Ours and PyTorch's with the same slopes: positive, negative and zero among them."""
    ours, native = PReLU(channels), nn.PReLU(channels)
    slopes = torch.linspace(-0.5, 1.0, channels)
    slopes[channels // 2] = 0.0
    for layer in (ours, native):
        layer.load_state_dict({"weight": slopes})
    return ours, native


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_pytorchs(shape: tuple[int, ...]) -> None:
    ours, native = pair(shape[1])
    x, upstream = inputs(shape), torch.randn(shape, dtype=torch.float64)
    mine, theirs = gradients(ours.double(), x, upstream), gradients(native.double(), x, upstream)
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine[1], theirs[1])
    torch.testing.assert_close(mine[2], theirs[2], rtol=1e-12, atol=1e-12)


def test_at_zero_the_gradient_is_the_slope() -> None:
    layer = PReLU(1).double()
    _, dx, dw = gradients(layer, torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    assert dx.item() == 0.25 and dw.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_is_kept_in_both_directions(dtype: torch.dtype) -> None:
    ours, native = pair(6)
    x = inputs((3, 6, 4, 5), dtype).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(x.shape).to(dtype).contiguous(memory_format=torch.channels_last)
    y, dx, dw = gradients(ours, x, upstream)
    wanted_y, wanted_dx, _ = gradients(native.to(dtype), x, upstream)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == dx.dtype == dtype and dw.dtype == torch.float32
    # Element by element both forms round once: bfloat16 results are equal to the bit, not only close.
    slopes_survive = dtype == torch.float32 or torch.equal(ours.weight.to(dtype).float(), native.weight.float())
    assert slopes_survive
    assert torch.equal(y, wanted_y) and torch.equal(dx, wanted_dx)


def test_bfloat16_slope_gradient_is_no_worse_than_pytorchs() -> None:
    ours, native = pair(8)
    x = inputs((16, 8, 14, 14))
    upstream = torch.randn(x.shape, dtype=torch.float64)
    x, upstream = x.bfloat16(), upstream.bfloat16()
    exact = gradients(pair(8)[1].double(), x.double(), upstream.double())[2]
    mine = gradients(ours, x, upstream)[2].double()
    theirs = gradients(native.bfloat16(), x, upstream)[2].double()
    assert (mine - exact).abs().max() <= (theirs - exact).abs().max()


def test_second_derivatives_and_functional_transforms() -> None:
    layer = PReLU(3).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    slope = layer.weight.detach().clone().requires_grad_()

    def apply(x: Tensor, slope: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": slope}, (x,))

    assert torch.autograd.gradcheck(apply, (x, slope))
    assert torch.autograd.gradgradcheck(apply, (x, slope))
    gradient = torch.func.grad(lambda s: apply(x.detach(), s).sum())(slope.detach())
    torch.testing.assert_close(gradient, x.detach().clamp(max=0).sum((0, 2)))


def test_state_key_and_start_value_are_pytorchs() -> None:
    ours, native = PReLU(4), nn.PReLU(4)
    assert {k: v.tolist() for k, v in ours.state_dict().items()} == {
        k: v.tolist() for k, v in native.state_dict().items()
    }
