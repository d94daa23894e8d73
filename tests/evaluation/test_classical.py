"""The classical codecs: pixels come back, quality costs bytes, and the payload is what differs between images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.core.errors import InputError, UsageError
from facekit.data.decode import decode
from facekit.evaluation import classical
from facekit.evaluation.bdrate import bd_rate
from facekit.evaluation.classical import CLASSICAL, QUALITIES, available, ladder, versions
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.payload import jpeg_payload, jpeg_segments
from facekit.evaluation.published import published_curves
from facekit.evaluation.ratedistortion import QUALITIES as QUALITIES_IN_DB
from facekit.evaluation.ratedistortion import measure, measured_curve, psnr, published_curve

each_codec = pytest.mark.parametrize("name", available())


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth colours and some noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 12
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-1, 3, (3, 3))]
    return np.clip(127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


@each_codec
def test_better_settings_cost_more_and_look_better(name: str) -> None:
    image, codecs = picture(0), ladder(name)
    rungs = [codecs[i] for i in (0, len(codecs) // 2, -1)]
    files = [codec.encode(image) for codec in rungs]
    quality = [psnr(image, codec.pixels(data, image.shape)) for codec, data in zip(rungs, files, strict=True)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 2
    assert quality == sorted(quality) and quality[0] < 28 and quality[-1] > 32


@each_codec
def test_payload_leaves_out_what_all_images_have_in_common(name: str) -> None:
    codec = ladder(name)[len(ladder(name)) // 2]
    files = [codec.encode(picture(seed)) for seed in range(4)]
    assert len({len(data) for data in files}) > 1
    common = [len(data) - codec.payload(data) for data in files]
    assert max(common) - min(common) <= 1, "WebP alone pads to an even length"
    assert 20 <= min(common) < len(files[0])


@each_codec
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 7)])
def test_any_size_comes_back(name: str, size: tuple[int, int]) -> None:
    image = picture(1, *size)
    for codec in (ladder(name)[0], ladder(name)[-1]):
        data = codec.encode(image)
        assert codec.pixels(data, image.shape).shape == image.shape
        assert 0 < codec.payload(data) < len(data)


def test_jpeg_segments_fill_the_file_and_stuffed_bytes_do_not_end_a_scan() -> None:
    codec = ladder("JPEG 4:4:4")[-1]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = codec.encode(image)
    assert b"\xff\x00" in data[700:], "noise at high quality has stuffed bytes"
    segments = list(jpeg_segments(data))
    assert 2 + sum(length for _, length in segments) + 2 == len(data)
    assert [marker for marker, _ in segments].count(0xDA) == 1
    restarts = io.BytesIO()
    Image.fromarray(image).save(restarts, "JPEG", quality=95, restart_marker_blocks=4)
    assert b"\xff\xd0" in restarts.getvalue()
    assert 2 + sum(length for _, length in jpeg_segments(restarts.getvalue())) + 2 == len(restarts.getvalue())
    assert jpeg_payload(data) > 0.9 * len(data)


def test_subsampling_and_the_colour_transform_are_used() -> None:
    image = picture(2)
    coarse, fine = (ladder(f"JPEG {name}", [90])[0] for name in ("4:2:0", "4:4:4"))
    assert len(coarse.encode(image)) < len(fine.encode(image))
    # Grey in three channels costs a colour transform hardly more than one channel, and three times that without it.
    grey = np.repeat(picture(3)[..., :1], 3, axis=-1)
    wavelet = ladder("JPEG 2000", [12])[0]
    with_colour, without = (psnr(x, wavelet.decode(wavelet.encode(x))) for x in (grey, picture(3)))
    assert with_colour > without + 3


def test_names_and_rungs() -> None:
    assert [codec.setting for codec in ladder("WebP")] == [f"quality {q}" for q in QUALITIES]
    assert QUALITIES[0] == 5 and QUALITIES[-1] == 95
    assert {codec.name for name in available() for codec in ladder(name)} == set(available()) <= set(CLASSICAL)
    with pytest.raises(UsageError, match=r"unknown codec 'webp'. Did you mean 'WebP'"):
        ladder("webp")
    assert versions()["Pillow"] and "libjpeg-turbo" in versions()


def test_what_pillow_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical.features, "check", lambda feature: feature == "jpg")
    assert available() == ["JPEG 4:2:0", "JPEG 4:4:4"]
    with pytest.raises(UsageError, match="unknown codec 'WebP'"):
        ladder("WebP")


def test_a_codec_that_gives_back_another_size_is_named() -> None:
    codec = ImageCodec("EDIC", "q 1", bytes, lambda data: np.zeros((8, 8, 3), np.float32))
    with pytest.raises(InputError, match=r"EDIC at q 1 decodes an image of shape \(8, 8, 3\) to float32 \(8, 8, 3\)"):
        codec.pixels(b"", (8, 8, 3))
    with pytest.raises(InputError, match="same size"):
        ladder("WebP")[0].pixels(ladder("WebP")[0].encode(picture(0)), (56, 40, 3))


@pytest.mark.slow
def test_published_curves_of_jpeg_and_webp_are_met(root: Path) -> None:
    folder = root.parent / "shared" / "data" / "kodak"
    paths = sorted(folder.glob("kodim*.png"))
    if len(paths) != 24:
        pytest.skip(f"the 24 Kodak images are not in {folder}")
    published = {curve.name: curve for curve in published_curves()}
    codecs = [codec for name in ("JPEG 4:2:0", "WebP") for codec in ladder(name, (20, 40, 60, 80))]
    points = measure(codecs, (decode(path.read_bytes()) for path in paths))
    # Better Huffman tables, and a newer, slower WebP: a few percent fewer bits than published, and not more.
    for name, theirs in (("JPEG 4:2:0", "jpeg"), ("WebP", "webp")):
        for quality in QUALITIES_IN_DB:
            anchor = published_curve(published[theirs], quality)
            assert -12 < bd_rate(anchor, measured_curve(points, name, quality)).percent < 0, (name, quality)
