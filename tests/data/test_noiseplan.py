"""Noise plans as files: what is written is read, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, FacekitError, MissingFile
from facekit.data.noise import make_plan
from facekit.data.noiseplan import ARRAYS, HASH, KINDS, SETTINGS, NoisePlan, UnknownImages, read_plan, write_plan
from facekit.data.sources import open_source


@pytest.fixture
def plan(people: Path) -> NoisePlan:
    return make_plan(open_source(people), "sym", 0.6, 3)


def fields(plan: NoisePlan) -> list[Any]:
    return [getattr(plan, name).tolist() for name in ARRAYS] + [getattr(plan, name) for name in SETTINGS]


def rewritten(path: Path, **changes: Any) -> Path:
    """The plan's file with some entries replaced, or left out where None is given; its hash is made to fit."""
    with np.load(path, allow_pickle=False) as stored:
        entries = {name: stored[name] for name in stored.files}
    entries.update({name: None if value is None else np.asarray(value) for name, value in changes.items()})
    if HASH not in changes and all(entries[name] is not None and not entries[name].ndim for name in SETTINGS):
        settings = {name: entries[name].item() for name in SETTINGS}
        if all(entries[name] is not None for name in ARRAYS):
            entries[HASH] = np.array(NoisePlan(**settings, **{name: entries[name] for name in ARRAYS}).sha256)
    forged = path.with_name("forged.npz")
    np.savez(forged, **{name: value for name, value in entries.items() if value is not None})
    return forged


def test_a_plan_is_read_as_it_was_written(people: Path, tmp_path: Path) -> None:
    source = open_source(people)
    for kind in KINDS:
        made = make_plan(source, kind, 0.6, 3, exclude_self=kind == "sym", imbalance=2)
        write_plan(tmp_path / "plan.npz", made)
        read = read_plan(tmp_path / "plan.npz")
        assert fields(read) == fields(made) and read.sha256 == made.sha256
        assert all(getattr(read, name).dtype == np.int64 and getattr(read, name).flags.writeable for name in ARRAYS)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["plan.npz"], "no half-written file is left"


def test_every_field_is_part_of_the_hash(plan: NoisePlan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.npz", plan)
    others: dict[str, Any] = {
        "sample_id": plan.sample_id + 1,
        "true_label": plan.true_label[::-1],
        "noisy_label": plan.noisy_label[::-1],
        "kind": "flip",
        "p": 0.5,
        "seed": 4,
        "exclude_self": True,
        "imbalance": 2.0,
        "fingerprint": "f" * 64,
        "names_sha256": "0" * 64,
    }
    assert set(others) == {*ARRAYS, *SETTINGS}
    for name, value in others.items():
        with pytest.raises(CorruptFile, match="its content is not what was written"):
            read_plan(rewritten(tmp_path / "plan.npz", **{name: value, HASH: plan.sha256}))
        assert read_plan(rewritten(tmp_path / "plan.npz", **{name: value})).sha256 != plan.sha256


def test_rows_that_are_missing_or_not_unique_are_refused(plan: NoisePlan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.npz", plan)
    rows = plan.sample_id
    for sample_id in (None, np.where(rows == 3, 2, rows), rows[::-1], rows - 1):
        with pytest.raises(UnknownImages) as refused:
            read_plan(rewritten(tmp_path / "plan.npz", sample_id=sample_id))
        assert refused.value.code == "AW-IDS"


@pytest.mark.parametrize(
    "change",
    [
        {"noisy_label": None},
        {"noisy_label": np.zeros(10, np.float64)},
        {"noisy_label": np.zeros((10, 1), np.int64)},
        {"noisy_label": np.zeros(9, np.int64)},
        {"sample_id": np.zeros(0, np.int64), "true_label": np.zeros(0, np.int64), "noisy_label": np.zeros(0, np.int64)},
        {"kind": "\x1b[31msym"},
        {"kind": 7},
        {"p": "0.4"},
        {"p": [0.4]},
        {"seed": None},
        {"exclude_self": 1},
        {HASH: None},
    ],
)
def test_forged_entries_are_refused(plan: NoisePlan, tmp_path: Path, change: dict[str, Any]) -> None:
    write_plan(tmp_path / "plan.npz", plan)
    with pytest.raises(CorruptFile, match="Make it again with: facekit data noise") as refused:
        read_plan(rewritten(tmp_path / "plan.npz", **change))
    assert str(refused.value).isprintable()


def test_no_flipped_byte_changes_a_plan(plan: NoisePlan, tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    write_plan(path, plan)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 17):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            assert fields(read_plan(path)) == fields(plan), f"byte {at}"  # a date in the zip's own directory
        except FacekitError:
            refused += 1
    assert refused > len(whole) / 17 * 0.6


def test_other_files_are_explained(people: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_plan(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("sample_id")
    with pytest.raises(CorruptFile, match="no whole file|not a whole file"):
        read_plan(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", sample_id=np.array([{}], dtype=object))
    with pytest.raises(CorruptFile):
        read_plan(tmp_path / "objects.npz")


def test_a_plan_describes_itself(people: Path) -> None:
    source = open_source(people)
    plan = make_plan(source, "face-id", 0.25, 2)
    count = int(plan.wrong.sum())
    assert plan.describe() == f"face-id noise (p 0.25, seed 2): {count} of 10 labels are wrong ({10 * count}.0 %)"
    assert make_plan(source, "longtail", imbalance=3).describe() == "long tail (imbalance 3, seed 0): 7 images stay"
