"""From weights to the loss of a batch: by hand, against the plain mean, across resumes and processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit.core.checkpoints import CheckpointStore
from facekit.core.device import Device
from facekit.core.errors import NonFinite
from facekit.core.processes import processes_of_this_run
from facekit.core.types import Batch, Outputs
from facekit.losses import LOSSES, Dims
from facekit.models import HEADS, build_classifier
from facekit.training.classes import ClassTerm, MarginClasses, OwnClasses
from facekit.training.classify import Classify
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.replay import CleanBatches, Learner
from facekit.training.weighing import Weighing, reduced
from facekit.training.weightrecord import WeightRecord
from facekit.weighting.base import Facts, Reduction, View, Weighter
from facekit.weighting.l2rw import L2RW
from facekit.weighting.uniform import Uniform
from tests.launch import Launched
from tests.training.weighed import (
    BATCH,
    CLASSES,
    CPU,
    IMAGES,
    PREPROCESS,
    Hard,
    Net,
    Noise,
    classify,
    facts,
    sgd,
    train,
)


class Given(Weighter):
    """The weights it is given, by image; keeps the views it was shown."""

    def __init__(self, table: Tensor, reduction: Reduction = "weighted_mean") -> None:
        self.table, self.reduction = table, reduction  # type: ignore[misc]
        self.views: list[View] = []
        self.after: list[View] = []

    def weights(self, view: View) -> Tensor:
        self.views.append(view)
        return self.table[view.index]

    def after_step(self, view: View) -> None:
        self.after.append(view)


def batch(count: int = BATCH) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    index = torch.arange(count)
    return Batch(images, index % CLASSES, index, index % 2, index)


def parameters(task: Any) -> list[Tensor]:
    return [p.detach().clone() for module in task.modules.values() for p in module.state_dict().values()]


# --- the reduction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "weights", "wanted"),
    [
        ("weighted_mean", [0.0, 1.0, 3.0, 0.0], 11 / 4),
        ("weighted_mean", [0.0, 2.0, 6.0, 0.0], 11 / 4),
        ("weighted_mean", [0.0, 0.0, 0.0, 0.0], 0.0),
        ("batch_mean", [0.0, 1.0, 3.0, 0.0], 11 / 4),
        ("batch_mean", [0.0, 2.0, 6.0, 0.0], 22 / 4),
        ("batch_mean", [0.5, 0.5, 0.5, 0.5], 5 / 4),
        ("weighted_mean", [0.5, 0.5, 0.5, 0.5], 10 / 4),
    ],
)
def test_losses_of_1_2_3_4_by_hand(reduction: Reduction, weights: list[float], wanted: float) -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    net, b = Net(), batch(4)
    weighing = Weighing(Given(torch.tensor(weights), reduction), facts(), CPU)
    learner = Learner(net, OwnClasses(), PREPROCESS, sgd([net]))
    loss = reduced(losses, weighing.shares(losses, Outputs(torch.zeros(4, 6), (), torch.zeros(4, CLASSES)), b, learner))
    loss.backward()
    total = max(sum(weights), 1e-6) if reduction == "weighted_mean" else 4
    assert loss.item() == pytest.approx(wanted)
    torch.testing.assert_close(losses.grad, torch.tensor(weights) / total)


@pytest.mark.parametrize("size", [7, 48, 100])
def test_equal_weights_change_no_bit_of_the_loss_and_its_gradient(size: int) -> None:
    torch.manual_seed(size)
    losses = torch.randn(size, requires_grad=True)
    ones = torch.ones(size)
    task = classify(Weighing(Uniform(), facts(images=size), CPU))
    assert task.weighing
    outputs = Outputs(torch.zeros(size, 6), (), torch.zeros(size, CLASSES))
    learner = Learner(task.modules["model"], task.classes, task.view, task.optimisers["main"])
    shares = task.weighing.shares(losses, outputs, batch(size), learner)
    assert torch.equal(shares, ones)
    (plain,) = torch.autograd.grad(losses.mean(), losses)
    (weighed,) = torch.autograd.grad(reduced(losses, shares), losses)
    assert torch.equal(reduced(losses, shares), losses.mean()) and torch.equal(plain, weighed)


@pytest.mark.parametrize("build", [Net, lambda: build_classifier("conv3", CLASSES)])
def test_a_training_with_equal_weights_is_the_plain_one_bit_for_bit(build: Any) -> None:
    tasks = []
    for weighing in (None, Weighing(Uniform(), facts(), CPU)):
        torch.manual_seed(1)
        tasks.append(classify(weighing, net=build))
        train(tasks[-1])
    plain, weighed = map(parameters, tasks)
    assert all(torch.equal(a, b) for a, b in zip(plain, weighed, strict=True))
    assert tasks[0].state_dict() == {}
    assert (tasks[1].weighing.table()["weight"] == 1).all()


def test_the_weights_are_constants_of_the_gradient() -> None:
    net, b = Net(), batch()
    task = Classify(net, OwnClasses(), PREPROCESS, CPU, sgd, weighing=Weighing(Hard(), facts(), CPU))
    ((_, closure),) = task.phases(b)
    term = closure()["cls"]
    losses = cross_entropy(net(task.view(b)).logits, b.labels, reduction="none")
    weights = 1 + torch.tanh(-(losses - losses.mean()) / (losses.std() + 1e-5)).detach()
    wanted = (weights * losses).sum() / weights.sum()
    torch.testing.assert_close(term, wanted, rtol=1e-6, atol=0)
    inputs = list(net.parameters())
    got, known = torch.autograd.grad(term, inputs), torch.autograd.grad(wanted, inputs)
    for a, c in zip(got, known, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-8)


# --- what a weighter sees -----------------------------------------------------------------------------------


def test_a_view_of_every_batch_and_the_same_one_after_its_update() -> None:
    weighter = Given(torch.ones(IMAGES))
    head = HEADS["cosface"](6, CLASSES, 0.35, 8.0).double()
    net = Net()
    task = Classify(net, MarginClasses(head), PREPROCESS, CPU, sgd, weighing=Weighing(weighter, facts(), CPU))
    train(task)
    assert [view.step for view in weighter.views] == list(range(18)), "three epochs of six batches, two to a step"
    assert [id(view) for view in weighter.after] == [id(view) for view in weighter.views]
    rates = [view.rate for view in weighter.views]
    assert rates[0] == rates[1] == 1.0 and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.1
    view = weighter.views[-1]
    assert view.loss.dtype == view.logits.dtype == torch.float32 and view.logits.shape == (BATCH, CLASSES)
    assert not view.loss.requires_grad and not view.logits.requires_grad
    assert view.own == slice(0, BATCH) and view.gather(view.loss) is view.loss and view.replay is None
    # The margin makes the loss larger than that of the scores.
    assert bool((view.loss > cross_entropy(view.logits, view.labels, reduction="none")).all())


def test_a_weight_that_is_not_finite_stops_the_run() -> None:
    table = torch.ones(IMAGES)
    table[5] = torch.nan
    with pytest.raises(NonFinite, match="cls became NaN"):
        train(classify(Weighing(Given(table), facts(), CPU)))


# --- what is remembered of the weights ----------------------------------------------------------------------


def test_the_record_by_hand() -> None:
    truth = torch.tensor([True, False, True, True, False])
    record = WeightRecord(Facts(5, torch.tensor([3, 2]), 3, 2, 0, CPU.torch_device, truth))
    record.add(0, torch.tensor([0, 1]), torch.tensor([2.0, 1.0]))
    record.add(0, torch.tensor([2, 2]), torch.tensor([0.5, 1.5]))  # an image may come twice
    record.add(1, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    table = record.table()
    np.testing.assert_array_equal(table["weight"], np.array([1.5, 0.5, 1, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(table["last_weight"], np.array([1, 0, np.nan, np.nan, np.nan], np.float32))
    assert table["seen"].tolist() == [2, 2, 2, 0, 0] and table["last_seen"].tolist() == [1, 1, 0, 0, 0]
    summary = record.summary()
    assert summary == {
        "epochs": [
            {"epoch": 1, "weight": 1.25, "least": 0.5, "most": 2.0, "mislabelled": 1.0, "clean": pytest.approx(4 / 3)},
            {"epoch": 2, "weight": 0.5, "least": 0.0, "most": 1.0, "mislabelled": 0.0, "clean": 1.0},
        ],
        "auc": 1.0,
        "last_auc": 1.0,
    }
    json.dumps(summary, allow_nan=False)


def test_the_record_without_truth_and_of_clean_data() -> None:
    nobody = WeightRecord(facts())
    nobody.add(0, torch.tensor([0, 1]), torch.tensor([2.0, 1.0]))
    assert nobody.summary() == {"epochs": [{"epoch": 1, "weight": 1.5, "least": 1.0, "most": 2.0}]}
    clean = WeightRecord(facts(torch.ones(IMAGES, dtype=torch.bool)))
    clean.add(0, torch.tensor([0, 1]), torch.tensor([2.0, 1.0]))
    assert clean.summary()["auc"] is None and clean.summary()["epochs"][0]["mislabelled"] is None


def test_weights_that_know_nothing_have_an_area_of_a_half() -> None:
    truth = torch.arange(IMAGES) % 3 > 0
    task = classify(Weighing(Uniform(), facts(truth), CPU))
    train(task)
    assert task.weighing and task.weighing.summary()["auc"] == 0.5
    assert [row["epoch"] for row in task.weighing.summary()["epochs"]] == [1, 2, 3]


# --- resume -------------------------------------------------------------------------------------------------


def test_a_resumed_training_weighs_as_an_uninterrupted_one(tmp_path: Path) -> None:
    truth = torch.arange(IMAGES) % 3 > 0

    def fresh() -> Classify:
        return classify(Weighing(Hard(), facts(truth), CPU))

    whole = fresh()
    train(whole)
    train(fresh(), tmp_path, steps=4)  # within the second epoch
    resumed = fresh()
    train(resumed, tmp_path, resume=True)
    assert whole.weighing and resumed.weighing
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))
    for name, column in whole.weighing.table().items():
        np.testing.assert_array_equal(column, resumed.weighing.table()[name])
    assert whole.weighing.summary() == resumed.weighing.summary()
    assert len({row["weight"] for row in whole.weighing.summary()["epochs"]}) == 3


# --- distillation -------------------------------------------------------------------------------------------


class Far(nn.Module):
    """A teacher: fixed rows for the images of the test."""

    rows: ClassVar[Tensor] = torch.randn(IMAGES, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(self.rows[batch.index])


def distill(weighing: Weighing | None, device: Device = CPU, cls: float = 0.5) -> Distill:
    torch.manual_seed(0)
    losses = {
        "fcd": WeightedLoss(LOSSES["fcd"](Dims(6, 6, CLASSES), {}, {}), 2.0),
        "rad.inbatch": WeightedLoss(LOSSES["rad.inbatch"](Dims(6, 6, CLASSES), {"relation": "ss"}, {}), 10.0),
    }
    head = HEADS["cosface"](6, CLASSES, None, 8.0).double()
    term = ClassTerm(MarginClasses(head), cls)
    return Distill(Net(), Far(), losses, PREPROCESS, device, sgd, term, weighing=weighing)


def test_every_pointwise_term_is_weighed_and_no_relation() -> None:
    table = torch.linspace(0, 2, BATCH)
    b = batch()._replace(labels=torch.tensor([0, 0, 1, 1, 2, 2, 3]))  # relations need identities that come twice
    plain = dict(next(iter(distill(None).phases(b)))[1]())
    task = distill(Weighing(Given(table), facts(), CPU))
    weighed = next(iter(task.phases(b)))[1]()
    assert list(weighed) == list(plain) == ["fcd", "rad.inbatch", "cls"]
    assert task.cls
    outputs = task.modules["model"](task.view(b))
    losses = {
        "fcd": 2.0 * task.losses["fcd"].loss(outputs, task.teacher(b), b),
        "cls": 0.5 * task.cls.classes.loss(outputs, b.labels),
    }
    for name, loss in losses.items():
        torch.testing.assert_close(plain[name], loss.mean())
        torch.testing.assert_close(weighed[name], (table * loss).sum() / table.sum(), rtol=1e-6, atol=0)
        assert abs((plain[name] - weighed[name]).item()) > 1e-4
    assert torch.equal(plain["rad.inbatch"], weighed["rad.inbatch"])


def test_distillation_with_equal_weights_is_the_plain_one_bit_for_bit() -> None:
    plain, weighed = distill(None), distill(Weighing(Uniform(), facts(), CPU))
    train(plain)
    train(weighed)
    assert all(torch.equal(a, b) for a, b in zip(parameters(plain), parameters(weighed), strict=True))


def test_samples_cannot_be_judged_without_a_classification_loss() -> None:
    with pytest.raises(ValueError, match="a term cls with a weight is needed"):
        distill(Weighing(Uniform(), facts(), CPU), cls=0.0)


# --- two processes ------------------------------------------------------------------------------------------

TRUTH = torch.arange(IMAGES) % 3 > 0


def weighed_runs(folder: Path, device: Device) -> None:
    facts_of_run = facts(TRUTH)._replace(steps_per_epoch=IMAGES // 6)  # batches of 6, not of 7
    source: Any = Noise(10)
    clean = CleanBatches(source, 5, 1, device.put, list("abcde"), "clean/", flip=True)
    for name, build, weighing in (
        ("classify", classify, Weighing(Hard(), facts_of_run, device)),
        ("distill", distill, Weighing(Hard(), facts_of_run, device)),
        ("l2rw", classify, Weighing(L2RW(), facts_of_run, device, clean)),
    ):
        train(build(weighing, device), folder / name, device, batch=6, accumulate=1)


def both(folder: Path) -> None:
    with processes_of_this_run() as processes:
        weighed_runs(folder / "two", Device.pick("cpu", "fp32", threads=1, processes=processes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighed")
    weighed_runs(folder / "one", CPU)
    assert Launched(2, both, folder).finish() == [0, 0]
    return folder


def tensors(tree: Any, name: str = "") -> dict[str, Tensor]:
    if isinstance(tree, Tensor):
        return {name: tree}
    pairs = tree.items() if isinstance(tree, dict) else ()
    return {key: tensor for part, value in pairs for key, tensor in tensors(value, f"{name}.{part}").items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classify", "distill", "l2rw"])
def test_two_processes_weigh_as_one(runs: Path, name: str) -> None:
    found = []
    for number in ("one", "two"):
        store = CheckpointStore(runs / number / name)
        state = store.load_state()
        found.append(store.load().tensors | tensors(state["modules"]) | tensors(state["task"]))
    one, two = found
    assert one.keys() == two.keys() and ".weighing.record.whole" in one
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, two[key], rtol=0, atol=1e-6, msg=key)
    assert (".weighing.weighter.seen" in one) == (name != "l2rw")
    whole = one[".weighing.record.whole"]
    assert float(whole[:, 1].sum()) == IMAGES * 3 and float(whole[:, 0].std()) > 0.01
