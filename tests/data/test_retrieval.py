"""Retrieval sets: Market-1501's naming and tables give the same set; junk and distractors are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekit.core.errors import FacekitError, InputError, MissingFile
from facekit.data.retrieval import RetrievalSet, open_retrieval

Paint = Callable[..., Path]
QUERY = ["0001_c1s1_000151_01.jpg", "0002_c2s1_000001_01.jpg"]
GALLERY = [
    "-1_c1s1_000401_03.jpg",
    "0000_c3s1_000002_01.jpg",
    "0001_c1s1_000152_01.jpg",
    "0001_c2s1_000153_01.jpg",
    "0002_c1s1_000003_01.jpg",
]


@pytest.fixture
def market(tmp_path: Path, paint: Paint) -> Path:
    root = tmp_path / "market"
    for folder, names in (("query", QUERY), ("bounding_box_test", GALLERY)):
        for seed, name in enumerate(names, len(folder) * 10):
            paint(root / folder / name, seed)
    return root


@pytest.fixture
def tables(market: Path) -> Path:
    rows = {"query": ["1,1", "2,2"], "gallery": ["-1,1", ",3", "1,1", "1,2", "2,1"]}
    for side, folder, names in (("query", "query", QUERY), ("gallery", "bounding_box_test", GALLERY)):
        lines = [f"{folder}/{name},{row}" for name, row in zip(names, rows[side], strict=True)]
        (market / f"{side}.csv").write_text("path,label,camera\n" + "\n".join(lines) + "\n")
    return market


def check(found: RetrievalSet) -> None:
    assert found.name == "market" and len(found.query) == 2 and len(found.gallery) == 4
    one, two = found.query_person.tolist()
    assert found.gallery_person.tolist() == [-1, one, one, two] and one >= 0 and two >= 0 and one != two
    first, second = found.query_camera.tolist()
    third = found.gallery_camera[0]
    assert found.gallery_camera.tolist() == [third, first, second, first] and len({first, second, third}) == 3
    assert len({*found.query_content.tolist(), *found.gallery_content.tolist()}) == 6
    assert found.notes == ("1 of 5 gallery images are junk and left out, as the field does",) and found.failed == 0


def test_names_tell_person_and_camera(market: Path) -> None:
    check(open_retrieval(market))
    (market / "bounding_box_test").rename(market / "gallery")
    check(open_retrieval(market))


def test_tables_tell_the_same(tables: Path) -> None:
    check(open_retrieval(tables))


def test_a_table_without_cameras_knows_none(tables: Path) -> None:
    for side in ("query", "gallery"):
        lines = (tables / f"{side}.csv").read_text().splitlines()
        (tables / f"{side}.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    found = open_retrieval(tables)
    assert (found.query_camera == -1).all() and (found.gallery_camera == -1).all()


def test_a_copy_of_the_query_is_known_by_its_content(market: Path) -> None:
    copy = market / "bounding_box_test" / "0001_c4s1_000151_01.jpg"
    copy.write_bytes((market / "query" / QUERY[0]).read_bytes())
    found = open_retrieval(market)
    assert (found.gallery_content == found.query_content[0]).tolist() == [
        name == copy.name for name in found.gallery.names
    ]


def test_queries_of_nobody_are_left_out_and_broken_images_counted(market: Path, paint: Paint) -> None:
    paint(market / "query" / "0000_c1s1_1_1.jpg", 1)
    (market / "bounding_box_test" / GALLERY[3]).write_bytes(b"no picture")
    found = open_retrieval(market)
    assert len(found.query) == 2 and len(found.gallery) == 3 and found.failed == 1
    assert found.notes[0] == "1 of 3 query images are junk and left out, as the field does"
    assert "0001_c2s1_000153_01.jpg" in found.notes[2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("label,camera\n1,1\n", "line 1: .* must name the columns path and label"),
        ("path,label\nquery/a.jpg\n", "line 2: .* 2 columns were expected"),
        ("path,label\n../a.jpg,1\n", "line 2: the path '../a.jpg' is not inside"),
        ("path,label\na.jpg,1\na.jpg,2\n", "line 3: a.jpg is listed twice"),
        ("path,label\na.jpg,\n", "leaves no query image that shows a known person"),
        (f"path,label\nquery/{QUERY[0]},9\n", "no person of the queries"),
    ],
)
def test_tables_with_mistakes_are_refused(tables: Path, table: str, message: str) -> None:
    (tables / "query.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        open_retrieval(tables)


def test_what_is_no_set_says_so(market: Path, paint: Paint) -> None:
    with pytest.raises(MissingFile, match="not a folder"):
        open_retrieval(market / "query" / QUERY[0])
    with pytest.raises(FacekitError):
        open_retrieval(market / "query")
    paint(market / "query" / "ann.jpg", 3)
    with pytest.raises(InputError, match="ann.jpg is not named <person>_c<camera>.*query.csv"):
        open_retrieval(market)
