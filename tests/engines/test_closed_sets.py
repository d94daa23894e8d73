"""Closed sets through the verbs: train, distill, --take, --dev classes:, --seeds, samplers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.configs import DistillConfig, RouteRecordConfig, TrainConfig
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import InputError, UsageError
from facekit.engines import distill, train
from facekit.models.loading import load_model

NAMES = ("ant", "bee", "cat")
TINY = {"epochs": 2, "batch": 8, "threads": 1, "device": "cpu", "clip": 0.0, "log_every": 1}


@pytest.fixture(scope="module", autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight 16x16 images, each of a colour of its own under noise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (folder / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 120, (16, 16, 3))
            pixels[..., label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train.run(TrainConfig(model="resnet8", data=pictures, out=out, **TINY, dev=f"classes:{pictures}"))
    return out


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_classifier_keeps_its_classes_and_is_chosen_by_top1(teacher: Path) -> None:
    found = record(teacher)
    assert found["architecture"] == {"name": "resnet8", "embedding": 64, "dropout": 0.0, "classes": list(NAMES)}
    assert found["preprocess"]["crop"] == "none" and found["preprocess"]["size"] == [16, 16]
    dev = [row["dev"] for row in rows(teacher) if "dev" in row]
    assert len(dev) == 2 and all(set(row) == {"top1"} for row in dev)
    assert found["best_dev"] == max(row["top1"] for row in dev)
    assert load_model(teacher).classes == NAMES


def test_options_of_embedders_are_refused(pictures: Path) -> None:
    for options, words in (({"margin": 0.3}, "--margin"), ({"embedding": 64}, "--embedding is 64")):
        with pytest.raises(UsageError, match=words):
            train.run(TrainConfig(model="resnet8", data=pictures, **options))


def test_a_closed_set_student_learns_from_scores_features_and_kernels(
    teacher: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = DistillConfig(
        teacher=teacher, student="resnet8", data=pictures, out=out, cache_dir=tmp_path / "cache", **TINY,
        method=("cckd", "hint", "cc.torchdistill", "rkd"), sampler="cur", per_class=4,
    )  # fmt: skip
    distill.run(config)
    first, last = (rows(out)[i]["terms"] for i in (0, -1))
    named = {"cls", "kd", "cc.taylor", "hint", "cc.torchdistill", "rkd.distance", "rkd.angle"}
    assert named <= set(first) and {f"gradient.{name}" for name in named} <= set(first)
    assert all(np.isfinite(value) for value in last.values()) and all(last[f"gradient.{name}"] > 0 for name in named)
    assert record(out)["teacher"]["name"] == "resnet8" and record(out)["weights"]["cc.torchdistill"] == 0.003


def test_cached_and_live_class_scores_teach_the_same(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    common = {"teacher": teacher, "student": "resnet8", "data": pictures, "method": ("cls", "kd"), **TINY}
    for name, cached in (("cached", True), ("live", False)):
        distill.run(DistillConfig(out=tmp_path / name, teacher_cache=cached, cache_dir=tmp_path / "cache", **common))
    cached, live = (rows(tmp_path / name) for name in ("cached", "live"))
    assert [row["terms"]["kd"] for row in cached] == pytest.approx([row["terms"]["kd"] for row in live], rel=1e-4)


def test_crops_need_the_teacher_in_every_step(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    distill.run(
        DistillConfig(
            teacher=teacher,
            student="resnet8",
            data=pictures,
            out=tmp_path / "run",
            cache_dir=cache,
            crop=2,
            method=("cls", "kd"),
            **TINY,
        )
    )
    assert not cache.exists()


def test_superclasses_are_clustered_once_and_kept(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    common = {"teacher": teacher, "student": "resnet8", "data": pictures, "method": ("cls", "kd"), **TINY}
    sur = {"sampler": "sur", "per_class": 2, "superclasses": 6, "cache_dir": tmp_path / "cache"}
    for name in ("first", "again"):
        distill.run(DistillConfig(out=tmp_path / name, **sur, **common))
    assert len(list((tmp_path / "cache" / "superclasses").glob("*/superclasses.safetensors"))) == 1
    assert rows(tmp_path / "first") == rows(tmp_path / "again")
    with pytest.raises(UsageError, match="--cluster-by MODEL"):
        train.run(TrainConfig(model="resnet8", data=pictures, sampler="sur", out=tmp_path / "alone", **TINY))
    with pytest.raises(UsageError, match="--per-class belongs to --sampler"):
        train.run(TrainConfig(model="resnet8", data=pictures, per_class=2, out=tmp_path / "alone", **TINY))


def test_take_uses_only_these_images_of_every_class(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train.run(TrainConfig(model="resnet8", data=pictures, take="2:6", out=out, **TINY))
    assert record(out)["data"]["images"] == 12
    for take, words in (("6", "write the places"), ("9:", "is left")):
        with pytest.raises((UsageError, InputError), match=words):
            train.run(TrainConfig(model="resnet8", data=pictures, take=take, out=tmp_path / "none", **TINY))


def test_seeds_trained_together_are_those_trained_alone(pictures: Path, tmp_path: Path) -> None:
    train.run(TrainConfig(model="resnet8", data=pictures, out=tmp_path / "all", seeds=(3, 5), **TINY))
    for seed in (3, 5):
        alone, member = tmp_path / f"alone{seed}", tmp_path / "all" / f"seed_{seed}"
        train.run(TrainConfig(model="resnet8", data=pictures, out=alone, seed=seed, **TINY))
        wanted, found = CheckpointStore(alone).load("last").tensors, CheckpointStore(member).load("last").tensors
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        assert record(member)["config"]["seed"] == seed and record(member)["status"] == "done"
        assert load_model(member).classes == NAMES
    first, second = (load_model(tmp_path / "all" / f"seed_{seed}") for seed in (3, 5))
    assert first.sha256 != second.sha256
    with pytest.raises(InputError, match="give one of them: seed_3"):
        load_model(tmp_path / "all")


def test_seeds_refuse_what_they_would_share(pictures: Path, teacher: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"clip": 5.0}, "--clip does not go with --seeds"),
        ({"dev": "classes:x"}, "--dev does not go"),
        ({"seeds": (1, 1)}, "names 1 twice"),
    ):
        with pytest.raises(UsageError, match=words):
            train.run(TrainConfig(**{"model": "resnet8", "data": pictures, "seeds": (1, 2), **TINY, **options}))
    with pytest.raises(UsageError, match="a route is that of one"):
        train.record(RouteRecordConfig(model="resnet8", data=pictures, seeds=(1, 2), **TINY))
    out = tmp_path / "run"
    distill.run(
        DistillConfig(
            teacher=teacher,
            student="resnet8",
            data=pictures,
            method=("cckd", "hint"),
            seeds=(0, 1),
            out=out,
            **TINY,
            cache_dir=tmp_path / "cache",
        )
    )
    assert {"kd.0", "kd.1", "cc.taylor.0", "hint.1", "gradient.kd.1"} <= set(rows(out)[-1]["terms"])
    assert record(out / "seed_1")["teacher"]["name"] == "resnet8"
