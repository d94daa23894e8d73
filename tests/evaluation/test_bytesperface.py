"""Recognition against bytes a face: rates by another way, paired differences, budgets by hand, the document."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.bytebudget import budget, budgets, savings, sentences
from facekit.evaluation.bytesperface import document, measure_faces, write_faces
from facekit.evaluation.codedfaces import CodedFaces, Embedder, mean_file_size
from facekit.evaluation.facefigures import byte_ticks, write_face_figures
from facekit.evaluation.facerows import FaceRow
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.ratedistortion import psnr

FARS = (0.1, 0.01, 1e-6)
HEADER = b"head"


def coarse(step: int, name: str = "EDIC") -> ImageCodec:
    """Pixels rounded down to multiples of ``step``; a coarser file is shorter, to have something to measure."""

    def encode(image: np.ndarray) -> bytes:
        return HEADER + (image // step).tobytes() + bytes(240 // step)

    def decode(data: bytes) -> np.ndarray:
        return np.frombuffer(data[4:196], np.uint8).reshape(8, 8, 3) * np.uint8(step)

    return ImageCodec(name, f"step {step}", encode, decode, lambda data: len(data) - 4)


@pytest.fixture
def embedder(toy_model: Callable[[], Any]) -> Embedder:
    return Embedder(toy_model().embed)


def unit(pixels: np.ndarray) -> np.ndarray:
    """What the toy network gives, in float64."""
    vectors = (pixels.astype(np.float64) - 127.5).transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row_of(rows: list[FaceRow], setting: str, sides: str, metric: str = "tar@far", at: float | None = 0.1) -> FaceRow:
    (row,) = [r for r in rows if (r.setting, r.sides, r.metric, r.at) == (setting, sides, metric, at)]
    return row


# --- coded faces -----------------------------------------------------------------------------------------------


def test_coded_faces_are_what_the_codec_gives_and_their_cost_is_noted(make_all_pairs: Callable[..., PairSet]) -> None:
    source, codec = make_all_pairs().source, coarse(40)
    faces, index = CodedFaces(source, codec), np.array([5, 2, 9])
    assert np.array_equal(faces.read(index), source.read(index) // 40 * 40)
    assert (faces.bytes[index] == 4 + 192 + 6).all() and (faces.payload[index] == 198).all()
    assert faces.bytes.sum() == 3 * 202 and len(faces) == len(source)
    (clean,) = source.read(np.array([2]))
    assert faces.psnr[2] == psnr(clean, clean // 40 * 40)


def test_the_size_of_files_is_known_where_there_are_files(make_all_pairs: Callable[..., PairSet]) -> None:
    @dataclasses.dataclass
    class Files:
        kind: str = "jpeg"

        def __len__(self) -> int:
            return 1000

        def encoded(self, i: int) -> bytes:
            return bytes(100 + i)

    assert mean_file_size(Files()) == pytest.approx(100 + 499.5, abs=1)  # type: ignore[arg-type]
    assert mean_file_size(Files("uint8")) is None  # type: ignore[arg-type]
    assert mean_file_size(make_all_pairs().source) is None


# --- rates -----------------------------------------------------------------------------------------------------


def test_the_uncompressed_come_first_and_rates_are_those_of_the_coded_pixels(
    make_all_pairs: Callable[..., PairSet], embedder: Embedder
) -> None:
    pairs = make_all_pairs()
    rows = measure_faces([pairs], [coarse(60)], embedder, fars=FARS, draws=50)
    assert [(r.codec, r.sides) for r in rows] == [
        *[("uncompressed", "")] * 3, *[("EDIC", "both")] * 3, *[("EDIC", "probe")] * 3,
    ]  # fmt: skip
    clean = pairs.source.read(np.arange(len(pairs.source)))
    plain, coded = unit(clean), unit(clean // 60 * 60)
    for setting, sides, gallery, probe in (
        ("", "", plain, plain),
        ("step 60", "both", coded, coded),
        ("step 60", "probe", plain, coded),
    ):
        scores = np.einsum("pd,pd->p", gallery[pairs.left], probe[pairs.right])
        for far in FARS[:2]:
            row = row_of(rows, setting, sides, at=far)
            assert row.value == v.tar_at_far(v.Scores.of(scores, pairs.same), far).value
            assert row.low is not None and row.high is not None and row.low <= row.value <= row.high
            assert row.ci_method == "identity_bootstrap"
        none = row_of(rows, setting, sides, at=1e-6)
        assert none.value is None and none.delta is None and none.status == "not_measurable" and "needs" in none.note
    both, probe = (row_of(rows, "step 60", sides) for sides in ("both", "probe"))
    reference = row_of(rows, "", "").value
    assert both.delta == pytest.approx(both.value - reference) and both.delta < 0
    assert both.delta_low is not None and both.delta_high is not None and both.delta_low < both.delta < both.delta_high
    assert (both.bytes, both.payload) == (200, 196) and row_of(rows, "", "").bytes == 192
    assert both.cosine == probe.cosine == pytest.approx(np.mean(np.sum(plain * coded, axis=1)))


def test_a_lossless_codec_loses_exactly_nothing(make_pair_list: Callable[..., PairSet], embedder: Embedder) -> None:
    rows = measure_faces([make_pair_list()], [coarse(1)], embedder, fars=(0.1,), draws=50)
    coded = [row for row in rows if row.codec == "EDIC"]
    assert {row.metric for row in coded} == {"tar@far", "accuracy_lfw"} and len(coded) == 4
    assert all(row.delta == 0 for row in coded) and coded[0].cosine == pytest.approx(1)
    assert coded[0].psnr == math.inf


def test_a_codec_that_forgets_everything_loses_everything(
    make_all_pairs: Callable[..., PairSet], embedder: Embedder
) -> None:
    grey = ImageCodec("grey", "", lambda image: b"", lambda data: np.full((8, 8, 3), 128, np.uint8))
    rows = measure_faces([make_all_pairs()], [grey], embedder, fars=(0.1,), draws=0, sides=("both",))
    assert rows[1].value == 0 and rows[1].delta == -rows[0].value and rows[1].bytes == 0  # type: ignore[operator]
    assert rows[1].low is None and rows[1].delta_low is None and rows[1].ci_method is None


def test_thresholds_of_other_people_do_not_move(make_all_pairs: Callable[..., PairSet], embedder: Embedder) -> None:
    pairs, dev = make_all_pairs(seed=0), make_all_pairs(seed=1)
    rows = measure_faces([pairs], [coarse(60)], embedder, fars=(0.1, 1e-6), draws=30, dev=dev, sides=("both",))
    vectors = unit(dev.source.read(np.arange(len(dev.source))))
    scores = v.Scores.of(np.einsum("pd,pd->p", vectors[dev.left], vectors[dev.right]), dev.same)
    threshold = v.tar_at_far(scores, 0.1).threshold
    assert threshold is not None
    coded = unit(pairs.source.read(np.arange(len(pairs.source))) // 60 * 60)
    accepted = np.einsum("pd,pd->p", coded[pairs.left], coded[pairs.right]) >= threshold
    tar, far = (row_of(rows, "step 60", "both", metric) for metric in ("tar@threshold", "far@threshold"))
    assert tar.value == np.mean(accepted[pairs.same]) and far.value == np.mean(accepted[~pairs.same])
    assert f"threshold {threshold:.4f}" in tar.note and tar.delta is not None
    assert not [r for r in rows if r.metric == "tar@threshold" and r.at == 1e-6], "that threshold cannot be chosen"


def test_files_near_the_size_of_the_source_are_marked(
    make_all_pairs: Callable[..., PairSet], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_all_pairs(people=4)
    pairs.source.kind, pairs.source.encoded = "jpeg", lambda i: bytes(620)  # type: ignore[attr-defined]
    rows = measure_faces([pairs], [coarse(20), coarse(10)], embedder, fars=(0.1,), draws=0, sides=("both",))
    assert [(row.bytes, row.near_source) for row in rows] == [(192, False), (208, True), (220, True)]
    pairs.source.encoded = lambda i: bytes(3 * 208)  # type: ignore[attr-defined]
    rows = measure_faces([pairs], [coarse(20), coarse(10)], embedder, fars=(0.1,), draws=0, sides=("both",))
    assert [row.near_source for row in rows] == [False, False, True]


def test_a_codec_that_breaks_is_named(make_all_pairs: Callable[..., PairSet], embedder: Embedder) -> None:
    broken = ImageCodec("EDIC", "q 3", lambda image: b"", lambda data: np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="EDIC at q 3"):
        measure_faces([make_all_pairs(people=3)], [broken], embedder, draws=0)


# --- budgets ---------------------------------------------------------------------------------------------------


def point(setting: str, size: float, loss: float, half: float | None = 0.002, codec: str = "EDIC") -> FaceRow:
    """A measured loss of TAR at FAR 1e-3 with an interval of so much to both sides."""
    low, high = (None, None) if half is None else (-loss - half, -loss + half)
    return FaceRow(
        "lfw", codec, setting, "both", size, size - 40, 30.0, 0.9, size > 900, "tar@far", 1e-3, 0.9 - loss, 0.8, 0.95,
        -loss, low, high,
    )  # fmt: skip


def test_the_budget_lies_between_the_last_that_keeps_and_the_first_that_does_not() -> None:
    rows = [point("q 1", 100, 0.013), point("q 2", 400, 0.001), point("q 3", 800, 0.0)]
    found = budget(rows, "whole", 0.005)
    # A third of the way from .001 to .013, in the log of bytes: 400^(2/3) * 100^(1/3).
    assert found.bytes == pytest.approx(400 / 4 ** (1 / 3)) and found.note == ""
    assert (found.setting, found.setting_bytes, found.shown_setting, found.shown_bytes) == ("q 2", 400, "q 2", 400)
    assert budget(rows, "payload", 0.005).bytes == pytest.approx(360 / 6 ** (1 / 3))
    assert budget(rows, "whole", 0.001).bytes == 400


def test_what_is_shown_is_more_careful() -> None:
    rows = [point("q 1", 100, 0.013), point("q 2", 400, 0.004), point("q 3", 800, 0.0)]
    found = budget(rows, "whole", 0.005)
    assert (found.setting, found.shown_setting, found.shown_bytes) == ("q 2", "q 3", 800)
    without = budget([point(r.setting, r.bytes, -(r.delta or 0), None) for r in rows], "whole", 0.005)
    assert without.setting == "q 2" and without.shown_setting is None and without.shown_bytes is None


def test_a_lucky_smaller_setting_does_not_count() -> None:
    rows = [point("q 1", 100, 0.001), point("q 2", 400, 0.009), point("q 3", 800, 0.0)]
    found = budget(rows, "whole", 0.005)
    assert found.setting == "q 3" and 400 < (found.bytes or 0) < 800


def test_the_ends_of_a_ladder_are_told() -> None:
    enough = budget([point("q 1", 100, 0.004), point("q 2", 1000, -0.001)], "whole", 0.005)
    assert (enough.bytes, enough.setting, enough.near_source) == (
        100,
        "q 1",
        False,
    ) and "fewer bytes may do" in enough.note
    never = budget([point("q 1", 100, 0.02), point("q 2", 400, 0.006)], "whole", 0.005)
    assert never.bytes is None and never.note == "q 2, the largest that was measured, already loses more"
    assert budget([point("q 1", 100, 0.02), point("q 2", 1000, 0.0)], "whole", 0.005).near_source


def test_savings_are_against_the_best_classical_codec() -> None:
    rows = [
        *(point("q 1", 100, 0.02), point("q 2", 300, 0.005)),
        *(point("5", 200, 0.02, codec="WebP"), point("50", 500, 0.005, codec="WebP")),
        *(point("5", 200, 0.02, codec="JPEG 4:2:0"), point("50", 900, 0.005, codec="JPEG 4:2:0")),
        *(point("5", 50, 0.02, codec="JPEG 2000"), point("50", 80, 0.03, codec="JPEG 2000")),  # never keeps
    ]
    uncompressed = dataclasses.replace(rows[0], codec="uncompressed", sides="", delta=None)
    far = dataclasses.replace(rows[0], metric="far@threshold")
    found = budgets([uncompressed, *rows, far])
    assert len(found) == 8 and {b.metric for b in found} == {"tar@far"}
    whole, payload = savings(found, "EDIC")
    assert (whole.best.codec, whole.share) == ("WebP", pytest.approx(1 - 300 / 500))
    assert payload.share == pytest.approx(1 - 260 / 460)
    assert next(sentences([whole])) == (
        "EDIC keeps TAR at FAR 0.001 within 0.5 points at 300 bytes a face (both sides, whole files); WebP, the best "
        "of the classical codecs, needs 500: 40 % fewer."
    )
    assert savings(budgets(rows[:2]), "EDIC") == []


# --- the document and its figures ------------------------------------------------------------------------------


def test_the_document_is_json_and_a_table(
    make_all_pairs: Callable[..., PairSet], make_pair_list: Callable[..., PairSet], embedder: Embedder, tmp_path: Path
) -> None:
    benchmarks = [make_all_pairs(), make_pair_list()]
    codecs = [coarse(step, name) for name in ("EDIC", "WebP") for step in (80, 40, 1)]
    rows = measure_faces(benchmarks, codecs, embedder, fars=(0.1, 0.01), draws=20)
    content = document(rows, budgets(rows), benchmarks=benchmarks, device={"device": "cpu"})
    write_faces(tmp_path, content)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["schema"] == "facekit.faces/1" and [b["name"] for b in read["benchmarks"]] == ["allpairs:toy", "toy"]
    assert len(read["rows"]) == (1 + 6 * 2) * (2 + 3) and {b["counted"] for b in read["budgets"]} == {
        "whole",
        "payload",
    }
    lossless = next(r for r in read["rows"] if r["setting"] == "step 1")
    assert lossless["psnr"] is None and lossless["delta"] == 0
    with open(tmp_path / "results.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(read["rows"])


def test_the_figures_show_every_codec_and_rate(
    make_pair_list: Callable[..., PairSet], embedder: Embedder, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    codecs = [coarse(step, name) for name in ("EDIC", "WebP") for step in (80, 1)]
    rows = measure_faces([make_pair_list()], codecs, embedder, fars=(0.1, 1e-6), draws=20, sides=("probe",))
    written = write_face_figures(rows, tmp_path)
    assert [path.name for path in written] == ["faces-toy-probe.svg", "faces-toy-probe.png"]
    drawing = written[0].read_text()
    for text in ("EDIC", "WebP", "uncompressed", "TAR at FAR 0.1, %", "10-fold accuracy, %"):
        assert f">{text}</text>" in drawing
    assert "FAR 1e-06" not in drawing, "nothing was measured there"


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [(480, 2100, [500, 700, 1000, 1500, 2000]), (948, 1313, [1000, 1100, 1200, 1300]), (812.2, 812.2, [])],
)
def test_an_axis_of_bytes_has_more_than_one_number(least: float, most: float, ticks: list[int]) -> None:
    assert byte_ticks(least, most) == ticks
