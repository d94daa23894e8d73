"""Two networks that choose for each other."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.types import Batch
from facekit.models import HEADS
from facekit.training.classes import Classes, MarginClasses, OwnClasses
from facekit.training.coteaching import CoTeaching
from facekit.training.weighing import Weighing
from facekit.weighting.small_loss import SmallLoss
from tests.training.weighed import BATCH, CLASSES, CPU, IMAGES, PREPROCESS, Net, facts, sgd, train

TRUTH = torch.arange(IMAGES) % 3 > 0


def pair(seeds: tuple[int, int] = (0, 1), tau: float = 0.4, heads: bool = False) -> CoTeaching:
    choosers = (Weighing(SmallLoss(tau, 1), facts(TRUTH), CPU), Weighing(SmallLoss(tau, 1), facts(TRUTH), CPU))
    torch.manual_seed(5)

    def head() -> Classes:
        return MarginClasses(HEADS["cosface"](6, CLASSES, None, 8.0).double())

    classes = (head(), head()) if heads else (OwnClasses(), OwnClasses())
    return CoTeaching(Net(seeds[0]), Net(seeds[1]), classes, choosers, PREPROCESS, CPU, sgd)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (BATCH, 3, 4, 4), dtype=torch.uint8, generator=generator)
    index = torch.arange(BATCH)
    return Batch(images, index % CLASSES, index, index % 2, index)


def losses_of(net: nn.Module, task: CoTeaching) -> Tensor:
    return cross_entropy(net(task.view(batch())).logits, batch().labels, reduction="none")


def chosen_so_far(task: CoTeaching) -> list[Tensor]:
    return [chooser.record.whole.clone() for chooser in task.choosers]


def test_each_is_trained_on_the_others_smallest_losses() -> None:
    task = pair()
    for chooser in task.choosers:
        chooser.step = 6  # the second epoch: floor(0.6 x 7) = 4 are kept
    ((name, closure),) = task.phases(batch())
    terms = closure()
    model, peer = (losses_of(task.modules[name], task) for name in ("model", "peer"))
    assert name == "main" and list(terms) == ["cls", "peer"]
    torch.testing.assert_close(terms["cls"], model[peer.argsort()[:4]].mean())
    torch.testing.assert_close(terms["peer"], peer[model.argsort()[:4]].mean())
    assert not torch.equal(*chosen_so_far(task)), "the two choose differently, else this shows nothing"
    assert task.weighing.record.whole[:BATCH, 0].nonzero().flatten().tolist() == sorted(peer.argsort()[:4].tolist())


def test_in_the_first_epoch_everything_is_kept() -> None:
    task = pair()
    ((_, closure),) = task.phases(batch())
    terms = closure()
    torch.testing.assert_close(terms["cls"], losses_of(task.modules["model"], task).mean())
    torch.testing.assert_close(terms["peer"], losses_of(task.modules["peer"], task).mean())


def test_equal_networks_choose_equally_and_stay_equal() -> None:
    task = pair(seeds=(3, 3))
    train(task)
    assert torch.equal(*chosen_so_far(task))
    for a, b in zip(task.modules["model"].parameters(), task.modules["peer"].parameters(), strict=True):
        assert torch.equal(a, b)
    kept = task.weighing.summary()["epochs"]
    assert kept[0]["weight"] == 1.0 and kept[1]["weight"] == kept[2]["weight"] == torch.tensor(4 / 7).item()


def test_networks_of_two_seeds_go_their_own_ways_with_their_own_heads() -> None:
    task = pair(heads=True)
    assert list(task.modules) == ["model", "peer", "head", "peer_head"]
    before = {name: next(iter(module.parameters())).clone() for name, module in task.modules.items()}
    train(task)
    assert not torch.equal(*chosen_so_far(task))
    assert not any(torch.equal(before[name], next(iter(m.parameters()))) for name, m in task.modules.items())


def test_a_resumed_pair_goes_on_as_it_was(tmp_path: Path) -> None:
    whole, resumed = pair(heads=True), pair(heads=True)
    train(whole)
    train(pair(heads=True), tmp_path, steps=5)
    train(resumed, tmp_path, resume=True)
    for name, module in whole.modules.items():
        for a, b in zip(module.parameters(), resumed.modules[name].parameters(), strict=True):
            assert torch.equal(a, b)
    assert all(map(torch.equal, chosen_so_far(whole), chosen_so_far(resumed)))
