"""A policy is read back exactly, and refused where a byte or a size is another."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from facekit.core.checkpoints import write_tensors
from facekit.core.errors import CorruptFile, FacekitError, MissingFile
from facekit.core.files import sha256_file
from facekit.weighting.errors import NotANumber, OtherSearch, UnknownWeighting, WrongAction, WrongStages
from facekit.weighting.policy import Moment, actor_file, digest, read_policy, write_policy
from facekit.weighting.profiles import ProfileName
from tests.weighting.policies import actor_state, policy

PROFILE_NAMES: tuple[ProfileName, ...] = ("short", "middle", "paper")


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_the_same_actions_bit_for_bit(profile: ProfileName, tmp_path: Path) -> None:
    made = policy(profile=profile, hidden=2)
    back = read_policy(write_policy(tmp_path / "p" / "policy.json", made))
    states = torch.rand(50, 4, generator=Generator().manual_seed(0)) * torch.tensor([3.99, 1, 1, 1])
    actions = made.network()(states)
    assert torch.equal(back.network()(states), actions)
    assert not actions.requires_grad
    assert actions.std(dim=0).min() > 0.01, "an actor that always says the same proves nothing"


def test_everything_else_is_read_back_exactly(tmp_path: Path) -> None:
    made = policy()
    back = read_policy(write_policy(tmp_path / "policy.json", made))
    fields = [field.name for field in dataclasses.fields(made) if field.name != "actor"]
    assert {f: getattr(back, f) for f in fields} == {f: getattr(made, f) for f in fields}


def test_a_flipped_byte_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "policy.json", policy())
    for file, error in ((actor_file(path), OtherSearch), (path, CorruptFile)):
        whole = file.read_bytes()
        for place in range(3, len(whole), len(whole) // 40):
            if whole[place : place + 1].isspace():
                continue  # the layout of a JSON file says nothing
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(error):
                read_policy(path)
        file.write_bytes(whole)
    read_policy(path)


def test_another_actor_beside_it_is_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "policy.json", policy())
    write_tensors(actor_file(path), {name: t + 1 for name, t in policy().actor.items()})
    with pytest.raises(OtherSearch, match="not the actor") as error:
        read_policy(path)
    assert error.value.code == "AW-HASH"


def forged(path: Path, change: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Path:
    """A policy with other content, whose hashes are right: not damaged, but made so."""
    write_policy(path, policy())
    if tensors is not None:
        write_tensors(actor_file(path), tensors)
    content = json.loads(path.read_text()) | {"actor_sha256": sha256_file(actor_file(path))} | change
    del content["sha256"]
    path.write_text(json.dumps(content | {"sha256": digest(content)}))
    return path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"features": ["loss_norm", "luck"]}, OtherSearch),
        ({"features": 3}, OtherSearch),
        ({"features": ["loss_norm"]}, WrongAction),
        ({"profile": "long"}, OtherSearch),
        ({"profile": "paper"}, OtherSearch),
        ({"profile": []}, OtherSearch),
        ({"stages": 5}, OtherSearch),
        ({"stages": 10**12}, OtherSearch),
        ({"stages": True}, OtherSearch),
        ({"stages": 4.0}, OtherSearch),
        ({"warm_up": 4}, OtherSearch),
        ({"hidden": 10**12}, OtherSearch),
        ({"hidden": -1}, OtherSearch),
        ({"bound": 2.0}, OtherSearch),
        ({"bound": "x"}, OtherSearch),
        ({"reward": None}, OtherSearch),
        ({"trace": [{"state": [1, 2, 3, 4], "action": [1]}]}, WrongAction),
        ({"trace": [{"state": [1], "action": [1, 2, 3]}]}, OtherSearch),
        ({"trace": [3]}, OtherSearch),
        ({"source": []}, OtherSearch),
        ({"actor_sha256": 3}, OtherSearch),
    ],
)
def test_what_no_search_leaves_is_refused(change: dict[str, Any], error: type[FacekitError], tmp_path: Path) -> None:
    with pytest.raises(error):
        read_policy(forged(tmp_path / "policy.json", change))


def test_a_field_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "policy.json", policy())
    content = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"stages", "sha256"}}
    path.write_text(json.dumps(content | {"sha256": digest(content)}))
    with pytest.raises(OtherSearch, match="stages"):
        read_policy(path)


def test_an_actor_of_other_sizes_is_refused(tmp_path: Path) -> None:
    right = actor_state(4, 3)
    first = next(iter(right))
    cases: list[tuple[dict[str, Tensor], type[FacekitError]]] = [
        (actor_state(4, 4), WrongAction),
        (actor_state(5, 3), OtherSearch),
        ({"a": torch.zeros(3)}, OtherSearch),
        (right | {first: right[first].double()}, OtherSearch),
        (right | {first: torch.full_like(right[first], math.nan)}, NotANumber),
    ]
    for tensors, error in cases:
        with pytest.raises(error) as caught:
            read_policy(forged(tmp_path / "policy.json", {}, tensors))
        assert caught.value.code in {"AW-ACTION", "AW-HASH", "AW-NAN"}


def test_a_file_far_too_large_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = forged(tmp_path / "policy.json", {}, {"a": torch.zeros(1_000_000)})
    monkeypatch.setattr("facekit.weighting.policy.sha256_file", lambda file: pytest.fail("read"))
    with pytest.raises(OtherSearch):
        read_policy(path)


def test_a_policy_checks_itself_before_it_is_written() -> None:
    good = policy()
    with pytest.raises(WrongStages):
        dataclasses.replace(good, warm_up=4)
    with pytest.raises(UnknownWeighting):
        dataclasses.replace(good, profile="long")
    with pytest.raises(UnknownWeighting):
        dataclasses.replace(good, features=("loss_norm", "luck"))
    with pytest.raises(WrongAction):
        dataclasses.replace(good, features=("loss_norm",), trace=())
    with pytest.raises(WrongAction):
        dataclasses.replace(good, trace=(Moment((1.0, 1.0, 1.0, 1.0), (1.0,)),))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_policy(tmp_path / "no.json")
    for content in ("[]", "{}", '{"schema": "facekit.policy/1"}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(CorruptFile):
            read_policy(tmp_path / "other.json")
    path = write_policy(tmp_path / "policy.json", policy())
    actor_file(path).unlink()
    with pytest.raises(MissingFile, match="beside it"):
        read_policy(path)
