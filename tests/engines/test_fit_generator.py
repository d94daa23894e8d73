"""``facekit align-eval fit-generator``: its run folder, its exact resume, what it refuses; and drawing from the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.configs import FitGeneratorConfig
from facekit.core.checkpoints import CheckpointStore
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError, Unfinished
from facekit.engines import fit_generator
from facekit.models import build_backbone
from facekit.models.loading import load_model
from facekit.training.virtual_faces import draw_candidates, draw_faces, load_generator

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
WIDTH = 8


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small faces of noise, an untrained recogniser, an empty cache."""
    folder = tmp_path_factory.mktemp("generator")
    rng = np.random.default_rng(0)
    (folder / "faces").mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((112, 112)).save(folder / "faces" / f"{i}.png")
    torch.manual_seed(0)
    torch.save(build_backbone("mbf_nano", WIDTH).state_dict(), folder / "nano.pth")
    return folder


def options(folder: Path, out: Path, **given: object) -> FitGeneratorConfig:
    fixed = {"model": folder / "nano.pth", "data": folder / "faces", "cache_dir": folder / "cache", "out": out}
    small = {"side": "32", "steps": 4, "batch": 3, "r1_every": 2, "log_every": 2, "precision": "fp32"}
    return FitGeneratorConfig(**(fixed | small | given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    fit_generator.run(options(folder, folder / "run"))
    return folder / "run"


def test_a_run_folder_says_what_it_is(finished: Path, folder: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    model = load_model(folder / "nano.pth")
    assert record["verb"] == "fit-generator" and record["status"] == "done"
    assert record["generator"] == {"side": "32", "width": WIDTH}
    assert record["recogniser"]["sha256"] == model.sha256
    assert record["recogniser"]["preprocess"] == model.preprocess.hash()
    assert -1 <= record["identity_cosine"] <= 1
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert set(rows[0]["terms"]) == {"judge", "r1", "deceive", "identity", "gradient"}
    with Image.open(finished / "samples.png") as sheet:
        assert sheet.size == (6 * 32, 6 * 32)
        pixels = np.asarray(sheet)
    real = np.asarray(Image.open(folder / "faces" / "0.png").resize((32, 32), Image.Resampling.BILINEAR), float)
    assert np.abs(pixels[:32, :32] - real).mean() < 3, "real faces stand on the left"


def test_a_run_cut_by_its_budget_equals_the_uninterrupted_one(finished: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        fit_generator.run(options(folder, tmp_path / "cut", budget_s=1e-6))
    assert not (tmp_path / "cut" / "samples.png").exists()
    with pytest.raises(ArtefactMismatch, match="r1_every: 2 then, 3 now"):
        fit_generator.run(options(folder, tmp_path / "cut", resume=True, r1_every=3))
    fit_generator.run(options(folder, tmp_path / "cut", resume=True))
    stores = [CheckpointStore(run).load("last").meta["files"] for run in (finished, tmp_path / "cut")]
    assert stores[0]["weights.safetensors"] == stores[1]["weights.safetensors"]
    for name in ("metrics.jsonl", "samples.png"):
        assert (finished / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    fit_generator.run(options(folder, finished, resume=True))
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}, "a finished run is left alone"


def test_a_dry_run_writes_nothing_and_tells_the_speed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_generator.run(options(folder, tmp_path / "dry", dry_run=True))
    assert not (tmp_path / "dry").exists()
    assert "steps/s: 4 steps take about" in capsys.readouterr().err


def test_a_run_can_start_from_anothers_generator(finished: Path, folder: Path, tmp_path: Path) -> None:
    started = options(folder, tmp_path / "next", init=finished, lr=1e-12, ema=0.0)
    fit_generator.run(started)
    first, second = (CheckpointStore(run).load().tensors for run in (finished, tmp_path / "next"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="draws 32 pixels from 8 numbers, this run 64 from 8"):
        fit_generator.run(options(folder, tmp_path / "wide", init=finished, side="64"))


# --- drawing ----------------------------------------------------------------------------------------------


def conditions(count: int) -> np.ndarray:
    vectors = np.random.default_rng(3).normal(size=(count, WIDTH))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_drawing_does_not_depend_on_the_batch(finished: Path, folder: Path) -> None:
    generator, model, c = load_generator(finished, CPU), load_model(folder / "nano.pth"), conditions(5)
    whole = torch.cat([*draw_faces(generator, c, batch=5, seed=1)])
    assert whole.shape == (5, 3, 32, 32) and whole.dtype == torch.uint8
    parts = [*draw_faces(generator, c, batch=2, seed=1)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert int((torch.cat(parts).int() - whole.int()).abs().max()) <= 1
    assert not torch.equal(torch.cat([*draw_faces(generator, c, batch=5, seed=2)]), whole)
    table = draw_candidates(generator, c, model.embed, size=(112, 112), views=(0, 1), batch=2, seed=1)
    assert table.shape == (5, 2, WIDTH) and table.dtype == np.float32
    large = torch.nn.functional.interpolate(whole.float(), (112, 112), mode="bilinear").round().to(torch.uint8)
    np.testing.assert_allclose(table[:, 0], model.embed(large).numpy(), rtol=0.05, atol=0.05)
    np.testing.assert_allclose(table[:, 1], model.embed(large.flip(3)).numpy(), rtol=0.05, atol=0.05)


def test_both_recognisers_are_recorded(finished: Path, folder: Path) -> None:
    generator = load_generator(finished, CPU)
    own = load_model(folder / "nano.pth").sha256
    assert generator.provenance("f" * 64)["drawn_for"] == own != generator.provenance("f" * 64)["embedded_by"]


def test_what_cannot_draw(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"embeddings of 8 numbers, and these have shape \(2, 5\)"):
        next(draw_faces(load_generator(finished, CPU), np.ones((2, 5))))
    weights = CheckpointStore(finished).load().tensors
    about = {"generator": {"side": "64", "width": WIDTH}, "recogniser": {"sha256": "0", "preprocess": "0"}}
    CheckpointStore(tmp_path / "a").save("last", weights, {"verb": "train"})
    with pytest.raises(InputError, match="is no run of align-eval fit-generator but of 'train'"):
        load_generator(tmp_path / "a", CPU)
    CheckpointStore(tmp_path / "b").save("last", weights, {"verb": "fit-generator", **about})
    with pytest.raises(InputError, match="does not describe a generator"):
        load_generator(tmp_path / "b", CPU)
