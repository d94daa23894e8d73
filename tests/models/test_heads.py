"""Margin heads: hand-computed logits, and the two gradients of ArcFace."""

import math
import typing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facekit import configs
from facekit.models import HEADS
from facekit.models.heads import AdaFace, MarginHead


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
        # q = 0.333 (7 - 20) / 100.001 = -0.04329 for an embedding of length 7 before any statistics
        ("adaface", math.cos(math.radians(30) + 0.4 * 0.0432896) - 0.4 * (1 - 0.0432896)),
    ],
)
def test_logits_by_hand(name: str, true_class: float) -> None:
    head = head_of(name, scale=10.0)  # default margins: 0.5, 0.5, 0.4 and 0.4
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))  # prototypes at 0 and 90 degrees, any length
    logits = head(at_angle(30, length=7.0), torch.tensor([0]))
    assert logits[0].tolist() == pytest.approx([10 * true_class, 10 * math.cos(math.radians(60))], abs=1e-5)
    plain = head.cosine_logits(at_angle(30, length=7.0))
    assert plain[0].tolist() == pytest.approx([10 * math.cos(math.radians(30)), 5.0], abs=1e-5)


@pytest.mark.parametrize("name", list(HEADS))
def test_contract(name: str) -> None:
    head = head_of(name, classes=5, width=8)
    statistics = ["batch_mean", "batch_std"] if name == "adaface" else []
    assert head.weight.shape == (5, 8) and list(head.state_dict()) == ["weight", *statistics]
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


@pytest.mark.parametrize("name", list(HEADS))
def test_loss_is_the_cross_entropy_of_each_sample(name: str) -> None:
    head = head_of(name, classes=5, width=8).double().eval()
    embedding, labels = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 0])
    logits = head(embedding, labels)
    wanted = logits.exp().sum(1).log() - logits[torch.arange(6), labels]
    loss = head.loss(embedding, labels)
    assert loss.shape == (6,)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)


# --- AdaFace, against its formula in numpy -----------------------------------------------------------------


def adaface_by_hand(
    embedding: np.ndarray, weight: np.ndarray, labels: np.ndarray, mean: float, std: float
) -> tuple[np.ndarray, float, float]:
    """Logits of a training batch, and the statistics after it, sample by sample as the paper and its code have it."""
    m, s = 0.4, 64.0
    norms = np.array([min(max(float(np.sqrt((e * e).sum())), 0.001), 100.0) for e in embedding])
    mean = 0.01 * norms.sum() / len(norms) + 0.99 * mean
    std = 0.01 * np.sqrt(((norms - norms.mean()) ** 2).sum() / (len(norms) - 1)) + 0.99 * std
    logits = np.empty((len(embedding), len(weight)))
    for i, e in enumerate(embedding):
        scaler = min(max((norms[i] - mean) / (std + 1e-3) * 0.333, -1.0), 1.0)
        for j, w in enumerate(weight):
            cosine = float(e @ w / np.sqrt((e @ e) * (w @ w)))
            if j == labels[i]:
                g_angle, g_add = -m * scaler, m + m * scaler
                theta = math.acos(min(max(cosine, -1 + 1e-3), 1 - 1e-3)) + g_angle
                cosine = math.cos(min(max(theta, 1e-3), math.pi - 1e-3)) - g_add
            logits[i, j] = s * cosine
    return logits, float(mean), float(std)


def random_faces(seed: int, count: int = 7) -> tuple[Tensor, Tensor]:
    """Embeddings whose lengths span what is clipped and what is not, with labels of 5 classes."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([1e-6, 0.5, 9.0, 18.0, 25.0, 60.0, 3000.0], dtype=torch.float64)[:count]
    labels = torch.randint(0, 5, (count,), generator=generator)
    return F.normalize(embedding) * lengths[:, None], labels


def adaface(gather: typing.Callable[[Tensor], Tensor] | None = None) -> AdaFace:
    torch.manual_seed(0)
    head = AdaFace(8, 5) if gather is None else AdaFace(8, 5, gather=gather)
    return head.double()


def test_adaface_logits_and_statistics_by_hand() -> None:
    head = adaface()
    with torch.no_grad():  # a prior close to the data, so that q takes all values and both its limits
        head.batch_mean.fill_(20.0)
        head.batch_std.fill_(8.0)
    mean, std = 20.0, 8.0
    for step in range(3):
        embedding, labels = random_faces(step)
        if step == 2:  # on its prototype, and opposite: the angle's limits
            embedding = torch.cat([embedding[:5], 30 * F.normalize(head.weight.detach()[:2])])
            embedding[6] *= -1
            labels[5:] = torch.tensor([0, 1])
        logits = head(embedding, labels).detach()
        wanted, mean, std = adaface_by_hand(embedding.numpy(), head.weight.detach().numpy(), labels.numpy(), mean, std)
        np.testing.assert_allclose(logits.numpy(), wanted, rtol=1e-10, atol=1e-10)
        assert float(head.batch_mean) == pytest.approx(mean, rel=1e-12)
        assert float(head.batch_std) == pytest.approx(std, rel=1e-12)


def test_adaface_starts_as_its_authors_and_counts_one_batch_once() -> None:
    head = adaface()
    assert (float(head.batch_mean), float(head.batch_std)) == (20.0, 100.0)
    embedding, labels = random_faces(0)
    norms = embedding.norm(dim=1).clamp(1e-3, 100)
    head.loss(embedding, labels)
    assert float(head.batch_mean) == pytest.approx(0.99 * 20 + 0.01 * float(norms.mean()))
    head.cosine_logits(embedding)
    head.eval()
    kept = float(head.batch_mean)
    head.loss(embedding, labels)
    assert float(head.batch_mean) == kept


def test_adaface_gradient_by_finite_differences_at_constant_length() -> None:
    head = adaface().eval()
    direction = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    lengths = torch.tensor([[4.0], [20.0], [90.0]], dtype=torch.float64)
    head.scale = 4.0
    assert torch.autograd.gradcheck(lambda d: head.loss(lengths * F.normalize(d), labels), (direction,))


def test_adaface_takes_no_gradient_through_the_length() -> None:
    """Moving along itself an embedding changes its margin, but nothing must pull it there."""
    head = adaface().eval()
    embedding, labels = random_faces(1)
    embedding.requires_grad_()
    (gradient,) = torch.autograd.grad(head.loss(embedding, labels).sum(), embedding)
    along = (gradient * F.normalize(embedding.detach())).sum(1)
    assert (along.abs() <= 1e-9 * gradient.norm(dim=1) + 1e-12).all()
    assert not torch.allclose(head.loss(embedding, labels), head.loss(2 * embedding, labels))


def test_adaface_two_processes_have_the_statistics_of_one() -> None:
    embedding, labels = random_faces(2)
    whole = adaface()
    wanted = whole.loss(embedding, labels)
    halves = [slice(0, 3), slice(3, 7)]
    for half in halves:
        head = adaface(gather=lambda lengths: embedding.norm(dim=1))
        torch.testing.assert_close(head.loss(embedding[half], labels[half]), wanted[half], rtol=1e-12, atol=1e-12)
        assert torch.equal(head.batch_mean, whole.batch_mean) and torch.equal(head.batch_std, whole.batch_std)
    alone = adaface()
    alone.loss(embedding[halves[0]], labels[halves[0]])
    assert not torch.equal(alone.batch_mean, whole.batch_mean)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("rows", [1, 7])
def test_adaface_statistics_survive_a_broken_batch(poison: float, rows: int) -> None:
    head = adaface()
    embedding, labels = random_faces(0)
    embedding[0, 3] = poison
    loss = head.loss(embedding[:rows], labels[:rows])
    assert not torch.isfinite(loss[0])  # seen by whoever watches the loss
    assert (float(head.batch_mean), float(head.batch_std)) == (20.0, 100.0)
    head.loss(*random_faces(0, count=1))  # one sample has no deviation
    assert (float(head.batch_mean), float(head.batch_std)) == (20.0, 100.0)
