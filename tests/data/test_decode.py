"""One decoder with the size known first: equal to Pillow, and hostile bytes are explained, never allocated."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facekit.data import decode
from facekit.data.decode import BrokenImage, decode_into, decode_pillow, decoder_name, encode_jpeg, image_size


def picture(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow_in_every_pixel(mode: str, subsampling: int, progressive: bool) -> None:
    data = saved(picture(mode), "JPEG", quality=80, subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode.decode(data), decode_pillow(data))
    assert image_size(data) == (23, 37)


def test_without_simplejpeg_the_pixels_and_sizes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(), "JPEG", quality=90)
    fast = decode.decode(data)
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert decoder_name().startswith("Pillow ")
    assert np.array_equal(decode.decode(data), fast)
    assert np.abs(decode.decode(encode_jpeg(fast, 100)).astype(int) - fast).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "PPM"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode.decode(saved(picture(), kind, **options)), np.asarray(picture()))


def test_alpha_and_palettes_become_rgb() -> None:
    for mode in ("RGBA", "LA", "P", "1"):
        assert decode.decode(saved(picture(mode), "PNG")).shape == (23, 37, 3)


def test_sixteen_bit_images_are_refused_not_clipped() -> None:
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    with pytest.raises(BrokenImage, match="8-bit"):
        decode.decode(saved(deep, "PNG"))


def test_every_cut_of_a_jpeg_is_broken() -> None:
    data = saved(picture(), "JPEG", quality=90)
    for cut in [*range(0, len(data) - 1, 17), len(data) - 2]:
        with pytest.raises(BrokenImage):
            decode.decode(data[:cut])


def test_a_header_that_announces_gigabytes_is_refused_without_allocating() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    png += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(BrokenImage, match="60000x60000|bomb|exceeds"):
        decode.decode(png)
    jpeg = bytearray(saved(picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BrokenImage, match=r"65000x65000|bomb|exceeds"):
        decode.decode(bytes(jpeg))


def test_decoding_into_another_size_is_refused() -> None:
    with pytest.raises(BrokenImage, match="23x37, the other images are 24x24"):
        decode_into(saved(picture(), "JPEG"), np.empty((24, 24, 3), np.uint8))


@given(st.data())
def test_damaged_bytes_give_pixels_or_an_explanation(data: st.DataObject) -> None:
    encoded = bytearray(saved(picture(), data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "PPM"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode.decode(bytes(encoded))
    except BrokenImage as error:
        assert str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
