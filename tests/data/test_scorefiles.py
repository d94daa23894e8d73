"""Score files: what is written comes back bit for bit, and what does not fit is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.core.errors import InputError, MissingFile
from facekit.data import scorefiles
from facekit.data.scorefiles import Trial, open_scored, read_four_columns, write_four_columns, write_scores
from facekit.evaluation.evaluator import evaluate
from facekit.evaluation.results import find
from facekit.evaluation.scoring import Asked


def test_scores_are_written_block_by_block(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=100).astype(np.float32)
    path = write_scores(tmp_path / "scores.npy", (scores[i : i + 7].astype(np.float64) for i in range(0, 100, 7)), 100)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), scores)


def test_a_wrong_number_of_scores_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 scores came where 4 were announced"):
        write_scores(tmp_path / "scores.npy", [np.zeros(3)], 4)
    assert list(tmp_path.iterdir()) == []


names = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=6).filter(lambda s: s.split() == [s])


@settings(max_examples=25)
@given(
    st.lists(st.tuples(names, names, names, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=9)
)
def test_four_columns_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("bob") / "scores.txt"
    found = read_four_columns(write_four_columns(path, (Trial(*row) for row in rows)))
    assert [
        (found.people[c], found.people[r], found.probes[p], float(s))
        for c, r, p, s in zip(found.claimed, found.real, found.probe, found.score, strict=True)
    ] == rows
    assert found.same.tolist() == [claimed == real for claimed, real, _, _ in rows]
    assert path.read_bytes().count(b"\n") == len(rows) and path.read_text().splitlines()[0].count(" ") == 3


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(f"p{i % 3}", f"p{i % 5}", f"probe/{i}", i / 7) for i in range(20)]
    path = write_four_columns(tmp_path / "x.txt", trials)
    whole = read_four_columns(path)
    monkeypatch.setattr(scorefiles, "BLOCK", 3)
    again = read_four_columns(path)
    assert again.people == whole.people == ("p0", "p1", "p2", "p3", "p4") and again.probes == whole.probes
    for a, b in ((again.claimed, whole.claimed), (again.real, whole.real), (again.score, whole.score)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["", "Ann Lee", "Ann\tLee", "Ann\n", " Ann"])
def test_names_with_white_space_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="separated by white space"):
        write_four_columns(tmp_path / "x.txt", [Trial("a", "b", "c", 0.5), Trial("a", name, "c", 0.5)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"a b c", b"a b c d", b"a b c 1 2", b"a b c nan", b"a b c inf", b"a\xff b c 1", b"x" * 5000]
)
def test_lines_of_another_form_are_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(b"a b c 1\n\n" + line + b"\n")
    with pytest.raises(InputError, match="x.txt, line 3"):
        read_four_columns(tmp_path / "x.txt")


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_four_columns(tmp_path / "x.txt")
    with pytest.raises(MissingFile):
        read_four_columns(tmp_path / "no.txt")


def test_scores_of_others_are_a_benchmark(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trials = [Trial(f"p{a}", f"p{b}", f"p{b}-1", float(rng.normal(3.0 * (a == b)))) for a in range(9) for b in range(9)]
    bench = open_scored(write_four_columns(tmp_path / "others.txt", trials))
    found = evaluate(lambda source: pytest.fail("nothing is embedded"), [bench], Asked(fars=(0.1,), draws=100))
    row = find(found.rows, "tar@far", 0.1)
    genuine = np.array([t.score for t in trials if t.claimed == t.real])
    impostor = np.sort([t.score for t in trials if t.claimed != t.real])[::-1]
    assert row is not None and row.value == np.mean(genuine > impostor[7])
    assert (row.n_genuine, row.n_impostor, row.n_identities, row.score) == (9, 72, 9, "given")
    write_four_columns(tmp_path / "one.txt", trials[:1])
    with pytest.raises(InputError, match="both kinds are needed"):
        open_scored(tmp_path / "one.txt")
