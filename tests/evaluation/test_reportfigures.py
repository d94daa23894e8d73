"""Figures of the report: what is drawn, how it is told apart, and the files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import MissingExtra
from facekit.evaluation.figures import style
from facekit.evaluation.reportfigures import (
    band_of,
    det_axes,
    draw,
    file_names,
    one_axes,
    pens_of,
    probit,
    probit_ticks,
    roc_axes,
    write_figures,
)
from facekit.evaluation.scoring import CmcCurve, RocCurve

pytest.importorskip("matplotlib")


def roc_of(label: str, benchmark: str = "allpairs:lfw", band: bool = True, perfect: bool = False) -> RocCurve:
    far, band_far = np.geomspace(1e-4, 0.5, 40), np.geomspace(1e-4, 0.5, 8)
    tar, around = (np.ones(40), np.ones(8)) if perfect else (far**0.05, band_far**0.05)
    edges = np.linspace(-1, 1, 11)
    return RocCurve(
        benchmark, label, far, tar, band_far, around - 0.05 if band else None, around if band else None, edges,
        np.full(10, 0.1), np.full(10, 0.1),
    )  # fmt: skip


def test_pens_tell_raw_aligned_and_control_apart() -> None:
    labels = ["raw", *(f"s{i}" for i in range(7)), "dao, noise", "asnorm, noise"]
    pens = pens_of([*labels, "raw"])
    assert list(pens) == labels and len(set(pens.values())) == len(labels)
    assert not pens["raw"].dashed and pens["dao, noise"].dashed
    assert pens["s0"].colour == pens["s5"].colour and pens["s5"].dashed


def test_probit_is_the_normal_quantile() -> None:
    assert probit(np.array([0.5, 0.975, 0.0227501])).tolist() == pytest.approx([0, 1.959964, -2], abs=1e-5)
    assert np.isfinite(probit(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(("low", "high"), [(1e-6, 0.5), (3e-3, 0.5), (3e-3, 0.05), (0.02, 0.04)])
def test_ticks_lie_inside_in_order_and_are_neither_few_nor_many(low: float, high: float) -> None:
    places, texts = probit_ticks(low, high)
    shares = [float(text) / 100 for text in texts]
    assert places.tolist() == pytest.approx(probit(np.array(shares)).tolist())
    assert shares == sorted(shares) and low <= shares[0] and shares[-1] <= high
    assert 2 <= len(shares) <= 8


def test_roc_and_det_draw_the_same_points() -> None:
    curve = roc_of("raw")
    with style():
        roc = one_axes(lambda axes: roc_axes(axes, [curve], pens_of(["raw"]))).axes[0].lines[0].get_xydata()
        det = one_axes(lambda axes: det_axes(axes, [curve], pens_of(["raw"]))).axes[0].lines[0].get_xydata()
    assert np.array_equal(roc, np.stack([curve.far, 100 * curve.tar], axis=1))
    assert np.array_equal(det, np.stack([probit(curve.far), probit(1 - curve.tar)], axis=1))


def test_many_curves_show_the_bands_of_the_first_two() -> None:
    curve = roc_of("raw")
    assert [band_of(curve, i, 4) is not None for i in range(4)] == [True] * 4
    assert [band_of(curve, i, 5) is not None for i in range(5)] == [True, True, False, False, False]
    assert band_of(roc_of("raw", band=False), 0, 1) is None


def test_a_perfect_score_can_be_drawn() -> None:
    drawn = draw([roc_of("raw", perfect=True)], "x")
    assert drawn.roc is not None and drawn.det is not None and "nan" not in drawn.det and "inf" not in drawn.det


def test_files_of_every_benchmark_in_both_formats(tmp_path: Path) -> None:
    curves = [
        roc_of("raw"),
        roc_of("dao, <cohort>"),
        CmcCurve("gallery", "raw", np.arange(1, 51), np.linspace(0.5, 1, 50)),
    ]
    paths = write_figures(curves, tmp_path, "report")
    kinds = ["allpairs-lfw-roc", "allpairs-lfw-det", "allpairs-lfw-scores", "gallery-cmc"]
    assert [path.name for path in paths] == [f"report-{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")]
    assert sorted(tmp_path.iterdir()) == sorted(paths), "nothing half-written is left"
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"<?xml" if path.suffix == ".svg" else b"\x89PNG")
    for path in paths[0:6:2]:
        assert ">dao, &lt;cohort&gt;</text>" in path.read_text(encoding="utf-8"), "each file can be read alone"


def test_file_names_are_safe_and_different() -> None:
    assert file_names(["allpairs:lfw", "allpairs/lfw", "allpairs:lfw", "../..", "b 1"]) == {
        "allpairs:lfw": "allpairs-lfw",
        "allpairs/lfw": "allpairs-lfw-2",
        "../..": "benchmark",
        "b 1": "b-1",
    }


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"facekit\[report\]"):
        write_figures([roc_of("raw")], tmp_path, "report")
    assert list(tmp_path.iterdir()) == []
