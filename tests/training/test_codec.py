"""The codec's task: its terms, its two stand-ins for rounding, its average, its exact resume, its estimate of size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.codec import mixture, rans
from facekit.codec.arch import Arch
from facekit.codec.distortion import DISTORTIONS, mse
from facekit.codec.networks import Codec, CodecOutputs, Quantisation
from facekit.codec.priors import z_edges
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.loop import Guard, Progress, TrainingBatches, fit, update
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import Journal
from facekit.core.schedule import Schedule
from facekit.core.types import Batch, Outputs
from facekit.data.alternating import Alternating
from facekit.data.batches import Batches
from facekit.data.patches import PatchBatches
from facekit.models.loading import frozen_model
from facekit.training.codec import CodecTask, lost_identity, padded
from facekit.training.gan import Recogniser
from facekit.training.optimisers import build_optimiser

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
TINY = Arch(16, 24)
SCENES, FACES, FACE = 8, 4, 48


class Pictures:
    """Smooth pictures in memory."""

    kind, fingerprint, identities, notes = "uint8", "few", (), ()

    def __init__(self, count: int, side: int) -> None:
        coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(side))
        fine = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
        self.pixels = (fine * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        self.names, self.labels, self.size = [f"{i}.png" for i in range(count)], np.full(count, -1), (side, side)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


class Eye(nn.Module):
    """A recogniser that is quick to run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten())
        self.last = nn.Linear(8 * (FACE // 8) ** 2, 5)

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(self.last(self.layers(x)))


def recogniser() -> Recogniser:
    torch.manual_seed(7)
    preprocess = Preprocess(size=(FACE, FACE), embedding=5)
    return Recogniser(frozen_model(Eye(), {"name": "eye", "embedding": 5}, preprocess, CPU), CPU)


def task(arch: Arch = TINY, device: Device = CPU, lam: float = 100.0, lr: float = 1e-3, **options: Any) -> CodecTask:
    torch.manual_seed(0)
    settings = {"total": 10, "face_size": (FACE, FACE), **options}
    distortion = settings.pop("distortion", mse)
    return CodecTask(
        Codec(arch), distortion, lam, device, lambda nets: build_optimiser("adamw", nets, lr, 0.0), **settings
    )


def scenes(batch: int = 4) -> PatchBatches:
    return PatchBatches(Pictures(SCENES, 80), batch=batch, side=64, seed=0, put=CPU.put)  # type: ignore[arg-type]


def faces() -> Batches:
    return Batches(Pictures(FACES, FACE), batch=2, seed=0, flip=True, put=CPU.put)


def first(batches: TrainingBatches) -> Batch:
    return next(iter(batches.epoch(0)))


def terms_of(codec_task: CodecTask, batch: Batch) -> dict[str, Tensor]:
    ((name, closure),) = codec_task.phases(batch)
    assert name == "main"
    return closure()


def step(codec_task: CodecTask, batch: Batch) -> None:
    update(codec_task, [batch], Schedule(1, 3, shape="constant"), CPU, CPU.scaler(), Guard(), Progress())
    codec_task.after_step(batch)


# --- the terms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISTORTIONS)
def test_terms_are_bits_per_pixel_and_what_is_lost(name: str) -> None:
    codec_task, batch = task(lam=50.0, distortion=DISTORTIONS[name]), first(scenes())
    torch.manual_seed(5)
    found = terms_of(codec_task, batch)
    torch.manual_seed(5)
    seen = torch.stack([i.flip(-1) if v else i for i, v in zip(batch.images, batch.view, strict=True)]).float() / 255
    coded = codec_task.codec(seen, "noise")
    torch.testing.assert_close(found["rate_y"], coded.bits_y.sum() / (4 * 64 * 64))
    torch.testing.assert_close(found["rate_z"], coded.bits_z.sum() / (4 * 64 * 64))
    torch.testing.assert_close(found["distortion"], 50 * DISTORTIONS[name](coded.x_hat, seen).mean())
    assert len(found) == 3


def test_a_face_is_coded_padded_and_measured_as_it_was() -> None:
    codec_task, batch = task(lam=1.0), first(faces())
    torch.manual_seed(5)
    found = terms_of(codec_task, batch)
    torch.manual_seed(5)
    seen = torch.stack([i.flip(-1) if v else i for i, v in zip(batch.images, batch.view, strict=True)]).float() / 255
    wider = torch.from_numpy(np.pad(seen.numpy(), ((0, 0), (0, 0), (0, 16), (0, 16)), mode="edge"))
    assert torch.equal(padded(seen), wider)
    coded = codec_task.codec(wider, "noise")
    torch.testing.assert_close(found["rate_y"], coded.bits_y.mean() / FACE**2)
    torch.testing.assert_close(found["distortion"], mse(coded.x_hat[..., :FACE, :FACE], seen).mean())


def test_whole_blocks_are_not_padded() -> None:
    assert padded(torch.rand(1, 3, 64, 128)).shape == (1, 3, 64, 128)
    assert padded(torch.rand(1, 3, 65, 1)).shape == (1, 3, 128, 64)


def test_reduced_precision_stays_out_of_rates_and_losses() -> None:
    half = Device(torch.device("cpu"), "bf16", deterministic=True)
    batch, both = first(faces()), []
    for device in (half, CPU):
        codec_task = task(device=device, recogniser=recogniser())
        torch.manual_seed(5)
        both.append(terms_of(codec_task, batch))
    assert all(value.dtype == torch.float32 for value in both[0].values()) and len(both[0]) == 4
    found, exact = (torch.stack(list(terms.values())) for terms in both)
    # bfloat16 has three digits in the networks of the image; the rates of what they give are exact.
    torch.testing.assert_close(found, exact, rtol=0.03, atol=1e-3)
    assert not torch.equal(found, exact), "the networks did run in bfloat16"


# --- two ways to stand for rounding -----------------------------------------------------------------------


def test_the_last_share_of_the_steps_sees_rounded_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    codec_task, batch = task(Arch(4, 4), total=10, phase2_share=0.3), first(faces())
    modes: list[str] = []
    coded = codec_task.codec.forward

    def watched(images: Tensor, mode: Quantisation) -> CodecOutputs:
        modes.append(mode)
        return coded(images, mode)

    monkeypatch.setattr(codec_task.codec, "forward", watched)
    for _ in range(10):
        terms_of(codec_task, batch)
        codec_task.after_step(batch)
    assert modes == ["noise"] * 7 + ["ste"] * 3


def test_without_a_last_share_there_is_noise_to_the_end() -> None:
    codec_task = task(Arch(4, 4), phase2_share=0.0)
    codec_task.steps = 9
    assert codec_task.quantisation == "noise"


def test_the_enhancement_learns_from_rounded_latents_only() -> None:
    codec_task, batch = task(Arch(4, 4, enhancement="ps2-32x3"), total=4, phase2_share=0.5), first(faces())
    hashes = []
    for _ in range(4):
        before = state_hash(codec_task.codec.synthesis.state_dict())
        step(codec_task, batch)
        hashes.append(state_hash(codec_task.codec.enhancement.state_dict()))
        assert state_hash(codec_task.codec.synthesis.state_dict()) != before
    assert hashes[0] == hashes[1] and len(set(hashes[1:])) == 3


# --- the recogniser ---------------------------------------------------------------------------------------


def test_the_recogniser_compares_what_was_decoded_with_what_was_there() -> None:
    eye = recogniser()
    original = torch.rand(3, 3, FACE, FACE)
    decoded = torch.rand(3, 3, FACE, FACE) * 1.4 - 0.2
    came, went = (eye(image.clamp(0, 1) * 2 - 1) for image in (decoded, original))
    wanted = 1 - nn.functional.cosine_similarity(came, went)
    torch.testing.assert_close(lost_identity(eye, decoded, original), wanted)
    torch.testing.assert_close(lost_identity(eye, original, original), torch.zeros(3), atol=1e-6, rtol=0)


def test_its_term_reaches_the_codec_and_leaves_it_alone() -> None:
    eye = recogniser()
    codec_task, batch = task(recogniser=eye, fcd_weight=3.0), first(faces())
    torch.manual_seed(5)
    term = terms_of(codec_task, batch)["fcd"]
    single = task(recogniser=eye, fcd_weight=1.0)
    torch.manual_seed(5)
    torch.testing.assert_close(term, 3 * terms_of(single, batch)["fcd"])
    ends = next(codec_task.codec.analysis.parameters()), codec_task.codec.synthesis.last.weight
    assert all(float(gradient.norm()) > 0 for gradient in torch.autograd.grad(term, ends))
    assert all(not p.requires_grad and p.grad is None for p in eye.net.parameters()) and not eye.net.training


def test_it_is_not_asked_about_scenes() -> None:
    assert "fcd" not in terms_of(task(recogniser=recogniser()), first(scenes()))


# --- the average ------------------------------------------------------------------------------------------


def test_the_average_is_exact() -> None:
    codec_task, batch = task(Arch(4, 4), ema_decay=0.3), first(faces())
    name, shipped = next(iter(codec_task.average.named_parameters()))
    wanted = shipped.clone()
    for taken in range(6):
        with torch.no_grad():
            for parameter in codec_task.codec.parameters():
                parameter.add_(0.1)
        codec_task.after_step(batch)
        decay = min(0.3, (1 + taken) / (10 + taken))
        wanted = decay * wanted + (1 - decay) * codec_task.codec.get_parameter(name)
        torch.testing.assert_close(shipped, wanted)
    assert decay == 0.3, "both the short and the full memory were seen"


def test_the_average_holds_all_that_a_codec_is() -> None:
    codec_task = task(Arch(4, 4, enhancement="full32x9"))
    assert not list(codec_task.codec.buffers()), "a buffer would have to be copied into the average"
    assert [*codec_task.average.state_dict()] == [*codec_task.codec.state_dict()]
    assert all(not p.requires_grad for p in codec_task.average.parameters())


# --- runs -------------------------------------------------------------------------------------------------


def train(folder: Path | None, codec_task: CodecTask, batches: TrainingBatches, epochs: int, **options: Any) -> None:
    schedule = Schedule(epochs=epochs, steps_per_epoch=batches.steps_per_epoch, shape="constant", clip=1.0)
    store = CheckpointStore(folder) if folder else None
    journal = Journal(folder, schedule.total_steps, 4)
    fit(codec_task, batches, schedule, store, CPU, journal, meta={}, log_every=2, **options)


@pytest.mark.parametrize("cut", [1, 7])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    """Scenes and faces by turns, a recogniser, the enhancement; the last 4 of 8 steps see rounded latents."""

    def run(name: str, **options: Any) -> CodecTask:
        arch, eye = Arch(4, 4, enhancement="ps2-32x3"), recogniser()
        codec_task = task(arch, total=8, phase2_share=0.5, recogniser=eye)
        train(tmp_path / name, codec_task, Alternating([scenes(), faces()]), 2, **options)
        return codec_task

    whole = run("whole")
    run("cut", max_steps=cut)
    torch.manual_seed(99)  # whatever the process did in between must not matter
    run("cut", resume=True)
    stores = [CheckpointStore(tmp_path / name) for name in ("cut", "whole")]
    cut_files, whole_files = (store.load().meta["files"] for store in stores)
    assert cut_files["weights.safetensors"] == whole_files["weights.safetensors"]
    assert digest(stores[0]) == digest(stores[1])
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("cut", "whole")]
    assert rows[0] == rows[1] and b"rate_y" in rows[0] and b"fcd" in rows[0]
    # What ships is the average; the weights that learn lie in the state.
    kept = stores[1].load().tensors
    assert state_hash(kept) == state_hash(whole.average.state_dict())
    assert state_hash(kept) != state_hash(whole.codec.state_dict())
    state = stores[1].load_state()
    assert state_hash(state["modules"]["codec"]) == state_hash(whole.codec.state_dict())
    assert state["task"] == {"steps": 8}


def digest(store: CheckpointStore) -> str:
    """Hash of the learning weights, the optimiser's moments and the generators."""
    state = store.load_state()
    tensors: dict[str, Tensor] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, Tensor):
            tensors[path] = tree
        elif isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{path}.{key}")
        elif isinstance(tree, list):
            walk(dict(enumerate(tree)), path)

    walk({name: state[name] for name in ("modules", "optimisers", "rng")}, "")
    assert len(tensors) > 100
    return state_hash(tensors)


def test_a_short_training_learns_and_its_estimate_is_the_size_of_the_streams() -> None:
    """The profile for CPUs: 60 steps; then real bytes are within 1 % of the float estimate on rounded latents."""
    codec_task = task(total=60, lam=500.0, ema_decay=0.9, lr=5e-3)
    pictures = torch.from_numpy(Pictures(SCENES, 128).pixels).permute(0, 3, 1, 2).float() / 255

    def loss() -> float:
        with torch.no_grad():
            coded = codec_task.average(pictures, "round")
            return float((coded.bits_y + coded.bits_z).mean() / 128**2 + 500 * mse(coded.x_hat, pictures).mean())

    before = loss()
    train(None, codec_task, scenes(), 30)
    assert loss() < 0.5 * before
    estimate, real = sizes_of(codec_task.average, pictures)
    assert 0.99 * estimate < real < 1.01 * estimate + 16, "each of two streams ends with the 8 bytes of its coder"


@torch.no_grad()
def sizes_of(codec: Codec, images: Tensor) -> tuple[float, int]:
    """Bytes of all images: as training estimates them, and as the integer coder writes them, in two streams."""
    coded = codec(images, "round")
    y = codec.analysis(images)
    z = codec.hyper_analysis(y).round()
    of_channels = (parameter.permute(1, 0, 2, 3, 4).flatten(1) for parameter in codec.hyper_synthesis(z))
    model = mixture.quantised(*(np.ascontiguousarray(parameter.numpy()) for parameter in of_channels))
    symbols = y.round().flatten().to(torch.int16).numpy()
    side_by_side = np.ascontiguousarray(z.permute(1, 0, 2, 3).flatten(1, 2).to(torch.int16).numpy())
    streams = rans.encode(symbols, model), rans.encode_static(side_by_side, z_edges(codec.prior))
    return float((coded.bits_y + coded.bits_z).sum() / 8), sum(map(len, streams))
