"""weights.csv read back: placed by index, checked by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import ArtefactMismatch, InputError, MissingFile
from facekit.data.vectors import NamedOnly
from facekit.data.weightsfile import read_weights

SOURCE = NamedOnly(['a/1, "the first".jpg', "a/2.jpg", "b/NA.jpg"], np.array([0, 0, 1]), ("a", "b"))
HEAD = "index,name,label,weight,last,true_label\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return path


def test_rows_in_any_order_and_images_that_were_never_seen(tmp_path: Path) -> None:
    file = write(tmp_path / "w.csv", "2,b/NA.jpg,b,0.25,,a", '0,"a/1, ""the first"".jpg",a,1.5,2,a')
    found = read_weights(file, SOURCE)
    np.testing.assert_array_equal(found.weight, [1.5, math.nan, 0.25])
    np.testing.assert_array_equal(found.last, [2, math.nan, math.nan])


@pytest.mark.parametrize(("line", "there"), [("1,b/NA.jpg,b,1,1,b", "a/2.jpg"), ("3,c.jpg,b,1,1,b", "nothing")])
def test_other_images_are_refused(tmp_path: Path, line: str, there: str) -> None:
    with pytest.raises(ArtefactMismatch, match=f"and there is {there}"):
        read_weights(write(tmp_path / "w.csv", line), SOURCE)


def test_what_is_no_table_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no number: .*heavy"):
        read_weights(write(tmp_path / "w.csv", "1,a/2.jpg,a,heavy,1,a"), SOURCE)
    with pytest.raises(InputError, match="line 2: expected `index name label weight last`"):
        read_weights(write(tmp_path / "w.csv", "one,a/2.jpg,a,1,1,a"), SOURCE)
    with pytest.raises(MissingFile):
        read_weights(tmp_path / "none.csv", SOURCE)
