"""The report: one file, nothing fetched, nothing unescaped, every number of the rows where a reader looks for it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.curves import roc_curve
from facekit.evaluation.hardest import hardest_pairs
from facekit.evaluation.operating import advice, frozen_rows, thresholds_of
from facekit.evaluation.page import change, percent
from facekit.evaluation.pairwise import benchmark_row, bootstrap, score_rows
from facekit.evaluation.report import ReportContent, render_report, title
from facekit.evaluation.results import Row, describe_benchmark, describe_environment, describe_model, find
from facekit.evaluation.versus import delta_rows, rows, sentences, versus

pytest.importorskip("matplotlib")

FARS = (0.1, 0.01, 1e-5)
COMMAND = "facekit align-eval --model 'runs/a b' --benchmark <list>"


def scored(pairs: PairSet, distance: float, seed: int) -> np.ndarray:
    return (np.where(pairs.same, distance, 0.0) + np.random.default_rng(seed).normal(size=len(pairs.same))) / 10


def content_of(pairs: PairSet, models: list[Any], thumbnails: bool = False, curves: bool = True) -> ReportContent:
    """A measurement of four scores with a dev set, a condition and a second model."""
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, 100, 0)
    base = benchmark_row(pairs, "none", Row(model="toy@1"))
    aligned = dataclasses.replace(base, score="dao", support="cohort", alpha=0.5, neighbours=50)
    ways = {
        base: scored(pairs, 2.0, 1),
        dataclasses.replace(aligned, support="noise"): scored(pairs, 2.0, 1),
        aligned: scored(pairs, 3.0, 2),
        dataclasses.replace(aligned, score="rerank", support=None, alpha=None, transductive=True): scored(pairs, 2, 3),
    }
    made: list[Row] = []
    drawn = []
    for row, scores in ways.items():
        split = v.Scores.of(scores, pairs.same)
        distance = 2 - 2 * scores if row.score == "raw" else None
        made += score_rows(scores, split, pairs, row, boot, fars=FARS, distance=distance)
        made += delta_rows(ways[base], scores, pairs, row, boot, FARS) if row is not base else []
        chosen = thresholds_of(v.Scores.of(scored(pairs, 2.0, 9), pairs.same), FARS)
        for variant in ("flip-none", "flip-none,mask"):
            made += frozen_rows(scores, pairs, dataclasses.replace(row, variant=variant), boot, chosen, "dev")
        label = row.score if row.support is None else f"{row.score}, {row.support}"
        drawn.append(roc_curve(pairs.name, label or "", split, boot, scores))
    made.append(dataclasses.replace(aligned, metric="far@tercile1.raw", at=0.01, value=0.0777))
    found = versus(pairs, ways[base], scored(pairs, 2.1, 4), ("teacher@2", "toy@1"), FARS, boot)
    made += rows(found, base)
    return ReportContent(
        rows=made,
        curves=drawn if curves else [],
        benchmarks=[describe_benchmark(pairs)],
        models=[describe_model(model) for model in models],
        environment=describe_environment({"device": "cpu", "precision": "fp32", "threads": 1, "torch": "2.6"}),
        command=COMMAND,
        sentences=sentences(found),
        advice={pairs.name: advice(made, pairs.name, "dev")},
        warnings=["one test person is in the bank & was left out"],
        hardest=[hardest_pairs(pairs, ways[base], count=2, thumbnails=thumbnails)],
    )


def text_of(page: Any) -> str:
    return re.sub(r"\s+", " ", page.text.replace("\xa0", " "))


def test_the_page_is_whole_fetches_nothing_and_says_everything(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    pairs = make_all_pairs()
    content = content_of(pairs, [toy_model(name="student", licence="non-commercial <research>"), toy_model(seed=7)])
    html = render_report(content)
    page = parse_page(html)
    page.check_that_it_is_whole_and_fetches_nothing()
    shown = text_of(page)
    for row in content.rows:
        if row.metric in ("tar@far", "tar@threshold") and row.value is not None:
            assert percent(row.value) in shown
        if row.metric == "delta.tar@far" and row.value is not None:
            assert change(row.value) in shown and f"{change(row.low)} to {change(row.high)}" in shown
    for words in (*content.sentences, *content.advice[pairs.name], *content.warnings, COMMAND):
        assert re.sub(r"\s+", " ", words) in shown
    for piece in (
        "student and toy",
        "non-commercial <research>",
        toy_model(seed=7).sha256[:16],
        "6,960 impostor pairs",
        "dao, cohort alpha 0.5, K 50",
        "alpha 0.5, K 50, control",
        "rerank K 50, transductive",
        "not measurable",
        "FAR 1e-05 needs at least 100,000 impostor pairs",
        "as they are",
        "mask",
        "7.8",
        content.hardest[0].genuine[0].left,
        "toy@1 against teacher@2",
        "cpu, precision fp32, threads 1",
    ):
        assert piece in shown, piece
    assert "None" not in shown and "nan" not in shown and "img" not in html.partition("</style>")[2]
    table = shown[shown.index("Genuine pairs that pass") :]
    assert table.index("raw") < table.index("dao, cohort") < table.index("dao, noise"), "raw first, controls last"


def test_undecided_and_identical_are_as_loud_as_better(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    pairs = make_all_pairs()
    content = content_of(pairs, [toy_model()], curves=False)
    words = {row.note.partition(":")[0] for row in content.rows if row.metric == "delta.tar@far"}
    assert words == {"better", "undecided", "identical"}
    html = render_report(content)
    for word in words:
        assert f'<span class="tag {word}">{word}</span>' in html
    (sentence,) = re.findall(r"allpairs:toy, genuine pairs that pass \(TAR\) at FAR 0.01: [^.]*\..*?\.</li>", html)
    better = find([row for row in content.rows if row.score == "dao"], "delta.tar@far", 0.01)
    assert better is not None
    raw = find(content.rows, "tar@far", 0.01)
    changes = [row for row in content.rows if row.metric == "delta.tar@far" and row.at == 0.01]
    assert raw is not None and f"raw {percent(raw.value)}" in sentence
    for row in changes:
        if row.model == "toy@1":
            assert f"{row.note.partition(':')[0].upper()} by points: " in sentence and change(row.value) in sentence


def test_names_cannot_inject(make_all_pairs: Callable[..., PairSet], toy_model: type[Any]) -> None:
    bad = "<script>alert(1)</script>"
    pairs = dataclasses.replace(make_all_pairs(people=12), name=bad)
    content = content_of(pairs, [toy_model(name=bad)])
    html = render_report(
        dataclasses.replace(content, sentences=[bad], warnings=[bad], advice={bad: [bad]}, command=bad)
    )
    assert "<script" not in html and "&lt;script&gt;" in html


def test_thumbnails_only_where_they_were_made(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    html = render_report(content_of(make_all_pairs(people=12), [toy_model()], thumbnails=True, curves=False))
    assert html.count('<img src="data:image/jpeg;base64,') == 8


def test_an_empty_report_is_a_page(parse_page: type[Any]) -> None:
    page = parse_page(render_report(ReportContent([], [], [], [], {}, "facekit")))
    assert page.open == [] and "Given embeddings" in page.text and "In short" not in page.text


def test_without_curves_matplotlib_is_not_needed(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = render_report(content_of(make_all_pairs(people=12), [toy_model()], curves=False))
    assert "<svg" not in html and "</html>" in html


def test_unknown_people_are_told(
    make_pair_list: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    content = content_of(make_pair_list(400, known=False), [toy_model()], curves=False)
    shown = text_of(parse_page(render_report(content)))
    assert "too narrow where they share people" in shown and "unknown people" in shown
    assert "Accuracy, 10 folds" in shown and "For comparison with published tables only" in shown
    assert "contiguous tenths" in shown and "3 images cannot be used" in shown
    test = find(content.rows, "mcnemar")
    assert test is not None and "people are drawn" not in shown


def test_title_names_all_models() -> None:
    assert title([{"name": "a"}, {"name": "b"}]) == "a and b"
    assert title([]) == "Given embeddings"
