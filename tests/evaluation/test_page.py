"""The page: one file, nothing fetched, nothing unescaped, the verdict first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facekit.data.pairs import PairSet
from facekit.evaluation.page import Cost, after_headline, change, megabytes, millions, percent, render, span
from facekit.evaluation.results import describe_benchmark, describe_environment
from facekit.evaluation.swap import Rate, certify
from facekit.evaluation.verdict import judge

pytest.importorskip("matplotlib")


def build(pairs: PairSet, model: type[Any], name: str = "student", **options: Any) -> tuple[str, Any]:
    rng = np.random.default_rng(0)
    x = pairs.source.read(np.arange(len(pairs.source))).reshape(len(pairs.source), -1) - 127.5
    y = x + rng.normal(0, 20, x.shape)
    old, new = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    settings: dict[str, Any] = {
        "threshold": None,
        "at_far": 0.01,
        "tolerance": 0.02,
        "draws": 200,
        "seed": 0,
        **options,
    }
    certificate = certify(old, new, pairs, **settings)
    verdict = judge(certificate)
    costs = [
        Cost("old", model(name="teacher", licence="non-commercial <research>"), 192, 221_000_000, 9.3),
        Cost("new", model(name=name), 192, 60_000_000, 4.1),
    ]
    environment = describe_environment({"device": "cpu", "precision": "fp32", "threads": 1, "torch": "2"})
    command = "facekit align-eval swap --old a --new 'b c'"
    return render(certificate, verdict, costs, describe_benchmark(pairs), environment, command), (certificate, verdict)


def test_page_is_whole_and_fetches_nothing(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    text, _ = build(make_all_pairs(), toy_model)
    parse_page(text).check_that_it_is_whole_and_fetches_nothing()
    assert len(text) < 150_000


def test_page_says_everything(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    pairs = make_all_pairs()
    text, (certificate, verdict) = build(pairs, toy_model)
    shown = re.sub(r"\s+", " ", parse_page(text).text)
    assert after_headline(verdict.sentence) in shown
    assert shown.index(after_headline(verdict.sentence)) < shown.index("Who gets in")
    for arm in certificate.arms:
        assert arm.title in shown and percent(arm.tar_at_threshold.value) in shown
    for reason in verdict.reasons:
        assert reason in shown
    for piece in (
        f"{certificate.threshold:.4f}",
        "non-commercial <research>",
        "facekit align-eval swap --old a --new 'b c'",
        f"{certificate.arms[0].n_impostor:,} impostor pairs",
        "120 images of 30 people",
        "221 M",
        "9.3 ms",
        "200 times",
        "threshold in use 0.",  # text in the figure is text
    ):
        assert piece in shown, piece


def test_names_cannot_inject(make_all_pairs: Callable[..., PairSet], toy_model: type[Any]) -> None:
    text, _ = build(make_all_pairs(), toy_model, name="<script>alert(1)</script>")
    assert "<script" not in text and "&lt;script&gt;" in text


def test_page_without_a_target_rate(
    make_all_pairs: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    text, (certificate, verdict) = build(make_all_pairs(), toy_model, threshold=0.99)
    assert certificate.change_at_far is None and verdict.kind == "undecided"
    assert (
        "Undecided" in parse_page(text).text
        and "None" not in parse_page(text).text
        and "nan" not in parse_page(text).text
    )


def test_page_for_unknown_people(
    make_pair_list: Callable[..., PairSet], toy_model: type[Any], parse_page: type[Any]
) -> None:
    text, (certificate, _) = build(make_pair_list(known=False), toy_model, at_far=0.1)
    assert certificate.method == "pair_bootstrap"
    assert "too narrow" in text and "of unknown people, 3 failed" in re.sub(r"\s+", " ", parse_page(text).text)


def test_page_is_quick(make_all_pairs: Callable[..., PairSet], toy_model: type[Any]) -> None:
    pairs = make_all_pairs(people=100)
    build(pairs, toy_model)  # imports
    start = time.process_time()
    build(pairs, toy_model)
    assert time.process_time() - start < 5.0


def test_words_of_the_page() -> None:
    assert percent(None) == change(None) == "–"
    assert percent(0.98765) == "98.8 %" and change(-0.0123) == "−1.2"
    assert span(Rate(0.5, 0.4, 0.6)) == "40.0 – 60.0" and span(Rate(0.5, None, None)) == ""
    assert megabytes(3_994_655) == "4.0 MB" and millions(351_680) == "0.35 M" and millions(221_000_000) == "221 M"
    assert after_headline("Do not swap: even so.") == "Even so."
