"""``facekit data noise`` from the command line, and every verb that takes --noise-plan."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from facekit import cli, configs
from facekit.data.noiseplan import read_plan
from facekit.data.relabelled import Relabelled
from facekit.data.sources import open_source
from facekit.data.synth import synthesise
from facekit.engines import embed
from facekit.engines.fitting import open_images, open_training_data
from facekit.models import build_backbone

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with four images each."""
    out = tmp_path_factory.mktemp("noise") / "faces"
    synthesise(out, identities=8, per_identity=4, size=32)
    return out / "images"


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``facekit ...``, as the shell sees it."""
    monkeypatch.setattr(sys, "argv", ["facekit", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_plan_is_drawn_shown_and_applied(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "plans" / "sym.npz"
    words = ("data", "noise", "--data", drawn, "--p", 0.5, "--seed", 3, "--out", out)
    assert call(monkeypatch, *words) == 0
    screen, plan = capsys.readouterr(), read_plan(out)
    wrong = int(plan.wrong.sum())
    assert f"{wrong} of 32 labels are wrong ({100 * wrong / 32:.1f} %)" in screen.err and 5 < wrong < 25
    rows = [line.split() for line in screen.out.splitlines()]
    assert rows[-1] == ["all", "32", "32", "32", str(wrong)]
    labelled = np.bincount(plan.noisy_label, minlength=8)
    wrongly = np.bincount(plan.noisy_label[plan.wrong], minlength=8)
    people = open_source(drawn).identities
    assert rows[-9:-1] == [[who, "4", "4", str(n), str(w)] for who, n, w in zip(people, labelled, wrongly, strict=True)]
    source = open_images(configs.PackConfig(out=tmp_path, noise_plan=out), drawn, need_labels=True)
    assert isinstance(source, Relabelled) and (source.labels == plan.noisy_label).all()
    assert call(monkeypatch, *words) == 1
    assert "exists already" in capsys.readouterr().err
    again = (*words[:-1], tmp_path / "again.npz")
    assert call(monkeypatch, *again) == 0 and read_plan(tmp_path / "again.npz").sha256 == plan.sha256


def test_a_long_tail_says_which_classes_it_empties(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert call(monkeypatch, "data", "noise", "--data", drawn, "--kind", "longtail", "--out", tmp_path / "t.npz") == 0
    screen = capsys.readouterr()
    kept = [4, 2, 1, 0, 0, 0, 0, 0]  # floor(4 * 100^(-c/7))
    assert [int(line.split()[2]) for line in screen.out.splitlines()[-9:-1]] == kept
    assert "long tail (imbalance 100, seed 0): 7 images stay" in screen.err
    assert "5 classes have no image left under their label" in screen.err


def test_options_that_nothing_reads_are_refused(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "x.npz"
    noise = ("data", "noise", "--data", drawn)
    for words in (
        ("--out", tmp_path / "x.csv"),
        ("--out", out, "--kind", "longtail", "--p", 0.2),
        ("--out", out, "--imbalance", 10),
        ("--out", out, "--kind", "flip", "--exclude-self"),
        ("--out", out, "--noise-plan", out),
        ("--out", out, "--p", 1),
        ("--out", out, "--kind", "symm"),
    ):
        assert call(monkeypatch, *noise, *words) == 2, words
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 7 and all(line.startswith("facekit: ") for line in errors)
    assert not list(tmp_path.iterdir())


def test_a_plan_is_bound_to_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "half.npz"
    assert call(monkeypatch, "data", "noise", "--data", drawn, "--take", ":2", "--out", out) == 0
    half = open_training_data(configs.PackConfig(out=tmp_path, noise_plan=out, take=":2"), drawn, need_labels=True)
    assert len(half) == 16 and "sym noise (p 0.4, seed 0)" in capsys.readouterr().err
    pack = ("data", "pack", "--data", drawn, "--noise-plan", out, "--out", tmp_path / "p")
    assert call(monkeypatch, *pack) == 1
    assert "made for other images or labels" in capsys.readouterr().err and not (tmp_path / "p").exists()
    assert call(monkeypatch, *pack, "--take", ":2") == 0
    assert "forgets the true ones" in capsys.readouterr().err
    packed = open_source(tmp_path / "p")
    assert (packed.labels == read_plan(out).noisy_label).all() and packed.fingerprint == half.fingerprint


def test_verbs_that_look_at_true_labels_refuse_a_plan(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = tmp_path / "p.npz"
    assert call(monkeypatch, "data", "noise", "--data", drawn, "--out", plan) == 0
    given = ("--data", drawn, "--noise-plan", plan)
    assert call(monkeypatch, "data", "check", *given, "--size", 32) == 2
    assert call(monkeypatch, "data", "pairs", *given, "--out", tmp_path / "pairs") == 2
    assert capsys.readouterr().err.count("leave --noise-plan out") == 2


def listed(path: Path) -> list[dict[str, str]]:
    """The rows of a .csv."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_embeddings_are_listed_under_the_labels_of_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    synthesise(tmp_path / "faces", identities=4, per_identity=2, size=112)
    torch.manual_seed(0)
    torch.save(build_backbone("mbf_nano", 8).state_dict(), tmp_path / "nano.pth")
    data, plan = tmp_path / "faces" / "images", tmp_path / "p.npz"
    assert call(monkeypatch, "data", "noise", "--data", data, "--kind", "face-image", "--p", 0.9, "--out", plan) == 0
    for name in ("clean", "noisy"):
        embed.run(
            configs.EmbedConfig(
                model=tmp_path / "nano.pth",
                data=data,
                out=tmp_path / f"{name}.npy",
                noise_plan=plan if name == "noisy" else None,
            )
        )
    clean, noisy = (listed(tmp_path / name) for name in ("clean.csv", "noisy.csv"))
    people, found = open_source(data).identities, read_plan(plan)
    assert [row["label"] for row in noisy] == [people[label] for label in found.noisy_label]
    assert [row["label"] for row in clean] == [people[label] for label in found.true_label]
    assert [row["path"] for row in clean] == [row["path"] for row in noisy]
    assert (np.load(tmp_path / "clean.npy") == np.load(tmp_path / "noisy.npy")).all()
