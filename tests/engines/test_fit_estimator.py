"""``facekit align-eval fit-estimator``: the files it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.alignment.errors import OtherModel
from facekit.alignment.estimator import EstimatorStatistics, read_estimator, require_estimator
from facekit.configs import FitEstimatorConfig
from facekit.core.errors import InputError, UsageError
from facekit.core.preprocess import Preprocess
from facekit.engines import fit_estimator
from facekit.models import build_backbone
from facekit.models.loading import load_model

PEOPLE = 40


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty people of two noisy images each, an untrained network, an empty cache."""
    folder = tmp_path_factory.mktemp("estimator")
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        (folder / "faces" / f"p{person:02d}").mkdir(parents=True)
        for shot in range(2):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((112, 112)).save(folder / "faces" / f"p{person:02d}" / f"{shot}.png")
    torch.manual_seed(0)
    torch.save(build_backbone("mbf_nano", 8).state_dict(), folder / "nano.pth")
    return folder


def options(folder: Path, out: Path, **given: object) -> FitEstimatorConfig:
    fixed = {"model": folder / "nano.pth", "data": folder / "faces", "cache_dir": folder / "cache", "out": out}
    return FitEstimatorConfig(**(fixed | {"neighbours": 10, "epochs": 3, "batch": 16} | given))  # type: ignore[arg-type]


def test_it_writes_an_estimator_and_says_what_to_type_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "e.safetensors"
    fit_estimator.run(options(folder, out))
    said = capsys.readouterr().err
    assert sorted(p.name for p in out.parent.iterdir()) == ["e.json", "e.safetensors"]
    assert "20 set the targets, 16 are learned from (32 images, each also as a worse copy), 4 are held out" in said
    assert f"--support learned={out}" in said
    learned, model = read_estimator(out), load_model(folder / "nano.pth")
    lesson = learned.lesson
    assert (lesson.people, lesson.images, lesson.neighbours, lesson.reduce) == (PEOPLE, 64, 10, "single")
    assert ("no better than a constant" in said) == learned.constant == (lesson.r2 <= 0)
    assert f"R2 {lesson.r2:.3f}" in said
    require_estimator(learned, model.sha256, model.preprocess.hash())
    with pytest.raises(OtherModel):
        require_estimator(learned, model.sha256, Preprocess(embedding=8, flip="none").hash())
    vectors = np.random.default_rng(0).normal(size=(5, 8))
    stats = EstimatorStatistics(learned)(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert (np.ptp(stats.d) == 0) == learned.constant


def test_the_same_seed_gives_the_same_bytes_and_copies_are_optional(folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    fit_estimator.run(options(folder, files[0], augment=False, flip="concat", statistic="lse"))
    fit_estimator.run(options(folder, files[1], augment=False, flip="concat", statistic="lse"))
    fit_estimator.run(options(folder, files[2], augment=False, flip="concat", statistic="lse", seed=1))
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    tables = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    assert tables[0] == tables[1] and tables[0]["images"] == 32 and tables[0]["statistic"] == "lse"
    assert tables[0]["bank_sha"] != tables[2]["bank_sha"]
    assert read_estimator(files[0]).network.width == 16, "concatenated flips are what it was fitted on"


def test_what_it_refuses_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in .safetensors"):
        fit_estimator.run(options(folder, tmp_path / "e.pt"))
    few = tmp_path / "few"
    few.mkdir()
    for person in range(3):
        (few / f"p{person}").symlink_to(folder / "faces" / f"p{person:02d}")
    with pytest.raises(InputError, match="3 people, and an estimator needs at least 40"):
        fit_estimator.run(options(folder, tmp_path / "e.safetensors", data=few))
    assert [p.name for p in tmp_path.iterdir()] == ["few"]
