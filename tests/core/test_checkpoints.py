"""The store: round trips, hostile files, and a kill at every point of a save."""

from __future__ import annotations

import errno
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from facekit.core import checkpoints, files
from facekit.core.checkpoints import CheckpointStore, join_tree, load_checkpoint, read_tensors, split_tree, state_hash
from facekit.core.errors import CorruptFile, InputError, MissingFile, WriteFailed
from facekit.core.files import write_json

WEIGHTS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.int64)}


def test_round_trip_with_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    shared = torch.arange(4.0)
    state = {
        "opt": {"state": {0: {"m": shared}, 1: {"m": shared[:2]}}, "lr": [0.1]},
        "rng": torch.get_rng_state(),
        "n": None,
    }
    store.save("last", WEIGHTS, {"step": 3}, state)
    loaded, back = store.load(), store.load_state()
    assert state_hash(loaded.tensors) == state_hash(WEIGHTS) == loaded.meta["weights_sha256"]
    assert back["opt"]["state"][1]["m"].tolist() == [0.0, 1.0] and back["opt"]["lr"] == [0.1] and back["n"] is None
    assert torch.equal(back["rng"], state["rng"])
    assert load_checkpoint(tmp_path).path == tmp_path / "checkpoints" / "last"


def test_trees_keep_integer_keys_and_types() -> None:
    tensors: dict[str, torch.Tensor] = {}
    tree = {1: torch.ones(1), "x": [True, 2, {"y": torch.zeros(1)}]}
    assert str(join_tree(split_tree(tree, tensors), tensors)) == str(tree)


def test_state_hash_sees_name_type_shape_and_value() -> None:
    base = {"w": torch.zeros(4)}
    others: list[dict[str, torch.Tensor]] = [
        {"v": torch.zeros(4)},
        {"w": torch.zeros(4, dtype=torch.int32)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.tensor([0.0, 0.0, 0.0, -0.0])},
    ]
    assert len({state_hash(x) for x in [base, *others]}) == 5
    nchw = torch.rand(2, 3, 4, 4)
    assert state_hash({"w": nchw}) == state_hash({"w": nchw.to(memory_format=torch.channels_last)})


@pytest.mark.parametrize("point", range(40))
def test_a_kill_at_any_file_operation_leaves_one_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """Every rename and removal of a save is a place to die; what is left must load as the old or the new state."""
    store = CheckpointStore(tmp_path)
    store.save("last", WEIGHTS, {"step": 1}, {"n": 1})
    calls = 0

    class Killed(BaseException):
        pass

    def dying(real: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == point + 1:
                raise Killed
            return real(*args, **kw)

        return call

    with monkeypatch.context() as patch:
        for module, name in [(os, "rename"), (os, "replace"), (os, "fsync"), (checkpoints.shutil, "rmtree")]:
            patch.setattr(module, name, dying(getattr(module, name)))
        try:
            store.save("last", {"a": torch.zeros(1)}, {"step": 2}, {"n": 2})
            survived = True
        except Killed:
            survived = False
    again = CheckpointStore(tmp_path)
    assert again.has("last")
    step = again.load().meta["step"]
    assert step == again.load_state()["n"] and step in (1, 2)
    if survived:
        assert step == 2 and point >= calls
    again.save("last", WEIGHTS, {"step": 3}, {"n": 3})
    again.clean()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["last"]


def test_a_full_disk_is_one_sentence_and_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save("last", WEIGHTS, {"step": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        store.save("last", {"a": torch.zeros(1)}, {"step": 2})
    monkeypatch.undo()
    assert CheckpointStore(tmp_path).load().meta["step"] == 1


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save("last", WEIGHTS, {})
    file = tmp_path / "checkpoints" / "last" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match="damaged or was replaced"):
        CheckpointStore(tmp_path).load()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files_are_explained(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        torch.save(WEIGHTS, whole)
    else:
        checkpoints.write_tensors(whole, WEIGHTS)
    data = whole.read_bytes()
    for size in [0, 1, 7, 8, 9, len(data) // 2, len(data) - 1]:
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(data[:size])
        with pytest.raises((CorruptFile, InputError)):
            read_tensors(cut)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/facekit_was_here",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_foreign_globals_run_nothing(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "evil.pt"
    torch.save({"w": Evil()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="posix.system|system"):
        read_tensors(file)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Evil()))
    with pytest.raises((InputError, CorruptFile)):
        read_tensors(plain)
    assert not Path("/tmp/facekit_was_here").exists()


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    file = tmp_path / "bomb.pt"
    file.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="never compresses"):
        read_tensors(file)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="does not exist"):
        read_tensors(tmp_path / "no.pt")
    with pytest.raises(MissingFile, match="no checkpoint"):
        load_checkpoint(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"schema": "facekit.run/1", "status": "running"})
    with pytest.raises(MissingFile, match="holds no checkpoint yet .the run is running."):
        load_checkpoint(tmp_path)
