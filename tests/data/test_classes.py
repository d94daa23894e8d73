"""Class sets: what is opened, and which classes of the data are which of the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.core.errors import InputError, MissingFile, UsageError
from facekit.data.benchmarks import enrolled_in, open_any, people_tested
from facekit.data.cifar import PixelSource
from facekit.data.classes import ClassSet, columns_of


def of_names(*names: str) -> ClassSet:
    """One black image of each class."""
    labels = np.arange(len(names))
    source = PixelSource(names, np.zeros((len(names), 4, 4, 3), np.uint8), labels, tuple(names), ())
    return ClassSet("classes:toy", "toy", source, 0, ())


def test_a_folder_of_classes_is_opened_by_its_prefix(people: Path) -> None:
    bench = open_any(f"classes:{people}")
    assert isinstance(bench, ClassSet)
    assert (bench.name, bench.path, bench.failed) == ("classes:people", people.as_posix(), 0)
    assert bench.source.identities == ("Ann", "Bob", "Cy", "Di")
    assert np.bincount(bench.source.labels).tolist() == [3, 2, 4, 1]
    assert people_tested(bench) == set() and enrolled_in(bench) is None


def test_a_list_takes_its_image_root(people: Path) -> None:
    (people.parent / "test.csv").write_text("path,label\nAnn/Ann_0001.jpg,cat\nCy/Cy_0002.jpg,dog\n")
    bench = open_any(f"classes:{people.parent / 'test.csv'}", people)
    assert isinstance(bench, ClassSet)
    assert bench.name == "classes:test" and bench.source.identities == ("cat", "dog")


def test_what_cannot_be_classified_is_refused(people: Path, tmp_path: Path, paint: Callable[..., Any]) -> None:
    paint(tmp_path / "flat" / "one.jpg", 1)
    with pytest.raises(InputError, match=r"no labels for 1 of 1 images, such as one\.jpg.*folder per class"):
        open_any(f"classes:{tmp_path / 'flat'}")
    with pytest.raises(MissingFile):
        open_any(f"classes:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="give --model"):
        open_any(f"classes:{people}", vectors=object())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Did you mean 'classes'"):
        open_any("clases:somewhere")


def test_classes_are_matched_by_name_in_any_order() -> None:
    columns, note = columns_of(of_names("ant", "bee", "cat"), ("cat", "dog", "ant", "bee"))
    assert columns.tolist() == [2, 3, 0] and note == ""
    columns, note = columns_of(of_names("0", "1", "10", "2"), ("0", "1", "2", "10"))
    assert columns.tolist() == [0, 1, 3, 2] and note == "", "numbers are names too, where they fit"


def test_numbered_classes_are_matched_by_order_and_said() -> None:
    columns, note = columns_of(of_names("ant", "bee", "cat", "dog"), ("0", "1", "2", "3"))
    assert columns.tolist() == [0, 1, 2, 3]
    assert note == "the model's classes have no names and were matched by order: 0 ant, 1 bee, 2 cat ..."


@pytest.mark.parametrize(
    ("names", "known", "says"),
    [
        (("ant", "eel"), ("ant", "bee"), r"does not know 1 of the 2 classes: eel; it knows ant, bee; give"),
        (("a", "b", "c", "d"), ("x", "y"), r"does not know 4 of the 4 classes: a, b, c \.\.\.; it knows x, y;"),
        (("ant", "bee"), ("0", "1", "2"), "does not know 2 of the 2"),
        (("ant", "bee"), ("1", "2"), "does not know 2 of the 2"),
        (("ant", "bee"), ("1", "0"), "does not know 2 of the 2"),
    ],
)
def test_unknown_classes_are_refused_with_examples(names: tuple[str, ...], known: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        columns_of(of_names(*names), known)
