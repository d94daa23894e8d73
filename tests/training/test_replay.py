"""A step's losses as functions of the parameters, and the clean images of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.errors import InputError
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.models import HEADS, build_backbone, build_classifier, heads
from facekit.training.classes import Classes, FocalClasses, MarginClasses, OwnClasses
from facekit.training.classify import Classify
from facekit.training.replay import CleanBatches, Learner, StepReplay
from facekit.training.weighing import Weighing
from facekit.weighting.base import Facts, View
from facekit.weighting.errors import NeedsClean
from facekit.weighting.l2rw import L2RW
from facekit.weighting.slopes import double_backward_slopes, forward_slopes, gradient
from tests.training.weighed import BATCH, CLASSES, CPU, PREPROCESS, Net, Noise, facts, sgd, train


def batch(side: int = 8, seed: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, generator=generator)
    index = torch.arange(BATCH)
    return Batch(images, index % CLASSES, index, index % 2, index)


def learner(net: nn.Module, classes: Classes, side: int = 8) -> Learner:
    preprocess = Preprocess(size=(side, side))
    return Learner(net, classes, lambda b: preprocess(b.images), sgd([net, *classes.modules.values()]))


def closed(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_classifier("conv3", CLASSES).train()


# --- the losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, "arcface", "adaface"])
def test_at_the_parameters_themselves_they_are_the_steps_and_nothing_changes(head: str | None) -> None:
    net = closed()
    classes = MarginClasses(HEADS[head](64, CLASSES)) if head else OwnClasses()
    own = learner(net, classes)
    before = {k: v.clone() for module in (net, *classes.modules.values()) for k, v in module.state_dict().items()}
    generator = torch.get_rng_state()
    replay = StepReplay(own, batch(), batch(seed=4))
    losses, clean = replay.losses(replay.parameters), replay.clean_loss(replay.parameters)
    after = {k: v for module in (net, *classes.modules.values()) for k, v in module.state_dict().items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(generator, torch.get_rng_state())
    names = {"network.conv1.weight", *(["head.weight"] if head else [])}
    assert names <= set(replay.parameters) and not any(p.requires_grad for p in replay.parameters.values())
    # The step itself comes last: it moves BatchNorm's statistics, and AdaFace's.
    torch.testing.assert_close(losses, classes.loss(net(own.show(batch())), batch().labels).detach())
    if head != "adaface":
        wanted = classes.loss(net(own.show(batch(seed=4))), batch().labels).mean()
        torch.testing.assert_close(clean, wanted.detach())
    assert all(parameter.grad is None for parameter in net.parameters())


class Mlp(nn.Module):
    """BatchNorm in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True))
        self.fc = nn.Linear(16, CLASSES)
        self.double()

    def forward(self, images: Tensor) -> Outputs:
        embedding = self.inner(images.double())
        return Outputs(embedding, logits=self.fc(embedding))


def slopes_of_each(replay: StepReplay, along: dict[str, Tensor]) -> Tensor:
    """<grad l_i, along>, one backward pass after the other."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in replay.parameters.items()}
    losses = replay.losses(leaves)
    rows = [
        torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, materialize_grads=True) for loss in losses
    ]
    return torch.stack([sum((g * d).sum() for g, d in zip(row, along.values(), strict=True)) for row in rows])


def test_derivatives_of_every_mode_are_those_of_autograd() -> None:
    replay = StepReplay(learner(Mlp(), OwnClasses(), side=4), batch(side=4), batch(side=4, seed=4))
    along = gradient(replay.clean_loss, replay.parameters, CPU.gather)
    wanted = slopes_of_each(replay, along)
    for slopes in (forward_slopes, double_backward_slopes):
        torch.testing.assert_close(slopes(replay.losses, replay.parameters, along), wanted, rtol=0, atol=1e-12)
    assert wanted.abs().max().item() > 1e-3


@pytest.mark.slow
def test_a_face_network_is_differentiated_forwards() -> None:
    torch.manual_seed(0)
    net = build_backbone("mbf_nano", 8).train()
    replay = StepReplay(
        learner(net, MarginClasses(HEADS["cosface"](8, CLASSES, 0.35, 8.0)), 112), batch(112), batch(112)
    )
    along = gradient(replay.clean_loss, replay.parameters, CPU.gather)
    slopes = forward_slopes(replay.losses, replay.parameters, along)
    shares = torch.linspace(-1, 2, BATCH)
    of_sum = gradient(lambda leaves: (shares * replay.losses(leaves)).sum(), replay.parameters, CPU.gather)
    wanted = sum((of_sum[name] * along[name]).sum() for name in along)
    torch.testing.assert_close((shares * slopes).sum(), wanted, rtol=1e-3, atol=1e-3)


def test_many_classes_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss that walks over the classes in chunks has one derivative only."""
    monkeypatch.setattr(heads, "CHUNK_BYTES", 16)
    classes = FocalClasses(MarginClasses(HEADS["arcface_exact"](64, CLASSES, 0.5, 8.0)))
    replay = StepReplay(learner(closed(), classes), batch(), batch())
    along = gradient(replay.clean_loss, replay.parameters, CPU.gather)
    torch.testing.assert_close(forward_slopes(replay.losses, replay.parameters, along), slopes_of_each(replay, along))
    outputs = closed()(Preprocess(size=(8, 8))(batch().images))
    torch.testing.assert_close(classes.whole_loss(outputs, batch().labels), classes.loss(outputs, batch().labels))


def test_a_compiled_network_is_not_compiled_again() -> None:
    net = closed()

    def refuse(*_: Any) -> None:
        raise AssertionError("called the compiled network")

    net._compiled_call_impl = refuse  # what nn.Module.compile sets
    replay = StepReplay(learner(net, OwnClasses()), batch(), batch())
    assert replay.losses(replay.parameters).shape == (BATCH,)


def test_the_learning_rate_and_its_share() -> None:
    own = learner(closed(), OwnClasses())
    assert (own.rate, own.rate_share) == (0.1, 1.0)
    own.optimiser.param_groups[0] |= {"initial_lr": 0.1, "lr": 0.025}
    assert own.rate == 0.025 and own.rate_share == pytest.approx(0.25)
    assert StepReplay(own, batch(), batch()).rate == 0.025


# --- the clean images ---------------------------------------------------------------------------------------


def clean(identities: tuple[str, ...] = ("c", "a"), size: int = 3, images: int = 8, flip: bool = True) -> CleanBatches:
    source: Any = Noise(images, identities)
    return CleanBatches(source, size, 5, CPU.put, list("abcde"), "clean/", flip=flip)


def test_labels_are_matched_by_the_name_of_the_class() -> None:
    batches = clean(flip=False)
    for step in range(4):
        got = batches.at(step)
        assert got.labels.tolist() == [{0: 2, 1: 0}[int(row) % 2] for row in got.index]
        pixels = torch.from_numpy(Noise(8, ("c", "a")).pixels[got.index.numpy()])
        assert torch.equal(got.images, pixels.permute(0, 3, 1, 2))
    assert batches.note == ""


def test_a_step_has_its_images_however_it_is_reached() -> None:
    batches, jumping = clean(), clean()
    in_order = [batches.at(step) for step in range(10)]
    for step in (7, 7, 2, 9, 0):
        assert all(torch.equal(a, b) for a, b in zip(in_order[step][:5], jumping.at(step)[:5], strict=True))
    assert len({tuple(b.index.tolist()) for b in in_order}) > 5
    assert len({int(row) for b in in_order for row in b.index}) == 8
    views = torch.cat([b.view for b in in_order])
    assert 0 < int(views.sum()) < len(views), "mirrored as in training"


def test_a_small_clean_set_is_one_batch() -> None:
    batches = clean(size=100)
    assert sorted(batches.at(0).index.tolist()) == list(range(8)) == sorted(batches.at(1).index.tolist())


def test_clean_images_of_unknown_classes_or_none() -> None:
    with pytest.raises(InputError, match="clean/: the model does not know 1 of the 2 classes: x"):
        clean(("a", "x"))
    source: Any = Noise(8, ("a", "b"))
    source.labels = np.where(source.labels == 1, -1, 0)
    with pytest.raises(NeedsClean, match="clean/ has no labels for 4 of 8 images"):
        CleanBatches(source, 3, 5, CPU.put, list("abcde"), "clean/", flip=True)


# --- in a training ------------------------------------------------------------------------------------------


class Watched(L2RW):
    """Keeps what the replay says at the parameters themselves."""

    def begin(self, facts: Facts) -> None:
        self.differences: list[float] = []
        self.clean: list[float] = []

    def weights(self, view: View) -> Tensor:
        assert view.replay is not None
        with torch.no_grad():
            losses = view.replay.losses(view.replay.parameters).float()
            self.clean.append(view.replay.clean_loss(view.replay.parameters).item())
        self.differences.append((losses - view.loss).abs().max().item())
        return super().weights(view)


def test_a_task_hands_its_weighter_a_replay_of_every_batch() -> None:
    weighter = Watched()
    source: Any = Noise(10)
    batches = CleanBatches(source, 5, 1, CPU.put, list("abcde"), "clean/", flip=True)
    task = Classify(Net(), OwnClasses(), PREPROCESS, CPU, sgd, weighing=Weighing(weighter, facts(), CPU, batches))
    first = cross_entropy(Net()(task.view(batches.at(0))).logits, batches.at(0).labels).item()
    train(task)
    assert len(weighter.differences) == 18 and max(weighter.differences) < 1e-6
    assert weighter.clean[0] == pytest.approx(first) and len(set(weighter.clean)) == 18
    assert task.weighing and task.weighing.summary()["epochs"][0]["least"] == 0.0
