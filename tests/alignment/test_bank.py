"""Support banks: what an entry is, and that a file is read back exactly or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekit.alignment.bank import (
    KINDS,
    SupportBank,
    bank_of,
    check_leak,
    read_bank,
    require_model,
    write_bank,
)
from facekit.alignment.errors import BadEmbedding, IdentityLeak, OtherModel, UnknownAlignment
from facekit.alignment.rows import unit
from facekit.alignment.virtual import noise
from facekit.core.errors import CorruptFile, FacekitError, MissingFile
from tests.alignment.sphere import MODEL, PREPROC, made, random_bank, random_images


def small(reduce: str = "single") -> SupportBank:
    """Three people with 2, 1 and 3 images, not in order."""
    people = ["Cem", "Ann", "Bob", "Cem", "Ann", "Cem"]
    samples = ["c2", "a10", "b1", "c1", "a9", "c3"]
    vectors = random_images(6, width=4)
    return bank_of(vectors, people, samples, "train", model_sha=MODEL, preproc_sha=PREPROC, reduce=reduce, seed=7)


# --- entries --------------------------------------------------------------------------------------------------


def test_single_takes_the_smallest_sample_id_in_string_order() -> None:
    bank = small()
    entries = bank.entries()
    assert entries.people == ("Ann", "Bob", "Cem")
    np.testing.assert_array_equal(entries.vectors, bank.embeddings[[1, 2, 3]])  # "a10" < "a9"
    assert entries.starts.tolist() == [0, 1, 2, 3]


def test_centre_is_the_unit_mean() -> None:
    bank = small("centre")
    wanted = [bank.embeddings[rows].astype(np.float64).mean(axis=0) for rows in ([1, 4], [2], [0, 3, 5])]
    np.testing.assert_allclose(bank.entries().vectors, unit(np.array(wanted)), atol=1e-7)


def test_max_keeps_all_rows_person_by_person() -> None:
    bank = small("max")
    entries = bank.entries()
    np.testing.assert_array_equal(entries.vectors, bank.embeddings[[1, 4, 2, 3, 0, 5]])
    assert entries.starts.tolist() == [0, 2, 3, 6]


def test_a_person_without_rows_is_no_entry() -> None:
    bank = small()
    assert dataclasses.replace(bank, identities=("Ann", "Bob", "Cem", "Dan")).entries().people == ("Ann", "Bob", "Cem")


def test_images_that_cancel_out_have_no_centre() -> None:
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    bank = made(vectors, ["Ann", "Ann", "Bob"], reduce="centre")
    with pytest.raises(BadEmbedding, match="Ann"):
        bank.entries()


def test_unknown_reduce_and_broken_rows_are_refused() -> None:
    with pytest.raises(UnknownAlignment, match="single, centre, max"):
        made(random_images(3), ["a", "b", "c"], reduce="mean")
    rows = random_images(3)
    rows[1] = np.nan
    with pytest.raises(BadEmbedding, match="row 1"):
        made(rows, ["a", "b", "c"])
    rows[1] = [2.0, *[0.0] * 15]
    bank = made(rows, ["a", "b", "c"])
    np.testing.assert_array_equal(bank.embeddings[1], [1.0, *[0.0] * 15])
    assert "1 of 3" in bank.notes[0]


# --- files ----------------------------------------------------------------------------------------------------


def same_bank(first: SupportBank, second: SupportBank) -> bool:
    arrays = ("embeddings", "labels", "source")
    rest = ("identities", "sample_ids", "reduce", "seed", "model_sha", "preproc_sha", "parent", "report", "sha")
    return all(
        getattr(first, a).dtype == getattr(second, a).dtype and np.array_equal(getattr(first, a), getattr(second, a))
        for a in arrays
    ) and all(getattr(first, name) == getattr(second, name) for name in rest)


@pytest.mark.parametrize(
    "bank",
    [
        small("centre"),
        random_bank(3, each=2, reduce="max"),
        noise(8, candidates=12, model_sha=MODEL, preproc_sha=PREPROC, seed=3),
        dataclasses.replace(small(), parent="c" * 64, report={"sigma": 0.5, "kept": {"twice": 3}}),
        bank_of(np.eye(2), ["Zoë\udc80", ""], ["", "日本.jpg"], "cohort", model_sha="", preproc_sha=""),
    ],
    ids=["centre", "max", "noise", "virtual", "names"],
)
def test_a_file_is_read_back_exactly(bank: SupportBank, tmp_path: Path) -> None:
    path = write_bank(tmp_path / "bank.npz", bank)
    assert same_bank(read_bank(path), bank)


def test_the_file_is_what_the_page_says(tmp_path: Path) -> None:
    bank = small()
    with np.load(write_bank(tmp_path / "bank.npz", bank), allow_pickle=False) as stored:
        assert stored["emb"].dtype == np.dtype("<f4")
        assert stored["label"].dtype == np.dtype("<i8")
        assert stored["source"].tolist() == [KINDS.index("train")] * 6 == [1] * 6
        assert [str(stored["identity"][i]) for i in stored["label"]] == ["Cem", "Ann", "Bob", "Cem", "Ann", "Cem"]
        assert str(stored["bank_sha"]) == bank.sha
        assert [str(stored[k]) for k in ("reduce", "seed", "model_sha", "preproc_sha", "parent")] == [
            "single", "7", MODEL, PREPROC, "",
        ]  # fmt: skip


def test_the_hash_is_that_of_the_written_rule() -> None:
    bank = small()
    rest = {
        "shape": [6, 4], "identity": ["Ann", "Bob", "Cem"], "sample_id": ["c2", "a10", "b1", "c1", "a9", "c3"],
        "reduce": "single", "seed": 7, "model_sha": MODEL, "preproc_sha": PREPROC, "parent": "", "report": {},
    }  # fmt: skip
    content = bank.embeddings.tobytes() + bank.labels.tobytes() + bank.source.tobytes()
    wanted = hashlib.sha256(content + json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert bank.sha == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([2, 0, 1, 2, 0, 1])},
        {"source": np.zeros(6, np.uint8)},
        {"sample_ids": ("c2", "a10", "b1", "c1", "a9", "c4")},
        {"identities": ("Ann", "Bob", "Dan")},
        {"reduce": "max"},
        {"seed": 8},
        {"model_sha": "c" * 64},
        {"preproc_sha": "c" * 64},
        {"parent": "c" * 64},
        {"report": {"sigma": 1.0}},
        {"embeddings": random_images(6, width=4, seed=2).astype(np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_is_in_the_hash(change: dict[str, object]) -> None:
    assert dataclasses.replace(small(), **change).sha != small().sha


def rewritten(path: Path, **changes: object) -> Path:
    """The bank file with some arrays changed or, for None, gone."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored) | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None}, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"emb": None},
        {"emb": np.eye(4)},
        {"emb": np.ones((6, 4), np.float32)},
        {"emb": np.zeros((0, 4), np.float32)},
        {"emb": np.float32(1)},
        {"label": np.zeros(5, np.int64)},
        {"label": np.full(6, 3)},
        {"label": np.full(6, -1)},
        {"source": np.full(6, 6, np.uint8)},
        {"sample_id": np.array(["a"])},
        {"sample_id": np.array([{"a": 1}] * 6, dtype=object)},
        {"identity": np.array(["Ann", "Ann", "Cem"])},
        {"identity": np.array([1, 2, 3])},
        {"reduce": np.array("mean")},
        {"reduce": np.array(["single"])},
        {"seed": np.array(1.5)},
        {"report": np.array("{")},
        {"report": np.array("[" * 100_000)},
        {"report": np.array("[]")},
        {"model_sha": np.array("d" * 64)},
        {"bank_sha": np.array("d" * 64)},
    ],
    ids=lambda c: f"{next(iter(c))}",
)
def test_what_was_not_written_so_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    path = rewritten(write_bank(tmp_path / "bank.npz", small()), **changes)
    with pytest.raises(CorruptFile, match="bank.npz"):
        read_bank(path)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = write_bank(tmp_path / "bank.npz", small())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = members["emb.npy"]
    assert b"(6, 4), }           " in header
    members["emb.npy"] = header.replace(b"(6, 4), }           ", b"(60000000000, 4), } ")
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(CorruptFile):
            read_bank(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_reads_the_same(data: st.DataObject, tmp_path: Path) -> None:
    bank = small()
    content = bytearray(write_bank(tmp_path / "bank.npz", bank).read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        found = read_bank(path)
    except FacekitError:
        return
    assert same_bank(found, bank)  # times, attributes and padding of the archive mean nothing


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="align-eval bank"):
        read_bank(tmp_path / "no.npz")
    with pytest.raises(MissingFile):
        read_bank(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(CorruptFile):
        read_bank(tmp_path / "text.npz")


# --- use ------------------------------------------------------------------------------------------------------


def flipped(sha: str) -> str:
    return ("0" if sha[0] != "0" else "1") + sha[1:]


def test_another_model_or_preprocessing_is_refused_with_both_hashes() -> None:
    bank = small()
    require_model(bank, MODEL, PREPROC)
    for model, preproc in ((flipped(MODEL), PREPROC), (MODEL, flipped(PREPROC))):
        with pytest.raises(OtherModel) as refused:
            require_model(bank, model, preproc)
        assert (refused.value.code, refused.value.exit_code) == ("ALIGN-HASH", 1)
        changed = (MODEL, model) if model != MODEL else (PREPROC, preproc)
        assert all(sha in str(refused.value) for sha in changed)


def test_people_of_the_bank_must_not_be_tested_unless_it_is_the_gallery() -> None:
    bank = small()
    check_leak(bank, ["Dan", None])
    with pytest.raises(IdentityLeak, match="1 people.*Cem") as refused:
        check_leak(bank, ["Dan", None, "Cem"])
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-LEAK", 1)
    check_leak(made(random_images(3), ["Ann", "Bob", "Cem"], "gallery"), ["Cem"])
