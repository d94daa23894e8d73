"""Rate-distortion figures: what is drawn, how far, and which files there are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from facekit.evaluation.figures import style
from facekit.evaluation.published import published_curves
from facekit.evaluation.ratedistortion import RdPoint
from facekit.evaluation.rdfigures import SHOWN, rd_figure, write_rd_figures

pytest.importorskip("matplotlib")


def points(codec: str, similarity: float = 0.98) -> list[RdPoint]:
    """Three settings up to 2.5 bits a pixel."""
    decibels = -10 * math.log10(1 - similarity)
    return [
        RdPoint(codec, f"q {i}", 1, rate, rate, 30.0 + i, similarity, decibels + i, 0.1, 0.1, 0.1, 0.1)
        for i, rate in enumerate((0.5, 1.0, 2.5))
    ]


def test_files_of_both_qualities(tmp_path: Path) -> None:
    written = write_rd_figures([*points("EDIC"), *points("WebP")], published_curves(), tmp_path)
    assert [path.name for path in written] == ["rd-psnr.svg", "rd-psnr.png", "rd-ms_ssim_db.svg", "rd-ms_ssim_db.png"]
    drawing = (tmp_path / "rd-psnr.svg").read_text()
    for text in ("EDIC", "WebP", "vtm (published)", "PSNR, dB"):
        assert f">{text}</text>" in drawing
    assert "av1" not in drawing


def test_a_quality_that_nobody_knows_is_not_drawn(tmp_path: Path) -> None:
    tiny = [RdPoint("EDIC", "q", 1, 1.0, 1.0, 30.0, math.nan, math.nan, 0, 0, 0, 0)]
    assert {path.stem for path in write_rd_figures(tiny, [], tmp_path)} == {"rd-psnr"}


def test_ours_are_thick_and_fit_the_axes() -> None:
    with style():
        (axes,) = rd_figure([*points("EDIC"), *points("WebP")], published_curves(), "psnr").axes
        assert len(axes.lines) == 2 + len(SHOWN)
        ours, classical = axes.lines[:2]
        assert ours.get_linewidth() > classical.get_linewidth() and ours.get_marker() == "o"
        assert np.array_equal(ours.get_xdata(), [0.5, 1.0, 2.5]) and axes.get_xlim() == (0, 2.75)
        (axes,) = rd_figure(points("WebP"), [], "psnr").axes
        assert axes.get_xlim() == (0, 2), "a classical codec's high rates do not stretch the axis"
        assert axes.get_ylim() == (29, 32), "nor does the quality that it has there"
        lossless = [RdPoint("EDIC", "q", 1, 1.0, 1.0, math.inf, 1, math.inf, 0, 0, 0, 0)]
        (axes,) = rd_figure([*points("WebP"), *lossless], [], "psnr").axes
        assert axes.get_ylim() == (29, 32)
