"""Worse pictures of the same faces: what each condition does, and that a picture depends on nothing but its own."""

from __future__ import annotations

import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from facekit import configs
from facekit.core.augment import wear_mask
from facekit.core.errors import InputError, UsageError
from facekit.data import conditions as module
from facekit.data.batches import mix
from facekit.data.conditions import CONDITIONS, render
from facekit.data.embeddings import embed_source
from facekit.data.sources import open_source, select

SIZE = (112, 112)
each = pytest.mark.parametrize("condition", CONDITIONS)


class Pictures:
    """Noise, smoothed a little; of any size."""

    names, identities, notes, fingerprint = [f"{i}.jpg" for i in range(5)], ("a", "b"), ("a note",), "f" * 64
    labels = np.array([0, 0, 1, 1, 1])

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.size = size
        coarse = np.random.default_rng(3).integers(0, 256, (5, size[0] // 4, size[1] // 4, 3), np.uint8)
        self.pixels = coarse.repeat(4, axis=1).repeat(4, axis=2)

    def __len__(self) -> int:
        return 5

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


def read(condition: str, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The rendering of given pixels."""
    source = Pictures((pixels.shape[1], pixels.shape[2]))
    source.pixels = pixels
    return render(source, condition, seed).read(np.arange(len(pixels)))


def test_the_table_is_what_a_user_can_name() -> None:
    assert set(typing.get_args(configs.Condition)) == set(CONDITIONS)


@each
def test_a_rendering_is_a_source_with_the_same_names_and_other_pixels(condition: str) -> None:
    source = Pictures()
    before = source.pixels.copy()
    rendered = render(source, condition, seed=4)
    assert (rendered.names, rendered.identities, rendered.notes) == (source.names, source.identities, source.notes)
    assert rendered.size == source.size and len(rendered) == 5 and rendered.labels is source.labels
    found = rendered.read(np.arange(5))
    assert found.dtype == np.uint8 and found.shape == source.pixels.shape
    assert (found != before).any(axis=(1, 2, 3)).all() and np.array_equal(source.pixels, before)


@each
def test_a_picture_does_not_depend_on_what_is_read_with_it(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = render(Pictures(), condition, seed=4)
    whole = rendered.read(np.arange(5))
    assert np.array_equal(rendered.read(np.array([3, 1, 3])), whole[[3, 1, 3]])
    monkeypatch.setattr(module, "BLOCK", 2)
    assert np.array_equal(rendered.read(np.arange(5)), whole)
    assert np.array_equal(np.frombuffer(rendered.encoded(2), np.uint8), whole[2].ravel())


@each
@pytest.mark.parametrize("size", [(48, 40), (160, 160)])
def test_other_sizes_are_rendered_too(condition: str, size: tuple[int, int]) -> None:
    assert render(Pictures(size), condition).read(np.array([1])).shape == (1, *size, 3)


def test_the_seed_decides_what_is_random() -> None:
    for condition in CONDITIONS:
        one, other = (render(Pictures(), condition, seed).read(np.array([0])) for seed in (0, 1))
        assert np.array_equal(one, other) == (condition not in ("mask", "dark"))


def test_fingerprints_tell_renderings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def marks() -> list[str]:
        return [render(Pictures(), condition, seed).fingerprint for condition in CONDITIONS for seed in (0, 1)]

    first = marks()
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    second = marks()
    monkeypatch.setattr(Pictures, "fingerprint", "e" * 64)
    everything = [*first, *second, *marks(), "e" * 64]
    assert len(set(everything)) == len(everything) == 37


def test_the_embedding_cache_never_mixes_them_up(people: Path, tmp_path: Path) -> None:
    source = open_source(people)
    for images in (source, render(source, "grey"), render(source, "jpeg"), render(source, "grey")):
        found = embed_source(lambda x: x.double().mean(dim=3).flatten(1), images, key="k", cache_dir=tmp_path)
        pixels = images.read(np.arange(len(images)))
        np.testing.assert_allclose(found[:, 0], pixels.mean(axis=2).transpose(0, 2, 1).reshape(len(images), -1), 1e-6)
    assert len(list((tmp_path / "embeddings").glob("*.npy"))) == 3


def test_part_of_a_rendering_is_that_part(people: Path) -> None:
    rendered = render(open_source(people), "dark", seed=2)
    part = select(rendered, np.array([4, 2]))
    assert np.array_equal(part.read(np.arange(2)), rendered.read(np.array([4, 2])))
    assert part.fingerprint != rendered.fingerprint


# --- what each of them is ----------------------------------------------------------------------------------


def test_mask_is_the_mask_of_training() -> None:
    pixels = Pictures().pixels
    keys = torch.from_numpy((mix(6, np.arange(5)) | np.uint64(1)).view(np.int64))
    wanted = wear_mask(torch.from_numpy(pixels).permute(0, 3, 1, 2), keys).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(read("mask", pixels, seed=6), wanted)


def test_low_resolution_is_area_down_and_bilinear_up() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 96, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    small = interpolate(images, (28, 24), mode="area")
    wanted = interpolate(small, (112, 96), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert np.abs(read("lowres", pixels) - wanted.numpy()).max() <= 0.5 + 1e-9


def test_areas_that_are_no_whole_number_of_pixels_count_in_part() -> None:
    assert module.few(10, 10) == 2 and module.few(6, 6) == 2
    np.testing.assert_allclose(module.averaging(6, 6), [[1 / 3] * 3 + [0] * 3, [0] * 3 + [1 / 3] * 3])
    weights = module.averaging(90, 90)  # 22 stretches of 4.09 pixels
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.sum(axis=0), 22 / 90)
    np.testing.assert_allclose(weights[0, :6], np.array([1, 1, 1, 1, 2 / 22, 0]) * 22 / 90)


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    point = np.zeros((1, 112, 112, 3), np.uint8)
    point[0, 56, 40] = 255
    point[0, 53:60, 37:44] = 255  # a square: one pixel alone would vanish in rounding
    spread = read("blur", point).astype(float)[0, :, :, 0]
    y, x = np.mgrid[:112, :112]
    total = spread.sum()
    assert abs((spread * y).sum() / total - 56) < 0.05 and abs((spread * x).sum() / total - 40) < 0.05
    square = (7**2 - 1) / 12
    variance = (spread * (x - 40) ** 2).sum() / total
    assert abs(variance - (module.BLUR_SIGMA**2 + square)) < 0.5
    flat = np.full((1, 112, 112, 3), 77, np.uint8)
    assert np.array_equal(read("blur", flat), flat)


def test_dark_has_the_stated_gain_and_noise() -> None:
    flat = np.full((3, 112, 112, 3), 255, np.uint8)
    light = (read("dark", flat).astype(float) / 255) ** module.DARK_GAMMA
    assert abs(light.mean() - module.DARK_GAIN) < 1e-3
    assert abs(light.std() / module.DARK_READ_NOISE - 1) < 0.05
    noise = light - light.mean()
    assert abs((noise[0] * noise[1]).mean()) < 0.03 * module.DARK_READ_NOISE**2


def test_the_noise_is_nearly_normal() -> None:
    numbers = module.normal(mix(np.arange(4)), 100_000)
    assert abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1) < 0.01
    assert abs((np.abs(numbers) < 1).mean() - 0.683) < 0.02 and np.abs(numbers).max() > 3
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.02


def test_grey_is_luma() -> None:
    pixels = np.zeros((1, 48, 48, 3), np.uint8)
    pixels[0, 0, :4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 30]]
    assert read("grey", pixels)[0, 0, :4].tolist() == [[76] * 3, [150] * 3, [29] * 3, [124] * 3]


def test_jpeg_loses_most_of_the_detail() -> None:
    smooth = Pictures().pixels.astype(float)
    found = read("jpeg", Pictures().pixels).astype(float)
    error = np.sqrt(((found - smooth) ** 2).mean())
    assert 5 < error < 60 and np.corrcoef(found.ravel(), smooth.ravel())[0, 1] > 0.7


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'blur'"):
        render(Pictures(), "blurr")
    with pytest.raises(InputError, match="24x24, too small to wear a mask"):
        render(Pictures((24, 24)), "mask")
