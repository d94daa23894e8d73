"""Margin heads: hand-computed logits, and the two gradients of ArcFace."""

import math
import typing

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekit import configs
from facekit.models import HEADS
from facekit.models.heads import MarginHead


def head_of(
    name: str, *, classes: int = 2, width: int = 2, margin: float | None = None, scale: float = 64.0
) -> MarginHead:
    torch.manual_seed(0)
    return HEADS[name](width, classes, margin, scale)


def at_angle(degrees: float, length: float = 1.0) -> Tensor:
    a = math.radians(degrees)
    return torch.tensor([[length * math.cos(a), length * math.sin(a)]])


def test_the_table_is_what_configs_offers() -> None:
    assert tuple(HEADS) == typing.get_args(configs.Head)


@pytest.mark.parametrize(
    ("name", "true_class"),
    [
        ("arcface", math.cos(math.radians(30) + 0.5)),
        ("arcface_exact", math.cos(math.radians(30) + 0.5)),
        ("cosface", math.cos(math.radians(30)) - 0.4),
    ],
)
def test_logits_by_hand(name: str, true_class: float) -> None:
    head = head_of(name, scale=10.0)  # default margins: 0.5 and 0.4
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))  # prototypes at 0 and 90 degrees, any length
    logits = head(at_angle(30, length=7.0), torch.tensor([0]))
    assert logits[0].tolist() == pytest.approx([10 * true_class, 10 * math.cos(math.radians(60))], abs=1e-5)
    plain = head.cosine_logits(at_angle(30, length=7.0))
    assert plain[0].tolist() == pytest.approx([10 * math.cos(math.radians(30)), 5.0], abs=1e-5)


@pytest.mark.parametrize("name", list(HEADS))
def test_contract(name: str) -> None:
    head = head_of(name, classes=5, width=8)
    assert head.weight.shape == (5, 8) and list(head.state_dict()) == ["weight"]
    embedding = torch.randn(6, 8, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2, 1, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(embedding, labels)
    assert logits.shape == (6, 5) and logits.dtype == torch.float32
    plain = head.cosine_logits(embedding)
    true = F.one_hot(labels, 5).bool()
    assert torch.equal(logits[~true], plain[~true])
    assert (logits[true] < plain[true]).all()
    F.cross_entropy(logits, labels).backward()
    for tensor in (embedding, head.weight):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", list(HEADS))
def test_no_margin_is_plain_softmax(name: str) -> None:
    head = head_of(name, classes=5, width=8, margin=0.0).double()
    embedding, labels = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 0])
    torch.testing.assert_close(head(embedding, labels), head.cosine_logits(embedding), rtol=0, atol=1e-5)


def test_both_arcfaces_have_the_same_value() -> None:
    embedding, labels = torch.randn(6, 8), torch.tensor([0, 4, 2, 2, 1, 0])
    first, second = (head_of(n, classes=5, width=8)(embedding, labels) for n in ("arcface", "arcface_exact"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_straight_through_gradient_is_arcface_torchs() -> None:
    """d loss / d cos = s (p - 1[y]), with p the softmax of the logits that hold the margin."""
    head = head_of("arcface", classes=5, width=8, scale=16.0).double()
    embedding = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2, 1, 0])
    logits = head(embedding, labels)
    got = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), (embedding, head.weight))
    to_cosine = 16.0 * (logits.softmax(1) - F.one_hot(labels, 5)).detach()
    cosine = F.normalize(embedding) @ F.normalize(head.weight).T
    wanted = torch.autograd.grad((cosine * to_cosine).sum(), (embedding, head.weight))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["arcface_exact", "cosface"])
def test_exact_gradient_by_finite_differences(name: str) -> None:
    head = head_of(name, classes=4, width=6, scale=4.0).double()
    embedding = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda e: F.cross_entropy(head(e, labels), labels), (embedding,))


def test_the_two_gradients_of_arcface_differ() -> None:
    embedding, labels = torch.randn(6, 8), torch.tensor([0, 4, 2, 2, 1, 0])
    gradients = []
    for name in ("arcface", "arcface_exact"):
        e = embedding.clone().requires_grad_()
        head = head_of(name, classes=5, width=8, scale=4.0)
        gradients.append(torch.autograd.grad(F.cross_entropy(head(e, labels), labels), e)[0])
    assert not torch.allclose(gradients[0], gradients[1], rtol=0.05)


@pytest.mark.parametrize("name", list(HEADS))
def test_an_embedding_on_its_prototype_has_a_finite_gradient(name: str) -> None:
    head = head_of(name)
    embedding = head.weight.detach()[:1].clone().requires_grad_()
    F.cross_entropy(head(embedding, torch.tensor([0])), torch.tensor([0])).backward()
    assert embedding.grad is not None and torch.isfinite(embedding.grad).all()
    opposite = (-head.weight.detach()[:1]).requires_grad_()
    F.cross_entropy(head(opposite, torch.tensor([0])), torch.tensor([0])).backward()
    assert opposite.grad is not None and torch.isfinite(opposite.grad).all()
