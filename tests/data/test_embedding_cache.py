"""Embeddings once, kept on disk: equal to computing them, resumable after a kill, never trusted when damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.errors import InputError, MissingFile, NonFinite
from facekit.data import embeddings as module
from facekit.data.embeddings import default_cache_dir, embed_source
from facekit.data.sources import Source, open_source, select


class Net:
    """Nine numbers that tell left from right; counts the images it is given."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.images, self.stop_after = 0, stop_after

    def __call__(self, images: Tensor) -> Tensor:
        if self.stop_after is not None and self.images >= self.stop_after:
            raise KeyboardInterrupt
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 24, 24)
        self.images += len(images)
        return images[:, :, ::12, ::7].double().flatten(1)


@pytest.fixture
def source(people: Path) -> Source:
    return open_source(people)


def expected(source: Source, views: tuple[int, ...]) -> np.ndarray:
    pixels = source.read(np.arange(len(source)))
    both = [pixels, pixels[:, :, ::-1]]
    rows = [both[v].transpose(0, 3, 1, 2)[:, :, ::12, ::7].reshape(len(source), -1) for v in views]
    return np.stack(rows, axis=1).astype(np.float32)


@pytest.mark.parametrize("views", [(0,), (1,), (0, 1), (1, 0)])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_each_view_of_each_image(source: Source, tmp_path: Path, views: tuple[int, ...], batch: int) -> None:
    for folder in (None, tmp_path / "c"):
        moved: list[int] = []
        found = embed_source(Net(), source, views=views, batch=batch, cache_dir=folder, progress=moved.append)
        assert found.dtype == np.float32 and type(found) is np.ndarray
        assert np.array_equal(found, expected(source, views)) and sum(moved) == len(source)


def test_the_second_time_nothing_is_embedded(source: Source, tmp_path: Path) -> None:
    first = embed_source(Net(), source, key="a", cache_dir=tmp_path)
    net, moved = Net(), []
    again = embed_source(net, source, key="a", cache_dir=tmp_path, progress=moved.append)
    assert net.images == 0 and np.array_equal(again, first) and sum(moved) == 10
    again[:] = 7  # a caller's own copy: torch may write to it, the file stays
    assert np.array_equal(embed_source(Net(), source, key="a", cache_dir=tmp_path), first)
    assert sorted(p.suffix for p in (tmp_path / "embeddings").iterdir()) == [".json", ".lock", ".npy"]


def test_another_network_source_or_view_is_another_entry(source: Source, people: Path, tmp_path: Path) -> None:
    embed_source(Net(), source, key="a", cache_dir=tmp_path)
    fewer = select(source, source.labels != 3)
    for other, key, views in ((source, "b", (0,)), (source, "a", (1,)), (source, "a", (0, 1)), (fewer, "a", (0,))):
        net = Net()
        embed_source(net, other, key=key, views=views, cache_dir=tmp_path)
        assert net.images == len(other) * len(views)


def test_a_stopped_run_continues_after_its_last_safe_row(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        embed_source(Net(stop_after=6), source, batch=2, cache_dir=tmp_path)
    net, moved = Net(), []
    found = embed_source(net, source, batch=2, cache_dir=tmp_path, progress=moved.append)
    assert net.images == 4 and moved == [6, 2, 2]
    assert np.array_equal(found, expected(source, (0,)))


@pytest.mark.parametrize("harm", ["torn tail", "lost tail", "flipped bit", "no table", "foreign table", "empty"])
def test_a_damaged_partial_file_is_continued_or_begun_anew_never_believed(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        embed_source(Net(stop_after=6), source, batch=2, cache_dir=tmp_path)
    (partial,) = (tmp_path / "embeddings").glob("*.partial.npy")
    (table,) = (tmp_path / "embeddings").glob("*.json")
    data = bytearray(partial.read_bytes())
    if harm == "torn tail":
        partial.write_bytes(data + b"\0" * 50)
    elif harm == "lost tail":
        partial.write_bytes(data[:-10])
    elif harm == "flipped bit":
        data[-1] ^= 1
        partial.write_bytes(data)
    elif harm == "no table":
        table.write_text("{")
    elif harm == "foreign table":
        table.write_text(json.dumps({**json.loads(table.read_text()), "key": "other"}))
    else:
        partial.write_bytes(b"")
    net = Net()
    assert np.array_equal(embed_source(net, source, batch=2, cache_dir=tmp_path), expected(source, (0,)))
    assert net.images == (4 if harm == "torn tail" else 10)


@pytest.mark.parametrize("harm", ["bit", "cut", "gone", "table gone", "table lies", "not an array"])
def test_a_damaged_entry_is_made_again(source: Source, tmp_path: Path, harm: str) -> None:
    embed_source(Net(), source, cache_dir=tmp_path)
    (final,) = (tmp_path / "embeddings").glob("*.npy")
    table = final.with_suffix(".json")
    data = bytearray(final.read_bytes())
    if harm == "bit":
        data[len(data) // 2] ^= 4
        final.write_bytes(data)
    elif harm == "cut":
        final.write_bytes(data[:-8])
    elif harm == "gone":
        final.unlink()
    elif harm == "table gone":
        table.unlink()
    elif harm == "table lies":
        table.write_text(json.dumps({**json.loads(table.read_text()), "rows": 4}))
    else:
        final.write_bytes(b"\x93NUMPY nonsense")
    net = Net()
    assert np.array_equal(embed_source(net, source, cache_dir=tmp_path), expected(source, (0,)))
    assert net.images == 10
    net = Net()
    embed_source(net, source, cache_dir=tmp_path)
    assert net.images == 0


def test_a_kill_between_the_last_save_and_the_rename_costs_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop(self: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module.Entry, "finish", stop)
        embed_source(Net(), source, cache_dir=tmp_path)
    net = Net()
    assert np.array_equal(embed_source(net, source, cache_dir=tmp_path), expected(source, (0,)))
    assert net.images == 0


def test_non_finite_embeddings_are_named_and_not_kept(source: Source, tmp_path: Path) -> None:
    def broken(images: Tensor) -> Tensor:
        out = images.float().mean(dim=(2, 3))
        out[-1, 1] = torch.nan
        return out

    with pytest.raises(NonFinite, match=r"Cy_0003\.jpg is not finite"):
        embed_source(broken, source, batch=8, cache_dir=tmp_path)
    assert np.isfinite(embed_source(Net(), source, batch=8, cache_dir=tmp_path)).all()


@pytest.mark.parametrize("shape", [lambda x: x[:, 0, 0, 0], lambda x: x[:-1].flatten(1), lambda x: x])
def test_wrong_shapes_are_refused(source: Source, shape: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="the network returned shape"):
        embed_source(lambda x: shape(x).float(), source)


def test_a_width_that_changes_is_refused(source: Source, tmp_path: Path) -> None:
    widths = iter([3, 3, 4])
    with pytest.raises(InputError, match="of 3 and of 4 numbers"):
        embed_source(lambda x: torch.zeros(len(x), next(widths)), source, batch=2, cache_dir=tmp_path)


def test_views_other_than_plain_and_mirrored_are_refused(source: Source) -> None:
    for views in ((), (2,), (0, -1)):
        with pytest.raises(InputError, match="views"):
            embed_source(Net(), source, views=views)


def test_a_missing_file_inside_the_network_is_not_called_a_full_disk(source: Source, tmp_path: Path) -> None:
    def lost(images: Tensor) -> Tensor:
        raise MissingFile("weights.onnx does not exist")

    with pytest.raises(MissingFile, match="weights.onnx"):
        embed_source(lost, source, cache_dir=tmp_path)


def test_two_at_once_embed_once(source: Source, tmp_path: Path) -> None:
    nets = [Net(), Net()]
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(embed_source(n, source, cache_dir=tmp_path))) for n in nets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(net.images for net in nets) == 10
    assert all(np.array_equal(r, expected(source, (0,))) for r in results)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("FACEKIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "facekit"


CHILD = """
import os, signal, sys
from pathlib import Path
from facekit.data import embeddings
from facekit.data.sources import open_source
embeddings.SAVE_SECONDS = 0
calls = 0
def embed(images):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return images[:, :, ::12, ::7].double().flatten(1)
embeddings.embed_source(embed, open_source(Path(sys.argv[1])), batch=2, cache_dir=Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_loses_nothing_that_was_safe(source: Source, people: Path, tmp_path: Path, root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", CHILD, people, tmp_path / "c"], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    net = Net()
    assert np.array_equal(embed_source(net, source, batch=2, cache_dir=tmp_path / "c"), expected(source, (0,)))
    assert net.images == 4
