"""IJB folders in InsightFace's layout, whole and broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import InputError, MissingFile
from facekit.data import columns
from facekit.data.columns import read_columns
from facekit.data.decode import decode
from facekit.data.ijb import TemplateSet, open_ijb
from facekit.data.landmarks import TEMPLATE, similarity, warp

# image, template, media
IMAGES = [("1.jpg", 30, 5), ("2.jpg", 30, 5), ("3.jpg", 30, 6), ("4.jpg", 7, 1), ("5.jpg", 100, 2), ("6.jpg", 8, 3)]
PAIRS = [(7, 30, 1), (8, 30, 0), (7, 100, 0), (30, 100, 1)]


def points_line(i: int) -> str:
    points = TEMPLATE * 0.3 + i
    return " ".join(f"{value:.4f}" for value in points.ravel()) + f" 0.{9 - i}"


@pytest.fixture
def ijb(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """Six images of four templates, four pairs, and both 1:N galleries."""
    meta = tmp_path / "IJBB" / "meta"
    meta.mkdir(parents=True)
    for i, (name, _, _) in enumerate(IMAGES):
        paint(tmp_path / "IJBB" / "loose_crop" / name, i, (40 + i, 44))
    lines(meta / "ijbb_face_tid_mid.txt", [f"{n} {t} {m}" for n, t, m in IMAGES])
    lines(meta / "ijbb_name_5pts_score.txt", [f"{n} {points_line(i)}" for i, (n, _, _) in enumerate(IMAGES)])
    lines(meta / "ijbb_template_pair_label.txt", [f"{a} {b} {s}" for a, b, s in PAIRS])
    lines(meta / "ijbb_1N_gallery_S1.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "7,ann,a.jpg", "7,ann,b.jpg"])
    lines(meta / "ijbb_1N_gallery_S2.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", '8,bob,"x,y.jpg"'])
    lines(meta / "ijbb_1N_probe_mixed.csv", ["TEMPLATE_ID,SUBJECT_ID", "30,ann", "100,bob"])
    return tmp_path


def lines(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(texts) + "\n")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def pairs_of(found: TemplateSet) -> set[tuple[int, int, int]]:
    ids = found.template_id
    return {(int(ids[a]), int(ids[b]), int(s)) for a, b, s in zip(found.left, found.right, found.same, strict=True)}


@pytest.mark.parametrize("inner", ["", "IJBB"])
def test_whole_folder(ijb: Path, inner: str) -> None:
    found = open_ijb(ijb / inner, "ijbb")
    assert found.template_id.tolist() == [7, 8, 30, 100]
    assert found.template.tolist() == [2, 2, 2, 0, 3, 1] and found.media.tolist() == [5, 5, 6, 1, 2, 3]
    assert found.faceness.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert pairs_of(found) == set(PAIRS) and (np.diff(found.left) >= 0).all()
    assert (found.left.dtype, found.right.dtype, found.same.dtype) == (np.int32, np.int32, np.bool_)
    assert found.subjects == ("ann", "bob") and found.subject.tolist() == [0, 1, 0, 1]
    assert [(g.name, g.template.tolist()) for g in found.galleries] == [("S1", [0]), ("S2", [1])]
    assert found.probe.tolist() == [2, 3] and (found.failed, found.notes) == (0, ())


def test_images_are_warped_by_their_own_points(ijb: Path) -> None:
    source = open_ijb(ijb, "ijbb").source
    assert source.size == (112, 112) and len(source) == 6
    for i in (0, 5):
        points = np.round(TEMPLATE * 0.3 + i, 4)
        image = decode((ijb / "IJBB" / "loose_crop" / IMAGES[i][0]).read_bytes())
        assert np.array_equal(source.read(np.array([i]))[0], warp(image[None], similarity(points[None]))[0])


def test_fingerprint_holds_the_points(ijb: Path) -> None:
    before = open_ijb(ijb, "ijbb").source.fingerprint
    assert open_ijb(ijb, "ijbb").source.fingerprint == before
    edit(ijb / "IJBB/meta/ijbb_name_5pts_score.txt", "2.jpg 12.4884", "2.jpg 12.4885")
    assert open_ijb(ijb, "ijbb").source.fingerprint != before


def test_missing_images_take_their_templates_and_pairs_along(ijb: Path) -> None:
    (ijb / "IJBB/loose_crop/4.jpg").unlink()
    (ijb / "IJBB/loose_crop/2.jpg").write_bytes(b"no image")
    found = open_ijb(ijb, "ijbb")
    assert found.template_id.tolist() == [8, 30, 100] and found.template.tolist() == [1, 1, 2, 0]
    assert pairs_of(found) == {(8, 30, 0), (30, 100, 1)}
    assert found.failed == 2
    assert found.notes[0].startswith("2 of 6 images cannot be used (the first is 2.jpg: not a JPEG")
    assert found.notes[0].endswith("2 of 4 pairs are left out")
    assert found.notes[1] == "1 templates of the 1:N lists have no usable image and are left out"
    assert found.notes[2] == "nobody who is searched is enrolled in gallery S1, so there is no 1:N"
    assert found.galleries == () and found.probe.tolist() == [] and found.subject.tolist() == [1, 0, 1]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_points_and_scores_that_are_no_numbers(ijb: Path, bad: str) -> None:
    path = ijb / "IJBB/meta/ijbb_name_5pts_score.txt"
    edit(path, " 0.8\n", f" {bad}\n")  # faceness of image 2
    edit(path, "3.jpg 13.4884", f"3.jpg {bad}")
    found = open_ijb(ijb, "ijbb")
    assert found.failed == 2 and list(found.source.names) == ["1.jpg", "4.jpg", "5.jpg", "6.jpg"]
    assert "2.jpg: its detection score is not a number" in found.notes[0]


def test_points_on_one_spot(ijb: Path) -> None:
    lines(
        ijb / "IJBB/meta/ijbb_name_5pts_score.txt",
        [f"{n} {points_line(i) if i else '5 ' * 10 + '1'}" for i, (n, _, _) in enumerate(IMAGES)],
    )
    found = open_ijb(ijb, "ijbb")
    assert found.failed == 1 and "1.jpg: it has no five points that give a crop" in found.notes[0]


def test_lists_in_another_order_are_joined_by_name(ijb: Path) -> None:
    whole = open_ijb(ijb, "ijbb")
    path = ijb / "IJBB/meta/ijbb_name_5pts_score.txt"
    lines(path, path.read_text().split("\n")[-2::-1])
    found = open_ijb(ijb, "ijbb")
    assert np.array_equal(found.faceness, whole.faceness) and found.source.fingerprint == whole.source.fingerprint
    lines(path, path.read_text().split("\n")[1:-1])  # 6.jpg was first
    found = open_ijb(ijb, "ijbb")
    assert found.failed == 1 and "6.jpg: it has no five points" in found.notes[0]


def test_without_pixels_no_image_is_needed(ijb: Path) -> None:
    for image in (ijb / "IJBB/loose_crop").iterdir():
        image.unlink()
    found = open_ijb(ijb, "ijbb", pixels=False)
    assert list(found.source.names) == [name for name, _, _ in IMAGES] and found.failed == 0
    with pytest.raises(InputError, match="no image under .*loose_crop can be used"):
        open_ijb(ijb, "ijbb")


def test_without_1n_lists_people_are_unknown(ijb: Path) -> None:
    (ijb / "IJBB/meta/ijbb_1N_gallery_S2.csv").unlink()
    found = open_ijb(ijb, "ijbb")
    assert found.galleries == () and len(found.probe) == 0
    assert found.subject.tolist() == [0, -1, 0, 1]  # what the other two lists tell
    for key in ("gallery_S1", "probe_mixed"):
        (ijb / f"IJBB/meta/ijbb_1N_{key}.csv").unlink()
    found = open_ijb(ijb, "ijbb")
    assert found.subjects == () and found.subject.tolist() == [-1] * 4


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("face_tid_mid.txt", "3.jpg 30 6", "3.jpg 30", r"face_tid_mid.txt, line 3: expected `image template_id media"),
        ("face_tid_mid.txt", "3.jpg 30 6", "3.jpg 30 6 1", r"line 3: expected"),
        ("face_tid_mid.txt", "3.jpg 30 6", "3.jpg x 6", r"line 3: expected .* not '3.jpg x 6'"),
        ("face_tid_mid.txt", "3.jpg 30 6", "3.jpg 99999999999999999999 6", r"line 3: expected"),
        ("face_tid_mid.txt", "3.jpg", "../../3.jpg", r"the path '../../3.jpg' is not inside"),
        ("name_5pts_score.txt", " 0.9", "", r"name_5pts_score.txt, line 1: expected `image x1 y1 .* y5 faceness`"),
        ("name_5pts_score.txt", "0.7", "high", r"line 3: expected"),
        (
            "template_pair_label.txt",
            "7 100 0",
            "7 100",
            r"label.txt, line 3: expected `template_id_1 template_id_2 same`",
        ),
        ("template_pair_label.txt", "7 100 0", "7 101 0", r"line 3: `7 101 0` is not a pair of templates"),
        ("template_pair_label.txt", "7 100 0", "7 100 2", r"line 3: `7 100 2` is not a pair"),
        ("template_pair_label.txt", "1\n", "0\n", r"leaves 0 same and 4 different pairs"),
        ("1N_gallery_S1.csv", "7,ann,b.jpg", "7,bob,b.jpg", r"template 7 shows bob, and elsewhere ann"),
        ("1N_gallery_S1.csv", "7,ann,b.jpg", "seven,ann", r"S1.csv, line 3: expected `TEMPLATE_ID SUBJECT_ID`"),
    ],
)
def test_broken_lists_are_named_with_their_line(ijb: Path, file: str, old: str, new: str, message: str) -> None:
    edit(ijb / "IJBB" / "meta" / f"ijbb_{file}", old, new)
    with pytest.raises(InputError, match=message):
        open_ijb(ijb, "ijbb")


def test_missing_lists(ijb: Path) -> None:
    with pytest.raises(MissingFile, match="holds no IJBC/meta"):
        open_ijb(ijb, "ijbc")
    for name in ("face_tid_mid", "name_5pts_score", "template_pair_label"):
        path = ijb / f"IJBB/meta/ijbb_{name}.txt"
        text = path.read_text()
        path.unlink()
        with pytest.raises(MissingFile, match=f"ijbb_{name}.txt cannot be read: No such file"):
            open_ijb(ijb, "ijbb")
        path.write_text("")
        with pytest.raises(InputError, match=f"ijbb_{name}.txt"):
            open_ijb(ijb, "ijbb")
        path.write_text(text)


def test_more_pairs_than_memory_are_refused_unread(ijb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekit.data.ijb.free_ram", lambda: 100)
    with pytest.raises(InputError, match="too many for the free memory"):
        open_ijb(ijb, "ijbb")


def test_pieces_make_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.random.default_rng(0).integers(0, 2**40, (100, 2))
    lines(tmp_path / "t.txt", [f"  {a}\t{b} " for a, b in wanted])
    monkeypatch.setattr(columns, "ROWS", 7)
    pieces = list(read_columns(tmp_path / "t.txt", "a:int b:int"))
    assert len(pieces) == 15
    assert np.array_equal(np.concatenate([np.stack(piece, axis=1) for piece in pieces]), wanted)


def test_text_columns_keep_what_looks_like_nothing(tmp_path: Path) -> None:
    lines(tmp_path / "t.txt", ["NA 1", "nan 2", '"q 3'])
    ((names, numbers),) = read_columns(tmp_path / "t.txt", "name:text n:float")
    assert names.tolist() == ["NA", "nan", '"q'] and numbers.tolist() == [1, 2, 3]
    (tmp_path / "t.txt").write_bytes(b"a 1\n\xff\xfe 2\n")
    with pytest.raises(InputError, match=r"t.txt cannot be read as lines of `name n`"):
        list(read_columns(tmp_path / "t.txt", "name:text n:float"))
