"""Embeddings from files: every published form, names found or refused, and nothing trusted."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import ArtefactMismatch, CorruptFile, FacekitError, InputError, MissingFile, UsageError
from facekit.core.preprocess import Preprocess
from facekit.data.vectors import NamedOnly, VectorFile, is_vectors, open_vectors, pairs_from_names

NAMES = [f"{who}/{who}_{k:04d}.jpg" for who in ("Ann", "Bob", "Cy") for k in (1, 2, 3)]
EMBS = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def save_npy(path: Path, names: list[str] = NAMES, labels: list[str] | None = None) -> Path:
    np.save(path, EMBS)
    with open(path.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"] if labels else ["path"])
        writer.writerows(zip(names, labels, strict=True) if labels else [[name] for name in names])
    return path


def save_tree(root: Path) -> Path:
    for name, row in zip(NAMES, EMBS, strict=True):
        file = root / name.replace(".jpg", ".npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, row)
    return root


def ours(path: Path) -> Path:
    return save_npz(
        path, embs=EMBS, embs_f=-EMBS, names=np.array(NAMES), preprocess=np.array(json.dumps({"flip": "concat"}))
    )


def insightface(path: Path) -> Path:
    path.with_suffix(".csv").write_text("path\n" + "\n".join(NAMES) + "\n")
    return save_npz(path, embs=EMBS, embs_f=-EMBS)


FORMS: dict[str, tuple[str, Callable[[Path], Path], int, str]] = {
    "ours": ("x.npz", ours, 2, "concat"),
    "insightface": ("x.npz", insightface, 2, "sum"),
    "npy": ("x.npy", save_npy, 1, "none"),
    "tree": ("tree", save_tree, 1, "none"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_embeddings(tmp_path: Path, form: str) -> None:
    name, save, views, flip = FORMS[form]
    path = save(tmp_path / name)
    found = open_vectors(path)
    assert is_vectors(path) and found.embeddings.shape == (9, views, 4) and found.embeddings.dtype == np.float32
    assert found.identities == ("Ann", "Bob", "Cy") and found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    asked = NamedOnly(NAMES[::-1], np.full(9, -1), ())
    np.testing.assert_array_equal(found.table(asked)[:, 0], EMBS[::-1])
    assert views == 1 or (found.table(asked)[:, 1] == -EMBS[::-1]).all()
    assert found.flip_rule() == flip and found.flip_rule("none") == "none"
    if views == 1:
        with pytest.raises(UsageError, match="--flip sum needs mirrored embeddings"):
            found.flip_rule("sum")
    else:
        assert found.flip_rule("sum") == "sum"
    assert (found.preprocess == Preprocess(flip="concat")) is (form == "ours")


def test_labels_come_from_the_table_before_the_folders(tmp_path: Path) -> None:
    found = open_vectors(save_npy(tmp_path / "x.npy", labels=[*["b"] * 4, *["a"] * 4, "-1"]))
    assert found.identities == ("a", "b") and found.labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, -1]
    flat = open_vectors(save_npy(tmp_path / "y.npy", names=[f"{i}.jpg" for i in range(9)]))
    assert flat.identities == () and (flat.labels == -1).all()


def test_doubles_and_halves_become_floats_and_a_map_stays_one(tmp_path: Path) -> None:
    save_npy(tmp_path / "x.npy")
    assert isinstance(open_vectors(tmp_path / "x.npy").embeddings.base, np.ndarray)  # a view of the mapped file
    for dtype in (np.float16, np.float64):
        np.save(tmp_path / "x.npy", EMBS.astype(dtype))
        np.testing.assert_allclose(open_vectors(tmp_path / "x.npy").embeddings[:, 0], EMBS, atol=2e-3)


# --- names ------------------------------------------------------------------------------------------------


def vectors_of(names: list[str]) -> VectorFile:
    table = np.arange(len(names), dtype=np.float32)[:, None, None]
    return VectorFile(Path("x.npz"), "", names, table, np.full(len(names), -1), (), None)


def test_a_leading_folder_or_an_extension_may_differ() -> None:
    found = vectors_of(["lfw/Ann/1.png", "lfw/Bob/1.png", "Cy/2"])
    assert found.rows(["Bob/1.jpg", "lfw/Ann/1.png", "images/lfw/Cy/2.jpg"]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("have", "wanted", "message"),
    [
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], "1.jpg may be a/1.jpg or b/1.jpg"),
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], "1.jpg of x.npz may be a/1.jpg or b/1.jpg"),
        (
            ["a/1.jpg"],
            ["a/1.jpg", "a/2.jpg", "a/3.jpg"],
            "no embedding of 2 of 3 images .the first is a/2.jpg.*a/1.jpg",
        ),
        (["a/11.jpg"], ["1.jpg"], "no embedding of 1 of 1"),
        (["xa/1.jpg"], ["a/1.jpg"], "no embedding of 1 of 1"),
    ],
)
def test_a_name_that_is_missing_or_may_be_two_is_refused(have: list[str], wanted: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vectors_of(have).rows(wanted)


def test_files_of_one_comparison_must_be_of_one_model() -> None:
    many, few = vectors_of(["a"]), vectors_of(["a", "b"])
    assert many.table(few.source()) is few.embeddings
    twice = VectorFile(Path("y.npz"), "", ["c"], np.zeros((1, 2, 1), np.float32), np.array([-1]), (), None)
    with pytest.raises(ArtefactMismatch, match="1 views of 1 numbers .* another file of this comparison 2 of 1"):
        many.table(twice.source())


# --- benchmarks without images ----------------------------------------------------------------------------

LIST = "path1,path2,same\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,1\nBob/Bob_0001.jpg,Cy/Cy_0003.jpg,0\n"


def test_a_pair_list_needs_no_image(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(LIST)
    vectors = open_vectors(ours(tmp_path / "x.npz"))
    pairs = pairs_from_names(str(tmp_path / "list.csv"), vectors)
    names = pairs.source.names
    assert [(names[a], names[b]) for a, b in zip(pairs.left, pairs.right, strict=True)] == [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"),
        ("Bob/Bob_0001.jpg", "Cy/Cy_0003.jpg"),
    ]
    assert pairs.same.tolist() == [True, False] and pairs.identity is not None and pairs.failed == 0
    np.testing.assert_array_equal(vectors.table(pairs.source)[:, 0], EMBS[[NAMES.index(name) for name in names]])
    assert len(pairs.source.fingerprint) == 64
    with pytest.raises(InputError, match="Ann_0001.jpg is known by its name alone"):
        pairs.source.read(np.array([0]))


def test_lfw_lists_and_their_folds_work_by_name(tmp_path: Path) -> None:
    lines = ["10\t1", *(f"{a}\n{b}" for a, b in [("Ann\t1\t2", "Ann\t1\tBob\t1")] * 10)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    pairs = pairs_from_names(
        str(tmp_path), open_vectors(save_npy(tmp_path / "x.npy", names=[n[:-4] + ".png" for n in NAMES]))
    )
    assert pairs.fold is not None and pairs.fold.tolist() == [i // 2 for i in range(20)]
    assert pairs.fold_rule == "the list's own 10 folds"


def test_all_pairs_of_the_listed_people_by_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(LIST.replace("Cy", "Dee"))
    pairs = pairs_from_names(f"allpairs:{tmp_path / 'list.csv'}", open_vectors(ours(tmp_path / "x.npz")))
    assert list(pairs.source.names) == NAMES[:6] and len(pairs.same) == 15 and int(pairs.same.sum()) == 6
    assert pairs.failed == 1 and pairs.notes == ("1 of 3 people have no embeddings (the first is Dee)",)


def test_what_has_no_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(InputError, match="images without names"):
        pairs_from_names(str(tmp_path / "x.bin"), vectors_of(["a"]))
    (tmp_path / "list.csv").write_text(LIST)
    with pytest.raises(InputError, match="no embedding of 4 of 4 images"):
        pairs_from_names(str(tmp_path / "list.csv"), vectors_of(["a"]))
    with pytest.raises(InputError, match="no embedding of the 3 people"):
        pairs_from_names(f"allpairs:{tmp_path / 'list.csv'}", vectors_of(["a"]))


# --- hostile files ----------------------------------------------------------------------------------------


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


BAD_ARRAYS = {
    "more than the file holds": header("(1000000000000, 512)") + b"\0" * 64,
    "negative": header("(-9, -4)") + b"\0" * 144,
    "objects": header("(9,)", "'|O'") + b"\x80\x04K\x01.",
    "no numpy file": b"PK\x03\x04" + b"\0" * 100,
    "cut off": b"\x93NUMPY\x01\x00",
    "nested": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
    "empty": b"",
    "whole numbers": header("(9, 4)", "'<i4'") + b"\0" * 144,
    "three axes": header("(9, 2, 2)") + b"\0" * 144,
    "no rows": header("(0, 4)"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
@pytest.mark.parametrize("form", ["npy", "npz", "tree"])
def test_forged_arrays_are_refused_in_one_sentence(tmp_path: Path, kind: str, form: str) -> None:
    content = BAD_ARRAYS[kind]
    path = tmp_path / ("tree" if form == "tree" else f"x.{form}")
    if form == "npy":
        path.write_bytes(content)
        path.with_suffix(".csv").write_text("path\n" + "\n".join(NAMES))
    elif form == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("embs.npy", content)
            stream = io.BytesIO()
            np.save(stream, np.array(NAMES))
            archive.writestr("names.npy", stream.getvalue())
    else:
        save_tree(path)
        (path / "Bob" / "Bob_0002.npy").write_bytes(content)
    with pytest.raises((CorruptFile, InputError), match=r"x\.np|Bob_0002"):
        open_vectors(path)


def test_an_archive_that_unpacks_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, embs=np.zeros((4096, 64), np.float32), names=np.array([str(i) for i in range(4096)]))
    assert path.stat().st_size < 1 << 18
    monkeypatch.setattr("facekit.data.arrays.free_ram", lambda: 1 << 19)
    with pytest.raises(InputError, match="unpacks to 1 MiB"):
        open_vectors(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": np.array(NAMES[:8])}, "9 embeddings and 8 names"),
        ({"names": np.array([*NAMES[:8], NAMES[0]])}, "Ann/Ann_0001.jpg twice"),
        ({"names": np.arange(9)}, "a list of text was expected"),
        ({"embs_f": EMBS[:8]}, "floats .images, numbers. were expected"),
        (
            {"embs": np.where(np.arange(36).reshape(9, 4) == 14, np.nan, EMBS).astype(np.float32)},
            "of Bob/Bob_0001.jpg is not",
        ),
        ({"preprocess": np.array("{")}, "not the table"),
        ({"preprocess": np.array('{"size": 3}')}, "not the table"),
        ({"preprocess": np.array('{"flip": "twice"}')}, "not the table"),
    ],
)
def test_content_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {"embs": EMBS, "embs_f": EMBS, "names": np.array(NAMES), **change}
    with pytest.raises((InputError, CorruptFile), match=message):
        open_vectors(save_npz(tmp_path / "x.npz", **arrays))


def test_what_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="do not exist"):
        open_vectors(tmp_path / "no.npz")
    with pytest.raises(MissingFile, match=r"one line per row, path\[,label\]"):
        open_vectors(save_npz(tmp_path / "x.npz", embs=EMBS))
    with pytest.raises(InputError, match="no array embs"):
        open_vectors(save_npz(tmp_path / "y.npz", names=np.array(NAMES)))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="give .npz, .npy"):
        open_vectors(tmp_path / "x.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="holds no .npy files"):
        open_vectors(tmp_path / "folder")
    assert not is_vectors(tmp_path / "folder")


def test_cut_files_never_crash(tmp_path: Path) -> None:
    whole = ours(tmp_path / "x.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(FacekitError):
            open_vectors(path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(FacekitError):
            open_vectors(path)
