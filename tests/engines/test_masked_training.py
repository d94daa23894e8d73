"""``--mask``: what training sees of it, on which images, and what the teacher sees."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facekit import cli
from facekit.core.augment import mirror, wear_mask
from facekit.core.checkpoints import CheckpointStore, state_hash
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.core.types import Batch, Outputs
from facekit.data.batches import Batches, epoch_masks
from facekit.data.sources import open_source
from facekit.data.synth import synthesise
from facekit.losses import LOSSES, Dims
from facekit.models import HEADS
from facekit.training.classes import MarginClasses
from facekit.training.classify import Classify
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.teachers import CachedTeacher, LiveTeacher

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
PREPROCESS = Preprocess(size=(32, 32), embedding=4)
TINY = ["--batch", 8, "--precision", "fp32", "--threads", 1, "--log-every", 1, "--lr", 0.01]


def facekit(*arguments: object) -> int:
    """Run facekit; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["facekit", *map(str, arguments)])
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with four images each, and a teacher of 16-d embeddings."""
    folder = tmp_path_factory.mktemp("masked")
    synthesise(folder / "faces", identities=6, per_identity=4, size=112, seed=1)
    words = ("--model", "mbf_nano", "--embedding", 16, "--epochs", 1, *TINY)
    assert facekit("train", *words, "--data", folder / "faces" / "images", "--out", folder / "t") == 0
    return folder


# --- which images wear one ----------------------------------------------------------------------------------


def test_the_share_is_kept_and_drawn_anew_for_each_epoch_and_seed() -> None:
    n = 20_000
    for share in (0.1, 0.5, 0.9):
        assert abs((epoch_masks(0, 0, n, share) != 0).mean() - share) < 0.015  # 4 standard errors
    assert (epoch_masks(0, 0, n, 1.0) != 0).all() and not epoch_masks(0, 0, n, 0.0).any()
    some = [epoch_masks(seed, epoch, n, 0.5) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(((some[a] != 0) & (some[b] != 0)).mean() - 0.25) < 0.015
        assert not (some[a][some[a] != 0] == some[b][some[a] != 0]).any()
    assert len(np.unique(some[0][some[0] != 0])) == (some[0] != 0).sum()


def by_index(batches: Batches, start: int = 0) -> dict[int, int]:
    """Image -> its mask in epoch 2."""
    return {
        index: key
        for batch in batches.epoch(2, start)
        for index, key in zip(batch.index.tolist(), batch.mask.tolist(), strict=True)  # type: ignore[union-attr]
    }


def test_masks_depend_on_seed_epoch_and_image_alone(base: Path) -> None:
    source = open_source(base / "faces" / "images")

    def make(batch: int, **options: Any) -> Batches:
        return Batches(source, batch=batch, seed=3, flip=True, put=lambda t: t, mask=0.5, **options)

    whole = by_index(make(8))
    assert whole == dict(enumerate(epoch_masks(3, 2, 24, 0.5).tolist())) and len({*whole.values()}) > 6
    assert by_index(make(6)) == whole
    assert by_index(make(8, cache="none")) == whole
    parts = [by_index(make(8, rank=rank, world=2)) for rank in (0, 1)]
    assert parts[0] | parts[1] == whole
    rest = by_index(make(8), start=1)
    assert len(rest) == 16 and rest.items() <= whole.items()
    plain = Batches(source, batch=8, seed=3, flip=True, put=lambda t: t)
    for bare, batch in zip(plain.epoch(2), make(8).epoch(2), strict=True):
        assert bare.mask is None
        assert all(torch.equal(x, y) for x, y in zip(bare[:5], batch[:5], strict=True))  # images too: the task draws


# --- what a step computes -----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3 * 32 * 32, 4)

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.layer(images.flatten(1)))


def batch() -> Batch:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    index = torch.arange(5)
    return Batch(images, index % 3, index, torch.tensor([0, 1, 0, 1, 1]), index, torch.tensor([7, 9, 0, 0, -5]))


def sgd(modules: list[nn.Module]) -> torch.optim.Optimizer:
    return build_optimiser("sgd", modules, 0.1, 0.0)


def net_with(net: Net) -> Callable[[Tensor], Outputs]:
    return lambda images: net(PREPROCESS(images))


def embed_with(net: Net) -> Callable[[Tensor], Tensor]:
    return lambda images: net(PREPROCESS(images)).embedding.detach()


def test_classification_sees_the_masks() -> None:
    net, b, head = Net(), batch(), HEADS["cosface"](4, 3, 0.35, 30.0)
    ((_, closure),) = Classify(net, MarginClasses(head), PREPROCESS, CPU, sgd).phases(b)
    assert b.mask is not None
    images = PREPROCESS(mirror(wear_mask(b.images, b.mask), b.view))
    torch.testing.assert_close(closure()["cls"], cross_entropy(head(net(images).embedding, b.labels), b.labels))


def test_the_student_sees_the_masks_and_the_teacher_only_where_it_shall() -> None:
    net, b = Net(seed=1), batch()
    assert b.mask is not None
    clean, worn = (embed_with(net)(mirror(x, b.view)) for x in (b.images, wear_mask(b.images, b.mask)))
    assert (clean != worn).any(dim=1).tolist() == [True, True, False, False, True]
    table = torch.stack([embed_with(net)(x) for x in (b.images, b.images.flip(-1))], dim=1).numpy()
    torch.testing.assert_close(CachedTeacher(table, CPU)(b).embedding, clean)
    torch.testing.assert_close(LiveTeacher(net_with(net), CPU)(b).embedding, clean)
    same = LiveTeacher(net_with(net), CPU, masked=True)
    torch.testing.assert_close(same(b).embedding, worn)
    # A student that is its teacher has nothing to learn where both see the same.
    student = Net(seed=1)
    losses = {"fcd": WeightedLoss(LOSSES["fcd"](Dims(4, 4), {}, {}), 1.0)}
    for teacher, learns in ((same, False), (LiveTeacher(net_with(net), CPU), True)):
        ((_, closure),) = Distill(student, teacher, losses, PREPROCESS, CPU, sgd).phases(b)
        assert (float(closure()["fcd"].detach()) > 1e-4) == learns


# --- through the command line -------------------------------------------------------------------------------


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def weights(run: Path) -> str:
    return state_hash(CheckpointStore(run).load().tensors)


def test_training_with_masks_resumes_bit_for_bit_and_is_on_record(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", "--model", "mbf_nano", "--embedding", 16, "--data", base / "faces" / "images", *TINY)
    masked = (*train, "--epochs", 2, "--mask", 0.5)
    assert facekit(*masked, "--out", base / "whole") == 0
    pieces = (*masked, "--out", base / "pieces", "--budget-s", 1e-6, "--save-steps", 1)
    assert facekit(*pieces) == 3
    for _ in range(8):
        if facekit(*pieces, "--resume") == 0:
            break
    assert record(base / "pieces")["status"] == "done"
    assert weights(base / "whole") == weights(base / "pieces") != weights(base / "t")
    assert rows(base / "whole") == rows(base / "pieces")
    assert record(base / "whole")["mask"] == {"share": 0.5} and "mask" not in record(base / "t")
    assert facekit(*train, "--epochs", 1, "--mask", 1.5, "--out", base / "no") == 2
    capsys.readouterr()


def test_distillation_says_what_the_teacher_sees(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = ("--student", "mbf_nano", "--epochs", 1, *TINY)
    distill = ("distill", "--teacher", base / "t", *student, "--cache-dir", base / "cache")
    first: dict[str, float] = {}
    for name, words in {
        "plain": (),
        "clean": ("--mask", 1),
        "live": ("--mask", 1, "--no-teacher-cache"),
        "same": ("--mask", 1, "--teacher-view", "same"),
    }.items():
        assert facekit(*distill, *words, "--out", base / name) == 0
        first[name] = rows(base / name)[0]["terms"]["fcd"]
        said = capsys.readouterr().err
        assert ("runs in every step, its outputs are not cached" in said) == (name == "same")
    assert first["live"] == pytest.approx(first["clean"], rel=1e-6)
    assert first["same"] != pytest.approx(first["clean"], rel=1e-6) and first["plain"] != first["clean"]
    assert record(base / "same")["mask"] == {"share": 1.0, "teacher_view": "same"}
    assert record(base / "clean")["mask"] == {"share": 1.0, "teacher_view": "clean"}
    assert "mask" not in record(base / "plain")
    assert facekit(*distill, "--teacher-view", "same", "--out", base / "no") == 2
    assert "give it a share" in capsys.readouterr().err


def test_images_too_small_for_a_mask_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for who in ("a", "b"):
        (tmp_path / "d" / who).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (24, 24), (10 * k, 0, 0)).save(tmp_path / "d" / who / f"{k}.png")
    words = ("--model", "mbf_nano", "--data", tmp_path / "d", "--epochs", 1, "--mask", 0.2)
    assert facekit("train", *words, *TINY, "--out", tmp_path / "o") == 1
    assert "these images are 24x24" in capsys.readouterr().err
