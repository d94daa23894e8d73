"""What was chosen is kept exactly, and refused for anything else than it was chosen for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from facekit.alignment.errors import CentreBank, DevOverlap, NeedsDev, OtherModel
from facekit.alignment.policy import (
    Policy,
    choose_alpha,
    read_policy,
    require_apart,
    require_dev_for_centres,
    require_policy,
    transductive_notes,
    write_policy,
)
from facekit.alignment.settings import ALPHAS, Settings
from facekit.alignment.statistics import Reference
from facekit.core.errors import CorruptFile, MissingFile

POLICY = Policy(
    score="dao",
    settings=Settings(alpha=0.7, radius=0.25, same_above=0.9),
    reference=Reference(0.125, 0.0625, 0.75),
    support="cohort",
    model_sha="a" * 64,
    preproc_sha="b" * 64,
    bank_sha="c" * 64,
    dev_sha="d" * 64,
    alphas={0.0: 0.5, 0.7: 0.625},
)


def test_a_policy_is_read_back_exactly(tmp_path: Path) -> None:
    for policy in (POLICY, dataclasses.replace(POLICY, bank_sha=None, estimator_sha="e" * 64, alphas={})):
        assert read_policy(write_policy(tmp_path / "policy.json", policy)) == policy


@pytest.mark.parametrize(
    "change",
    [
        {"score": 3},
        {"extra": 1},
        {"bank_sha": 5},
        {"model_sha": None},
        {"alphas": [[0.1]]},
        {"alphas": [["a", 1]]},
        {"alphas": 3},
        {"settings": {}},
        {"settings": 3},
        {"settings": dataclasses.asdict(Settings()) | {"alpha": "0.5"}},
        {"settings": dataclasses.asdict(Settings()) | {"alpha": True}},
        {"settings": dataclasses.asdict(Settings()) | {"alpha": 3}},
        {"settings": dataclasses.asdict(Settings()) | {"neighbours": 5.5}},
        {"settings": dataclasses.asdict(Settings()) | {"operator": "mul"}},
        {"reference": {"dbar": 0.1, "vbar": 0.1}},
        {"reference": {"dbar": float("nan"), "vbar": 0.1, "rbar": 1}},
    ],
)
def test_what_is_no_policy_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = write_policy(tmp_path / "policy.json", POLICY)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptFile, match="not a policy"):
        read_policy(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_policy(tmp_path / "no.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CorruptFile):
        read_policy(tmp_path / "list.json")


def test_a_policy_is_for_one_model_one_preprocessing_and_one_bank() -> None:
    right = {"model_sha": "a" * 64, "preproc_sha": "b" * 64, "bank_sha": "c" * 64, "estimator_sha": None}
    require_policy(POLICY, **right)
    for name, value in right.items():
        wrong = "e" * 64 if value is None else "0" + value[1:]
        with pytest.raises(OtherModel, match=wrong) as refused:
            require_policy(POLICY, **(right | {name: wrong}))
        assert refused.value.code == "ALIGN-HASH"
    with pytest.raises(OtherModel, match="none"):
        require_policy(POLICY, "a" * 64, "b" * 64)


# --- choosing ----------------------------------------------------------------------------------------------


def test_the_best_dev_tar_wins_and_the_smaller_alpha_of_equals() -> None:
    tars = dict(zip(ALPHAS, (0.5, 0.6, 0.9, 0.7, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1), strict=True))
    alpha, table = choose_alpha(tars.__getitem__)
    assert (alpha, table) == (0.3, tars)
    assert choose_alpha(lambda alpha: 1.0)[0] == 0.0
    assert choose_alpha(lambda alpha: alpha, (0.7, 0.2))[0] == 0.7


def test_a_choice_needs_dev_people() -> None:
    with pytest.raises(NeedsDev, match="--dev") as refused:
        choose_alpha(None)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-DEV", 2)
    assert choose_alpha(None, (0.5,)) == (0.5, {})


def test_dev_and_test_people_must_be_apart() -> None:
    require_apart(["Ann", None], ["Bob", None])
    with pytest.raises(DevOverlap, match="2 people.*Ann, Bob") as refused:
        require_apart(["Ann", "Bob", None], ["Bob", "Cem", "Ann"])
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-DEV", 1)


def test_strong_alignment_by_centres_needs_dev_people() -> None:
    with pytest.raises(CentreBank, match="--dev") as refused:
        require_dev_for_centres("centre", 0.7, has_dev=False)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-CENTRE", 1)
    require_dev_for_centres("centre", 0.6, has_dev=False)
    require_dev_for_centres("centre", 1.0, has_dev=True)
    require_dev_for_centres("single", 1.0, has_dev=False)


def test_what_depends_on_other_test_images_is_told() -> None:
    assert transductive_notes(("raw", "dao"), "cohort") == []
    assert len(transductive_notes(("raw", "rerank"), "gallery")) == 2
    assert all("transductive" in note for note in transductive_notes(("rerank",), None))
