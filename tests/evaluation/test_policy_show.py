"""``facekit autoweight show``: the numbers that it tells are those of the policy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from facekit.configs import PolicyShowConfig
from facekit.core.errors import InputError
from facekit.engines import policy_show
from facekit.weighting.policy import Moment, write_policy
from tests.weighting.policies import policy

pytest.importorskip("matplotlib")

TRACE = (
    Moment((1.0, 0.9, 0.8, 1.0), (-2.0, 0.5, 0.25)),
    Moment((2.0, 0.7, 1.1, 1.0), (-1.0, 0.0, 0.5)),
    Moment((3.0, 0.5, 1.2, 0.1), (1.0, 0.0, 0.0)),
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and one test draws them."""
    monkeypatch.setattr(policy_show, "write_policy_figures", lambda drawing, folder: [folder / "weights.svg"])


def test_json_tells_actions_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_policy(tmp_path / "policy.json", replace(policy(), trace=TRACE))
    policy_show.run(PolicyShowConfig(policy=tmp_path / "policy.json", json=True))
    content = json.loads(capsys.readouterr().out)
    assert (content["reward"], content["stages"], content["warm_up"]) == (0.1 + 0.2, 4, 1)
    assert content["source"] == {"data": "a" * 64, "noise": "b" * 64}
    assert [row["stage"] for row in content["trace"]] == [2, 3, 4]
    assert content["trace"][0]["action"] == {"loss_norm": -2, "entropy_norm": 0.5, "bias": 0.25}
    for row in content["trace"]:
        for at, weight in row["weight_at"].items():
            score = row["action"]["loss_norm"] * float(at) + row["action"]["bias"]
            assert weight == pytest.approx(1 + math.tanh(score), rel=1e-5, abs=1e-6)
    assert all(Path(figure).is_file() for figure in content["figures"])
    assert {Path(figure).parent for figure in content["figures"]} == {tmp_path / "show"}


def test_the_screen_tells_source_reward_and_every_stage(
    undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_policy(tmp_path / "policy.json", replace(policy(), trace=TRACE))
    policy_show.run(PolicyShowConfig(policy=tmp_path / "policy.json", out=tmp_path / "figures"))
    out = capsys.readouterr().out
    assert "best reward +0.300" in out and "a" * 64 in out and "4 stages, 1 of them warm-up" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["2", "0.90", "1", "-2.00", "+0.50", "+0.25", "1.98", "1.24", "0.06", "0.00"] in lines


def test_the_map_is_the_weight_of_the_policy() -> None:
    drawing = policy_show.drawing_of(replace(policy(), trace=TRACE))
    assert [stage.action is None for stage in drawing.stages] == [True, False, False, False]
    weight = drawing.stages[1].weight
    assert weight is not None
    low, high = drawing.grid[10], drawing.grid[40]
    assert weight[40, 10] == pytest.approx(1 + math.tanh(-2.0 * low + 0.5 * high + 0.25), rel=1e-4)


def test_a_hidden_layer_is_told_without_naming_its_numbers(
    undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_policy(tmp_path / "policy.json", policy(hidden=4))
    policy_show.run(PolicyShowConfig(policy=tmp_path / "policy.json", out=tmp_path / "figures"))
    out = capsys.readouterr().out
    assert "hidden layer of 4" in out and "number 1" not in out and "at +1" in out


def test_a_policy_without_a_trace_is_refused(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.json", replace(policy(), trace=()))
    with pytest.raises(InputError, match="no trace of its actions"):
        policy_show.run(PolicyShowConfig(policy=tmp_path / "policy.json"))
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
