"""Patches are functions of (seed, epoch, image, turn), and squares of the antialiased smaller image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from facekit.core.errors import InputError, UsageError
from facekit.core.types import Batch
from facekit.data.alternating import Alternating, as_many_pixels
from facekit.data.batches import Batches
from facekit.data.decode import decode
from facekit.data.originals import Originals
from facekit.data.patches import PatchBatches, Patches, drawn, patch
from facekit.data.protocol import Store
from facekit.data.sources import open_source, select

SIZES = ((30, 44), (44, 30), (24, 24), (60, 25), (33, 33), (28, 51), (24, 40))


def keep(tensor: Tensor) -> Tensor:
    return tensor


@pytest.fixture
def scenes(tmp_path: Path, paint) -> Store:  # type: ignore[no-untyped-def]
    """Seven pictures without labels, of several sizes."""
    for seed, size in enumerate(SIZES):
        paint(tmp_path / "scenes" / f"{seed}.jpg", seed, size)
    return open_source(tmp_path / "scenes", one_size=False)  # type: ignore[return-value]


def make(source: Store, **options: object) -> PatchBatches:
    settings = {"batch": 2, "side": 16, "seed": 5, "put": keep, "turns": 3, "keep_bytes": 1 << 20, **options}
    return PatchBatches(source, **settings)  # type: ignore[arg-type]


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]


# --- one patch --------------------------------------------------------------------------------------------


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_at_full_scale_a_patch_is_cut_out_unchanged() -> None:
    pixels = noise(20, 30)
    np.testing.assert_array_equal(patch(pixels, 8, 1.0, 5 / 12, 7 / 22), pixels[5:13, 7:15])


@pytest.mark.parametrize(("scale", "top", "left"), [(0.8, 3, 10), (0.6, 0, 0), (0.6, 8, 20), (0.75, 14, 9)])
def test_a_patch_is_a_square_of_the_whole_scaled_image(scale: float, top: int, left: int) -> None:
    pixels, side = noise(40, 60), 16
    height, width = round(40 * scale), round(60 * scale)
    assert (height, width) == pytest.approx((40 * scale, 60 * scale))
    whole = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    found = patch(pixels, side, scale, top / (height - side), left / (width - side))
    wanted = whole[top : top + side, left : left + side]
    assert np.abs(found.astype(int) - wanted).max() <= 1, "rounding apart"
    assert found.std() > 20


def test_making_smaller_does_not_alias() -> None:
    stripes = np.broadcast_to(np.uint8(255) * (np.arange(80)[None, :, None] % 2), (80, 80, 3)).astype(np.uint8)
    # Interpolation without a filter would show black and white stripes, which a smaller picture cannot hold.
    assert np.abs(patch(stripes, 32, 0.5, 0.5, 0.47).astype(int) - 127).max() <= 3


def test_a_scale_that_leaves_too_little_is_raised() -> None:
    pixels = noise(20, 40)
    np.testing.assert_array_equal(patch(pixels, 16, 0.6, 0.9, 0.25), patch(pixels, 16, 0.8, 0.1, 0.25))


# --- what is drawn ----------------------------------------------------------------------------------------


def test_scales_places_and_flips_have_their_distributions() -> None:
    n = 20_000
    patches = drawn(3, 1, np.arange(n), 4)
    assert np.array_equal(patches.image, np.arange(n) // 4)
    assert patches.scale.min() >= 0.6 and patches.scale.max() < 1
    error = 4 * 0.5 / np.sqrt(n)
    assert abs((patches.scale < 0.75).mean() - 0.5) < error and abs((patches.scale < 0.675).mean() - 0.25) < error
    assert abs((patches.scale < 0.875).mean() - 0.75) < error and abs(patches.upside.mean() - 0.5) < error
    numbers = np.stack([patches.scale, patches.top, patches.left, patches.upside])
    for place in numbers[1:3]:
        assert np.abs(np.histogram(place, 10, (0, 1))[0] / n - 0.1).max() < error
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.03


def test_draws_belong_to_seed_epoch_and_row_alone() -> None:
    all_rows = drawn(3, 1, np.arange(100), 2)
    some = drawn(3, 1, np.array([70, 4]), 2)
    for every, few in zip(all_rows, some, strict=True):
        assert np.array_equal(every[[70, 4]], few)
    for other in (drawn(4, 1, np.arange(100), 2), drawn(3, 2, np.arange(100), 2)):
        assert abs(np.corrcoef(other.scale, all_rows.scale)[0, 1]) < 0.4
    assert len(set(all_rows.scale)) == 100, "the turns of an image differ"


# --- batches ----------------------------------------------------------------------------------------------


def test_every_image_is_seen_in_all_its_turns(scenes: Store) -> None:
    batches = make(scenes)
    assert batches.steps_per_epoch == 10  # 21 patches, one is left out
    seen = torch.cat([batch.index for batch in batches.epoch(0)]).bincount(minlength=7)
    assert sorted(seen.tolist()) == [2, 3, 3, 3, 3, 3, 3]
    first = next(batches.epoch(0))
    assert first.images.shape == (2, 3, 16, 16) and first.images.dtype == torch.uint8
    assert first.images.is_contiguous(memory_format=torch.channels_last)
    assert first.position.tolist() == [0, 1] and first.labels.tolist() == [-1, -1]
    assert set(torch.cat([batch.view for batch in batches.epoch(0)]).tolist()) == {0, 1}


def test_a_patch_is_that_of_its_own_image(scenes: Store) -> None:
    batches = make(scenes)
    patches = Patches(*(np.array([value]) for value in (3, 0.7, 0.2, 0.9, True)))
    wanted = patch(decode(scenes.encoded(3)), 16, 0.7, 0.2, 0.9)
    np.testing.assert_array_equal(batches.cut(patches)[0], wanted[::-1])
    np.testing.assert_array_equal(batches.cut(patches._replace(upside=np.array([False])))[0], wanted)


@pytest.mark.parametrize("keep_bytes", [0, 10_000])
def test_any_start_and_any_memory_give_the_same_epoch(scenes: Store, keep_bytes: int) -> None:
    whole = list(make(scenes).epoch(2))
    for start in (0, 1, 9):
        later = list(make(scenes, keep_bytes=keep_bytes).epoch(2, start))
        assert len(later) == 10 - start
        assert all(equal(a, b) for a, b in zip(whole[start:], later, strict=True))


def test_epochs_and_seeds_differ(scenes: Store) -> None:
    first = next(make(scenes).epoch(0))
    assert not equal(first, next(make(scenes).epoch(1)))
    assert not equal(first, next(make(scenes, seed=6).epoch(0)))


def test_two_processes_share_the_batch_of_one(scenes: Store) -> None:
    whole = make(scenes, batch=4)
    parts = [make(scenes, batch=4, rank=rank, world=2) for rank in range(2)]
    for batch, *shares in zip(whole.epoch(1), *(part.epoch(1) for part in parts), strict=True):
        joined = [torch.cat(fields) for fields in zip(*map(tensors, shares), strict=True)]
        assert equal(batch, Batch(*joined))


def test_part_of_a_source_and_pixels_of_one_size_serve_too(scenes: Store) -> None:
    part = select(scenes, np.array([4, 0]))
    batches = make(part)  # type: ignore[arg-type]
    assert {index for batch in batches.epoch(0) for index in batch.index.tolist()} == {0, 1}
    patches = Patches(*(np.array([value]) for value in (0, 0.7, 0.2, 0.9, False)))
    np.testing.assert_array_equal(batches.cut(patches)[0], patch(decode(scenes.encoded(4)), 16, 0.7, 0.2, 0.9))

    class Pixels:
        kind, names, labels = "uint8", ("a", "b"), np.array([3, 8])
        pixels = np.stack([noise(20, 30), noise(20, 30)[::-1]])

        def __len__(self) -> int:
            return 2

        def read(self, index: np.ndarray) -> np.ndarray:
            return self.pixels[index]

    batch = next(make(Pixels()).epoch(0))  # type: ignore[arg-type]
    assert batch.labels.tolist() == [Pixels.labels[i] for i in batch.index.tolist()]


def test_images_are_decoded_once_where_they_fit(scenes: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    encoded = scenes.encoded
    monkeypatch.setattr(scenes, "encoded", lambda i: asked.append(i) or encoded(i))  # type: ignore[func-returns-value]
    sizes = [3 * height * width for height, width in SIZES]
    originals = Originals(scenes, sizes[0] + sizes[2])
    for _ in range(2):
        for i in range(4):
            np.testing.assert_array_equal(originals[i], decode(encoded(i)))
    # The second is too large for what the first leaves, the third fits, the fourth does not again.
    assert asked == [0, 1, 2, 3, 1, 3] and originals.room == 0


def test_what_cannot_be_cut_is_named(scenes: Store, tmp_path: Path) -> None:
    # The smallest images have 24 pixels: others of that side fit, these do not.
    with pytest.raises(InputError, match=r"image 2\.jpg is 24x24, smaller than a patch of 25x25; lower --crop"):
        list(make(select(scenes, np.array([2, 2])), side=25).epoch(0))  # type: ignore[arg-type]
    (tmp_path / "scenes" / "4.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"image 4\.jpg cannot be read: not a JPEG"):
        list(make(scenes).epoch(0))
    with pytest.raises(InputError, match="3 patches of each of 7 images are fewer than one batch of 22"):
        make(scenes, batch=22)
    with pytest.raises(UsageError, match="--batch 3 cannot be cut into equal slices for 2 processes"):
        make(scenes, batch=3, world=2)


# --- two sources by turns -----------------------------------------------------------------------------------


def mixed(scenes: Store, people: Path) -> Alternating:
    faces = Batches(open_source(people), batch=4, seed=5, flip=True, put=keep)  # 2 steps of 24 x 24
    return Alternating([make(scenes, turns=1), faces])  # 3 steps of 16 x 16


def test_sources_take_turns_and_the_shorter_begins_anew(scenes: Store, people: Path) -> None:
    both = mixed(scenes, people)
    assert both.steps_per_epoch == 6
    seen = [list(both.epoch(epoch)) for epoch in (0, 1)]
    assert [batch.images.shape[-1] for batch in seen[1]] == [16, 24] * 3
    patches, faces = both.parts
    for epoch in (0, 1):
        assert all(equal(a, b) for a, b in zip(seen[epoch][::2], patches.epoch(epoch), strict=True))
    own = [batch for epoch in range(3) for batch in faces.epoch(epoch)]
    assert all(equal(a, b) for a, b in zip([*seen[0][1::2], *seen[1][1::2]], own, strict=True))


def test_turns_can_start_anywhere(scenes: Store, people: Path) -> None:
    both = mixed(scenes, people)
    whole = list(both.epoch(1))
    for start in range(6):
        assert all(equal(a, b) for a, b in zip(whole[start:], both.epoch(1, start), strict=True))


def test_equal_pixels_by_hand() -> None:
    assert as_many_pixels(32, 192, (112, 112)) == 94  # 1,179,648 pixels in 94.04 faces
    assert as_many_pixels(32, 192, (112, 112), world=4) == 96
    assert as_many_pixels(1, 64, (112, 112), world=2) == 2
