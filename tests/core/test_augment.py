"""Drawn masks: where they lie, that they are functions of their keys, and that nothing else of a picture changes.

And crops: which windows are drawn, and that they show what lies there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.augment import DARKEST, OUTLINE, Augment, inside, mirror, wear_mask
from facekit.core.crops import centre_crop, drawn_windows, resized_crop, shift_crop, window_sizes
from facekit.core.draws import between, draws
from facekit.core.errors import InputError, UsageError
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


# --- shifts ------------------------------------------------------------------------------------------------


def noise(count: int, height: int, width: int) -> Tensor:
    """uint8 [B,3,H,W] from 1 to 255 in channels_last memory: black is padding alone."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(1, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def hot(image: Tensor) -> tuple[int, int]:
    """Row and column of the one pixel that is not black, (-1, -1) if it was moved out."""
    found = image.amax(dim=0).nonzero()
    return (-1, -1) if len(found) == 0 else (int(found[0, 0]), int(found[0, 1]))


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 2), (5, 7, 1), (9, 6, 4)])
def test_a_shift_moves_every_pixel_alike_and_black_comes_in(height: int, width: int, pad: int) -> None:
    images = noise(40, height, width)
    out = shift_crop(images, keys(40), pad)
    assert out.dtype == torch.uint8 and out.is_contiguous(memory_format=torch.channels_last)
    shifts = set()
    for image, moved in zip(images, out, strict=True):
        canvas = torch.zeros(3, height + 2 * pad, width + 2 * pad, dtype=torch.uint8)
        canvas[:, pad : pad + height, pad : pad + width] = image
        fits = [
            (top, left)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            if torch.equal(canvas[:, top : top + height, left : left + width], moved)
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) > (2 * pad + 1) ** 2 // 3


def test_all_shifts_are_equally_likely() -> None:
    images = black(9000, 9, 9)
    images[:, :, 4, 4] = 255
    out = shift_crop(images, keys(9000), 4)
    counts = (out[:, 0] > 0).sum(dim=0).double()  # where the planted pixel went, 81 places
    assert int(counts.sum()) == 9000 and int(counts.min()) > 0
    assert float((counts - 9000 / 81).square().sum() / (9000 / 81)) < 125  # chi-square, 80 degrees: 1 in 1,000


def test_planted_pixels_move_by_the_drawn_shift() -> None:
    images = black(60, 16, 12)
    images[:, 1, 7, 5] = 255
    first = between(draws(keys(60), 2), 0, 6)
    for out, (top, left) in zip(shift_crop(images, keys(60), 3), first.tolist(), strict=True):
        assert hot(out) == (7 + 3 - top, 5 + 3 - left)


def test_a_shift_of_nothing_or_out_of_sight() -> None:
    images = noise(3, 6, 5)
    assert torch.equal(shift_crop(images, keys(3), 0), images)
    with pytest.raises(InputError, match="up to 5 pixels move images of 6x5 out of sight; lower --crop"):
        shift_crop(images, keys(3), 5)


# --- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 48), (100, 37), (3, 3)])
def test_windows_lie_inside_with_the_allowed_area_and_aspect(height: int, width: int) -> None:
    top, left, tall, wide = drawn_windows(keys(5000), height, width).unbind(1)
    assert int(torch.stack((top, left, tall - 1, wide - 1)).min()) >= 0
    assert bool((top + tall <= height).all()) and bool((left + wide <= width).all())
    # Sides are rounded to whole pixels, by half a pixel at most.
    assert bool(((tall + 0.5) * (wide + 0.5) >= 0.08 * height * width).all())
    assert bool(((wide - 0.5) * 3 <= (tall + 0.5) * 4).all()) and bool(((tall - 0.5) * 3 <= (wide + 0.5) * 4).all())


def test_the_smallest_and_the_largest_window_are_drawn_from() -> None:
    sizes = window_sizes(64, 64, torch.device("cpu")).unique(dim=0).tolist()
    areas = [tall * wide for tall, wide in sizes]
    assert [64, 64] in sizes and [18, 18] in sizes  # 64 x 64, and 0.08 of it, which is 18.1 x 18.1
    assert max(areas) == 64 * 64 and min(areas) > 0.08 * 64 * 64 - 36 / 2


def test_windows_are_distributed_as_drawing_until_one_fits() -> None:
    """Against the published description of RandomResizedCrop, drawn by numpy."""
    side, count = 64, 40_000
    rng = np.random.default_rng(0)
    area = rng.uniform(0.08, 1, 3 * count) * side * side
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 3 * count))
    wide, tall = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (wide <= side) & (tall <= side)
    wide, tall = wide[fits][:count], tall[fits][:count]
    top, left = (np.floor(rng.uniform(size=count) * (side - size + 1)) for size in (tall, wide))
    wanted = np.stack((top, left, tall, wide), axis=1)
    found = drawn_windows(keys(count), side, side).numpy()
    for a, b in ((wanted, found), (wanted[:, [2]] * wanted[:, [3]], found[:, [2]] * found[:, [3]])):
        for column in range(a.shape[1]):
            places = np.arange(int(max(a.max(), b.max())) + 1)
            one, two = (np.searchsorted(np.sort(x[:, column]), places, side="right") / count for x in (a, b))
            assert np.abs(one - two).max() < 1.95 * (2 / count) ** 0.5  # Kolmogorov-Smirnov: 1 in 1,000
    correlations = [np.corrcoef(x, rowvar=False) for x in (wanted, found)]
    assert np.abs(correlations[0] - correlations[1]).max() < 0.03


def test_a_window_shows_what_lies_there() -> None:
    """Bilinear resizing written out: weights of each output pixel on the rows and columns of the cut window."""
    images, side = noise(30, 20, 28), 9
    windows = drawn_windows(keys(30), 20, 28).tolist()
    for image, out, (top, left, tall, wide) in zip(images, resized_crop(images, keys(30), side), windows, strict=True):
        cut = image[:, top : top + tall, left : left + wide].double()
        rows, columns = weights(tall, side), weights(wide, side)
        wanted = torch.einsum("ih,chw,jw->cij", rows, cut, columns)
        assert float((out.double() - wanted).abs().max()) < 0.5 + 1e-3


def weights(length: int, side: int) -> Tensor:
    """float64 [side,length]: what each pixel of a resized line takes from the line."""
    table = torch.zeros(side, length, dtype=torch.float64)
    for k in range(side):
        place = min(max((k + 0.5) * length / side - 0.5, 0.0), length - 1.0)
        low = min(int(place), length - 1)
        table[k, low] += 1 - (place - low)
        table[k, min(low + 1, length - 1)] += place - low
    return table


def test_the_whole_picture_at_its_own_size_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.tensor([[0, 0, 200, 200]]).expand(2, -1)
    monkeypatch.setattr("facekit.core.crops.drawn_windows", lambda *_: whole)
    images = noise(2, 200, 200)
    out = resized_crop(images, keys(2), 200)
    assert torch.equal(out, images) and out.is_contiguous(memory_format=torch.channels_last)


def test_pictures_too_long_for_any_window() -> None:
    with pytest.raises(InputError, match="no window .* fits into images of 1000x10"):
        window_sizes(1000, 10, torch.device("cpu"))


def test_the_centre_is_cut_from_the_middle() -> None:
    images = torch.arange(5 * 8).to(torch.uint8).view(1, 1, 5, 8).expand(2, 3, 5, 8)
    assert centre_crop(images, 4)[0, 0].tolist() == [[8 * y + x for x in (2, 3, 4, 5)] for y in (0, 1, 2, 3)]
    assert torch.equal(centre_crop(noise(1, 6, 6), 6), noise(1, 6, 6))
    with pytest.raises(InputError, match="images are 5x8, and 6x6 were to be cut"):
        centre_crop(images, 6)


# --- all together ------------------------------------------------------------------------------------------


def batch(count: int = 8, size: int = 32) -> Batch:
    index = torch.arange(count)
    return Batch(noise(count, size, size), index, index, index % 2, index, keys(count) * (index % 3 > 0), keys(count))


def test_masks_are_put_on_before_the_mirror() -> None:
    b = batch()
    assert b.mask is not None
    assert torch.equal(Augment()(b), mirror(wear_mask(b.images, b.mask), b.view))
    assert torch.equal(Augment()(b, masks=False), mirror(b.images, b.view))
    assert torch.equal(Augment()(b._replace(mask=None)), mirror(b.images, b.view))


@pytest.mark.parametrize("augment", [Augment(pad=4), Augment(resized=24)])
def test_crops_come_between_masks_and_mirror(augment: Augment) -> None:
    b = batch()
    assert b.mask is not None
    for masks, images in ((True, wear_mask(b.images, b.mask)), (False, b.images)):
        crop = shift_crop(images, keys(8), 4) if augment.pad else resized_crop(images, keys(8), 24)
        assert torch.equal(augment(b, masks=masks), mirror(crop, b.view))
    assert augment(b).is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(augment(b), augment(b._replace(crop=keys(9)[1:])))


@pytest.mark.parametrize("augment", [Augment(), Augment(pad=4), Augment(resized=24)])
def test_a_view_depends_on_its_own_keys_alone(augment: Augment) -> None:
    b = batch()
    some = torch.tensor([5, 2, 2])
    part = Batch(*(t if t is None else t[some] for t in b))
    assert torch.equal(augment(part), augment(b)[some])


def test_what_cannot_be_cropped() -> None:
    with pytest.raises(UsageError, match="--crop 4 and --resized-crop 24 exclude each other"):
        Augment(pad=4, resized=24)
    assert [Augment().crops, Augment(pad=1).crops, Augment(resized=8).crops] == [False, True, True]
    with pytest.raises(ValueError, match="crops=True"):
        Augment(pad=4)(batch()._replace(crop=None))
