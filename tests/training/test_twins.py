"""Twins differ by the weights of the samples and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from facekit.core.augment import Augment
from facekit.core.checkpoints import state_hash
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.models import HEADS
from facekit.training.classes import Classes, MarginClasses, OwnClasses
from facekit.training.optimisers import build_optimiser
from facekit.training.twins import Twins

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
SIDE, CLASSES = 8, 3
PREPROCESS = Preprocess(size=(SIDE, SIDE), embedding=6)
Build = Callable[[list[nn.Module]], Optimizer]


class Net(nn.Module):
    """Convolution, BatchNorm, dropout and a class layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.embedding = nn.Linear(4 * 6 * 6, 6)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Outputs:
        embedding = self.embedding(self.layers(images))
        return Outputs(embedding, logits=self.last(embedding))


def closed(episode: int) -> tuple[nn.Module, Classes]:
    torch.manual_seed(100 + episode)
    return Net(), OwnClasses()


def with_head(episode: int) -> tuple[nn.Module, Classes]:
    torch.manual_seed(100 + episode)
    return Net(), MarginClasses(HEADS["cosface"](6, CLASSES, 0.2, 16.0))


def sgd(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("sgd", modules, 0.1, 1e-3)


def adamw(modules: list[nn.Module]) -> Optimizer:
    return build_optimiser("adamw", modules, 0.01, 1e-3)


def batches(count: int, size: int = 6) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.randint(0, 256, (size, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        index = torch.arange(size)
        crop = torch.randint(2**62, (size,), generator=generator)
        yield Batch(images, index % CLASSES, index, index % 2, index, crop=crop)


def train(twins: Twins, count: int, tilt: float = 0.0) -> None:
    """Weights of the target run from 1 - tilt to 1 + tilt."""
    torch.manual_seed(5)
    for batch in batches(count):
        losses = twins.losses(batch)
        weights = torch.linspace(1 - tilt, 1 + tilt, len(batch.labels))
        twins.optimiser.zero_grad()
        ((weights * losses.target).mean() + losses.reference.mean()).backward()
        twins.optimiser.step()


def hashes(twins: Twins) -> dict[str, str]:
    return {name: state_hash(module.state_dict()) for name, module in twins.modules.items()}


def are_equal(twins: Twins) -> bool:
    found = hashes(twins)
    return all(found[name] == found["reference" if name == "model" else f"reference_{name}"] for name in own(twins))


def own(twins: Twins) -> list[str]:
    return [name for name in twins.modules if not name.startswith("reference")]


@pytest.mark.parametrize(("fresh", "names"), [(closed, ["model"]), (with_head, ["model", "head"])])
def test_equal_weights_keep_the_twins_equal_to_the_last_bit_and_others_do_not(
    fresh: Callable[[int], tuple[nn.Module, Classes]], names: list[str]
) -> None:
    twins = Twins(fresh, PREPROCESS, CPU, sgd, Augment(pad=1))
    assert own(twins) == names
    twins.reset(0)
    start = hashes(twins)
    train(twins, 5)
    assert are_equal(twins) and twins.drift() == 0.0
    assert all(hashes(twins)[name] != start[name] for name in start)
    train(twins, 1, tilt=0.5)
    assert not are_equal(twins) and twins.drift() > 0.0


@pytest.mark.parametrize("optimiser", [sgd, adamw])
def test_after_a_reset_nothing_is_left_of_the_episode_before(optimiser: Build) -> None:
    used, new = (Twins(with_head, PREPROCESS, CPU, optimiser, Augment(pad=1)) for _ in range(2))
    used.reset(0)
    train(used, 4, tilt=0.5)
    assert not are_equal(used)
    for twins in (used, new):
        twins.reset(3)
        network, classes = with_head(3)
        assert hashes(twins)["model"] == hashes(twins)["reference"] == state_hash(network.state_dict())
        assert hashes(twins)["reference_head"] == state_hash(classes.modules["head"].state_dict())
        train(twins, 3, tilt=0.5)
    assert hashes(used) == hashes(new)


def test_a_reset_moves_no_tensor_and_no_generator() -> None:
    twins = Twins(closed, PREPROCESS, CPU, sgd)
    places = [tensor.data_ptr() for module in twins.modules.values() for tensor in module.state_dict().values()]
    generator = torch.get_rng_state()
    twins.reset(2)
    assert torch.equal(torch.get_rng_state(), generator)
    assert places == [tensor.data_ptr() for module in twins.modules.values() for tensor in module.state_dict().values()]


def test_both_see_one_augmentation_and_one_dropout() -> None:
    twins = Twins(closed, PREPROCESS, CPU, sgd, Augment(pad=1))
    twins.reset(0)
    shown: list[Tensor] = []
    for name in ("model", "reference"):
        twins.modules[name].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    (batch,) = batches(1)
    torch.manual_seed(7)
    losses = twins.losses(batch)
    left_at = torch.get_rng_state()
    assert shown[0] is shown[1]
    assert torch.equal(losses.target, losses.reference)
    torch.manual_seed(7)
    net, _ = closed(0)
    torch.manual_seed(7)
    outputs = net(PREPROCESS(Augment(pad=1)(batch)))
    torch.testing.assert_close(OwnClasses().loss(outputs, batch.labels), losses.target)
    torch.testing.assert_close(outputs.logits, losses.logits)
    assert torch.equal(torch.get_rng_state(), left_at), "the step goes on where one forward pass ends"
    assert not losses.logits.requires_grad and losses.target.requires_grad
    assert not torch.equal(twins.losses(batch).target, losses.target), "dropout was off: the test shows nothing"


def test_drift_is_the_largest_difference_of_parameters_and_buffers() -> None:
    twins = Twins(with_head, PREPROCESS, CPU, sgd)
    twins.reset(0)
    reference = twins.modules["reference"]
    with torch.no_grad():
        reference.get_parameter("last.bias")[1] -= 0.25
        assert twins.drift() == pytest.approx(0.25)
        reference.get_buffer("layers.1.running_mean")[0] += 0.5
        assert twins.drift() == pytest.approx(0.5)
        twins.modules["reference_head"].get_parameter("weight")[0, 0] += 2.0
        assert twins.drift() == pytest.approx(2.0)
