"""Aligned scores from the command line: every verb that takes a support set, against the formula written out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facekit import cli
from facekit.alignment.bank import read_bank

Cli = Callable[..., tuple[int, str, str]]
ALL = ("--benchmark", "allpairs:pairs.txt", "--far", "0.1,0.01")


@pytest.fixture
def others(image_folder: Path) -> Path:
    """40 people who are on no list, 2 images each."""
    rng = np.random.default_rng(5)
    for person in range(40):
        face = rng.uniform(67, 187, (8, 8, 3))
        for i in range(2):
            file = image_folder / "others" / f"Q{person:02d}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(face + rng.normal(0, 60, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(file)
    return image_folder / "others"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    image_folder: Path,
    others: Path,
    toy_model: type[Any],
) -> Cli:
    """Run the command line inside this process, with toy models; returns (exit code, stdout, stderr)."""
    table = {"teacher": toy_model("teacher"), "student": toy_model("student", seed=1, blur=0.2)}

    def load(path: Path, **_: Any) -> Any:
        return table[Path(path).name]

    for engine in ("align_eval", "swap", "bank", "embed"):
        monkeypatch.setattr(f"facekit.engines.{engine}.load_model", load)
    monkeypatch.chdir(image_folder)
    monkeypatch.setenv("FACEKIT_CACHE", "cache")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facekit", *words, "--device", "cpu"])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def rows_of(out: str, score: str, metric: str, support: str | None = None) -> list[dict[str, Any]]:
    rows = json.loads(out)["rows"]
    return [r for r in rows if (r["score"], r["metric"]) == (score, metric) and r["support"] in (support, r["support"])]


def vectors_in(folder: Path) -> tuple[list[str], np.ndarray]:
    """(names, unit rows) of all images of a folder as the toy teacher embeds them, without facekit."""
    files = sorted(p for p in folder.rglob("*.png"))
    pixels = np.stack([np.array(Image.open(p), np.float64).transpose(2, 0, 1).ravel() for p in files]) - 127.5
    return [str(p.relative_to(folder)) for p in files], pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def aligned_by_hand(image_folder: Path, k: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(raw, aligned up to a constant) scores of the test images, by the k nearest of the others' first images."""
    _, test = vectors_in(image_folder / "images")
    names, all_others = vectors_in(image_folder / "others")
    bank = all_others[[i for i, name in enumerate(names) if name.endswith("0.png")]]
    d = np.sort(test @ bank.T, axis=1)[:, -k:].mean(axis=1)
    raw = test @ test.T
    return raw, raw - alpha / 2 * (d[:, None] + d[None])


def test_dao_is_the_formula(run: Cli, image_folder: Path) -> None:
    words = ("--scores", "raw,dao", "--support", "cohort=others", "--neighbours", "12", "--alpha", "0.7")
    code, out, _ = run("align-eval", "--model", "teacher", *ALL, *words, "--draws", "100", "--json")
    assert code == 0
    raw, aligned = aligned_by_hand(image_folder, 12, 0.7)
    person = np.repeat(np.arange(24), 4)
    left, right = np.triu_indices(96, 1)
    same = (person[:, None] == person[None])[left, right]
    for name, scores in (("raw", raw[left, right]), ("dao", aligned[left, right])):
        (row,) = [r for r in rows_of(out, name, "tar@far") if r["at"] == 0.1]
        limit = np.sort(scores[~same])[::-1][int(0.1 * (~same).sum())]
        assert row["value"] == np.mean(scores[same] > limit)
    (dao,) = [r for r in rows_of(out, "dao", "tar@far") if r["at"] == 0.1]
    assert (dao["support"], dao["alpha"], dao["neighbours"], dao["transductive"]) == ("cohort", 0.7, 12, False)
    (change,) = [r for r in rows_of(out, "dao", "delta.tar@far") if r["at"] == 0.1]
    (plain,) = [r for r in rows_of(out, "raw", "tar@far") if r["at"] == 0.1]
    assert change["value"] == pytest.approx(dao["value"] - plain["value"], abs=1e-12)


def test_all_scores_and_supports_stand_side_by_side(run: Cli) -> None:
    scores = "raw,dao,znorm,tnorm,snorm,asnorm,csls,nicdm,rerank"
    supports = "cohort=others,latentmix=others,noise"
    words = ("--scores", scores, "--support", supports, "--neighbours", "12", "--candidates", "300")
    code, out, err = run("align-eval", "--model", "teacher", *ALL, *words, "--draws", "100", "--out", "res")
    assert code == 0, err
    table = [line.split() for line in out.splitlines()]
    shown = {line[0].rstrip(",") for line in table if line}
    assert set(scores.split(",")) <= shown
    assert out.count("dao, ") == 3 and "transductive: rerank" in out
    assert {p.name for p in Path("res").glob("policy-*.json")} == {
        f"policy-{name}.json" for name in ("cohort", "latentmix", "noise")
    }


def test_strength_and_thresholds_are_chosen_on_dev(run: Cli, image_folder: Path) -> None:
    lines = [f"Q{p:02d}/{a}.png,Q{q:02d}/{b}.png,{int(p == q)},Q{p:02d},Q{q:02d}"
             for p in range(20, 40) for q, a, b in ((p, 0, 1), ((p - 19) % 20 + 20, 0, 1))]  # fmt: skip
    (image_folder / "dev.csv").write_text("\n".join(["path1,path2,same,id1,id2", *lines]) + "\n")
    cohort = image_folder / "cohort"
    for person in range(20):
        (cohort / f"Q{person:02d}").mkdir(parents=True)
        source = image_folder / "others" / f"Q{person:02d}" / "0.png"
        (cohort / f"Q{person:02d}" / "0.png").write_bytes(source.read_bytes())
    dev = ("--dev", "allpairs:dev.csv", "--dev-images", "others")
    words = ("--scores", "raw,dao,fmr", "--support", "cohort=cohort", "--neighbours", "12", "--condition", "grey")
    tail = ("--draws", "100", "--json", "--out", "r")
    code, out, err = run("align-eval", "--model", "teacher", *ALL, *words, *dev, *tail)
    assert code == 0, err
    policy = json.loads(Path("r/policy-cohort.json").read_text())
    tried = dict(policy["alphas"])
    best = max(tried.values())
    assert policy["settings"]["alpha"] == min(alpha for alpha, tar in tried.items() if tar == best)
    kept = [r for r in json.loads(out)["rows"] if r["metric"] == "far@threshold"]
    assert {(r["score"], r["variant"]) for r in kept} == {
        (score, variant) for score in ("raw", "dao", "fmr") for variant in ("flip-none", "flip-none,grey")
    }
    (raw,) = [r for r in rows_of(out, "raw", "tar@far") if r["at"] == 0.1]
    (monotone,) = [r for r in rows_of(out, "fmr", "tar@far") if r["at"] == 0.1]
    assert monotone["value"] <= raw["value"]  # a map of the score alone can only tie what it ordered
    # The policy repeats it, with the same bank, and refuses another one.
    again = ("--scores", "raw,dao", "--policy", "r/policy-cohort.json", "--draws", "100", "--json")
    code, repeated, err = run("align-eval", "--model", "teacher", *ALL, *again, "--support", "cohort=cohort")
    assert code == 0, err
    first, second = ([r["value"] for r in rows_of(text, "dao", "tar@far")] for text in (out, repeated))
    assert first == second
    code, _, err = run("align-eval", "--model", "teacher", *ALL, *again, "--support", "cohort=others")
    assert code == 1 and "the policy was made with support bank" in err


def test_what_cannot_be_aligned_is_refused(run: Cli) -> None:
    common = ("align-eval", "--model", "teacher", *ALL, "--draws", "100")
    for words, code, says in (
        (("--scores", "dao"), 2, "say with --support where they come from"),
        (("--support", "noise"), 2, "--support is read by aligned scores"),
        (("--scores", "dao", "--support", "crowd=others"), 2, "is not understood; give one of: cohort=PATH"),
        (("--scores", "dao", "--support", "cohort=images"), 1, "24 people are both in the cohort bank and in the test"),
        (("--scores", "dao", "--support", "gallery"), 1, "needs at least 200 to be its own support set"),
        (("--scores", "dao", "--support", "noise", "--sides", "max", "--operator", "z"), 2, "no form for sides 'max'"),
        (("--scores", "fmr"), 2, "give them as --dev"),
        (("--scores", "dao", "--support", "cohort=others", "--reduce", "centre", "--alpha", "0.9"), 1, "over-correct"),
        (("--dev", "allpairs:pairs.txt"), 1, "people are both in the dev and in the test set"),
    ):
        got, out, err = run(*common, *words)
        assert (got, out) == (code, ""), (words, err)
        assert says in err and "Traceback" not in err, err


def test_a_bank_is_bound_to_its_model(run: Cli) -> None:
    code, _, err = run("align-eval", "bank", "--model", "teacher", "--data", "others", "--out", "bank.npz")
    assert code == 0 and "use it as --support bank.npz" in err
    bank = read_bank("bank.npz")
    assert (bank.kind, len(bank.labels), len(bank.identities)) == ("cohort", 80, 40)
    words = ("--scores", "raw,dao", "--support", "bank.npz", "--draws", "100", "--json", "--neighbours", "12")
    code, out, _ = run("align-eval", "--model", "teacher", *ALL, *words)
    fresh = run("align-eval", "--model", "teacher", *ALL, *words[:3], "cohort=others", *words[4:])[1]
    assert code == 0 and rows_of(out, "dao", "tar@far") == rows_of(fresh, "dao", "tar@far")
    code, _, err = run("align-eval", "--model", "student", *ALL, *words)
    assert code == 1 and "the support bank was made with model" in err


def test_aligned_vectors_need_nothing_but_an_inner_product(run: Cli, image_folder: Path) -> None:
    support = ("--support", "cohort=others", "--neighbours", "12", "--alpha", "0.7")
    words = ("--model", "teacher", "--data", "images", *support)
    for side in ("enrol", "probe"):
        code, _, err = run("embed", *words, "--aligned", side, "--out", f"{side}.npz")
        assert code == 0 and "do not normalise them" in err
    enrolled, probe = (np.load(f"{side}.npz", allow_pickle=False) for side in ("enrol", "probe"))
    assert enrolled["aligned"].shape == (96, 194) and enrolled["aligned"].dtype == np.float32
    got = enrolled["aligned"].astype(np.float64) @ probe["aligned"].T.astype(np.float64)
    _, wanted = aligned_by_hand(image_folder, 12, 0.7)
    np.testing.assert_allclose(got - got.mean(), wanted - wanted.mean(), atol=1e-6)
    code, _, err = run("embed", *words, "--out", "plain.npz")
    assert code == 2 and "read with --aligned" in err


def test_swap_is_judged_in_the_aligned_score(run: Cli) -> None:
    words = ("swap", "--old", "teacher", "--new", "student", "--benchmark", "allpairs:pairs.txt", "--far", "0.05")
    aligned = ("--scores", "dao", "--support", "cohort=others", "--neighbours", "12", "--draws", "100", "--json")
    code, out, err = run("align-eval", *words, *aligned)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {(r["score"], r["support"]) for r in rows} == {("dao", "cohort")}
    old = next(r for r in rows if r["variant"].endswith("-old") and r["metric"] == "tar@far")
    alone = run("align-eval", "--model", "teacher", "--benchmark", "allpairs:pairs.txt", "--far", "0.05", *aligned)[1]
    (row,) = rows_of(alone, "dao", "tar@far")
    assert old["value"] == row["value"]
    code, _, err = run("align-eval", *words, "--scores", "dao,csls", "--support", "noise")
    assert code == 2 and "one way to score" in err


def test_embeddings_stand_in_for_a_model(run: Cli, image_folder: Path) -> None:
    assert run("embed", "--model", "teacher", "--data", "images", "--out", "test.npz")[0] == 0
    assert run("embed", "--model", "teacher", "--data", "others", "--out", "others.npz")[0] == 0
    words = ("--scores", "raw,dao", "--neighbours", "12", "--draws", "100", "--json")
    code, by_file, err = run("align-eval", "--embeddings", "test.npz", *ALL, *words, "--support", "cohort=others.npz")
    assert code == 0, err
    by_model = run("align-eval", "--model", "teacher", *ALL, *words, "--support", "cohort=others")[1]
    for score in ("raw", "dao"):
        numbers = [[r["value"] for r in rows_of(text, score, "tar@far")] for text in (by_file, by_model)]
        assert numbers[0] == numbers[1] and numbers[0]


def test_gallery_and_probe_folders(run: Cli, image_folder: Path) -> None:
    for side, who in (("gallery", range(20)), ("probe", range(24))):
        for person in who:
            name = f"P{person:02d}"
            (image_folder / side / name).mkdir(parents=True)
            number = 1 if side == "gallery" else 2
            file = image_folder / "images" / name / f"{name}_{number:04d}.png"
            (image_folder / side / name / file.name).write_bytes(file.read_bytes())
    scores = ("--scores", "raw,csls", "--support", "cohort=others")
    words = ("--gallery", "gallery", "--probe", "probe", "--fpir", "0.5", *scores)
    code, out, err = run("align-eval", "--model", "teacher", *words, "--draws", "100", "--json", "--out", "res")
    assert code == 0, err
    (row,) = [r for r in rows_of(out, "raw", "cmc") if r["at"] == 1]
    names, test = vectors_in(image_folder / "images")
    enrolled = [i for i, n in enumerate(names) if n.endswith("0001.png")][:20]
    probes = [i for i, n in enumerate(names) if n.endswith("0002.png")]
    best = np.argmax(test[probes] @ test[enrolled].T, axis=1)
    assert row["value"] == np.mean(best[:20] == np.arange(20))
    assert (row["n_genuine"], row["n_impostor"]) == (20, 4)
    assert rows_of(out, "csls", "delta.cmc") and rows_of(out, "csls", "tpir@fpir")
    with open("res/results.csv", newline="") as stream:
        assert {"raw", "csls"} == {r["score"] for r in csv.DictReader(stream)}


def test_the_page_has_everything(run: Cli) -> None:
    pytest.importorskip("matplotlib")
    scores = ("--scores", "raw,dao", "--support", "cohort=others,noise", "--neighbours", "12")
    page = ("--report", "page/report.html", "--thumbnails", "--compare", "student", "--draws", "100")
    both = ("--model", "teacher", "--benchmark", "pairs.txt,allpairs:pairs.txt")
    code, out, err = run("align-eval", *both, *scores, "--condition", "grey,dark", *page)
    assert code == 0, err
    text = Path("page/report.html").read_text()
    assert "http" not in text and "<svg" in text and "data:image/jpeg" in text
    for said in ("cohort", "noise", "grey", "dark", "facekit align-eval --model teacher", "student"):
        assert said in text
    assert {p.suffix for p in Path("page").iterdir()} == {".html", ".svg", ".png"}
    assert "UNDECIDED" in out or "WORSE" in out
