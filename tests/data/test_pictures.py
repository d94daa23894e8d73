"""Picture files as a codec takes them: what is kept, what is turned, what is refused unless the user says how."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.data.decode import BrokenImage
from facekit.data.pictures import Alpha, PictureRules, read_picture, write_picture

RULES = PictureRules()


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, form: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **({} if exif is None else {"exif": exif}))
    return stream.getvalue()


def deep_colour_png() -> bytes:
    """Three 16-bit channels, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0, 65535, 0x8000, 0x1234, 0xFFFF, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def test_colour_and_grey_are_kept() -> None:
    for values in (pixels(5, 7, 3), pixels(5, 7)):
        found = read_picture(saved(Image.fromarray(values)), RULES)
        np.testing.assert_array_equal(found.pixels, values)
        assert found.notes == ()
    bits = np.array([[True, False]])
    np.testing.assert_array_equal(read_picture(saved(Image.fromarray(bits)), RULES).pixels, [[255, 0]])


def test_equal_channels_are_grey_when_asked() -> None:
    values = np.repeat(pixels(4, 4, 1), 3, axis=2)
    data = saved(Image.fromarray(values))
    assert read_picture(data, RULES).pixels.shape == (4, 4, 3)
    np.testing.assert_array_equal(read_picture(data, PictureRules(find_grey=True)).pixels, values[..., 0])
    values[1, 2, 0] ^= 1
    assert read_picture(saved(Image.fromarray(values)), PictureRules(find_grey=True)).pixels.shape == (4, 4, 3)


def test_palettes_and_cmyk_become_rgb() -> None:
    image = Image.fromarray(pixels(6, 6, 3))
    palette = image.quantize(16)
    np.testing.assert_array_equal(read_picture(saved(palette), RULES).pixels, np.asarray(palette.convert("RGB")))
    data = saved(image.convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(data)) as again:
        np.testing.assert_array_equal(read_picture(data, RULES).pixels, np.asarray(again.convert("RGB")))


@pytest.mark.parametrize(("tag", "turned"), [(6, lambda x: np.rot90(x, -1)), (3, lambda x: x[::-1, ::-1])])
def test_the_cameras_orientation_is_applied(tag: int, turned: object) -> None:
    values, exif = pixels(4, 6, 3), Image.Exif()
    exif[0x0112] = tag
    data = saved(Image.fromarray(values), exif=exif)
    np.testing.assert_array_equal(read_picture(data, RULES).pixels, turned(values))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("alpha", "expected"), [("white", [127, 255, 255]), ("black", [0, 128, 128]), ("drop", [0, 255, 255])]
)
def test_transparency_is_refused_or_laid_on_a_background(alpha: Alpha, expected: list[int]) -> None:
    data = saved(Image.fromarray(np.array([[[0, 255, 255, 128]]], np.uint8)))
    with pytest.raises(BrokenImage, match="--alpha white, black or drop"):
        read_picture(data, RULES)
    found = read_picture(data, PictureRules(alpha=alpha))
    assert found.pixels[0, 0].tolist() == expected
    assert found.notes == (f"transparency: {alpha}",)


def test_a_transparent_palette_and_transparent_grey() -> None:
    palette = Image.fromarray(pixels(4, 4, 3)).quantize(4)
    palette.info["transparency"] = 0
    for data in (saved(palette), saved(Image.fromarray(pixels(4, 4)).convert("LA"))):
        with pytest.raises(BrokenImage, match="transparency"):
            read_picture(data, RULES)
    assert read_picture(saved(Image.fromarray(pixels(4, 4)).convert("LA")), PictureRules("drop")).pixels.ndim == 2


def test_sixteen_bits_are_refused_or_rounded() -> None:
    values = np.array([[0, 128, 129, 257 * 200 + 128, 257 * 200 + 129, 65535]], np.uint16)
    data = saved(Image.fromarray(values))
    with pytest.raises(BrokenImage, match="--to-8bit"):
        read_picture(data, RULES)
    found = read_picture(data, PictureRules(to_8bit=True))
    assert found.pixels.tolist() == [[0, 0, 1, 200, 201, 255]] and found.notes == ("16 bits became 8",)
    with pytest.raises(BrokenImage, match="--to-8bit"):
        read_picture(deep_colour_png(), RULES)
    colours = read_picture(deep_colour_png(), PictureRules(to_8bit=True)).pixels
    assert np.abs(colours.astype(int) - [[[0, 255, 128], [18, 255, 0]]]).max() <= 1


def test_what_is_no_picture() -> None:
    with pytest.raises(BrokenImage, match="floating-point"):
        read_picture(b"Pf\n1 1\n-1.0\n\0\0\0\0", RULES)
    for data in (b"", b"hello", saved(Image.fromarray(pixels(9, 9, 3)))[:60]):
        with pytest.raises(BrokenImage):
            read_picture(data, RULES)
    with pytest.raises(BrokenImage, match="at most 35"):
        read_picture(saved(Image.fromarray(pixels(6, 6))), PictureRules(max_pixels=35))


@pytest.mark.parametrize("form", ["png", "ppm"])
def test_written_pictures_lose_nothing(form: str, tmp_path: Path) -> None:
    for values in (pixels(3, 5, 3), pixels(3, 5)):
        path = write_picture(tmp_path / f"x.{form}", values, form)  # type: ignore[arg-type]
        np.testing.assert_array_equal(read_picture(path.read_bytes(), RULES).pixels, values)
