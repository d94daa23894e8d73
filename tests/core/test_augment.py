"""Drawn masks: where they lie, that they are functions of their keys, and that nothing else of a picture changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.augment import DARKEST, OUTLINE, draws, inside, mirror, seen, wear_mask
from facekit.core.types import Batch
from facekit.data.batches import mix

COVERED = ((56.0, 71.7), (41.5, 92.4), (70.7, 92.2), (56.0, 108.0))  # nose tip, mouth corners, chin
FREE = ((38.3, 51.7), (73.5, 51.5), (56.0, 20.0), (5.0, 60.0), (107.0, 60.0))  # eyes, forehead, ears


def keys(count: int) -> Tensor:
    return torch.from_numpy((mix(9, np.arange(count)) | np.uint64(1)).view(np.int64))


def covered(images: Tensor, worn: Tensor) -> Tensor:
    """bool [B,H,W]: black pictures, so that any cloth shows."""
    assert int(images.max()) == 0
    return wear_mask(images, worn).amax(dim=1) > 0


def black(count: int, height: int = 112, width: int = 112) -> Tensor:
    return torch.zeros(count, 3, height, width, dtype=torch.uint8)


def test_the_hash_is_the_one_of_the_batches() -> None:
    words = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF], np.uint64)
    found = draws(torch.from_numpy(words.view(np.int64)), 30).numpy().view(np.uint64)
    assert np.array_equal(found, mix(words[:, None], np.arange(30)))


@pytest.mark.parametrize(("height", "width"), [(112, 112), (224, 224), (64, 64), (32, 32), (112, 96), (160, 128)])
def test_every_mask_covers_nose_to_chin_and_leaves_the_eyes(height: int, width: int) -> None:
    worn = covered(black(100, height, width), keys(100))
    scale, shift = height / 112, (width - height) / 2
    for points, expected in ((COVERED, True), (FREE, False)):
        for x, y in points:
            column, row = int(x * scale + shift), int(y * scale)
            if 0 <= column < width:
                assert bool((worn[:, row, column] == expected).all()), (x, y)


def test_masks_differ_in_place_and_colour_and_are_convex() -> None:
    worn = covered(black(200), keys(200))
    assert len(torch.unique(worn.flatten(1), dim=0)) > 190
    for axis in (1, 2):  # every row and column is covered without a gap
        assert int(worn.int().diff(dim=axis).abs().sum(dim=axis).max()) <= 2
    middle = wear_mask(black(200), keys(200))[:, :, 85, 56]
    assert len(torch.unique(middle, dim=0)) > 190 and int(middle.min()) >= DARKEST // 2


def test_only_the_masked_part_of_a_masked_face_changes() -> None:
    images = torch.randint(0, 256, (6, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    worn = keys(6) * torch.tensor([1, 0, 1, 1, 0, 1])
    out, under = wear_mask(images, worn), covered(black(6), worn)
    assert torch.equal(out[[1, 4]], images[[1, 4]])
    assert torch.equal(out.masked_fill(under[:, None], 0), images.masked_fill(under[:, None], 0))
    assert 0.2 < float(under[0].float().mean()) < 0.4


def test_a_mask_depends_on_its_key_alone() -> None:
    images = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    together = wear_mask(images, keys(8))
    assert torch.equal(together, torch.cat([wear_mask(images[i : i + 1], keys(8)[i : i + 1]) for i in range(8)]))
    assert torch.equal(together[[5, 2]], wear_mask(images[[5, 2]], keys(8)[[5, 2]]))


def test_the_memory_format_of_training_batches_is_kept() -> None:
    images = black(4).contiguous(memory_format=torch.channels_last)
    assert wear_mask(images, keys(4)).is_contiguous(memory_format=torch.channels_last)


def test_the_outline_is_where_plain_arithmetic_puts_it() -> None:
    """The half-planes in floats, for a mask that is not moved, at a size where a pixel is no whole number of units."""
    height, width = 47, 39
    found = inside(torch.tensor(OUTLINE)[None] * 16, height, width)[0]
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5 - (width - height) / 2) * 112 / height, (row + 0.5) * 112 / height
            sides = [
                (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
                for (x0, y0), (x1, y1) in zip(OUTLINE, OUTLINE[1:] + OUTLINE[:1], strict=True)
            ]
            assert bool(found[row, column]) == (min(sides) >= 0)


def test_golden_mask() -> None:
    """Recorded results depend on the drawing: change it only together with conditions.VERSION."""
    out = wear_mask(torch.full((1, 3, 112, 112), 128, dtype=torch.uint8), torch.tensor([12345]))
    assert out[0, :, 85, 56].tolist() == [149, 231, 127]
    assert int((out != 128).any(dim=1).sum()) == 2962


def test_masks_are_put_on_before_the_mirror() -> None:
    images, view = black(4), torch.tensor([0, 1, 0, 1])
    index = torch.arange(4)
    batch = Batch(images, index, index, view, index, keys(4))
    assert torch.equal(seen(batch), mirror(wear_mask(images, keys(4)), view))
    assert seen(batch._replace(mask=None)).equal(images)
