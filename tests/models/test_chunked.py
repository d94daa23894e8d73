"""The walk over chunks of classes: the numbers of the plain softmax, without its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facekit.models import HEADS, heads

BATCH, CLASSES, WIDTH = 7, 23, 6
ROW = BATCH * 8  # bytes of one class's float64 logits
EACH_CHUNKING = pytest.mark.parametrize("chunk", [1, 5 * ROW, 22 * ROW], ids=["1 class", "5 classes", "22 classes"])


@pytest.fixture
def faces() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, labels (first, last and repeated classes among them), weights of the samples."""
    generator = torch.Generator().manual_seed(1)
    embedding = 9 * torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    return embedding, torch.tensor([22, 22, 0, 5, 4, 9, 0]), torch.rand(BATCH, generator=generator, dtype=torch.float64)


def loss_and_gradients(
    name: str, faces: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, scale: float = 64.0
) -> tuple[Tensor, ...]:
    """Losses [B], and the gradients of their weighted sum to embeddings and raw class centres."""
    torch.manual_seed(0)
    head = HEADS[name](WIDTH, CLASSES, None, scale).to(dtype)
    with torch.no_grad():
        head.weight.mul_(torch.linspace(1, 300, CLASSES, dtype=dtype)[:, None])  # rows of many lengths
    embedding, labels, sample_weights = faces
    embedding = embedding.to(dtype).requires_grad_()
    loss = head.loss(embedding, labels)
    gradients = torch.autograd.grad((loss * sample_weights.to(dtype)).sum(), (embedding, head.weight))
    return loss.detach(), *gradients


@EACH_CHUNKING
@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("scale", [64.0, 2.0])
def test_same_numbers_as_the_plain_softmax(
    name: str, scale: float, chunk: int, faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loss_and_gradients(name, faces, torch.float64, scale)
    monkeypatch.setattr(heads, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(heads.MarginHead, "forward", None)  # the plain path is gone
    for ours, theirs in zip(loss_and_gradients(name, faces, torch.float64, scale), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", list(HEADS))
def test_float32_is_as_close_to_float64_as_the_plain_softmax(
    name: str, faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = loss_and_gradients(name, faces, torch.float64)
    plain = loss_and_gradients(name, faces, torch.float32)
    monkeypatch.setattr(heads, "CHUNK_BYTES", 4 * 5 * BATCH)
    ours = loss_and_gradients(name, faces, torch.float32)
    for o, p, e in zip(ours, plain, exact, strict=True):
        rounding = 64 * torch.finfo(torch.float32).eps * float(e.abs().max())
        assert (o - e).abs().max() <= 2 * (p - e).abs().max() + rounding


def test_empty_and_parallel_vectors_do_as_in_the_plain_softmax(
    faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, labels, weights = faces
    results = []
    for chunk in (10**9, 5 * ROW):
        monkeypatch.setattr(heads, "CHUNK_BYTES", chunk)
        torch.manual_seed(0)
        head = HEADS["cosface"](WIDTH, CLASSES).double()
        with torch.no_grad():
            head.weight[3] = 0
            head.weight[5] = embedding[3]  # on its own prototype
        moved = embedding.clone()
        moved[1] = 0
        moved.requires_grad_()
        loss = head.loss(moved, labels)
        results.append((loss.detach(), *torch.autograd.grad((loss * weights).sum(), (moved, head.weight))))
    for plain, ours in zip(*results, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


class LargeTensors(TorchDispatchMode):
    """Notes the memory blocks of at least ``numel`` elements that operations return."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.blocks: dict[int, Tensor] = {}  # kept alive, so that no address is seen twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() // tensor.element_size() >= self.numel:
                self.blocks[tensor.untyped_storage().data_ptr()] = tensor
        return out


@pytest.mark.parametrize("name", list(HEADS))
def test_nothing_large_is_made_but_the_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classes, batch, width = 900, 40, 16
    head = HEADS[name](width, classes)
    embedding = torch.randn(batch, width, requires_grad=True)
    labels = torch.randint(0, classes, (batch,))

    def large_blocks(chunk_bytes: int) -> set[int]:
        monkeypatch.setattr(heads, "CHUNK_BYTES", chunk_bytes)
        with LargeTensors(batch * 100 + 1) as large:
            loss = head.loss(embedding, labels).mean()
            gradient = torch.autograd.grad(loss, [embedding, head.weight])[1]
        assert gradient.untyped_storage().data_ptr() in large.blocks
        return set(large.blocks) - {t.untyped_storage().data_ptr() for t in (head.weight, gradient)}

    assert not large_blocks(4 * batch * 100)
    assert len(large_blocks(10**9)) > 3, "the plain softmax was not seen either"


def test_autocast_changes_nothing(faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "CHUNK_BYTES", 4 * 5 * BATCH)
    plain = loss_and_gradients("arcface", faces, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss_and_gradients("arcface", faces, torch.float32)
    for a, b in zip(cast, plain, strict=True):
        assert torch.equal(a, b)
    head = HEADS["arcface"](WIDTH, CLASSES)
    assert head.loss(faces[0].bfloat16(), faces[1]).dtype == torch.float32


def test_a_second_derivative_is_refused_not_wrong(
    faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CHUNK_BYTES", 5 * ROW)
    head = HEADS["arcface"](WIDTH, CLASSES).double()
    (first,) = torch.autograd.grad(head.loss(*faces[:2]).sum(), head.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_label_outside_the_classes_is_refused(
    faces: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CHUNK_BYTES", 5 * ROW)
    for labels in (faces[1] + 1, faces[1] - 1):
        with pytest.raises(IndexError):
            HEADS["arcface"](WIDTH, CLASSES).double().loss(faces[0], labels)
