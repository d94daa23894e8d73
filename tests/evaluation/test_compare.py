"""Arms, seeds and paired differences: by hand, against writing it out, and through the verb."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit import cli
from facekit.core.errors import ArtefactMismatch, InputError
from facekit.core.preprocess import Preprocess
from facekit.core.runfolder import StoredRun
from facekit.data.pairs import PairSet
from facekit.evaluation import compare as c
from facekit.evaluation import verification as v
from facekit.evaluation.classification import Judged, draw_top
from facekit.evaluation.imagedraws import ImageBootstrap
from facekit.evaluation.pairwise import bootstrap
from facekit.evaluation.statistics import Difference, IdentityBootstrap, Interval, bootstrap_p, holm
from facekit.evaluation.versus import draw_tar

FARS = (0.1, 0.01)


def points(*fars: float) -> list[c.Point]:
    return [("tar@far", far) for far in fars]


def network(name: str, seed: int | None, **options: Any) -> c.Network:
    return c.Network(Path(name), {"verb": "distill", **options}, seed)


def noisy(pairs: PairSet, noise: float, seed: int) -> np.ndarray:
    """Scores of a network that sees the pixels with so much noise."""
    clean = pairs.source.read(np.arange(len(pairs.source))).reshape(len(pairs.source), -1) - 127.5
    vectors = clean + np.random.default_rng(seed).normal(0, noise, clean.shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return v.pair_cosines(unit, unit, pairs.left, pairs.right)


def boot_of(pairs: PairSet, draws: int = 300) -> IdentityBootstrap:
    return bootstrap(pairs, pairs.left, pairs.right, pairs.same, draws, 0)


def arms_of(*sizes: int) -> list[c.Arm]:
    """Arms of so many networks each, seeds 0, 1, ..."""
    starts = np.cumsum([0, *sizes])
    return [c.Arm(f"arm{a}", {}, tuple(range(starts[a], starts[a] + n)), tuple(range(n))) for a, n in enumerate(sizes)]


# --- statistics --------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_p_agrees_with_the_interval() -> None:
    draws = np.arange(1, 1001.0)
    assert bootstrap_p(draws) == 2 / 1000, "so many draws can show no less"
    assert bootstrap_p(draws - 25) == 0.05
    assert bootstrap_p(-draws + 25) == 0.05
    assert bootstrap_p(draws - 500) == 1.0
    assert bootstrap_p(np.zeros(1000)) == 1.0
    assert bootstrap_p(np.full(3, np.nan)) == 1.0
    rng = np.random.default_rng(0)
    for shift in rng.uniform(-4, 4, 200):
        change = rng.normal(shift, 1, 400)
        interval = Interval.of(change)
        assert interval.low is not None and interval.high is not None
        if interval.low > 0 or interval.high < 0:
            assert bootstrap_p(change) <= 0.05
        elif bootstrap_p(change) <= 0.05:  # only where the percentile lies between two draws around zero
            assert min(abs(interval.low), abs(interval.high)) < 0.1


# --- arms ------------------------------------------------------------------------------------------------


def test_runs_that_differ_only_in_their_seed_are_one_arm() -> None:
    networks = [
        network("a", 0, weights=[], method="fcd", epochs=3),
        network("b", 0, weights=["rad=30"], method="fcd+rad", epochs=3),
        network("c", 1, weights=[], method="fcd", epochs=3),
        c.Network(Path("m.onnx"), {}, None),
        c.Network(Path("n.onnx"), {}, None),
    ]
    arms = c.group(networks)
    assert [arm.members for arm in arms] == [(0, 2), (1,), (3,), (4,)]
    assert [arm.seeds for arm in arms] == [(0, 1), (0,), (None,), (None,)]
    assert [arm.name for arm in arms] == [
        "weights=default, method=fcd", "weights=rad=30, method=fcd+rad", "m.onnx", "n.onnx",
    ]  # fmt: skip
    assert arms[0].options == {"weights": [], "method": "fcd"}, "epochs is the same everywhere"


def test_an_arm_is_named_by_what_differs_from_the_control() -> None:
    base = {"method": "fcd", "lr": 0.1, "flip": True}
    arms = c.group([network("a", 0, **base), network("b", 0, **base | {"lr": 0.2}),
                    network("c", 0, **base | {"flip": False, "lr": 0.2})])  # fmt: skip
    assert [arm.name for arm in arms] == ["lr=0.1, flip=on", "lr=0.2", "lr=0.2, flip=off"]
    assert arms[1].options == {"lr": 0.2, "flip": True}


def test_options_of_another_verb_or_an_older_version_are_no_difference() -> None:
    train = c.Network(Path("t"), {"verb": "train", "epochs": 3, "model": "r18"}, 0)
    old, new = network("d", 0, epochs=3, student="mbf"), network("e", 1, epochs=3, student="mbf", new=None)
    arms = c.group([train, old, new])
    assert [arm.name for arm in arms] == ["verb=train", "verb=distill"]
    assert arms[1].members == (1, 2)


def test_the_same_options_and_seed_twice_are_refused() -> None:
    with pytest.raises(InputError, match="a and b have the same options and the same seed"):
        c.group([network("a", 3, lr=1), network("b", 3, lr=1)])


def record(path: str, **config: Any) -> c.Network:
    about = {
        "verb": "distill",
        "config": {"data": f"{path}/faces", "teacher": f"{path}/t.onnx", "out": path, "threads": len(path), **config},
        "data": {"fingerprint": "d" * 64},
        "teacher": {"name": "t", "sha256": "a" * 64},
    }
    return c.Network.of_run(StoredRun(Path(path), about), {"mining": "topk"})


def test_data_and_teacher_count_by_content_and_neutral_options_not_at_all() -> None:
    first, second = record("here", seed=0, method=["fcd"]), record("elsewhere/there", seed=1, method="fcd")
    assert first.options == second.options
    assert first.options["data"] == "faces@dddddddd" and first.options["teacher"] == "t@aaaaaaaa"
    assert (first.seed, second.seed) == (0, 1)
    newer = record("here", seed=2, method="fcd", mining="topk")  # an option that the others did not have yet
    assert newer.options == first.options
    assert record("here", seed=2, method="fcd", mining="random").options != first.options
    best = record("here/checkpoints/best", seed=0, method=["fcd"])
    assert [arm.name for arm in c.group([first, second, best])] == ["checkpoint=last", "checkpoint=best"]


def test_models_that_see_other_images_are_not_compared() -> None:
    one = Preprocess()
    assert c.common_flip({"a": one, "b": dataclasses.replace(one, channels="bgr")}, "model") == one.flip
    with pytest.raises(ArtefactMismatch, match="b the size"):
        c.common_flip({"a": one, "b": dataclasses.replace(one, size=(96, 96))}, "none")
    other = dataclasses.replace(one, flip="concat")
    with pytest.raises(ArtefactMismatch, match="--flip"):
        c.common_flip({"a": one, "b": other}, "model")
    assert c.common_flip({"a": one, "b": other}, "none") == "none"


# --- differences ----------------------------------------------------------------------------------------------


def test_identical_networks_differ_by_exactly_nothing(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    boot = boot_of(pairs)
    one = draw_tar(noisy(pairs, 80, 1), pairs.same, FARS, boot)
    table = c.standings(arms_of(1, 1), [one, one], points(*FARS), boot)
    for point in table[1]:
        assert point.change is not None and point.mean == table[0][FARS.index(point.at or 0)].mean
        assert point.change.paired == Difference(0.0, -3 / 30, 3 / 30, 0.0, 3 / 30)
        assert point.change.p == 1.0
    finding = c.judge(arms_of(1, 1), {"own": table}, 0, "")["own"][1]
    assert finding is not None and finding.word == "undecided" and finding.sentence.startswith("UNDECIDED: 0.0 points")


def test_an_arm_is_the_mean_of_its_seeds_in_every_draw(make_all_pairs: Callable[..., PairSet]) -> None:
    pairs = make_all_pairs()
    boot = boot_of(pairs)
    measured = [draw_tar(noisy(pairs, 80, seed), pairs.same, FARS, boot) for seed in range(5)]
    point = c.standings(arms_of(2, 3), measured, points(*FARS), boot)[1][0]
    tar = [m.observed[0].value for m in measured]
    assert point.values == tuple(tar[2:]) and point.mean == pytest.approx(np.mean(tar[2:]))
    assert point.sd == pytest.approx(np.std(tar[2:], ddof=1))
    assert point.change is not None
    written_out = np.array(
        [np.mean([m.drawn[0][r] for m in measured[2:]]) - np.mean([m.drawn[0][r] for m in measured[:2]])
         for r in range(300)]
    )  # fmt: skip
    assert point.change.paired.value == pytest.approx(np.mean(tar[2:]) - np.mean(tar[:2]))
    assert (point.change.paired.low, point.change.paired.high) == pytest.approx(
        tuple(np.percentile(written_out, [2.5, 97.5]))
    )
    assert point.change.seeds.seeds == (0, 1)
    assert point.change.seeds.changes == pytest.approx((tar[2] - tar[0], tar[3] - tar[1]))


@pytest.mark.parametrize("kind", ["all pairs", "list", "list without people"])
def test_a_planted_better_arm_is_found_and_an_equal_one_is_not(
    kind: str, make_all_pairs: Callable[..., PairSet], make_pair_list: Callable[..., PairSet]
) -> None:
    pairs = make_all_pairs() if kind == "all pairs" else make_pair_list(800, known=kind == "list")
    boot = boot_of(pairs)
    arms = arms_of(3, 3, 3)
    measured = [draw_tar(noisy(pairs, noise, 10 * a + seed), pairs.same, (0.05,), boot)
                for a, noise in enumerate((120, 120, 60)) for seed in range(3)]  # fmt: skip
    table = c.standings(arms, measured, points(0.05), boot)
    _, equal, better = c.judge(arms, {"own": table}, 0, "")["own"]
    assert equal is not None and better is not None
    assert (equal.word, better.word) == ("undecided", "better")
    assert "up on 3 of 3 seeds" in better.sentence and "Holm over 2 comparisons" in better.sentence
    assert "four times in five" in equal.sentence, "how small a difference would have been seen"
    assert table[0][0].change is None


def test_what_cannot_be_measured_is_said_and_not_compared(make_pair_list: Callable[..., PairSet]) -> None:
    pairs = make_pair_list(200)
    boot = boot_of(pairs)
    measured = [draw_tar(noisy(pairs, 50, seed), pairs.same, (1e-4, 0.1), boot) for seed in range(2)]
    missing, there = c.standings(arms_of(1, 1), measured, points(1e-4, 0.1), boot)[1]
    assert (missing.mean, missing.change, missing.status) == (None, None, "not_measurable")
    assert there.change is not None and there.values


def test_the_leading_rate_is_the_first_with_ten_false_accepts() -> None:
    assert c.leading((1e-3, 1e-2), 10_000) == (0, "")
    assert c.leading((1e-3, 1e-2), 9_999) == (1, "")
    i, why = c.leading((1e-4, 1e-3, 1e-2), 999)
    assert i == 2 and "too few" in why
    with pytest.raises(InputError, match=r"none of --far 0.01 can be measured on 99 impostor pairs"):
        c.leading((1e-2,), 99)


def change(value: float, low: float, high: float, seeds: tuple[float, ...], p: float = 0.002) -> c.Change:
    by = c.SeedChanges.of(dict.fromkeys(range(len(seeds)), 0.0), dict(enumerate(seeds)))
    return c.Change(Difference(value, low, high, 0.0, 0.02), p, by)


@pytest.mark.parametrize(
    ("given", "p", "word"),
    [
        (change(0.03, 0.01, 0.05, (0.03,)), 0.002, "better"),
        (change(-0.03, -0.05, -0.01, (-0.03,)), 0.002, "worse"),
        (change(0.03, 0.01, 0.05, (0.03,)), 0.06, "undecided"),
        (change(0.03, -0.01, 0.05, (0.03,)), 0.002, "undecided"),
        (change(0.03, -0.01, 0.05, (0.01, 0.05)), 0.2, "undecided"),
        (change(0.03, -0.01, 0.05, (0.01, 0.03, 0.05)), 0.2, "direction"),
        (change(0.03, -0.01, 0.05, (-0.01, 0.05, 0.05)), 0.2, "undecided"),
        (change(0.03, 0.01, 0.05, (-0.01, 0.05, 0.05)), 0.002, "better"),
        (change(0.03, 0.01, 0.05, (0.02, 0.03, 0.04, 0.03, 0.03)), 0.002, "better"),
        (change(0.03, -0.01, 0.05, (0.02, 0.03, 0.04, 0.03, 0.03)), 0.2, "direction"),
        (change(0.03, 0.01, 0.05, (-0.1, 0.1, 0.1, 0.15, -0.1)), 0.002, "undecided"),
    ],
)
def test_the_words(given: c.Change, p: float, word: str) -> None:
    assert c.decide(given, p) == word


def test_nothing_is_decided_on_too_few_false_accepts() -> None:
    point = c.Standing("tar@far", 0.1, (0.5,), 0.5, None, 0.4, 0.6, "ok", "", change(0.2, 0.1, 0.3, (0.2,)))
    arms = arms_of(1, 1)
    control = dataclasses.replace(point, change=None)
    sure = c.judge(arms, {"own": [[control], [point]]}, 0, "")["own"][1]
    barred = c.judge(arms, {"own": [[control], [point]]}, 0, "too few to decide")["own"][1]
    assert sure is not None and sure.word == "better"
    assert barred is not None and barred.word == "undecided" and "too few to decide" in barred.sentence


def test_holm_covers_both_ways_of_trying() -> None:
    point = c.Standing("tar@far", 0.1, (0.5,), 0.5, None, 0.4, 0.6, "ok", "", change(0.2, 0.1, 0.3, (0.2,), p=0.03))
    rows = [[dataclasses.replace(point, change=None)], [point]]
    findings = c.judge(arms_of(1, 1), {"own": rows, "common": rows}, 0, "")
    assert [row[1].p_holm for row in findings.values() if row[1]] == [0.06, 0.06]
    assert {row[1].word for row in findings.values() if row[1]} == {"undecided"}


# --- closed sets -------------------------------------------------------------------------------------------------


def judged(right: np.ndarray, classes: int = 10) -> Judged:
    """A network that is right where ``right`` says, and second elsewhere."""
    return Judged(np.where(right, 0, 7), np.zeros(len(right)), np.ones(len(right)), classes)


def test_accuracies_are_compared_image_by_image() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(600) < 0.7
    gained = base | (rng.random(600) < 0.2)
    boot = ImageBootstrap(600, draws=400, seed=5)
    rates = [draw_top(judged(right), boot) for right in (base, base, gained)]
    table = c.standings(arms_of(1, 1, 1), rates, [("top1", None), ("top5", None)], boot)
    drawn = np.random.default_rng(5).integers(0, 600, (400, 600))  # every draw written out
    for right, row in zip((base, base, gained), table, strict=True):
        assert (row[0].metric, row[0].at, row[0].mean) == ("top1", None, pytest.approx(right.mean()))
        assert (row[0].low, row[0].high) == pytest.approx(tuple(np.percentile(right[drawn].mean(axis=1), [2.5, 97.5])))
    same, better = table[1][0].change, table[2][0].change
    assert same is not None and better is not None
    assert (same.paired.value, same.paired.low, same.paired.high) == (0.0, -3 / 600, 3 / 600), "the rule of three"
    written_out = (gained.astype(float) - base)[drawn].mean(axis=1)
    assert (better.paired.low, better.paired.high) == pytest.approx(tuple(np.percentile(written_out, [2.5, 97.5])))
    assert better.p == bootstrap_p(written_out)
    _, undecided, found = c.judge(arms_of(1, 1, 1), {"own": table}, 0, "")["own"]
    assert undecided is not None and found is not None
    assert (undecided.word, found.word) == ("undecided", "better")
    assert "takes a true difference of 0.5 points" in undecided.sentence


def test_seeds_are_paired_by_their_number() -> None:
    right = np.random.default_rng(1).random((6, 500)) < np.array([0.5, 0.6, 0.7, 0.53, 0.63, 0.73])[:, None]
    boot = ImageBootstrap(500, draws=200, seed=0)
    arms = [c.Arm("a", {}, (0, 1, 2), (4, 5, 6)), c.Arm("b", {}, (5, 3, 4), (6, 4, 5))]
    row = c.standings(arms, [draw_top(judged(r, 3), boot) for r in right], [("top1", None)], boot)[1][0]
    mean = right.mean(axis=1)
    assert row.values == pytest.approx(mean[[5, 3, 4]]) and row.mean == pytest.approx(mean[3:].mean())
    assert row.change is not None and row.change.seeds.seeds == (4, 5, 6)
    changes = mean[3:] - mean[:3]
    assert row.change.seeds.changes == pytest.approx(changes)
    assert row.change.seeds.sd == pytest.approx(np.std(changes, ddof=1))
    ups, sd = int((changes > 0).sum()), 100 * np.std(changes, ddof=1)
    said = f"up on {ups} of 3 seeds ({100 * changes.mean():+.1f} points, sd {sd:.1f})"
    assert row.change.seeds.describe() == said


# --- documents -------------------------------------------------------------------------------------------------


def document(value: float, sha: str = "x", variant: str = "flip-none") -> dict[str, Any]:
    row = {"benchmark": "dev", "variant": variant, "metric": "tar@far", "score": "raw", "at": 0.01, "value": value}
    other = {**row, "metric": "auc", "at": None}
    return {"benchmarks": [{"name": "dev", "sha256": sha, "images_fingerprint": "f"}], "rows": [row, other]}


def test_only_the_same_list_stands_side_by_side() -> None:
    contents = [document(0.5), None, document(0.6), document(0.7, sha="y"), document(0.8, variant="flip-sum")]
    first, second, third = c.side_by_side(contents, (0.01, 0.001))
    column = ("tar@far", 0.01)
    assert first.columns == (column,)
    assert [row.get(column, {}).get("value") for row in first.rows] == [0.5, None, 0.6, None, None]
    assert [row.get(column, {}).get("value") for row in second.rows] == [None, None, None, 0.7, None]
    assert third.variant == "flip-sum"
    assert c.side_by_side([{"rows": [1, {"metric": []}], "benchmarks": "no"}], (0.01,)) == []


# --- the verb ----------------------------------------------------------------------------------------------------

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_folder: Path, toy_model: type[Any]
) -> Cli:
    """``facekit runs compare`` over toy runs: control-0, control-1, noisy-0, noisy-1, and narrow.onnx."""
    monkeypatch.chdir(image_folder)
    models = {"teacher.onnx": toy_model("teacher"), "narrow.onnx": toy_model("narrow", seed=9, width=100)}
    for blur, arm in ((0.1, "control"), (3.0, "noisy")):
        for seed in (0, 1):
            name = f"{arm}-{seed}"
            models[name] = toy_model(name, seed=seed + 1, blur=blur, classes=tuple(f"P{i:02d}" for i in range(24)))
            folder = Path(name)
            folder.mkdir()
            config = {"method": ["fcd"], "noise": blur, "seed": seed, "out": name}
            status = "done" if name != "noisy-1" else "interrupted"
            about = {"schema": "facekit.run/1", "verb": "distill", "status": status, "config": config}
            (folder / "run.json").write_text(json.dumps(about))
    for name in ("teacher.onnx", "narrow.onnx"):
        Path(name).touch()
    monkeypatch.setattr("facekit.engines.compare.load_model", lambda path, **_: models[Path(path).name])

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", "runs", "compare", *words, "--draws", "200", "--device", "cpu"])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


ALL = ("control-0", "control-1", "noisy-0", "noisy-1")
PAIRED = ("--benchmark", "allpairs:pairs.txt", "--far", "0.01,0.1")


def test_the_document_of_a_paired_comparison(run: Cli) -> None:
    code, out, err = run(*ALL, *PAIRED, "--gallery", "teacher.onnx", "--json", "--out", "cmp")
    assert code == 0, err
    content = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert content["schema"] == "facekit.compare/1" and content["paired"]
    assert [(arm["name"], arm["seeds"]) for arm in content["arms"]] == [("noise=0.1", [0, 1]), ("noise=3", [0, 1])]
    assert {(f["arm"], f["way"]): f["word"] for f in content["findings"]} == {
        ("noise=3", "own gallery"): "worse", ("noise=3", "common gallery"): "worse",
    }  # fmt: skip
    assert len(content["numbers"]) == 2 * 2 * 2 and content["leading"] == 0.01
    assert any("noisy-1 is interrupted" in note for note in content["notes"])
    assert any("fewer than 5 seeds" in note for note in content["notes"])
    assert json.loads(Path("cmp/compare.json").read_text()) == content
    rows = list(csv.DictReader(Path("cmp/compare.csv").read_text().splitlines()))
    assert len(rows) == 8
    worse = next(row for row in rows if row["arm"] == "noise=3" and row["at"] == "0.01")
    assert float(worse["change.people.high"]) < 0 and worse["change.seeds.seeds"] == "0 1"


def test_the_page_says_the_finding_first_and_the_words_about_seeds(run: Cli) -> None:
    code, out, _ = run("control-0", "noisy-0", *PAIRED)
    assert code == 0
    assert out.index("noise=3, at FAR 0.01: WORSE: -") < out.index("change to control")
    for text in ("2 arms, 2 runs", "24 people", "control: noise=0.1", "one trained network", "smallest"):
        assert text in out


def test_an_undecided_arm_is_said_as_loudly(run: Cli) -> None:
    code, out, _ = run("control-0", "teacher.onnx", *PAIRED)
    assert code == 0
    assert "teacher.onnx, at FAR 0.01: UNDECIDED: " in out and "points to be noticed four times in five" in out


def test_results_alone_are_shown_and_decide_nothing(run: Cli) -> None:
    content = {"schema": "facekit.results/1", **document(0.5)}
    content["rows"][0] |= {"low": 0.4, "high": 0.6}
    Path("control-0/results.json").write_text(json.dumps(content))
    Path("noisy-0/results").mkdir()
    content["rows"][0] |= {"value": 0.3, "low": 0.2, "high": 0.4}
    Path("noisy-0/results/results.json").write_text(json.dumps(content))
    code, out, _ = run("control-0", "noisy-0", "noisy-1")
    assert code == 0
    for text in ("50.0 (40.0..60.0)", "30.0 (20.0..40.0)", "cannot decide", "noisy-1 has no results"):
        assert text in out
    code, out, _ = run("control-0", "noisy-0", "--json")
    content = json.loads(out)
    assert not content["paired"]
    assert [(row["arm"], row["value"]) for row in content["numbers"]] == [("noise=0.1", 0.5), ("noise=3", 0.3)]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("control-0", "nowhere"), 1, "nowhere is neither a run folder"),
        (("control-0", "noisy-0"), 1, "align-eval --model RUN"),
        (("control-0", "noisy-0", "--gallery", "teacher.onnx"), 2, "--gallery needs --benchmark"),
        (("control-0", "noisy-0", "--benchmark", "pairs.txt,pairs.txt"), 2, "one benchmark, 2 were given"),
        (("control-0", "control-0", *PAIRED), 1, "the same options and the same seed"),
        (("control-0", "noisy-0", "--benchmark", "pairs.txt", "--far", "1e-6"), 1, "none of --far 1e-06"),
        (("control-0", "narrow.onnx", *PAIRED, "--gallery", "teacher.onnx"), 1, "narrow.onnx makes embeddings of 100"),
        ((), 2, "RUN is required"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    run: Cli, words: tuple[str, ...], code: int, says: str
) -> None:
    status, out, err = run(*words)
    assert (status, out) == (code, "")
    assert says in err and "Traceback" not in err


CLASSES = ("--benchmark", "classes:images")


def test_classes_are_compared_by_the_same_arms_and_words(run: Cli) -> None:
    code, out, err = run(*ALL, *CLASSES, "--json", "--out", "cmp")
    assert code == 0, err
    content = json.loads(out)
    assert (content["metric"], content["leading"], content["ci_method"]) == ("top1", None, "image_bootstrap")
    assert content["benchmark"]["images"] == 96 and len(content["benchmark"]["classes"]) == 24
    assert [(f["arm"], f["way"], f["word"]) for f in content["findings"]] == [("noise=3", "own gallery", "worse")]
    assert [(row["arm"], row["metric"]) for row in content["numbers"]] == [
        ("noise=0.1", "top1"), ("noise=0.1", "top5"), ("noise=3", "top1"), ("noise=3", "top5"),
    ]  # fmt: skip
    worse = content["numbers"][2]
    assert worse["change"]["images"]["high"] < 0 and worse["change"]["seeds"]["seeds"] == [0, 1]
    assert len(worse["values"]) == 2 and worse["sd"] is not None and "people" not in worse["change"]
    rows = list(csv.DictReader(Path("cmp/compare.csv").read_text().splitlines()))
    assert float(rows[2]["change.images.high"]) == pytest.approx(worse["change"]["images"]["high"])


def test_the_page_of_classes_speaks_of_images(run: Cli) -> None:
    code, out, _ = run(*ALL, *CLASSES)
    assert code == 0
    for text in ("96 images of 24 classes", "noise=3, at top-1 accuracy: WORSE: -", "accuracy %", "top-5 accuracy",
                 "images drawn with replacement", "up on 0 of 2 seeds"):  # fmt: skip
        assert text in out
    assert "people" not in out and "FAR" not in out and "flip" not in out


def test_a_network_without_classes_is_refused(run: Cli) -> None:
    code, _, err = run("control-0", "teacher.onnx", *CLASSES)
    assert code == 1 and "gives embeddings only" in err
    code, _, err = run("control-0", "noisy-0", *CLASSES, "--gallery", "teacher.onnx")
    assert code == 2 and "--gallery is for pairs" in err
    code, _, err = run("control-0", "noisy-0", "--benchmark", "retrieval:images")
    assert code == 1 and "query" in err


def test_accuracies_of_documents_stand_side_by_side(run: Cli) -> None:
    for name, value in (("control-0", 0.9), ("noisy-0", 0.8)):
        row = {"benchmark": "classes:test", "variant": "plain", "metric": "top1", "score": "raw", "at": None}
        content = {
            "schema": "facekit.results/1",
            "benchmarks": [{"name": "classes:test", "images_fingerprint": "f"}],
            "rows": [
                {**row, "value": value, "low": value - 0.01, "high": value + 0.01},
                {**row, "metric": "ece", "value": 1},
            ],
        }
        Path(name, "results.json").write_text(json.dumps(content))
    code, out, _ = run("control-0", "noisy-0")
    assert (
        code == 0 and "90.0 (89.0..91.0)" in out and "80.0 (79.0..81.0)" in out and "top1" in out and "ece" not in out
    )


def test_too_few_draws_for_so_many_arms_are_said(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for i in range(6):
        folder = Path(f"arm{i}") / "control-0"
        folder.mkdir(parents=True)
        about = json.loads(Path("control-0/run.json").read_text())
        about["config"]["noise"] = i
        (folder / "run.json").write_text(json.dumps(about))
        names.append(str(folder))
    code, out, _ = run(*names, *PAIRED)
    assert code == 0
    # Five comparisons of 200 draws: the smallest p is 5 x 2/200.
    assert "200 draws show no p below 0.05" not in out
    Path("arm6/control-0").mkdir(parents=True)
    about["config"]["noise"] = 7
    Path("arm6/control-0/run.json").write_text(json.dumps(about))
    code, out, _ = run(*names, "arm6/control-0", *PAIRED)
    assert code == 0 and "200 draws show no p below 0.06: to decide anything give --draws 240" in out
