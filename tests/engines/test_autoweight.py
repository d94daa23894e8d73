"""Rules that weigh samples through the verbs: data noise, train --weighter, autoweight search, apply and compare."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.configs import (
    DistillConfig,
    NoiseConfig,
    PolicyApplyConfig,
    PolicySearchConfig,
    TrainConfig,
    WeightersConfig,
)
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import FacekitError, Unfinished, UsageError
from facekit.data.noiseplan import read_plan
from facekit.engines import autoweight, distill, noise, train, weighters
from facekit.weighting.policy import read_policy

NAMES = ("ant", "bee", "cat")
TINY = {"model": "conv3", "epochs": 4, "batch": 8, "threads": 1, "device": "cpu", "clip": 0.0, "log_every": 1}
SEARCH = {"stages": 4, "warm_up": 1, "episodes": 2, "validate_every": 2, "validations": 1}


@pytest.fixture(scope="module", autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


def drawn(folder: Path, count: int, seed: int) -> Path:
    """Three classes of ``count`` 16x16 images, each of a colour of its own under noise."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (16, 16, 3))
            pixels[..., label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("pictures") / "train", 16, seed=0)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("pictures") / "clean", 4, seed=1)


@pytest.fixture(scope="module")
def plan(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "sym.npz"
    noise.run(NoiseConfig(data=pictures, kind="sym", p=0.5, seed=3, out=out))
    return out


@pytest.fixture(scope="module")
def searched(pictures: Path, clean: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    out = tmp_path_factory.mktemp("search") / "run"
    autoweight.search(search_config(pictures, clean, plan, out))
    return out


def search_config(pictures: Path, clean: Path, plan: Path, out: Path, **more: Any) -> PolicySearchConfig:
    return PolicySearchConfig(data=pictures, noise_plan=plan, val=f"classes:{clean}", out=out, **TINY, **SEARCH, **more)


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def weights_of(run: Path) -> list[dict[str, str]]:
    with (run / "weights.csv").open() as stream:
        return list(csv.DictReader(stream))


# --- train --weighter ------------------------------------------------------------------------------------------


def test_clean_only_counts_right_labels_alone_and_leaves_a_table(pictures: Path, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train.run(TrainConfig(data=pictures, noise_plan=plan, weighter="clean_only", out=out, **TINY))
    wrong = read_plan(plan).wrong
    rows = weights_of(out)
    assert [float(row["weight"]) for row in rows] == [0.0 if is_wrong else 1.0 for is_wrong in wrong]
    assert [row["label"] != row["true_label"] for row in rows] == wrong.tolist()
    found = record(out)["weighting"]
    assert found["rule"] == "clean_only" and found["needs"] == ["truth"] and found["auc"] == 1.0
    assert found["mislabelled"] == pytest.approx(wrong.mean()) and 0 <= found["memorised"] <= 1


@pytest.mark.parametrize("rule", ["focal:gamma=1", "self_paced:warm_up=1", "small_loss:tau=0.3,ramp=2", "coteaching",
                                  "fixed:action=-2/0/0", "random:seed=1,stages=4", "l2rw", "mwnet"])  # fmt: skip
def test_every_rule_trains_and_says_what_it_used(
    rule: str, pictures: Path, clean: Path, plan: Path, tmp_path: Path
) -> None:
    out, name = tmp_path / "run", rule.partition(":")[0]
    needs_clean = name in ("l2rw", "mwnet")
    config = TrainConfig(
        data=pictures,
        noise_plan=plan,
        weighter=rule,
        clean=clean if needs_clean else None,
        clean_batch=6,
        out=out,
        **TINY | {"epochs": 2},
    )
    train.run(config)
    found = record(out)
    assert found["status"] == "done" and found["weighting"]["rule"] == rule
    assert (out / "weights.csv").exists() == (name != "focal")
    assert CheckpointStore(out).has("peer") == (name == "coteaching")
    if name not in ("focal", "self_paced"):
        weights = [float(row["weight"]) for row in weights_of(out)]
        assert min(weights) >= 0 and len(set(weights)) > 1


def test_a_weighted_run_resumes_bit_for_bit(pictures: Path, plan: Path, tmp_path: Path) -> None:
    options = {"data": pictures, "noise_plan": plan, "weighter": "self_paced:warm_up=1", **TINY}
    train.run(TrainConfig(out=tmp_path / "whole", **options))
    with pytest.raises(Unfinished):
        train.run(TrainConfig(out=tmp_path / "cut", budget_s=0.01, **options))
    train.run(TrainConfig(out=tmp_path / "cut", resume=True, **options))
    whole, cut = record(tmp_path / "whole"), record(tmp_path / "cut")
    assert whole["weights_sha256"] == cut["weights_sha256"] and whole["weighting"] == cut["weighting"]
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "cut")


def test_uniform_is_what_training_was_before(pictures: Path, tmp_path: Path) -> None:
    """A rule of equal weights changes no bit."""
    train.run(TrainConfig(data=pictures, out=tmp_path / "plain", **TINY))
    train.run(TrainConfig(data=pictures, weighter="fixed:action=0/0/0", out=tmp_path / "equal", **TINY))
    assert record(tmp_path / "plain")["weights_sha256"] == record(tmp_path / "equal")["weights_sha256"]


def test_what_a_weighted_training_refuses(pictures: Path, clean: Path, plan: Path, tmp_path: Path) -> None:
    for options, words, code in (
        ({"weighter": "smal_loss"}, "Did you mean 'small_loss'", "AW-NAME"),
        ({"weighter": "small_loss:taw=1"}, "tau", "AW-NAME"),
        ({"weighter": "small_loss:tau=1.5"}, "tau", "AW-RANGE"),
        ({"weighter": "mwnet"}, "--clean", "AW-CLEAN"),
        ({"weighter": "mwnet", "clean": pictures}, "also training images", "AW-CLEAN"),
        ({"weighter": "clean_only", "noise_plan": None}, "--noise-plan", "AW-TRUTH"),
        ({"weighter": "small_loss", "clean": clean}, "leave it out", None),
        ({"weighter": "small_loss", "seeds": (0, 1)}, "--seeds", None),
    ):
        with pytest.raises(FacekitError, match=words) as caught:
            train.run(TrainConfig(**{"data": pictures, "noise_plan": plan, "out": tmp_path / "run", **TINY, **options}))
        assert caught.value.code == code
        assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_distillation_weighs_its_pointwise_terms(pictures: Path, plan: Path, tmp_path: Path) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "run"
    train.run(TrainConfig(data=pictures, out=teacher, **TINY))
    shared = {key: value for key, value in TINY.items() if key != "model"}
    config = {
        "teacher": teacher,
        "student": "conv3",
        "data": pictures,
        "noise_plan": plan,
        "cache_dir": tmp_path,
        **shared,
    }
    distill.run(DistillConfig(method=("cls", "kd"), weighter="clean_only", out=out, **config))
    assert record(out)["weighting"]["auc"] == 1.0
    with pytest.raises(UsageError, match="add cls"):
        distill.run(DistillConfig(method=("kd",), weighter="clean_only", **config))
    with pytest.raises(UsageError, match="is for facekit train"):
        distill.run(DistillConfig(method=("cls",), weighter="coteaching", **config))


# --- autoweight --------------------------------------------------------------------------------------------------


def test_a_search_leaves_a_policy_that_a_training_can_use(
    searched: Path, pictures: Path, plan: Path, tmp_path: Path
) -> None:
    policy = read_policy(searched / "policy.json")
    assert (policy.stages, policy.warm_up, len(policy.trace)) == (4, 1, 3)
    episodes = json.loads((searched / "episodes.json").read_text())["episodes"]
    assert [episode["search_episode"] for episode in episodes] == [0, 1, None] and episodes[-1]["best"]
    assert episodes[0]["drift"] == 0  # twins under weights 1 are the same network
    assert record(searched)["policy"]["reward"] == policy.reward == pytest.approx(episodes[-1]["reward"])
    out = tmp_path / "run"
    autoweight.apply(
        PolicyApplyConfig(policy=searched / "policy.json", data=pictures, noise_plan=plan, out=out, **TINY)
    )
    weights = [float(row["weight"]) for row in weights_of(out)]
    assert all(0 < weight < 2 for weight in weights) and len(set(weights)) > 1
    same = tmp_path / "same"
    rule = f"law:{searched / 'policy.json'}"
    train.run(TrainConfig(data=pictures, noise_plan=plan, weighter=rule, out=same, **TINY))
    assert record(same)["weights_sha256"] == record(out)["weights_sha256"]


def test_an_interrupted_search_finds_the_same_policy(
    searched: Path, pictures: Path, clean: Path, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(3):  # each gets one step further than it was
        with pytest.raises(Unfinished):
            autoweight.search(search_config(pictures, clean, plan, out, budget_s=0.01, resume=out.exists()))
    autoweight.search(search_config(pictures, clean, plan, out, resume=True))
    assert (out / "policy.json").read_bytes() == (searched / "policy.json").read_bytes()
    assert (out / "episodes.json").read_bytes() == (searched / "episodes.json").read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == (searched / "metrics.jsonl").read_bytes()


def test_what_a_search_refuses(pictures: Path, clean: Path, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for options, words in (
        ({"val": f"classes:{pictures}"}, "also training images"),
        ({"val": None}, "add --val"),
        ({"clip": 1.0}, "--clip 0"),
        ({"dev": "x"}, "--dev"),
        ({"warm_up": 4}, "warm-up"),
        ({"stages": 64, "epochs": 1}, "stages"),
        ({"val_far": 0.1}, "--val-far"),
    ):
        given = {
            "data": pictures,
            "noise_plan": plan,
            "val": f"classes:{clean}",
            "out": out,
            **TINY,
            **SEARCH,
            **options,
        }
        with pytest.raises(FacekitError, match=words):
            autoweight.search(PolicySearchConfig(**given))


def test_a_comparison_tunes_searches_trains_and_goes_on_where_it_stopped(
    pictures: Path, clean: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, test = tmp_path / "out", drawn(tmp_path / "test", 4, seed=2)
    config = WeightersConfig(
        data=pictures,
        noise_plan=plan,
        val=f"classes:{clean}",
        clean=clean,
        test=f"classes:{test}",
        rows=("uniform", "uniform+clean", "clean_only", "small_loss", "coteaching", "law"),
        seeds=(0, 1),
        tune=2,
        clean_epochs=1,
        clean_batch=6,
        draws=100,
        out=out,
        **TINY | {"epochs": 2},
        **SEARCH,
    )
    weighters.run(config)
    assert "coteaching.peer" in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    rows = {row["row"]: row for row in found["rows"]}
    assert set(rows) == {*config.rows, "coteaching.peer"} and all(len(row["values"]) == 2 for row in rows.values())
    assert rows["clean_only"]["weight_mislabelled"] == 0.0 and rows["uniform"]["finding"] is None
    assert rows["small_loss"]["rule"] in ("small_loss:tau=0.4", "small_loss:tau=0.2")
    assert rows["small_loss"]["search_seconds"] > 0 and rows["law"]["search_seconds"] > 0
    assert {"headroom", "rival"} <= set(found) and found["rival"]["row"] in ("uniform", "small_loss")
    assert (out / "results.csv").read_text().count("\n") == len(rows) + 1
    before = {path: path.read_bytes() for path in out.glob("*/seed_*/run.json")}
    weighters.run(config)
    assert {path: path.read_bytes() for path in before} == before
