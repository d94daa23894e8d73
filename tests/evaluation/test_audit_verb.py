"""``facekit autoweight audit`` on faces whose pixels are their embeddings, with labels that were swapped on purpose."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.configs import AuditConfig
from facekit.core.errors import ArtefactMismatch, InputError, OutputExists, UsageError
from facekit.data.noise import make_plan
from facekit.data.noiseplan import write_plan
from facekit.data.sources import open_source
from facekit.engines import audit
from facekit.weighting.policy import Moment, Policy, write_policy
from tests.weighting.policies import actor_state

Document = dict[str, Any]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, toy_model: Any) -> Any:
    """What load_model gives, whatever the path."""
    toy = toy_model()
    monkeypatch.setattr(audit, "load_model", lambda path, **given: toy)
    return toy


@pytest.fixture
def plan(image_folder: Path) -> Path:
    """A quarter of the 96 images under the label of somebody else."""
    made = make_plan(open_source(image_folder / "images"), "face-image", 0.25, 3)
    write_plan(image_folder / "plan.npz", made)
    return image_folder / "plan.npz"


@pytest.fixture
def embeddings(image_folder: Path) -> Path:
    """The pixels of all images in facekit's file of embeddings."""
    source = open_source(image_folder / "images")
    pixels = source.read(np.arange(len(source))).astype(np.float32).transpose(0, 3, 1, 2).reshape(len(source), -1)
    np.savez(image_folder / "emb.npz", embs=pixels - 127.5, names=np.array(list(source.names)))
    return image_folder / "emb.npz"


def audited(config: AuditConfig) -> tuple[Document, list[dict[str, str]]]:
    audit.run(config)
    assert config.out is not None
    with open(config.out / "audit.csv", newline="") as stream:
        return json.loads((config.out / "audit.json").read_text()), list(csv.DictReader(stream))


def run_folder(path: Path, data: Path, **options: Any) -> Path:
    """A finished training on ``data``, as far as an audit looks at it."""
    path.mkdir()
    record = {"schema": "facekit.run/1", "status": "done", "config": {"data": data.as_posix(), **options}}
    (path / "run.json").write_text(json.dumps(record))
    return path


def write_weights(run: Path, names: list[str], weights: list[float | str], last: list[float]) -> None:
    lines = [f"{i},{name},?,{weights[i]},{last[i]}" for i, name in enumerate(names)]
    (run / "weights.csv").write_text("index,name,label,weight,last\n" + "\n".join(lines) + "\n")


def test_swapped_labels_come_first_and_the_right_class_is_named(
    image_folder: Path, plan: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AuditConfig(
        model=Path("toy.pt"), data=image_folder / "images", noise_plan=plan, at=(10, 20, 5000), out=tmp_path / "out"
    )
    content, rows = audited(config)
    wrong = [row for row in rows if row["label"] != row["truth"]]
    assert len(rows) == 96 and [row["rank"] for row in rows] == [str(i) for i in range(1, 97)]
    assert 15 < len(wrong) < 35
    assert [row["name"].split("/")[0] for row in rows] == [row["truth"] for row in rows]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True) and {row["weight"] for row in rows} == {""}

    (ranking,) = content["rankings"]
    hits = np.cumsum([row["label"] != row["truth"] for row in rows])
    for point in ranking["at"]:
        k = point["first"]
        assert (point["wrong"], point["precision"]) == (hits[k - 1], hits[k - 1] / k)
        assert point["recall"] == hits[k - 1] / len(wrong)
    assert [point["first"] for point in ranking["at"]] == [10, 20, len(wrong)]
    assert ranking["base_rate"] == len(wrong) / 96 and ranking["auc"] > 0.95
    named = [row for row in wrong if row["favoured"] == row["truth"]]
    assert len(named) > 0.8 * len(wrong)
    assert content["disagreeing"] == sum(row["favoured"] != row["label"] for row in rows)
    assert (content["listed_by"], content["scores"], content["scale"]) == ("loss", "centres", 64)
    assert [row["name"] for row in content["top"]] == [row["name"] for row in rows]
    out = capsys.readouterr().out
    assert "AUC %" in out and rows[0]["name"] in out.replace("\n", "") and "differ from the given ones" in out


def test_without_a_plan_nothing_is_claimed(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, rows = audited(AuditConfig(model=embeddings, out=tmp_path / "out", json=True))
    assert json.loads(capsys.readouterr().out) == content
    assert (content["truth_known"], content["rankings"]) == (False, [])
    assert {row["truth"] for row in rows} == {""} and len({row["label"] for row in rows}) == 24


def test_embeddings_and_images_agree_with_the_model(
    image_folder: Path, plan: Path, embeddings: Path, model: Any, tmp_path: Path
) -> None:
    images = {"data": image_folder / "images", "noise_plan": plan}
    found = [
        audited(AuditConfig(model=path, out=tmp_path / str(i), **images))[1]
        for i, path in enumerate((Path("toy.pt"), embeddings))
    ]
    assert found[0] == found[1]


def test_the_only_image_of_a_class_is_listed_without_a_verdict(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2]]
    np.savez(tmp_path / "emb.npz", embs=vectors, names=np.array(["a/1", "a/2", "b/1", "b/2", "c/1"]))
    content, rows = audited(AuditConfig(model=tmp_path / "emb.npz", out=tmp_path / "out"))
    assert (content["ranked"], content["not_judged"]) == (4, 1)
    assert rows[-1] == dict(zip(rows[-1], ["", "c/1", "c", "", "", "", "", ""], strict=True))
    assert any("One image is the only one of a class" in sentence for sentence in content["sentences"])


def test_weights_of_training_rank_before_losses(image_folder: Path, plan: Path, model: Any, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", image_folder / "images", noise_plan=plan.as_posix())
    source = open_source(image_folder / "images")
    weights: list[float | str] = [1.0] * 96
    weights[40], weights[7], weights[90] = 0.25, 0.5, ""
    write_weights(run, list(source.names), weights, [float(i != 5) for i in range(96)])
    content, rows = audited(AuditConfig(model=run, out=tmp_path / "out"))
    assert [row["name"] for row in rows[:2]] == [source.names[40], source.names[7]]
    losses = [float(row["loss"]) for row in rows[2:95]]
    assert losses == sorted(losses, reverse=True), "equal weights: by loss"
    assert (rows[95]["rank"], rows[95]["name"]) == ("", source.names[90]), "never seen in training"
    names = [ranking["name"] for ranking in content["rankings"]]
    assert names == ["mean weight in training", "weight in the last epoch", "loss"]
    assert content["listed_by"] == names[0] and [r["ranked"] for r in content["rankings"]] == [95, 96, 96]
    by_network = audited(AuditConfig(model=run, by="network", out=tmp_path / "network"))[0]
    assert [r["name"] for r in by_network["rankings"]] == ["loss"]
    assert by_network["rankings"][0] == content["rankings"][2]


def test_a_run_brings_its_data_and_says_that_it_learnt_from_them(
    image_folder: Path, plan: Path, model: Any, tmp_path: Path
) -> None:
    images = image_folder / "images"
    run = run_folder(tmp_path / "run", images, noise_plan=plan.as_posix(), take="0:2")
    with pytest.raises(ArtefactMismatch, match="the noise plan was made for other images"):
        audit.run(AuditConfig(model=run, out=tmp_path / "out"))
    run = run_folder(tmp_path / "other", images, noise_plan=plan.as_posix(), min_images=2)
    content, _ = audited(AuditConfig(model=run / "checkpoints" / "best", out=tmp_path / "out"))
    assert content["truth_known"] and content["data"]["path"] == images.as_posix()
    record = json.loads((run / "run.json").read_text())
    told = [s for s in content["sentences"] if "memorised" in s]
    record["data"] = {"fingerprint": content["data"]["fingerprint"]}
    (run / "run.json").write_text(json.dumps(record))
    again = audited(AuditConfig(model=run, out=tmp_path / "again"))[0]
    assert told == [] and any("memorised look right" in s for s in again["sentences"])
    assert not audited(AuditConfig(model=run, data=images, out=tmp_path / "own"))[0]["truth_known"]


def test_a_closed_set_is_judged_by_its_own_scores(
    image_folder: Path, plan: Path, toy_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The network's classes stand in another order and one of them is not in the data."""
    names = tuple(f"P{p:02d}" for p in range(24))
    toy = toy_model(classes=(*names, "Nobody"))
    real = toy.logits
    order = [24, *range(24)]
    monkeypatch.setattr(type(toy), "logits", lambda self, images: real(images)[:, order])
    toy.classes = ("Nobody", *names)
    monkeypatch.setattr(audit, "load_model", lambda path, **given: toy)
    config = AuditConfig(model=Path("toy.pt"), data=image_folder / "images", noise_plan=plan, out=tmp_path / "out")
    content, rows = audited(config)
    assert content["scores"] == "network" and content["scale"] is None and content["not_judged"] == 0
    assert content["rankings"][0]["auc"] > 0.95
    right = [row for row in rows if row["label"] == row["truth"]]
    assert np.mean([row["favoured"] == row["label"] for row in right]) > 0.9


def test_a_policy_weighs_by_its_last_stage(image_folder: Path, plan: Path, model: Any, tmp_path: Path) -> None:
    trace = (Moment((1.0, 1.0, 0.0, 1.0), (3.0, 0.0, 0.0)), Moment((2.0, 1.0, 0.0, 1.0), (-1.0, 0.0, 0.25)))
    policy = Policy(
        actor=actor_state(3, 3), features=("loss_norm", "entropy_norm"), hidden=0, stages=3, warm_up=1,
        profile="short", bound=3.0, reward=0.0, trace=trace,
    )  # fmt: skip
    write_policy(tmp_path / "policy.json", policy)
    images = {"model": Path("toy.pt"), "data": image_folder / "images", "noise_plan": plan}
    content, rows = audited(AuditConfig(policy=tmp_path / "policy.json", out=tmp_path / "out", **images))
    loss = np.array([float(row["loss"]) for row in rows])
    weight = np.array([float(row["weight"]) for row in rows])
    expected = 1 + np.tanh(-(loss - loss.mean()) / (loss.std(ddof=1) + 1e-5) + 0.25)
    np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-5)
    assert (np.diff(weight) >= 0).all() and (np.diff(loss) <= 0).all(), "falling in the loss: the order of losses"
    assert [r["name"] for r in content["rankings"]] == ["weight of the policy", "loss"]
    assert content["rankings"][0]["auc"] == content["rankings"][1]["auc"]
    assert content["policy"]["action"] == [-1, 0, 0.25]
    write_policy(tmp_path / "policy.json", replace(policy, trace=()))
    with pytest.raises(InputError, match="no last stage to weigh by"):
        audit.run(AuditConfig(policy=tmp_path / "policy.json", out=tmp_path / "none", **images))


def test_flags_and_files_that_cannot_work(
    image_folder: Path, embeddings: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_folder(tmp_path / "run", image_folder / "images")
    for config, message in (
        (AuditConfig(model=run, by="training"), r"has no weights.csv, which a run with --weighter leaves"),
        (AuditConfig(model=run, by="training", policy=run), "leave it out, or give --by network"),
        (AuditConfig(model=embeddings, min_images=2), "--min-images chooses among images: give them as --data"),
        (AuditConfig(model=embeddings, thumbnails=True), "--thumbnails shows the images"),
    ):
        with pytest.raises(UsageError, match=message):
            audit.run(config)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    with pytest.raises(OutputExists, match="name another --out"):
        audit.run(AuditConfig(model=embeddings, out=tmp_path / "used"))
    np.savez(tmp_path / "flat.npz", embs=np.eye(3, dtype=np.float32), names=np.array(["1.jpg", "2.jpg", "3.jpg"]))
    with pytest.raises(InputError):
        audit.run(AuditConfig(model=tmp_path / "flat.npz", out=tmp_path / "flat"))
    assert not (tmp_path / "flat").exists() and not (tmp_path / "runs").exists(), "nothing is left of a failed audit"
    audit.run(AuditConfig(model=embeddings))
    assert sorted(p.name for p in (tmp_path / "runs" / "audit-emb").iterdir()) == ["audit.csv", "audit.json"]


def test_the_page_shows_pictures_labels_and_what_they_look_like(
    image_folder: Path, plan: Path, model: Any, parse_page: Callable[[str], Any], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    config = AuditConfig(
        model=Path("toy.pt"),
        data=image_folder / "images",
        noise_plan=plan,
        top=8,
        thumbnails=True,
        out=tmp_path / "out",
    )
    content, rows = audited(config)
    page = parse_page((tmp_path / "out" / "audit.html").read_text().replace("<wbr>", ""))
    page.check_that_it_is_whole_and_fetches_nothing()
    pictures = [value for key, value in page.attributes if key == "src"]
    disagreeing = sum(row["favoured"] != row["label"] for row in rows[:8])
    assert len(pictures) == 8 + 2 * 8 + 2 * disagreeing
    assert page.text.count("label is wrong") == sum(row["label"] != row["truth"] for row in rows[:8])
    assert page.text.count("label is right") == sum(row["label"] == row["truth"] for row in rows[:8])
    for text in (*(row["name"] for row in rows[:8]), "wrong labels found, %", "looks like", *content["sentences"]):
        assert text in page.text
    assert len(content["top"]) == 8
