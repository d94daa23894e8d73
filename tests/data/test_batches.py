"""Batches are functions of (seed, epoch, index): any resume, cache or batch size shows the same epoch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from facekit.core.errors import InputError, UsageError
from facekit.core.types import Batch
from facekit.data import batches as module
from facekit.data.batches import Batches, epoch_crops, epoch_order, epoch_views, mix
from facekit.data.prefetch import prefetched
from facekit.data.sources import Source, open_source


def keep(tensor: Tensor) -> Tensor:
    return tensor


def make(source: Source, **options: object) -> Batches:
    settings = {"batch": 3, "seed": 5, "flip": True, "put": keep, **options}
    return Batches(source, **settings)  # type: ignore[arg-type]


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]


@pytest.fixture
def source(people: Path) -> Source:
    return open_source(people)


def splitmix(state: int, word: int) -> int:
    """The round in plain integers."""
    mask = (1 << 64) - 1
    state = (state + word + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_mix_equals_the_same_rounds_in_plain_integers(words: list[int]) -> None:
    state = 0
    for word in words:
        state = splitmix(state, word)
    assert int(mix(*words)[0]) == state


def test_mix_is_splitmix64() -> None:
    # First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for seed 0.
    assert int(mix(0)[0]) == 0xE220A8397B1DCDAF


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 300))
def test_the_order_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    assert np.array_equal(np.sort(epoch_order(seed, epoch, n)), np.arange(n))


def test_orders_and_flips_differ_between_epochs_and_seeds_and_look_random() -> None:
    n = 20_000
    orders = [epoch_order(seed, epoch, n) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    views = [epoch_views(seed, epoch, n) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a in range(3):
        assert abs(views[a].mean() - 0.5) < 0.015  # 4 standard errors
        assert abs(np.corrcoef(orders[a], np.arange(n))[0, 1]) < 0.03
        for b in range(a):
            assert abs(np.corrcoef(orders[a], orders[b])[0, 1]) < 0.03
            assert abs(np.corrcoef(views[a], views[b])[0, 1]) < 0.03
        assert abs(np.corrcoef(views[a], orders[a])[0, 1]) < 0.03


def test_flips_of_an_image_do_not_depend_on_batches_or_the_other_images() -> None:
    assert np.array_equal(epoch_views(3, 7, 100), epoch_views(3, 7, 1000)[:100])


@pytest.mark.parametrize("cache", ["ram", "device", "none"])
def test_a_batch_holds_the_images_its_index_names(source: Source, cache: str) -> None:
    batches = make(source, cache=cache)
    assert batches.steps_per_epoch == 3
    seen = []
    for batch in batches.epoch(2):
        index = batch.index.numpy()
        assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), source.read(index))
        assert batch.images.shape == (3, 3, 24, 24) and batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(batch.labels.numpy(), source.labels[index])
        assert np.array_equal(batch.view.numpy(), epoch_views(5, 2, 10)[index])
        assert batch.position.tolist() == [0, 1, 2]
        assert all(t.dtype == torch.int64 for t in tensors(batch)[1:])
        seen += index.tolist()
    assert seen == epoch_order(5, 2, 10)[:9].tolist()


def test_all_caches_show_the_same_batches(source: Source) -> None:
    ram, device, none = (make(source, cache=c).epoch(1) for c in ("ram", "device", "none"))
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(ram, device, none, strict=True))


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_resuming_in_mid_epoch_shows_the_remaining_batches(source: Source, cache: str, start: int) -> None:
    whole = list(make(source, cache=cache).epoch(4))
    rest = list(make(source, cache=cache).epoch(4, start))
    assert len(rest) == 3 - start
    assert all(equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_the_last_batch_may_be_kept(source: Source) -> None:
    last = list(make(source, batch=4, drop_last=False).epoch(0))[-1]
    assert last.images.shape[0] == len(last.labels) == len(last.position) == 2
    assert make(source, batch=4, drop_last=False).steps_per_epoch == 3
    assert make(source, batch=64, drop_last=False).steps_per_epoch == 1


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_slices_of_several_processes_make_up_the_batch(source: Source, cache: str, world: int) -> None:
    whole = make(source, batch=4, mask=0.5, crops=True).epoch(1, 1)
    options = {"batch": 4, "mask": 0.5, "crops": True, "cache": cache, "world": world}
    slices = [make(source, rank=rank, **options).epoch(1, 1) for rank in range(world)]
    for batch, *parts in zip(whole, *slices, strict=True):
        assert {len(part.index) for part in parts} == {4 // world}
        assert equal(batch, Batch(*(torch.cat(fields) for fields in zip(*parts, strict=True))))


def test_a_batch_that_cannot_be_sliced(source: Source) -> None:
    for options in ({"batch": 3}, {"batch": 4, "drop_last": False}):
        with pytest.raises(UsageError, match=r"--batch \d .* 2 processes"):
            make(source, world=2, **options)


def test_without_flip_every_view_is_plain(source: Source) -> None:
    assert all(batch.view.sum() == 0 for batch in make(source, flip=False).epoch(0))


def test_fewer_images_than_a_batch(source: Source) -> None:
    with pytest.raises(InputError, match="10 images are fewer than one batch of 11"):
        make(source, batch=11)


def test_auto_takes_ram_only_for_a_third_of_what_is_free(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * 24 * 24 * 3
    for free, cache in ((3 * size, "ram"), (3 * size - 3, "none")):
        monkeypatch.setattr(module, "free_ram", lambda free=free: free)
        assert make(source).cache == cache
        assert make(source, batch=2, world=2).cache == "none"  # each would have its own copy


def test_auto_takes_the_device_for_a_quarter_of_its_free_memory(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 10 * 24 * 24 * 3
    for free, cache in ((4 * size, "device"), (4 * size - 1, "ram")):
        assert make(source, free_bytes=free).cache == cache
        assert make(source, batch=2, world=2, free_bytes=free).cache == cache  # each process has a device of its own
        assert make(source, free_bytes=free, cache="none").cache == "none"
    monkeypatch.setattr(module, "free_ram", lambda: 0)  # what is on the device takes no RAM
    assert make(source, free_bytes=4 * size).cache == "device"
    assert make(source, free_bytes=4 * size - 1).cache == "none"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_epoch_on_the_device_is_moved_once_whatever_its_steps(source: Source, batch: int) -> None:
    moved: list[tuple[int, ...]] = []

    def count(tensor: Tensor) -> Tensor:
        moved.append(tuple(tensor.shape))
        return tensor

    batches = make(source, put=count, cache="device", batch=batch, mask=0.5, crops=True)
    moved.clear()
    for epoch in (0, 1):
        stream = batches.epoch(epoch)
        next(stream)
        assert sorted(moved) == sorted([(batch,), *[(10,)] * 5])  # position; rows, labels, views, masks, crops
        assert len(list(stream)) == 10 // batch - 1 and len(moved) == 6
        moved.clear()


def test_pixels_go_to_the_device_in_blocks(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    moved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        moved.append(len(tensor))
        return tensor

    pixels = make(source, put=count, cache="device").pixels
    assert pixels is not None and np.array_equal(pixels.numpy(), source.read(np.arange(10)))
    assert moved == [0, 3, 3, 3, 1]


class Numbered:
    """Pictures that are filled with their own number."""

    size, labels = (2, 3), np.arange(11) % 3

    def __len__(self) -> int:
        return 11

    def read(self, index: np.ndarray) -> np.ndarray:
        return np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (len(index), 2, 3, 3)).copy()


@pytest.mark.parametrize("options", [{}, {"crops": True}, {"cache": "device"}])
def test_golden_batches(options: dict[str, object]) -> None:
    """Recorded runs depend on them: images, labels, index, view, position and mask of two epochs."""
    digest = hashlib.sha256()
    for epoch in (0, 7):
        for batch in make(Numbered(), mask=0.5, **options).epoch(epoch):  # type: ignore[arg-type]
            for tensor in tensors(batch._replace(crop=None)):
                digest.update(tensor.contiguous().numpy().tobytes())
    assert digest.hexdigest() == "5b4ff4b843672552cfc4e2f1391ff411fb295a21abdbd6d270424d5f45f4a354"


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_reseeded_batches_are_those_of_the_other_seed_and_share_the_pixels(source: Source, cache: str) -> None:
    first = make(source, cache=cache, mask=0.5, crops=True)
    before = list(first.epoch(1))
    other, wanted = first.reseeded(6), make(source, cache=cache, seed=6, mask=0.5, crops=True)
    assert other.pixels is first.pixels
    assert all(equal(a, b) for a, b in zip(other.epoch(1), wanted.epoch(1), strict=True))
    assert all(equal(a, b) for a, b in zip(first.epoch(1), before, strict=True))


def test_crop_keys_are_functions_of_seed_epoch_and_image(source: Source) -> None:
    assert all(batch.crop is None for batch in make(source).epoch(2))
    for batch in make(source, crops=True).epoch(2):
        assert batch.crop is not None
        assert np.array_equal(batch.crop.numpy(), epoch_crops(5, 2, 10)[batch.index.numpy()])
    keys = [epoch_crops(seed, epoch, 1000) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({*np.concatenate(keys).tolist()}) == 3000
    assert np.array_equal(epoch_crops(0, 1, 2000)[:1000], keys[1])


def test_a_broken_image_is_named_from_a_reader_thread(people: Path, source: Source) -> None:
    (people / "Bob" / "Bob_0001.jpg").write_bytes(b"gone")
    with pytest.raises(InputError, match="Bob_0001"):
        list(make(source, cache="none", drop_last=False).epoch(0))
    with pytest.raises(InputError, match="Bob_0001"):
        make(source, cache="ram")


def test_prefetch_keeps_order_stops_at_errors_and_runs_only_a_little_ahead() -> None:
    assert list(prefetched((lambda k=k: k * k for k in range(50)), threads=4, ahead=7)) == [k * k for k in range(50)]
    begun: list[int] = []

    def job(k: int) -> int:
        begun.append(k)
        if k == 5:
            raise KeyError(k)
        return k

    stream = prefetched((lambda k=k: job(k) for k in range(1000)), threads=2, ahead=3)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(stream)
    assert max(begun) <= 9
    stream = prefetched((lambda k=k: job(k + 10) for k in range(1000)), threads=2, ahead=3)
    next(stream)
    stream.close()
    assert max(begun) < 20
