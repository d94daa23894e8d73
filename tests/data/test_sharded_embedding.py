"""Embedding on several processes: the rows of one process on all of them, kept once; and devices with a queue."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.device import Device
from facekit.core.errors import NonFinite
from facekit.core.processes import processes_of_this_run
from facekit.data import embeddings as module
from facekit.data.embeddings import embed_source
from tests.launch import Launched

IMAGES, BATCH, VIEWS = 23, 3, (0, 1)  # eight batches, the last of two images


class Noise:
    """Images of noise."""

    size, identities, fingerprint, notes = (6, 5), (), "noise", ()
    names = tuple(str(i) for i in range(IMAGES))
    labels = np.full(IMAGES, -1)
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGES, 6, 5, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class Net:
    """A network that counts the images it is given, in both views."""

    def __init__(self, fail_after: int = 10**9) -> None:
        self.images, self.fail_after = 0, fail_after
        self.weight = torch.randn(90, 7, generator=torch.Generator().manual_seed(1))

    def __call__(self, images: Tensor) -> Tensor:
        if self.images >= self.fail_after:
            raise NonFinite("the network broke")
        self.images += len(images)
        return images.float().flatten(1) @ self.weight


@pytest.fixture
def alone() -> np.ndarray:
    """What one process finds."""
    return embed_source(Net(), Noise(), views=VIEWS, batch=BATCH)


def embed_and_keep(folder: Path, device: Device, cache: Path | None, net: Net) -> None:
    """Embed; leave what this process found and did in a file."""
    moved: list[int] = []
    found = embed_source(
        net, Noise(), views=VIEWS, batch=BATCH, key="k", cache_dir=cache, progress=moved.append, device=device
    )
    np.savez(folder / f"{device.rank}.npz", found=found, images=net.images, moved=sum(moved))


def results(folder: Path, world: int) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(world)]


# --- what the processes do ----------------------------------------------------------------------------------


def with_and_without_cache(folder: Path) -> None:
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        for name, cache in (("none", None), ("made", folder / "cache"), ("found", folder / "cache")):
            embed_and_keep(folder / name, device, cache, Net())


def cut_short(folder: Path, fail_after: int) -> None:
    """Process 1 fails after that many images."""
    module.SAVE_SECONDS = 0
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        embed_and_keep(folder, device, folder / "cache", Net(fail_after) if device.rank == 1 else Net())


def separate_caches(folder: Path) -> None:
    with processes_of_this_run() as processes:
        device = Device.pick("cpu", "fp32", threads=1, processes=processes)
        embed_and_keep(folder, device, folder / str(device.rank), Net())


# --- several processes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_processes_have_the_rows_of_one(tmp_path: Path, alone: np.ndarray) -> None:
    for name in ("none", "made", "found"):
        (tmp_path / name).mkdir()
    assert Launched(3, with_and_without_cache, tmp_path).finish() == [0, 0, 0]
    for name, images in (("none", [9, 8, 8]), ("made", [9, 8, 8]), ("found", [0, 0, 0])):
        for result, own in zip(results(tmp_path / name, 3), images, strict=True):
            assert np.array_equal(result["found"], alone)
            assert int(result["images"]) == 2 * own and int(result["moved"]) == IMAGES
    assert sorted(p.suffix for p in (tmp_path / "cache" / "embeddings").iterdir()) == [".json", ".lock", ".npy"]
    net = Net()
    again = embed_source(net, Noise(), views=VIEWS, batch=BATCH, key="k", cache_dir=tmp_path / "cache")
    assert net.images == 0 and np.array_equal(again, alone)


@pytest.mark.slow
def test_what_a_failure_cuts_is_continued_by_any_number(tmp_path: Path, alone: np.ndarray) -> None:
    """Process 1 breaks in its third batch: two rounds, 12 images, are safe."""
    assert Launched(2, cut_short, tmp_path, 2 * 2 * BATCH, errors=tmp_path / "e").finish() == [1, 1]
    assert Launched(3, cut_short, tmp_path, 10**9).finish() == [0, 0, 0]
    found = results(tmp_path, 3)
    assert all(np.array_equal(result["found"], alone) for result in found)
    assert [int(result["images"]) for result in found] == [2 * 5, 2 * 5, 2 * 5]  # 11 images are left: 3 + 2 each


@pytest.mark.slow
def test_separate_cache_folders_are_explained(tmp_path: Path) -> None:
    launched = Launched(2, separate_caches, tmp_path, errors=tmp_path / "e")
    assert 1 in launched.finish()
    assert any("do all processes see the same cache folder" in line for line in launched.said())


# --- a device with a queue ----------------------------------------------------------------------------------


def test_a_queue_is_never_empty_and_changes_nothing(alone: np.ndarray) -> None:
    """The first batch is not done before the second has begun: with one at a time this waits for nothing."""
    net, begun, both, running = Net(), [], threading.Event(), threading.Lock()

    def queued(images: Tensor) -> Tensor:
        with running:
            begun.append(threading.get_ident())
            if len(set(begun)) == 2:
                both.set()
        assert both.wait(20), "the next batch was not begun"
        return net(images)

    found = embed_source(queued, Noise(), views=VIEWS, batch=BATCH, device=Device(torch.device("cuda"), "fp32"))
    assert np.array_equal(found, alone) and len(begun) == 16


def test_an_error_of_a_queued_batch_is_raised(tmp_path: Path) -> None:
    device = Device(torch.device("cuda"), "fp32")
    with pytest.raises(NonFinite, match="broke"):
        embed_source(Net(fail_after=12), Noise(), batch=BATCH, cache_dir=tmp_path, device=device)


def test_a_cpu_does_one_batch_after_the_other(alone: np.ndarray) -> None:
    net, threads = Net(), set()

    def noted(images: Tensor) -> Tensor:
        threads.add(threading.get_ident())
        return net(images)

    assert np.array_equal(embed_source(noted, Noise(), views=VIEWS, batch=BATCH), alone)
    assert threads == {threading.get_ident()}
