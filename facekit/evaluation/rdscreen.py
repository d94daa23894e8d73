"""Rate and distortion for the terminal: the points, then who needs fewer bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from facekit.core.reporting import printable
from facekit.evaluation.classical import CLASSICAL
from facekit.evaluation.ratedistortion import QUALITIES, BdRow, RdPoint
from facekit.evaluation.rdfigures import SHOWN


def rd_screen(points: Sequence[RdPoint], rates: Sequence[BdRow]) -> Iterator[Table | str]:
    """The points; BD-rates of the learned codecs, or of all where none is; why some are missing."""
    yield point_table(points)
    names = list(dict.fromkeys(point.codec for point in points))
    ours = [name for name in names if name not in CLASSICAL] or names
    shown = [row for row in rates if row.codec in ours and (not row.published or row.anchor in SHOWN)]
    if not shown:
        return
    yield rate_table(shown)
    for note in dict.fromkeys(row.note for row in shown if row.note):
        yield f"-  {note}"
    yield "BD-rate: bits more (below 0: fewer) at equal quality, over the qualities that both have."


def headed(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for column in names:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def point_table(points: Sequence[RdPoint]) -> Table:
    """One line a setting."""
    title = f"means over {points[0].images:,} images; bits of whole files; seconds of wall, of all threads in brackets"
    numbers = ("bits/pixel", "PSNR dB", "MS-SSIM dB", "encode s", "decode s")
    table = headed(title, ("codec", "setting"), numbers)
    for point, following in zip(points, [*points[1:], None], strict=True):
        table.add_row(
            printable(point.codec),
            printable(point.setting),
            f"{point.bpp:.4f}",
            decibels(point.psnr),
            decibels(point.ms_ssim_db),
            f"{point.encode_s:.3f} ({point.encode_cpu_s:.3f})",
            f"{point.decode_s:.3f} ({point.decode_cpu_s:.3f})",
            end_section=following is not None and following.codec != point.codec,
        )
    return table


def rate_table(rows: Sequence[BdRow]) -> Table:
    """One line for a codec and what it is held against."""
    table = headed("BD-rate", ("codec", "against"), ("at equal PSNR", "at equal MS-SSIM"))
    cells = {(row.codec, row.anchor, row.published, row.quality): row for row in rows}
    for codec, anchor, published in dict.fromkeys(key[:3] for key in cells):
        table.add_row(
            printable(codec),
            f"{anchor} (published)" if published else anchor,
            *(rate(cells[codec, anchor, published, quality]) for quality in QUALITIES),
        )
    return table


def rate(row: BdRow) -> str:
    """``-31.2 % (24.1..38.0 dB)``."""
    return "-" if row.percent is None else f"{row.percent:+.1f} % ({row.low:.1f}..{row.high:.1f} dB)"


def decibels(value: float) -> str:
    """A quality, or why it is no number: an image was too small, or nothing was lost."""
    if math.isnan(value):
        return "too small"
    return f"{value:.2f}" if math.isfinite(value) else "lossless"
