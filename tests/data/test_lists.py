"""Training lists: every form reads to the same source; every slip is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import FacekitError, InputError
from facekit.data.lists import read_list
from facekit.data.sources import open_source

FORMS = {
    "space": "Cy/Cy_0001.jpg 7\nAnn/Ann_0001.jpg 3\nAnn/Ann_0002.jpg 3\n",
    "tab": "Cy/Cy_0001.jpg\t7\nAnn/Ann_0001.jpg\t3\n\nAnn/Ann_0002.jpg\t3",
    "mxnet": "5\t7.000000\tCy/Cy_0001.jpg\n2\t3\tAnn/Ann_0001.jpg\n9\t3.0\t0.25\t17\tAnn/Ann_0002.jpg\n",
    "csv": "split,path,label\r\na,Cy/Cy_0001.jpg,7\r\nb,Ann/Ann_0001.jpg,3\r\nc,Ann/Ann_0002.jpg,3\r\n",
    "bom csv": '\ufeffpath,label\n"Cy/Cy_0001.jpg",7\nAnn/Ann_0001.jpg,3\nAnn/Ann_0002.jpg,3\n',
    "jsonl": '{"path": "Cy/Cy_0001.jpg", "label": 7}\n{"label": "3", "path": "Ann/Ann_0001.jpg", "x": [1]}\n'
    '{"path": "Ann/Ann_0002.jpg", "label": 3}\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_to_the_same_source(form: str, people: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(FORMS[form].encode())
    source = open_source(path, images=people, need_labels=True)
    assert list(source.names) == ["Cy/Cy_0001.jpg", "Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg"]
    assert source.identities == ("3", "7") and source.labels.tolist() == [1, 0, 0]
    assert source.read(np.array([1])).shape == (1, 24, 24, 3)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_integers_sort_by_value_and_words_by_letters(tmp_path: Path) -> None:
    assert read_list(write(tmp_path, "a.jpg 10\nb.jpg 9\n")).identities == ("9", "10")
    assert read_list(write(tmp_path, "path,label\na.jpg,10\nb.jpg,9\nc.jpg,x\n")).identities == ("10", "9", "x")


def test_unknown_labels_are_minus_one(tmp_path: Path) -> None:
    assert read_list(write(tmp_path, "path\na.jpg\nb.jpg\n")).labels.tolist() == [-1, -1]
    assert read_list(write(tmp_path, "path,label\na.jpg,\nb.jpg,Bo\n")).labels.tolist() == [-1, 0]
    assert read_list(write(tmp_path, "a.jpg -1\nb.jpg 5\n")).labels.tolist() == [-1, 0]
    assert read_list(write(tmp_path, '{"path": "a.jpg"}\n')).identities == ()


def test_paths_may_hold_spaces_and_unusual_letters(tmp_path: Path) -> None:
    listing = read_list(write(tmp_path, "A B/\u2028 ü.jpg 3\n./x//y.jpg 4\n"))
    assert listing.names == ["A B/\u2028 ü.jpg", "x/y.jpg"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a.jpg 1\nb.jpg\t2\n", 2, "path label"),
        ("a.jpg\t1\nb.jpg 2\n", 2, "path<TAB>label"),
        ("a.jpg 1\n\nb.jpg x\n", 3, "whole number"),
        ("a.jpg 1\nb.jpg 1.5\n", 2, "whole number"),
        ("0\t1\ta.jpg\n1\tone\tb.jpg\n", 2, "'one'"),
        ("0\t1\ta.jpg\n1\t1.5\tb.jpg\n", 2, "'1.5'"),
        ("0\t1\ta.jpg\n1\tnan\tb.jpg\n", 2, "'nan'"),
        ("0\t1\ta.jpg\n1\tinf\tb.jpg\n", 2, "'inf'"),
        ("0\t1\ta.jpg\nx\t1\tb.jpg\n", 2, "index"),
        ("path,label\na.jpg,1\nb.jpg,1,2\n", 3, "2 columns"),
        ('{"path": "a.jpg"}\n{"path": 5}\n', 2, "path"),
        ('{"path": "a.jpg"}\n[1]\n', 2, "JSON object"),
        ('{"path": "a.jpg"}\n{"path": "b.jpg", "label": true}\n', 2, "label"),
        ("a.jpg 1\nb.jpg 2\na.jpg 3\n", 3, "line 1"),
        ("path,path\n", 1, "each column once"),
        ("path,label\na\rb,1\n", 2, "2 columns"),
        ("nonsense\n", 1, "is not one of"),
    ],
)
def test_slips_name_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(InputError, match=rf"list\.txt, line {line}\b") as caught:
        read_list(write(tmp_path, text))
    assert words in str(caught.value)


@pytest.mark.parametrize("path", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "a/..", "", ".", "a\0b.jpg"])
def test_paths_never_leave_the_image_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="line 1.*not inside|is not one of|`path"):
        read_list(write(tmp_path, f"{path}\t1\n"))


def test_an_absolute_path_inside_the_folder_is_made_relative(people: Path, tmp_path: Path) -> None:
    listing = read_list(write(tmp_path, f"{people}/Cy/Cy_0001.jpg 0\n"), people)
    assert listing.names == ["Cy/Cy_0001.jpg"]


def test_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        read_list(write(tmp_path, "\n \n"))
    with pytest.raises(InputError, match="no samples"):
        read_list(write(tmp_path, "path,label\n"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_list(tmp_path / "list.txt")


def test_a_missing_image_is_named(people: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cy_0009\.jpg cannot be read.*no such file"):
        open_source(write(tmp_path, "Cy/Cy_0001.jpg 0\nCy/Cy_0009.jpg 0\n"), images=people)


@given(st.text(alphabet="ab1./\\ \t\n\r\0,{}\":-'path,label", max_size=60))
def test_any_text_reads_or_is_explained(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    path.write_text(text)
    try:
        listing = read_list(path)
    except FacekitError as error:
        assert "fuzz.txt" in str(error)
    else:
        assert len(listing.names) == len(listing.labels)
        assert not any(name.startswith("/") or ".." in name.split("/") for name in listing.names)
