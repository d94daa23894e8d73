"""The GAN's task: its losses by hand, its two phases, its average, its exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facekit.alignment.generator import Discriminator, Generator, Pair, Shape
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.errors import InputError
from facekit.core.loop import Guard, Progress, fit, update
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch, Outputs
from facekit.data.batches import Batches
from facekit.models.loading import Model, frozen_model
from facekit.training.gan import (
    Gan,
    GanSettings,
    Recogniser,
    augmented,
    cut_out,
    frozen,
    hinge,
    r1_penalty,
    recoloured,
    resized,
    shifted,
    to_pixels,
    to_unit,
)
from facekit.training.teachers import CachedTeacher

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
SIDE, WIDTH, IMAGES = 16, 6, 12


class Eye(nn.Module):
    """A recogniser of 16 x 16 images that is quick to run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten())
        self.last = nn.Linear(8 * 16, WIDTH)

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(self.last(self.layers(x)))


def eye(channels: str = "rgb") -> Model:
    torch.manual_seed(7)
    preprocess = Preprocess(size=(SIDE, SIDE), channels=channels, scale=1 / 128, shift=-0.9, embedding=WIDTH)
    return frozen_model(Eye(), {"name": "eye", "embedding": WIDTH}, preprocess, CPU)


class Faces:
    """A dozen images in memory."""

    size, fingerprint, identities, notes = (SIDE, SIDE), "few", (), ()
    labels = np.full(IMAGES, -1)
    names = tuple(f"{i}.png" for i in range(IMAGES))
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


DEFAULT, TINY = GanSettings(), Shape(4, (8, 8))


def task(settings: GanSettings = DEFAULT, shape: Shape = TINY) -> Gan:
    torch.manual_seed(0)
    model = eye()
    table = np.random.default_rng(1).normal(size=(IMAGES, 2, WIDTH)).astype(np.float32)
    pair = Pair(Generator(shape, WIDTH), Discriminator(shape, WIDTH))
    return Gan(pair, CachedTeacher(table, CPU), Recogniser(model, CPU), CPU, settings)


def batches() -> Batches:
    return Batches(Faces(), batch=4, seed=0, flip=True, put=CPU.put)


def first_batch() -> Batch:
    return next(batches().epoch(0))


# --- the losses -------------------------------------------------------------------------------------------


def test_hinge_by_hand() -> None:
    # Real: 1 - 0.5 and nothing above 1. Drawn: 1 - 0.5 and nothing below -1.
    assert float(hinge(torch.tensor([0.5, 3.0]), torch.tensor([-0.5, -2.0]))) == pytest.approx(0.25 + 0.25)


def test_r1_of_a_linear_discriminator_by_hand() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def forward(self, images: Tensor, c: Tensor) -> Tensor:
            return (images.mean(dim=(2, 3)) * self.w).sum(1) * c[:, 0]

    net, c = Linear(), torch.tensor([[1.0], [3.0]])
    penalty = r1_penalty(net, torch.rand(2, 3, 2, 2), c)
    # Each of 4 pixels of a channel has gradient w/4 x c: the squared norm is sum(w^2)/4 x c^2, c^2 is 5 on average.
    assert penalty.item() == pytest.approx(5.25 / 4 * 5)
    (gradient,) = torch.autograd.grad(penalty, net.w)
    torch.testing.assert_close(gradient, 2 * net.w.detach() / 4 * 5)


def test_the_phases_hold_the_terms_of_the_method() -> None:
    gan, batch = task(GanSettings(identity_weight=3.0, r1=2.0, r1_every=4)), first_batch()
    phases = dict(gan.phases(batch))
    assert list(phases) == ["discriminator", "generator"]
    c = normalize(gan.embeddings(batch).embedding)
    torch.manual_seed(5)
    terms = phases["generator"]()
    torch.manual_seed(5)
    fake = gan.draw(c)
    cosine = (normalize(gan.recogniser(fake)) * c).sum(dim=1)
    torch.testing.assert_close(terms["identity"], 3.0 * (1 - cosine).mean())
    assert list(terms) == ["deceive", "identity"]
    assert list(phases["discriminator"]()) == ["judge", "r1"]
    gan.steps = 1
    assert list(phases["discriminator"]()) == ["judge"]
    gan.steps = 4
    assert list(phases["discriminator"]()) == ["judge", "r1"]


def test_each_phase_moves_its_own_network() -> None:
    gan, batch = task(), first_batch()
    schedule, guard, progress = Schedule(1, 3, shape="constant"), Guard(), Progress()
    before = {name: state_hash(dict(gan.modules[name].named_parameters())) for name in gan.modules}
    phases = dict(gan.phases(batch))
    phases["generator"]()["deceive"].backward()
    assert all(p.grad is None for p in gan.discriminator.parameters())
    assert any(float(p.grad.norm()) > 0 for p in gan.generator.parameters() if p.grad is not None)
    gan.generator.zero_grad()
    phases["discriminator"]()["judge"].backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    update(gan, [batch], schedule, CPU, CPU.scaler(), guard, progress)
    after = {name: state_hash(dict(gan.modules[name].named_parameters())) for name in gan.modules}
    assert before["generator"] != after["generator"] and before["discriminator"] != after["discriminator"]
    assert before["model"] == after["model"], "the average moves after the step"


def test_the_average_is_exact() -> None:
    gan, batch = task(GanSettings(ema=0.3)), first_batch()
    name, shipped = next(iter(gan.average.named_parameters()))
    wanted = shipped.clone()
    for step in range(6):
        with torch.no_grad():
            for parameter in gan.generator.parameters():
                parameter.add_(0.1)
        gan.after_step(batch)
        decay = min(0.3, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * gan.generator.get_parameter(name)
        torch.testing.assert_close(shipped, wanted)
    assert decay == 0.3, "both the short and the full memory were seen"


def test_freezing_a_network_lets_gradients_through() -> None:
    net, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(net):
        y = net(x).sum()
    y.backward()
    assert net.weight.grad is None and x.grad is not None and net.weight.requires_grad


# --- the recogniser ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_the_recogniser_sees_what_the_model_would_embed_and_passes_gradients(channels: str) -> None:
    model = eye(channels)
    pixels = torch.from_numpy(Faces.pixels[:3]).permute(0, 3, 1, 2)
    images = to_unit(pixels).requires_grad_()
    embedding = Recogniser(model, CPU)(images)
    torch.testing.assert_close(embedding, model.embed(pixels), rtol=1e-4, atol=1e-5)
    embedding.square().sum().backward()
    assert images.grad is not None and float(images.grad.norm()) > 0
    small = torch.rand(2, 3, 8, 8)
    kept = small.clone()
    assert Recogniser(model, CPU)(small).shape == (2, WIDTH)
    assert torch.equal(small, kept), "its input table is applied to a copy"


def test_an_onnx_recogniser_is_refused() -> None:
    model = eye()
    model.network, model.path = object(), "teacher.onnx"  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"teacher.onnx is an ONNX file and gives no gradients.*student"):
        Recogniser(model, CPU)


# --- images -----------------------------------------------------------------------------------------------


def test_pixels_survive_the_way_there_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_pixels(to_unit(pixels)), pixels)
    assert to_pixels(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_resizing_keeps_a_flat_image_and_its_mean() -> None:
    assert torch.allclose(resized(torch.full((1, 3, 16, 16), 0.25), 7), torch.full((1, 3, 7, 7), 0.25))
    checks = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 3, 16, 16)
    assert float(resized(checks, 4).abs().max()) < 0.2, "no aliasing when made smaller"


def test_shifts_move_whole_pixels_and_fill_with_grey() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, SIDE, SIDE) + 1
    moved = shifted(image.expand(64, -1, -1, -1))
    seen = set()
    for one in moved:
        inside = (one[0] != 0).nonzero()
        (top, left), (bottom, right) = inside.min(0).values.tolist(), inside.max(0).values.tolist()
        dy, dx = (SIDE - 1 - bottom) or -top, (SIDE - 1 - right) or -left
        wanted = torch.roll(image[0], (-dy, -dx), (1, 2))
        assert torch.equal(one[:, top : bottom + 1, left : right + 1], wanted[:, top : bottom + 1, left : right + 1])
        seen.add((dy, dx))
    assert {abs(d) for pair in seen for d in pair} == {0, 1, 2} and len(seen) > 15


def test_cutting_out_greys_a_square_of_half_the_side() -> None:
    torch.manual_seed(0)
    cut = (cut_out(torch.ones(200, 3, SIDE, SIDE)) == 0).float()
    assert torch.equal(cut[:, 0], cut[:, 1])
    area = cut[:, 0].sum(dim=(1, 2))
    assert area.max() == 49 and area.min() >= 16  # 7 x 7 around the centre; a quarter of it in a corner


def test_colours_change_image_by_image_and_shapes_do_not() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, SIDE, SIDE).expand(50, -1, -1, -1)
    painted = recoloured(image)
    assert len({float(p.mean()) for p in painted}) == 50
    grey = torch.full((50, 3, 4, 4), 0.5)
    flat = recoloured(grey)
    torch.testing.assert_close(flat, flat[:, :1, :1, :1].expand_as(flat))
    assert float((flat - 0.5).abs().max()) <= 0.5


def test_augmentation_passes_gradients() -> None:
    images = torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
    augmented(images).sum().backward()
    assert images.grad is not None and float(images.grad.norm()) > 0


# --- runs -------------------------------------------------------------------------------------------------


def train(folder: Path, gan: Gan, **options: Any) -> None:
    schedule = Schedule(epochs=4, steps_per_epoch=3, shape="constant")
    journal = Journal(folder, schedule.total_steps, 4)
    fit(gan, batches(), schedule, CheckpointStore(folder), CPU, journal, meta={}, log_every=2, **options)


def everything(folder: Path) -> tuple[str, str, bytes]:
    checkpoint = CheckpointStore(folder)
    files = checkpoint.load().meta["files"]
    return files["weights.safetensors"], state_digest(checkpoint), (folder / "metrics.jsonl").read_bytes()


def state_digest(store: CheckpointStore) -> str:
    """Hash of both networks, both optimisers, the generators and the count of steps."""
    state = store.load_state()
    tensors: dict[str, Tensor] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, Tensor):
            tensors[path] = tree
        elif isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{path}.{key}")
        elif isinstance(tree, int | float) and not math.isnan(tree):
            tensors[path] = torch.tensor(float(tree))

    walk({k: v for k, v in state.items() if k != "progress"}, "")
    return state_hash(tensors)


@pytest.mark.parametrize("cut", [1, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    settings, shape = GanSettings(r1_every=3), Shape(4, (8, 8, 8, 8))
    assert shape.side == 32
    train(tmp_path / "whole", task(settings, shape))
    train(tmp_path / "cut", task(settings, shape), max_steps=cut)
    torch.manual_seed(99)  # whatever the process did in between must not matter
    train(tmp_path / "cut", task(settings, shape), resume=True)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert CheckpointStore(tmp_path / "whole").load_state()["task"] == {"steps": 12}


def test_training_leaves_the_recogniser_alone(tmp_path: Path) -> None:
    gan = task()
    net = gan.recogniser.net
    before = state_hash(net.state_dict())
    train(tmp_path, gan, max_steps=3)
    assert state_hash(net.state_dict()) == before and not net.training
    assert all(p.grad is None for p in net.parameters())


def test_the_identity_term_teaches_the_generator(tmp_path: Path) -> None:
    """After a few dozen steps drawn images are recognised as what was asked for, better than at the start."""
    gan = task(GanSettings(lr=2e-3, identity_weight=20.0), Shape(4, (16, 16, 16)))
    c = normalize(torch.from_numpy(np.random.default_rng(1).normal(size=(IMAGES, 2, WIDTH)).astype(np.float32))[:, 0])

    def cosine() -> float:
        with torch.no_grad():
            return float((normalize(gan.recogniser(gan.draw(c))) * c).sum(dim=1).mean())

    before = cosine()
    schedule = Schedule(epochs=20, steps_per_epoch=3, shape="constant")
    fit(gan, batches(), schedule, None, CPU, Journal(None, 60, 4), meta={})
    assert cosine() > before + 0.3
