"""Rate and distortion: numbers by hand, one image at a time, BD-rates, the document."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.evaluation.classical import ladder
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.published import published_curves
from facekit.evaluation.ratedistortion import (
    RdPoint,
    bd_rates,
    code,
    decibels,
    document,
    measure,
    psnr,
    sentences,
    similarity,
    write_rd,
)

SHAPE = (12, 16, 3)
DEVICE = {"device": "cpu", "precision": "fp32", "threads": 1}


def images(count: int) -> Iterator[np.ndarray]:
    for seed in range(count):
        yield np.random.default_rng(seed).integers(20, 200, SHAPE).astype(np.uint8)


def shifting(levels: int, header: int = 4) -> ImageCodec:
    """Raw pixels behind a header; every pixel comes back so many levels brighter."""
    return ImageCodec(
        "EDIC",
        f"shift {levels}",
        lambda image: bytes(header) + image.tobytes(),
        lambda data: np.frombuffer(data[header:], np.uint8).reshape(SHAPE) + np.uint8(levels),
        lambda data: len(data) - header,
    )


def test_psnr_by_hand() -> None:
    image = next(images(1))
    assert psnr(image, image + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    one = image.copy()
    one[0, 0, 0] += 30  # one value of 576 by 30: a mean square of 900/576
    assert psnr(image, one) == pytest.approx(10 * math.log10(255**2 / (900 / 576)))
    assert psnr(image, image) == math.inf
    assert psnr(np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)) == 0, "no wrapping around in uint8"


def test_similarity_and_its_decibels() -> None:
    image = next(images(1))
    assert similarity(image, image) == pytest.approx(1, abs=1e-6)
    assert 0.5 < similarity(image, image + np.uint8(30)) < 0.999
    assert math.isnan(similarity(image[:10], image[:10]))
    assert np.allclose(decibels(np.array([0.9, 0.99, 0.999])), [10, 20, 30]) and decibels(1.0) == math.inf


def test_one_image_through_a_codec() -> None:
    found = code(shifting(2), next(images(1)))
    assert found.bpp == 24 + 8 * 4 / (12 * 16) and found.payload_bpp == 24
    assert found.psnr == pytest.approx(20 * math.log10(255 / 2))
    assert min(found.encode_s, found.decode_s, found.encode_cpu_s, found.decode_cpu_s) >= 0


def test_points_are_means_over_images_that_are_asked_for_once() -> None:
    codecs = [shifting(1), shifting(3), *ladder("JPEG 4:4:4", [50])]
    told: list[int] = []
    points = measure(codecs, images(3), told.append)
    assert [(p.codec, p.setting, p.images) for p in points] == [
        ("EDIC", "shift 1", 3), ("EDIC", "shift 3", 3), ("JPEG 4:4:4", "quality 50", 3),
    ]  # fmt: skip
    assert points[0].psnr == pytest.approx(20 * math.log10(255))
    alone = [code(codecs[2], image) for image in images(3)]
    assert points[2].bpp == pytest.approx(np.mean([one.bpp for one in alone]))
    assert points[2].psnr == pytest.approx(np.mean([one.psnr for one in alone]))
    assert points[2].ms_ssim_db == pytest.approx(-10 * math.log10(1 - np.mean([one.ms_ssim for one in alone])))
    assert told == [1] * 9
    with pytest.raises(InputError, match="no image"):
        measure(codecs, iter(()))


def test_images_of_other_sizes_count_the_same() -> None:
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    ten = ImageCodec(
        "EDIC", "", lambda image: bytes([*image.shape[:2], *bytes(8)]), lambda d: np.zeros((*d[:2], 3), "u1")
    )
    (point,) = measure([ten], [small, large])
    assert point.bpp == (80 / 4 + 80 / 16) / 2 and point.psnr == math.inf and math.isnan(point.ms_ssim)


# --- codec against codec ---------------------------------------------------------------------------------------


def curve(codec: str, factor: float, count: int = 6) -> list[RdPoint]:
    """Bits that are ``factor`` times those of factor 1, at equal quality."""
    return [
        RdPoint(
            codec, f"q {i}", 24, factor * 0.1 * 1.5**i, 0.1, 28.0 + i, 1 - 0.1 / 2**i, 10 + 3 * i, 0.1, 0.1, 0.1, 0.1
        )
        for i in range(count)
    ]


def test_each_codec_is_held_against_the_classical_and_the_published() -> None:
    published = [c for c in published_curves() if c.name in ("webp", "hm", "vtm")]
    rows = bd_rates([*curve("EDIC", 0.8), *curve("WebP", 1.0), *curve("JPEG 2000", 2, 3)], published)
    found = {(row.codec, row.anchor, row.quality): row for row in rows}
    assert len(found) == len(rows) == 2 * (5 + 4 + 4)  # nothing against itself, EDIC anchors nothing
    for quality in ("psnr", "ms_ssim_db"):
        row = found["EDIC", "WebP", quality]
        assert row.percent == pytest.approx(-20) and not row.published
        short = found["EDIC", "JPEG 2000", quality]
        assert short.percent is None and "needs 4 points" in short.note
    assert (found["EDIC", "WebP", "psnr"].low, found["EDIC", "WebP", "psnr"].high) == (28, 33)
    assert found["WebP", "webp", "psnr"].published and found["WebP", "webp", "psnr"].percent is not None
    saying = list(sentences(rows, "EDIC"))
    assert saying[0] == "EDIC needs 20.0 % fewer bits than WebP at equal PSNR (28.0 to 33.0 dB)."
    assert saying[1].startswith("EDIC and JPEG 2000 cannot be compared in PSNR: a BD-rate needs 4 points")
    assert any(" than webp (published) at equal MS-SSIM (" in text for text in saying)


def test_the_document_is_json_and_a_table(tmp_path: Path) -> None:
    points = [*measure([shifting(0)], images(2)), *curve("WebP", 1)]
    content = document(points, bd_rates(points), images={"path": "kodak", "count": 2}, device=DEVICE)
    write_rd(tmp_path, content)
    read: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert read["schema"] == "facekit.rd/1" and read["published"] is None and read["images"]["count"] == 2
    assert read["points"][0]["psnr"] is None and read["points"][0]["bpp"] == pytest.approx(24 + 1 / 6)
    assert read["environment"]["codecs"]["Pillow"] and read["environment"]["threads"] == 1
    with open(tmp_path / "results.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 7 and table[1]["codec"] == "WebP" and float(table[1]["psnr"]) == 28
    against = document(points, bd_rates(points, published_curves()[:1]), images={}, device=DEVICE)
    assert "CompressAI" in against["published"]["origin"]
