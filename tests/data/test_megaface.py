"""MegaFace folders of every layout: lists, images, features, embeddings, noise, and what is missing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import CorruptFile, InputError, MissingFile, UsageError
from facekit.data.megaface import MegaFaceSet, open_megaface

PROBES = ["Ann/Ann_1.jpg", "Ann/Ann_2.jpg", "Ann/Ann_3.jpg", "Bob_B/Bob_B_1.jpg", "Bob_B/Bob_B_2.jpg"]
CROWD = ["1/a/x.jpg", "1/b/y.jpg", "2/a/x.jpg", "2/c/z.jpg"]


def vector(name: str, width: int = 6) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).normal(size=width).astype(np.float32)


def write_feature(root: Path, name: str, width: int = 6, algo: str = "r50") -> Path:
    path = root / f"{name}_{algo}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<4i", width, 1, 4, 5) + vector(name, width).tobytes())
    return path


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Both lists and both noise lists; no image yet."""
    (tmp_path / "facescrub_lst").write_text("".join(f"/somewhere/else/{name}\n" for name in PROBES))
    (tmp_path / "megaface_lst").write_text("".join(f"{name}\n" for name in CROWD))
    (tmp_path / "facescrub_noises.txt").write_text("# bare names\nAnn_2.jpg\nZoe_9.jpg\n")
    (tmp_path / "megaface_noises.txt").write_text("# path, or number and path\n12\t1/b/y.jpg\n2/c/z.jpg\n")
    return tmp_path


@pytest.fixture
def features(lists: Path) -> Path:
    for name in PROBES:
        write_feature(lists / "feature_out" / "facescrub", name)
    for name in CROWD:
        write_feature(lists / "feature_out" / "megaface", name)
    return lists


def embeddings(found: MegaFaceSet) -> tuple[np.ndarray, np.ndarray]:
    return found.probes.embeddings[found.probe], found.distractors.embeddings[found.distractor]  # type: ignore[attr-defined]


def stacked(names: list[str]) -> np.ndarray:
    return np.stack([vector(name) for name in names])[:, None]


def test_features_are_read_when_asked_for(features: Path) -> None:
    found = open_megaface(features, "original")
    probes, crowd = embeddings(found)
    assert np.array_equal(probes, stacked(PROBES)) and np.array_equal(crowd, stacked(CROWD))
    assert found.people == ("Ann", "Bob_B") and found.person.tolist() == [0, 0, 0, 1, 1]
    assert (found.failed, found.notes, found.noise) == (0, (), "original")
    assert found.distractors.embeddings.shape == (4, 1, 6)  # type: ignore[attr-defined]
    assert np.array_equal(found.distractors.embeddings[2], vector(CROWD[2])[None])  # type: ignore[attr-defined]
    assert len(found.distractors.fingerprint) == 64


def test_noise_lists_are_dropped_or_replaced(features: Path) -> None:
    cleaned = open_megaface(features, "cleaned")
    probes, crowd = embeddings(cleaned)
    assert np.array_equal(probes, stacked([n for n in PROBES if n != "Ann/Ann_2.jpg"]))
    assert np.array_equal(crowd, stacked(["1/a/x.jpg", "2/a/x.jpg"]))
    assert cleaned.person.tolist() == [0, 0, 1, 1] and not cleaned.replaced.any() and not cleaned.ignored.any()
    replaced = open_megaface(features, "insightface", seed=4)
    assert embeddings(replaced)[0].shape == (5, 1, 6) and embeddings(replaced)[1].shape == (4, 1, 6)
    assert replaced.replaced.tolist() == [False, True, False, False, False]
    assert replaced.ignored.tolist() == [False, True, False, True] and replaced.seed == 4
    assert "1 of 5 facescrub images are noise (2 are listed)" in replaced.notes
    assert "2 of 4 megaface images are noise (2 are listed)" in cleaned.notes


def test_a_person_without_clean_probes_has_no_centre(features: Path) -> None:
    (features / "facescrub_noises.txt").write_text("Bob_B_1.jpg\nBob_B_2.jpg\n")
    with pytest.raises(InputError, match="all probes of Bob_B are noise"):
        open_megaface(features, "insightface")
    assert open_megaface(features, "cleaned").people == ("Ann",)


def test_noise_list_is_needed_where_it_is_asked_for(features: Path) -> None:
    (features / "megaface_noises.txt").unlink()
    with pytest.raises(MissingFile, match=r"megaface_noises.txt does not exist"):
        open_megaface(features, "cleaned")
    assert len(open_megaface(features, "original").distractor) == 4
    with pytest.raises(UsageError, match="unknown noise list 'clean'"):
        open_megaface(features, "clean")


def test_what_is_missing_is_counted_and_named(features: Path) -> None:
    root = features / "feature_out"
    (root / "megaface" / "1/a/x.jpg_r50.bin").unlink()
    (root / "facescrub" / "Ann/Ann_3.jpg_r50.bin").write_bytes(b"short")
    found = open_megaface(features, "original")
    probes, crowd = embeddings(found)
    assert np.array_equal(crowd, stacked(CROWD[1:])) and np.array_equal(probes, stacked(PROBES[:2] + PROBES[3:]))
    assert found.failed == 2
    assert found.notes == (
        "1 of 5 images cannot be used: Ann/Ann_3.jpg: its feature has 5 bytes",
        "1 of 4 images cannot be used: 1/a/x.jpg: there is no feature",
    )


def test_nothing_there_is_an_error(features: Path) -> None:
    for name in CROWD:
        (features / "feature_out" / "megaface" / f"{name}_r50.bin").unlink()
    with pytest.raises(InputError, match="none of the 4 images has a feature"):
        open_megaface(features, "original")
    with pytest.raises(MissingFile, match="does not exist"):
        open_megaface(features / "nowhere")


def test_features_of_two_networks_are_not_mixed(features: Path) -> None:
    write_feature(features / "feature_out" / "facescrub", PROBES[0], algo="r100")
    with pytest.raises(InputError, match="keep one of them"):
        open_megaface(features, "original")


def test_forged_feature_is_refused(features: Path) -> None:
    path = features / "feature_out" / "megaface" / f"{CROWD[3]}_r50.bin"
    path.write_bytes(struct.pack("<4i", 2**30, 1, 4, 5) + bytes(24))
    found = open_megaface(features, "original")
    with pytest.raises(CorruptFile, match=r"header \[1073741824, 1, 4, 5\]"):
        embeddings(found)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_embeddings_follow_the_list(lists: Path, suffix: str) -> None:
    save_embeddings(lists / f"facescrub{suffix}", PROBES)
    save_embeddings(lists / f"megaface{suffix}", list(reversed(CROWD[1:])))
    found = open_megaface(lists, "original")
    probes, crowd = embeddings(found)
    assert np.array_equal(probes, stacked(PROBES)) and np.array_equal(crowd, stacked(CROWD[1:]))
    assert found.notes == ("1 of 4 images cannot be used: 1/a/x.jpg: there is no embedding",)
    assert len(embeddings(open_megaface(lists, "cleaned"))[1]) == 1


def test_embeddings_need_no_list(lists: Path) -> None:
    save_embeddings(lists / "facescrub.npz", PROBES)
    save_embeddings(lists / "megaface.npz", CROWD)
    for side in ("facescrub", "megaface"):
        (lists / f"{side}_lst").unlink()
    found = open_megaface(lists, "cleaned")
    assert found.people == ("Ann", "Bob_B") and len(found.distractor) == 2 and len(found.probe) == 4


def save_embeddings(path: Path, names: list[str]) -> None:
    if path.suffix == ".npz":
        np.savez(path, embs=stacked(names)[:, 0], names=np.array(names))
    else:
        np.save(path, stacked(names)[:, 0])
        path.with_suffix(".csv").write_text("path\n" + "\n".join(names) + "\n")


def test_images_win_unless_embeddings_are_given(features: Path, paint: Callable[..., Path]) -> None:
    for i, name in enumerate(PROBES):
        paint(features / "facescrub_images" / name, i)
    for i, name in enumerate(CROWD[1:]):
        paint(features / "megaface_images" / name, 50 + i, (24, 24) if i else (24, 20))
    found = open_megaface(features, "original")
    assert found.probes.names == PROBES and found.probes.read(np.array([1])).shape == (1, 24, 24, 3)
    assert list(found.distractors.names) == CROWD[2:]
    assert found.failed == 2 and "there is no such file" in found.notes[0] and "it is 24x20" in found.notes[0]
    assert hasattr(open_megaface(features, "original", pixels=False).probes, "embeddings")


def test_names_alone_do_where_embeddings_are_given_apart(lists: Path) -> None:
    found = open_megaface(lists, "cleaned", pixels=False)
    assert list(found.probes.names) == PROBES and found.probe.tolist() == [0, 2, 3, 4]
    with pytest.raises(MissingFile, match="holds neither facescrub_images"):
        open_megaface(lists, "cleaned")


def test_devkit_lists(features: Path) -> None:
    for side in ("facescrub", "megaface"):
        (features / f"{side}_lst").unlink()
    table: dict[str, Any] = {"path": PROBES, "id": ["x", "x", "y", "y", "y"]}
    (features / "facescrub_features_list.json").write_text(json.dumps(table))
    (features / "megaface_features_list.json_4_1").write_text(json.dumps({"path": CROWD[::-1]}))
    found = open_megaface(features, "original")
    assert found.people == ("x", "y") and found.person.tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(embeddings(found)[1], stacked(CROWD[::-1]))
    (features / "megaface_features_list.json_9_1").write_text("{}")
    with pytest.raises(InputError, match="keep the one that is meant"):
        open_megaface(features, "original")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "no list of file names"),
        ('{"path": [1, 2]}', "no list of file names"),
        ('{"path": ["a/b.jpg"], "id": ["x", "y"]}', "one person for each of the 1 paths"),
        ("{", "not valid JSON"),
    ],
)
def test_broken_devkit_list(features: Path, text: str, what: str) -> None:
    (features / "facescrub_lst").unlink()
    (features / "facescrub_features_list.json").write_text(text)
    with pytest.raises(CorruptFile, match=what):
        open_megaface(features, "original")


def test_lists_stay_inside_and_name_images_once(features: Path) -> None:
    (features / "megaface_lst").write_text("1/a/x.jpg\n../../etc/passwd\n")
    with pytest.raises(InputError, match="entry 2: the path"):
        open_megaface(features, "original")
    (features / "megaface_lst").write_text("1/a/x.jpg\n1/a/x.jpg\n")
    with pytest.raises(InputError, match="lists 1 images twice"):
        open_megaface(features, "original")


def test_one_probe_each_is_nothing_to_find(features: Path) -> None:
    (features / "facescrub_lst").write_text(f"{PROBES[0]}\n{PROBES[3]}\n")
    with pytest.raises(InputError, match="two probes of one person"):
        open_megaface(features, "original")
