"""Rate against distortion: every codec at every setting over the same images, one image in memory at a time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from facekit.core.errors import InputError
from facekit.core.msssim import WINDOW, ms_ssim
from facekit.evaluation.bdrate import bd_rate
from facekit.evaluation.benchdocument import opening, write_document
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.published import PublishedCurve, about_curves

SCHEMA = "facekit.rd/1"
PEAK = 255.0
Quality = Literal["psnr", "ms_ssim_db"]
QUALITIES: tuple[Quality, ...] = ("psnr", "ms_ssim_db")


# --- one image -------------------------------------------------------------------------------------------


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """dB between uint8 images, over all channels together; infinite where they are equal.

    One grey level of difference everywhere is 20 log10(255) = 48.13 dB.
    """
    error = float(np.mean(np.square(image.astype(np.int32) - other)))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def similarity(image: np.ndarray, other: np.ndarray) -> float:
    """MS-SSIM of uint8 [H,W,3] images; NaN where a side is too short for its window."""
    if min(image.shape[:2]) < WINDOW:
        return math.nan
    x, y = (torch.from_numpy(array.transpose(2, 0, 1)[None] / np.float32(PEAK)) for array in (image, other))
    return ms_ssim(x, y).item()


def decibels(share: np.ndarray | float) -> np.ndarray:
    """-10 log10(1 - x): 0.99 is 20 dB. MS-SSIM crowds below 1, this spreads it."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(1 - np.asarray(share))


class Coded(NamedTuple):
    """One image through one codec; see RdPoint."""

    bpp: float
    payload_bpp: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    encode_cpu_s: float
    decode_cpu_s: float


def code(codec: ImageCodec, image: np.ndarray) -> Coded:
    """Encode, decode and compare; bits of the whole file over height x width."""
    wall, cpu = [time.perf_counter()], [time.process_time()]
    data = codec.encode(image)
    wall.append(time.perf_counter())
    cpu.append(time.process_time())
    back = codec.pixels(data, image.shape)
    wall.append(time.perf_counter())
    cpu.append(time.process_time())
    pixels = image.shape[0] * image.shape[1]
    return Coded(
        8 * len(data) / pixels,
        8 * codec.payload(data) / pixels,
        psnr(image, back),
        similarity(image, back),
        *np.diff(wall).tolist(),
        *np.diff(cpu).tolist(),
    )


# --- many images -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RdPoint:
    """A codec at one setting: means over the images, in which each counts once whatever its size."""

    codec: str
    setting: str
    images: int
    bpp: float
    """Of whole files"""
    payload_bpp: float
    """Without what all files of the setting share"""
    psnr: float
    ms_ssim: float
    """NaN where an image was too small"""
    ms_ssim_db: float
    """Of the mean"""
    encode_s: float
    """Wall seconds"""
    decode_s: float
    encode_cpu_s: float
    """Seconds of all threads together"""
    decode_cpu_s: float


def measure(
    codecs: Sequence[ImageCodec], images: Iterable[np.ndarray], progress: Callable[[int], None] | None = None
) -> list[RdPoint]:
    """Every codec over the same uint8 images [H,W,3], which are asked for once.

    The first image goes through each codec once more beforehand, so that no time holds what happens only once.
    ``progress`` is told how many more (image, codec) are done. Raises InputError without an image.
    """
    totals = np.zeros((len(codecs), len(Coded._fields)))
    count = 0
    for image in images:
        for codec, total in zip(codecs, totals, strict=True):
            if not count:
                code(codec, image)
            total += code(codec, image)
            if progress:
                progress(1)
        count += 1
    if not count:
        raise InputError("there is no image to measure codecs on")
    means = [Coded(*mean) for mean in (totals / count).tolist()]
    return [
        RdPoint(codec.name, codec.setting, count, ms_ssim_db=float(decibels(mean.ms_ssim)), **mean._asdict())
        for codec, mean in zip(codecs, means, strict=True)
    ]


# --- codec against codec ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BdRow:
    """The BD-rate of a measured codec; ``percent`` is None where the note says why."""

    codec: str
    anchor: str
    published: bool
    """True: the anchor was read from ``kodak_curves.json``, not measured here"""
    quality: Quality
    percent: float | None = None
    low: float | None = None
    """Of the interval of quality that both have, in dB"""
    high: float | None = None
    note: str = ""


def bd_rates(points: Sequence[RdPoint], published: Sequence[PublishedCurve] = ()) -> list[BdRow]:
    """Every measured codec against each classical one among them and each published curve, in both qualities."""
    names = list(dict.fromkeys(point.codec for point in points))
    rows = []
    for quality in QUALITIES:
        measured = {name: measured_curve(points, name, quality) for name in names}
        anchors = [(name, False, curve) for name, curve in measured.items() if name in CLASSICAL]
        anchors += [(curve.name, True, published_curve(curve, quality)) for curve in published]
        rows += [
            bd_row(BdRow(name, anchor, known, quality), reference, measured[name])
            for name in names
            for anchor, known, reference in anchors
            if known or anchor != name
        ]
    return rows


def bd_row(row: BdRow, anchor: np.ndarray, curve: np.ndarray) -> BdRow:
    """With its numbers, or with the reason why there are none."""
    try:
        percent, low, high = bd_rate(anchor, curve)
    except InputError as error:
        return dataclasses.replace(row, note=str(error))
    return dataclasses.replace(row, percent=percent, low=low, high=high)


def measured_curve(points: Sequence[RdPoint], codec: str, quality: Quality) -> np.ndarray:
    """(bpp, dB) of one codec, float64 [n,2]."""
    return np.array([(point.bpp, getattr(point, quality)) for point in points if point.codec == codec])


def published_curve(curve: PublishedCurve, quality: Quality) -> np.ndarray:
    """(bpp, dB), float64 [n,2]; NaN where the source gives no such quality."""
    return np.stack([curve.bpp, curve.psnr if quality == "psnr" else decibels(curve.ms_ssim)], axis=1)


def sentences(rows: Sequence[BdRow], codec: str) -> Iterator[str]:
    """``EDIC needs 31.2 % fewer bits than WebP at equal PSNR (24.1 to 38.0 dB).``, one for each comparison."""
    for row in rows:
        if row.codec != codec:
            continue
        name = f"{row.anchor} (published)" if row.published else row.anchor
        quality = "PSNR" if row.quality == "psnr" else "MS-SSIM"
        if row.percent is None:
            yield f"{codec} and {name} cannot be compared in {quality}: {row.note}."
            continue
        change = f"{abs(row.percent):.1f} % {'fewer' if row.percent < 0 else 'more'} bits than {name}"
        yield f"{codec} needs {change} at equal {quality} ({row.low:.1f} to {row.high:.1f} dB)."


# --- the document ----------------------------------------------------------------------------------------


def document(
    points: Sequence[RdPoint],
    rates: Sequence[BdRow],
    *,
    images: Mapping[str, Any],
    device: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole result, schema ``facekit.rd/1``; ``images`` says on what, ``device`` is ``Device.describe()``."""
    return {
        **opening(SCHEMA, device),
        "images": dict(images),
        "published": about_curves() if any(row.published for row in rates) else None,
        "points": [dataclasses.asdict(point) for point in points],
        "bd_rates": [dataclasses.asdict(row) for row in rates],
    }


def write_rd(folder: Path, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write results.json, and the points again as results.csv."""
    return write_document(folder, content, "points")
