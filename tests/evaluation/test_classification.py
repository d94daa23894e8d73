"""Closed sets: by hand, against writing it out, and through the verb."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from facekit import cli
from facekit.core.errors import InputError, NonFinite
from facekit.data.cifar import PixelSource
from facekit.data.classes import ClassSet
from facekit.data.protocol import Source
from facekit.evaluation import classification as c
from facekit.evaluation.evaluator import evaluate
from facekit.evaluation.imagedraws import ImageBootstrap
from facekit.evaluation.results import Row, describe_benchmark, describe_environment, find
from facekit.evaluation.scoring import Asked, Classifier, ClassRates
from facekit.evaluation.screen import screens
from facekit.evaluation.statistics import wilson


def bench_of(labels: Any, names: tuple[str, ...], side: int = 4) -> ClassSet:
    """An image a label; all its pixels are its number."""
    labels = np.asarray(labels)
    pixels = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), side, side, 3))
    files = [f"{i}.png" for i in range(len(labels))]
    return ClassSet("classes:toy", "toy", PixelSource(files, pixels.copy(), labels, names, ()), 0, ())


def fixed(names: tuple[str, ...], scores: Any) -> Classifier:
    """The same scores whatever the images."""
    return Classifier(names, lambda source: np.asarray(scores, np.float32))


# --- by hand ---------------------------------------------------------------------------------------------


def test_top_1_and_top_5_by_hand() -> None:
    logits = np.array(
        [
            [9, 1, 2, 3, 4, 5],
            [9, 1, 2, 3, 4, 5],
            [9, 1, 2, 3, 4, 5],
            [0, 1, 0, 0, 0, 0],
        ],
        np.float32,
    )
    labels = np.array([0, 5, 1, 1])
    judged = c.judge(logits, labels)
    assert judged.place.tolist() == [0, 1, 5, 0]
    assert c.measure_top(logits, labels) == {"top1": 0.5, "top5": 0.75}
    assert c.measure_top(logits[:, :5], np.array([0, 4, 1, 1])) == {"top1": 0.5}, "five of five are no achievement"


def test_ties_go_to_the_lowest_class() -> None:
    logits = np.array([[1, 3, 3], [1, 3, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    assert c.judge(logits, np.array([1, 2, 0, 1, 2])).place.tolist() == [0, 1, 0, 1, 2]
    constant = np.zeros((6, 6), np.float32)
    assert c.measure_top(constant, np.arange(6)) == {"top1": 1 / 6, "top5": 5 / 6}, "right on one class, not on all"


def test_likelihood_and_calibration_by_hand() -> None:
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]]).astype(np.float32) + np.float32(70)
    judged = c.judge(logits, np.array([0, 1, 0]))
    assert judged.surprise == pytest.approx([-np.log(0.9), -np.log(0.1), -np.log(0.5)], abs=1e-5)
    assert judged.confidence == pytest.approx([0.9, 0.9, 0.5], abs=1e-5)
    # One bin holds the two at 0.9, half of them right: |0.5 - 0.9| x 2/3; the other one at 0.5: |1 - 0.5| / 3.
    assert c.calibration_error(judged.place == 0, judged.confidence) == pytest.approx(0.8 / 3 + 0.5 / 3, abs=1e-5)
    sure = c.judge(np.array([[1e30, 0], [0, -1e30]], np.float32), np.array([0, 0]))
    assert sure.surprise.tolist() == [0, 0] and c.calibration_error(sure.place == 0, sure.confidence) == 0


def test_many_images_are_judged_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(-2, 3, (50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    order = [np.argsort(-row, kind="stable").tolist().index(label) for row, label in zip(logits, labels, strict=True)]
    assert c.judge(logits, labels).place.tolist() == order
    monkeypatch.setattr(c, "_ROWS", 8)
    assert c.judge(logits, labels).place.tolist() == order


def test_a_permuted_network_measures_the_same() -> None:
    rng = np.random.default_rng(1)
    names = tuple("abcdefgh")
    logits, labels = rng.normal(size=(40, 8)), rng.integers(0, 8, 40)
    bench = bench_of(labels, names)
    plain = c.class_accuracy(fixed(names, logits), bench)
    assert plain == c.measure_top(logits, labels)
    for seed in range(5):
        shuffle = np.random.default_rng(seed).permutation(8)
        shuffled = fixed(tuple(names[k] for k in shuffle), logits[:, shuffle])
        assert c.class_accuracy(shuffled, bench) == plain
    more = fixed(("z", *names), np.concatenate([np.full((40, 1), -99.0), logits], axis=1))
    assert c.class_accuracy(more, bench) == plain, "a class that the data lacks may be known"


def test_scores_that_are_no_numbers_are_refused_by_name() -> None:
    scores = np.zeros((3, 2))
    scores[1, 0] = np.nan
    with pytest.raises(NonFinite, match=r"class scores of 1\.png are not finite"):
        c.class_accuracy(fixed(("a", "b"), scores), bench_of([0, 1, 0], ("a", "b")))
    with pytest.raises(InputError, match=r"shape \(3, 3\) for 3 images and 2 classes"):
        c.class_accuracy(fixed(("a", "b"), np.zeros((3, 3))), bench_of([0, 1, 0], ("a", "b")))


# --- scores of a network ---------------------------------------------------------------------------------


def corners(images: Tensor) -> Tensor:
    """Two scores: the first and the last pixel that the network sees."""
    assert images.shape[1:] == (3, 2, 2)
    return torch.stack([images[:, 0, 0, 0], images[:, 0, 1, 1]], dim=1).float()


def test_of_larger_images_the_middle_is_seen(tmp_path: Path) -> None:
    pixels = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4, 1).repeat(3, axis=3)
    source: Source = PixelSource([f"{i}" for i in range(5)], pixels, np.zeros(5, np.int64), ("a",), ())
    scores = c.class_scores(corners, source, (2, 2), batch=2, key="k", cache_dir=tmp_path)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[16 * i + 5, 16 * i + 10] for i in range(5)]
    again = c.class_scores(lambda images: pytest.fail("cached"), source, (2, 2), key="k", cache_dir=tmp_path)
    assert np.array_equal(again, scores)
    with pytest.raises(InputError, match="images are 4x4 and the model takes 5x5"):
        c.class_scores(corners, source, (5, 5))
    with pytest.raises(InputError, match="takes 4x2"):
        c.class_scores(corners, source, (4, 2))


def test_a_network_that_breaks_is_refused_by_the_image() -> None:
    source = bench_of([0, 0, 0], ("a",)).source
    with pytest.raises(NonFinite, match=r"2\.png is not finite"):
        c.class_scores(lambda images: torch.log(2 - images[:, :1, 0, 0].float()), source, (4, 4))


# --- rows ------------------------------------------------------------------------------------------------


def measured(images: int = 300, draws: int = 200, curves: bool = True) -> tuple[ClassSet, np.ndarray, Any]:
    """Eight classes, about six images of ten right, and every tenth image of the first class."""
    rng = np.random.default_rng(2)
    labels = np.where(np.arange(images) % 10 == 0, 0, rng.integers(1, 8, images))
    logits = rng.normal(size=(images, 8)).astype(np.float32)
    logits[np.arange(images), labels] += 2
    names = tuple(f"class{k}" for k in range(8))
    asked = Asked(draws=draws, seed=3, stamp=Row(model="toy@1"), curves=curves, classifier=fixed(names, logits))
    bench = bench_of(labels, names)
    return bench, logits, evaluate(lambda source: pytest.fail("no embedding is asked for"), [bench], asked)


def test_rows_of_a_class_set() -> None:
    bench, logits, (rows, curves) = measured()
    labels = bench.source.labels
    right = logits.argmax(axis=1) == labels
    draws = np.random.default_rng(3).integers(0, 300, (200, 300))
    top = find(rows, "top1")
    assert top is not None and top.value == right.mean()
    assert (top.low, top.high) == pytest.approx(tuple(np.percentile(right[draws].mean(axis=1), [2.5, 97.5])))
    assert (top.ci_method, top.level, top.protocol, top.variant) == ("image_bootstrap", 0.95, "closed-set", "plain")
    assert (top.benchmark, top.model, top.score) == ("classes:toy", "toy@1", "raw")
    assert (top.n_images, top.n_identities, top.n_failed) == (300, 8, 0)
    effect = find(rows, "smallest_effect.top1")
    assert effect is not None
    assert effect.value == pytest.approx(2.8 * np.sqrt(2) * np.std(right[draws].mean(axis=1), ddof=1))
    nll = find(rows, "nll")
    surprise = -torch.log_softmax(torch.from_numpy(logits).double(), 1).numpy()[np.arange(300), labels]
    assert nll is not None and nll.value == pytest.approx(surprise.mean())
    assert (nll.low, nll.high) == pytest.approx(tuple(np.percentile(surprise[draws].mean(axis=1), [2.5, 97.5])))
    assert [row.metric for row in rows if row.metric.startswith("top5")] == ["top5"] and find(rows, "ece") is not None
    for k in range(8):
        row, own = find(rows, f"top1@class.class{k}"), right[labels == k]
        assert row is not None and (row.value, row.n_images) == (own.mean(), len(own))
        assert (row.low, row.high) == wilson(own.sum(), len(own)) and row.ci_method == "wilson_images"
    (curve,) = curves
    assert isinstance(curve, ClassRates) and curve.names == bench.source.identities
    assert curve.rate.tolist() == [right[labels == k].mean() for k in range(8)]


def test_without_draws_there_are_no_intervals() -> None:
    _, _, (rows, curves) = measured(draws=0)
    assert all(row.low is None and row.ci_method is None for row in rows) and not curves
    assert find(rows, "smallest_effect.top1") is None


def test_all_right_is_not_certain() -> None:
    asked = Asked(draws=50, classifier=fixed(("a", "b"), np.eye(2).repeat(10, axis=0)))
    rows, _ = evaluate(lambda source: pytest.fail(), [bench_of(np.arange(2).repeat(10), ("a", "b"))], asked)
    top = find(rows, "top1")
    assert top is not None and (top.low, top.high) == pytest.approx(wilson(20, 20)) and top.ci_method == "wilson"
    assert find(rows, "top5") is None


def test_an_embedder_is_refused() -> None:
    with pytest.raises(InputError, match="toy: classification needs a network with classes of its own"):
        evaluate(lambda source: pytest.fail(), [bench_of([0, 1], ("a", "b"))], Asked())


def test_the_mean_of_a_draw_does_not_depend_on_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.random.default_rng(0).random(100) < 0.5
    boot = ImageBootstrap(100, draws=20, seed=1)
    whole = boot.mean(right)
    monkeypatch.setattr("facekit.evaluation.imagedraws._ROWS", 7)
    assert np.array_equal(boot.mean(right), whole)
    assert boot.trials == 100 and boot.knows_people


# --- for people ------------------------------------------------------------------------------------------


def test_the_terminal_shows_accuracy_and_the_hardest_classes() -> None:
    _, _, (rows, _) = measured()
    console = Console(width=100, file=io.StringIO())
    for line in screens(rows, {}, []):
        console.print(line)
    shown = console.file.getvalue()
    for text in ("toy@1 on classes:toy: 300 images, 8 classes, plain", "top-1 accuracy", "top-5 accuracy",
                 "Lowest of 8 classes", "images drawn with replacement", "on as many images"):  # fmt: skip
        assert text in " ".join(shown.split())
    for text in ("people", "pairs", "cos", "top1@class"):
        assert text not in shown
    nll = find(rows, "nll")
    assert nll is not None and f"NLL (nats, not %) {nll.value:.2f} " in " ".join(shown.split())


def test_the_page_has_a_table_and_a_figure(parse_page: type[Any]) -> None:
    pytest.importorskip("matplotlib")
    from facekit.evaluation.report import ReportContent, render_report

    bench, _, (rows, curves) = measured()
    text = render_report(
        ReportContent(
            rows=rows,
            curves=curves,
            benchmarks=[describe_benchmark(bench)],
            models=[],
            environment=describe_environment({"device": "cpu", "precision": "fp32", "threads": 1, "torch": "2.6"}),
            command="facekit align-eval",
        )
    )
    page = parse_page(text)
    page.check_that_it_is_whole_and_fetches_nothing()
    told = " ".join(page.text.replace("\xa0", " ").split())
    top = find(rows, "top1")
    assert top is not None and top.value is not None
    for words in ("300 images 8 classes", f"classes:toy, top-1 accuracy: {100 * top.value:.1f} %", "Top-5 accuracy",
                  "NLL, nats", "Calibration error", "class7", "images are drawn with replacement"):  # fmt: skip
        assert words in told
    for words in ("people", "A pair passes", "Genuine"):
        assert words not in told


def test_many_classes_fit_into_one_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from facekit.evaluation.figures import style
    from facekit.evaluation.reportfigures import class_figure, write_figures

    rate = np.linspace(1, 0, 100)
    names = tuple(f"a very long name of a class, number ${k}" for k in range(100))
    found = ClassRates("classes:toy", "raw", names, rate, rate, rate)
    with style():
        axes = class_figure(found).axes[0]
    assert len(axes.get_yticklabels()) == 40 and "40 lowest of 100" in axes.get_xlabel()
    assert all(len(label.get_text()) < 31 for label in axes.get_yticklabels())
    written = write_figures([found], tmp_path, "page")
    assert sorted(path.name for path in written) == ["page-classes-toy-classes.png", "page-classes-toy-classes.svg"]


# --- the verb --------------------------------------------------------------------------------------------

Cli = Callable[..., tuple[int, str, str]]
PEOPLE = tuple(f"P{i:02d}" for i in range(24))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_folder: Path, toy_model: type[Any]
) -> Cli:
    """``facekit align-eval`` with a model of 24 classes, one of numbered ones and one without any."""
    models = {
        "named": toy_model("named", classes=PEOPLE),
        "numbered": toy_model("numbered", classes=tuple(map(str, range(24)))),
        "half": toy_model("half", classes=PEOPLE[:12]),
        "face": toy_model("face"),
    }
    monkeypatch.chdir(image_folder)
    monkeypatch.setattr("facekit.engines.align_eval.load_model", lambda path, **_: models[Path(path).name])

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", "align-eval", *words, "--draws", "100", "--device", "cpu"])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


def test_the_verb_measures_classes_beside_pairs(run: Cli) -> None:
    code, out, err = run("--model", "named", "--benchmark", "classes:images,pairs.txt", "--json", "--out", "res")
    assert code == 0, err
    content = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    about = content["benchmarks"][0]
    assert (about["name"], about["images"], about["size"], len(about["classes"])) == ("classes:images", 96, [8, 8], 24)
    rows = [row for row in content["rows"] if row["benchmark"] == "classes:images"]
    top = next(row for row in rows if row["metric"] == "top1")
    assert 0.9 < top["value"] <= 1 and top["low"] < top["value"]
    assert sum(row["metric"].startswith("top1@class.P") for row in rows) == 24
    assert any(row["metric"] == "tar@far" for row in content["rows"])
    code, again, err = run("--model", "numbered", "--benchmark", "classes:images", "--json")
    assert code == 0 and "matched by order: 0 P00, 1 P01, 2 P02 ..." in " ".join(err.split())
    numbered = json.loads(again)
    assert [row["value"] for row in numbered["rows"]] == [row["value"] for row in rows]
    assert "matched by order" in numbered["benchmarks"][0]["notes"][0]


@pytest.mark.parametrize(
    ("model", "benchmark", "code", "says"),
    [
        ("face", "pairs.txt,classes:images", 1, "this one gives embeddings only"),
        ("half", "classes:images", 1, "does not know 12 of the 24 classes: P12, P13, P14 ..."),
        ("named", "classes:nowhere", 1, "nowhere does not exist"),
    ],
)
def test_what_the_verb_refuses(model: str, benchmark: str, code: int, says: str, run: Cli) -> None:
    status, out, err = run("--model", model, "--benchmark", benchmark)
    assert (status, out) == (code, "")
    assert says in " ".join(err.split()) and "Traceback" not in err
