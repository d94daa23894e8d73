"""What a training step computes: terms and weights, the frozen teacher, cached against live outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.optim import Optimizer

from facekit.core.augment import mirror
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.losses import LOSSES, Dims
from facekit.losses.fcd import feature_consistency
from facekit.losses.kd import softened_divergence
from facekit.models import HEADS
from facekit.training.classes import ClassTerm, MarginClasses, OwnClasses
from facekit.training.classify import Classify
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.relations import prototypes
from facekit.training.teachers import CachedTeacher, LiveTeacher, OrderedTeacher, ScoredTeacher, centred_scores

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
PREPROCESS = Preprocess(size=(8, 8), embedding=6)


class Net(nn.Module):
    def __init__(self, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3 * 8 * 8, width)

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.layer(images.flatten(1)))


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 0.0)


def batch(count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    view = torch.tensor([0, 1, 0, 1, 1][:count])
    return Batch(images, torch.arange(count) % 3, torch.arange(count), view, torch.arange(count))


def embed_with(net: Net) -> Callable[[Tensor], Tensor]:
    return lambda images: net(PREPROCESS(images)).embedding.detach()


def teacher_table(net: Net, images: Tensor) -> np.ndarray:
    views = [embed_with(net)(images), embed_with(net)(images.flip(-1))]
    return torch.stack(views, dim=1).numpy()


def test_mirror_flips_only_the_mirrored_views_and_keeps_the_layout() -> None:
    b = batch()
    images = b.images.contiguous(memory_format=torch.channels_last)
    out = mirror(images, b.view)
    assert torch.equal(out[0], images[0]) and torch.equal(out[1], images[1].flip(-1))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_cached_and_live_teachers_agree_on_both_views() -> None:
    net, b = Net(seed=1), batch()
    cached = CachedTeacher(teacher_table(net, b.images), CPU)
    live = LiveTeacher(lambda images: net(PREPROCESS(images)), CPU)
    torch.testing.assert_close(cached(b).embedding, live(b).embedding)
    assert not torch.allclose(cached(b).embedding, cached(b._replace(view=1 - b.view)).embedding)


def test_a_cache_too_large_for_the_device_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table = teacher_table(Net(seed=1), batch().images)
    resident = CachedTeacher(table, CPU)
    monkeypatch.setattr("facekit.training.teachers._ON_DEVICE_BYTES", 0)
    mapped = CachedTeacher(table, CPU)
    assert resident.resident and not mapped.resident
    assert torch.equal(resident(batch()).embedding, mapped(batch()).embedding)


def test_fcd_terms_and_gradient_to_the_student_only() -> None:
    student, teacher, b = Net(), Net(seed=1), batch()
    loss = LOSSES["fcd"](Dims(6, 6), {}, {})
    live = LiveTeacher(lambda x: teacher(PREPROCESS(x)), CPU)
    task = Distill(student, live, {"fcd": WeightedLoss(loss, 2.0)}, PREPROCESS, CPU, sgd)
    ((name, closure),) = task.phases(b)
    terms = closure()
    images = PREPROCESS(mirror(b.images, b.view))
    wanted = 2.0 * feature_consistency(student(images).embedding, teacher(images).embedding).mean()
    assert name == "main" and list(terms) == ["fcd"]
    torch.testing.assert_close(terms["fcd"], wanted)
    terms["fcd"].backward()
    assert student.layer.weight.grad is not None and float(student.layer.weight.grad.norm()) > 0
    assert teacher.layer.weight.grad is None


def test_kd_reads_the_teachers_class_centres() -> None:
    student, b = Net(), batch()
    table = teacher_table(Net(seed=1), b.images)
    centres = prototypes(table, b.labels.numpy(), 3).proto
    head = HEADS["arcface"](6, 3, None, 16.0)
    loss = LOSSES["kd"](Dims(6, 6, 3), {"tau": 4.0}, {})
    cls = ClassTerm(MarginClasses(head), 0.1)
    teacher = ScoredTeacher(CachedTeacher(table, CPU), centred_scores(centres, 16.0))
    task = Distill(student, teacher, {"kd": WeightedLoss(loss, 0.9)}, PREPROCESS, CPU, sgd, cls)
    ((_, closure),) = task.phases(b)
    terms = closure()
    embedding = student(PREPROCESS(mirror(b.images, b.view))).embedding
    teacher_logits = 16.0 * linear(normalize(torch.from_numpy(table)[b.index, b.view]), centres)
    plain = 16.0 * linear(normalize(embedding), normalize(head.weight))
    torch.testing.assert_close(terms["kd"], 0.9 * softened_divergence(plain, teacher_logits, 4.0).mean())
    torch.testing.assert_close(terms["cls"], 0.1 * cross_entropy(head(embedding, b.labels), b.labels))


def test_an_adapter_is_trained_but_the_shipped_student_stays_narrow() -> None:
    student, b = Net(width=4), batch()
    adapter = nn.Linear(4, 6, bias=False)
    loss = LOSSES["fcd"](Dims(6, 6), {}, {})
    table = teacher_table(Net(seed=1), b.images)
    task = Distill(
        student, CachedTeacher(table, CPU), {"fcd": WeightedLoss(loss, 1.0)}, PREPROCESS, CPU, sgd, adapter=adapter
    )
    ((_, closure),) = task.phases(b)
    closure()["fcd"].backward()
    assert adapter.weight.grad is not None and float(adapter.weight.grad.norm()) > 0
    assert task.modules["model"] is student and "adapter" in task.modules


def test_classification_is_margin_cross_entropy() -> None:
    net, b = Net(), batch()
    head = HEADS["cosface"](6, 3, 0.35, 30.0)
    task = Classify(net, MarginClasses(head), PREPROCESS, CPU, sgd)
    ((_, closure),) = task.phases(b)
    images = PREPROCESS(mirror(b.images, b.view))
    torch.testing.assert_close(closure()["cls"], cross_entropy(head(net(images).embedding, b.labels), b.labels))


class ClosedSet(nn.Module):
    """Two classes of its own behind a pooled feature."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Outputs:
        feature = self.layer(x.mean(dim=(2, 3)))
        return Outputs(feature, (x,), self.fc(feature))


def test_a_network_with_classes_of_its_own_is_trained_on_them() -> None:
    net, b = ClosedSet(), batch()
    ((_, closure),) = Classify(net, OwnClasses(), PREPROCESS, CPU, sgd).phases(b)
    logits = net(PREPROCESS(mirror(b.images, b.view))).logits
    torch.testing.assert_close(closure()["cls"], cross_entropy(logits, b.labels))
    with pytest.raises(ValueError, match="no class layer"):
        OwnClasses().logits(Outputs(torch.zeros(2, 4)))


def test_kd_compares_class_layers_in_the_order_of_the_data() -> None:
    student, teacher, b = ClosedSet(), ClosedSet(seed=1), batch()
    columns = torch.tensor([2, 0, 1])
    ordered = OrderedTeacher(LiveTeacher(lambda x: teacher(PREPROCESS(x)), CPU), columns, CPU)
    losses = {"kd": WeightedLoss(LOSSES["kd"](Dims(4, 4, 3), {}, {}), 0.9)}
    task = Distill(student, ordered, losses, PREPROCESS, CPU, sgd, ClassTerm(OwnClasses(), 0.0))
    ((_, closure),) = task.phases(b)
    terms = closure()
    images = PREPROCESS(mirror(b.images, b.view))
    wanted = softened_divergence(student(images).logits, teacher(images).logits[:, columns], 4.0).mean()
    assert list(terms) == ["kd"]
    torch.testing.assert_close(terms["kd"], 0.9 * wanted)
    terms["kd"].backward()
    # The gradient is measured where kd reads the student: at its class scores.
    logits = student(images).logits.detach().requires_grad_()
    (0.9 * softened_divergence(logits, teacher(images).logits[:, columns], 4.0).mean()).backward()
    torch.testing.assert_close(task.measured()["kd"], logits.grad.norm())
    assert teacher.fc.weight.grad is None and student.fc.weight.grad is not None


def test_what_a_loss_learns_is_in_the_optimiser() -> None:
    student, b = Net(width=4), batch()
    losses = {"hint": WeightedLoss(LOSSES["hint"](Dims(4, 6), {}, {}), 1.0)}
    task = Distill(student, CachedTeacher(teacher_table(Net(seed=1), b.images), CPU), losses, PREPROCESS, CPU, sgd)
    known = {id(p) for group in task.optimisers["main"].param_groups for p in group["params"]}
    learned = list(losses["hint"].loss.parameters())
    assert learned and all(id(p) in known for p in learned)


def test_decay_can_spare_norms_and_biases() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.PReLU())
    groups = build_optimiser("sgd", [net], 0.1, 0.5, decay_norms=False).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (2, 0.0)]
    assert len(build_optimiser("adamw", [net], 0.1, 0.5).param_groups) == 1
