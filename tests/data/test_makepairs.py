"""A verification set: balanced, folds that share nobody, no pair twice, no picture against its copy."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.core.errors import InputError, OutputExists
from facekit.data.binfile import read_bin
from facekit.data.encoded import EncodedSource
from facekit.data.makepairs import below_diagonal, choose_pairs, deal, share_out
from facekit.data.pairlist import read_pairs
from facekit.data.pairs import open_benchmark
from facekit.data.sources import open_source
from facekit.data.writepairs import write_pairs


def faces(counts: list[int], contents: list[bytes] | None = None) -> EncodedSource:
    """People with that many images each; the files differ unless given."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"p{who:03d}/{i:04d}.jpg" for i, who in enumerate(labels)]
    people = tuple(f"p{who:03d}" for who in range(len(counts)))
    blobs = contents or [name.encode() for name in names]
    return EncodedSource(names, blobs, (8, 8), labels=labels, identities=people)


people_counts = st.lists(st.integers(1, 12), min_size=8, max_size=40)


@settings(max_examples=40)
@given(people_counts, st.integers(4, 400), st.integers(2, 4), st.integers(1, 12), st.integers(0, 5))
def test_every_set_keeps_the_rules(counts: list[int], pairs: int, folds: int, per_person: int, seed: int) -> None:
    source = faces(counts)
    pairs = max(pairs, 2 * folds)
    try:
        choice = choose_pairs(source, pairs=pairs, folds=folds, per_person=per_person, seed=seed)
    except InputError:
        assert sum(c > 1 for c in counts) < folds or len(counts) < 2 * folds
        return
    who = source.labels[np.stack([choice.left, choice.right], axis=1)]
    assert np.array_equal(who[:, 0] == who[:, 1], choice.same)
    assert np.array_equal(choice.same, np.arange(len(choice.same)) % 2 == 0)  # in turn
    assert len(choice.same) <= pairs and len(choice.same) % (2 * folds) == 0
    assert np.array_equal(choice.fold, np.repeat(np.arange(folds), len(choice.same) // folds))
    members = [set(who[choice.fold == k].ravel().tolist()) for k in range(folds)]
    assert all(not a & b for a, b in combinations(members, 2))
    unordered = {frozenset(pair) for pair in zip(choice.left.tolist(), choice.right.tolist(), strict=True)}
    assert len(unordered) == len(choice.same) and all(len(pair) == 2 for pair in unordered)
    assert np.bincount(who[choice.same, 0]).max() <= per_person
    assert (choice.limit is None) == (len(choice.same) == pairs // (2 * folds) * 2 * folds)
    again = choose_pairs(source, pairs=pairs, folds=folds, per_person=per_person, seed=seed)
    assert np.array_equal(choice.left, again.left) and np.array_equal(choice.right, again.right)


def test_another_seed_chooses_other_pairs_and_either_side_comes_first() -> None:
    one, other = (choose_pairs(faces([6] * 40), pairs=200, folds=5, per_person=10, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.left, other.left)
    assert 0.3 < (one.left < one.right).mean() < 0.7


def test_nobody_has_a_larger_share_than_the_images_demand() -> None:
    """40 people could give 15 genuine pairs each; 100 pairs are 2 or 3 for everybody, impostors as even."""
    source = faces([6] * 40)
    choice = choose_pairs(source, pairs=200, folds=5, per_person=10, seed=0)
    assert set(np.bincount(source.labels[choice.left[choice.same]])) == {2, 3}
    couples = {tuple(sorted(pair)) for pair in source.labels[np.stack([choice.left, choice.right], 1)][~choice.same]}
    assert len(couples) == 100  # 8 people a fold make 28 couples: none is needed twice


def test_few_people_give_several_pairs_for_each_couple() -> None:
    choice = choose_pairs(faces([4] * 4), pairs=24, folds=2, per_person=6, seed=0)
    assert len(choice.same) == 24 and choice.limit is None
    everything = choose_pairs(faces([4] * 4), pairs=1000, folds=2, per_person=99, seed=0)
    assert len(everything.same) == 48  # 6 genuine pairs of each person; a couple would have 16


def test_copies_are_never_compared() -> None:
    """Ann's second file is a copy of her first; Bob and Cy share a file, so one of its labels is wrong."""
    contents = [b"a1", b"a1", b"a2", b"b1", b"x", b"b2", b"x", b"c1", b"c2", b"d1", b"d2"]
    source = faces([3, 3, 3, 2], contents)
    choice = choose_pairs(source, pairs=100, folds=2, per_person=10, seed=0)
    assert (choice.copies, choice.doubtful) == (1, 2)
    assert {1, 4, 6}.isdisjoint({*choice.left.tolist(), *choice.right.tolist()})
    assert len(choice.same) == 8  # each has two images left: one pair, two people a fold


@pytest.mark.parametrize(
    ("counts", "per_person", "words"),
    [
        ([3] * 8, 1, "have 8 same-person pairs at --per-person 1; raise it"),
        ([3] * 8, 9, "8 people, 0 of them with one image only, have 24 same-person pairs; add images"),
        ([3] * 8, 2, "have 16 same-person pairs at --per-person 2; raise it"),
        ([9, 1, 9, 1], 99, "images for 9 impostor pairs only; lower --folds"),
    ],
)
def test_what_limits_a_set_is_told(counts: list[int], per_person: int, words: str) -> None:
    choice = choose_pairs(faces(counts), pairs=10_000, folds=2, per_person=per_person, seed=0)
    assert choice.limit is not None and words in choice.limit


@pytest.mark.parametrize("counts", [[5, 5, 5], [1] * 20, [9, 1, 1, 1]])
def test_too_few_people_for_the_folds_are_refused(counts: list[int]) -> None:
    with pytest.raises(InputError, match="too few for 2 folds that share nobody"):
        choose_pairs(faces(counts), pairs=20, folds=2, per_person=10, seed=0)


def test_pixels_without_files_are_refused(people: Path, tmp_path: Path) -> None:
    from facekit.data.packing import write_pack

    write_pack(open_source(people), tmp_path / "pack", kind="uint8")
    with pytest.raises(InputError, match="its image files are gone"):
        choose_pairs(open_source(tmp_path / "pack"), pairs=4, folds=2, per_person=2, seed=0)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.floats(0, 1), st.integers(0, 3))
def test_shares_are_as_equal_as_capacities_allow(capacity: list[int], part: float, seed: int) -> None:
    total = round(part * sum(capacity))
    shares = share_out(total, np.array(capacity), np.random.default_rng(seed))
    assert shares.sum() == total and (shares <= capacity).all() and (shares >= 0).all()
    open_ = shares[shares < capacity]
    assert len(open_) == 0 or shares.max() <= open_.min() + 1


def test_pairs_are_numbered_without_gaps_up_to_large_numbers() -> None:
    pairs = below_diagonal(np.arange(28))
    assert [tuple(p) for p in pairs.tolist()] == [(a, b) for b in range(8) for a in range(b)]
    for b in (3_000_000, 94_906_266):
        edge = b * (b - 1) // 2
        assert below_diagonal(np.array([edge - 1, edge])).tolist() == [[b - 2, b - 1], [0, b]]


def test_people_are_dealt_evenly() -> None:
    capped = np.array([9] * 10 + [4] * 10 + [0] * 7)
    fold = deal(capped, 5, np.random.default_rng(0))
    assert np.bincount(fold, weights=capped).tolist() == [26] * 5 and set(np.bincount(fold)) == {5, 6}


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path, make_jpeg: object) -> Path:
    """Twelve people with four images each; one has a comma and a quote in the name."""
    folder = tmp_path / "many"
    for k in range(12):
        name = 'O"Neil, Ann' if k == 0 else f"p{k:02d}"
        (folder / name).mkdir(parents=True)
        for i in range(4):
            (folder / name / f"{i}.jpg").write_bytes(make_jpeg(10 * k + i))  # type: ignore[operator]
    return folder


def test_files_say_what_was_chosen(many: Path, tmp_path: Path) -> None:
    source = open_source(many)
    choice = choose_pairs(source, pairs=60, folds=3, per_person=5, seed=1)  # type: ignore[arg-type]
    count = write_pairs(source, choice, tmp_path / "mine", with_bin=True)  # type: ignore[arg-type]
    sides = np.stack([choice.left, choice.right], axis=1)
    names = [[source.names[i] for i in pair] for pair in sides]

    listed = read_pairs(tmp_path / "mine" / "pairs.csv")
    assert [[p.left, p.right] for p in listed.pairs] == names and listed.people_known
    assert np.array_equal(listed.same, choice.same) and listed.folds is not None
    assert np.array_equal(listed.folds.fold, choice.fold)

    files = {
        p.relative_to(tmp_path / "mine" / "images").as_posix() for p in (tmp_path / "mine" / "images").rglob("*.jpg")
    }
    assert files == {name for pair in names for name in pair} and len(files) == count
    assert all((tmp_path / "mine" / "images" / name).read_bytes() == (many / name).read_bytes() for name in files)

    content = read_bin(tmp_path / "mine" / "mine.bin")
    assert np.array_equal(content.same, choice.same)
    assert content.bins == [(many / name).read_bytes() for pair in names for name in pair]

    opened, of_bin = open_benchmark(str(tmp_path / "mine")), open_benchmark(str(tmp_path / "mine" / "mine.bin"))
    assert opened.name == "mine" and opened.failed == 0 and opened.fold_rule == "the list's own 3 folds"
    assert np.array_equal(opened.source.read(opened.left), source.read(choice.left))
    assert np.array_equal(of_bin.source.read(of_bin.right), source.read(choice.right))
    assert len(open_benchmark(f"allpairs:{tmp_path / 'mine'}").same) == count * (count - 1) // 2


def test_the_bin_is_a_plain_pickle_of_protocol_4(many: Path, tmp_path: Path) -> None:
    import pickle

    source = open_source(many)
    choice = choose_pairs(source, pairs=60, folds=3, per_person=5, seed=1)  # type: ignore[arg-type]
    write_pairs(source, choice, tmp_path / "mine", with_bin=True)  # type: ignore[arg-type]
    data = (tmp_path / "mine" / "mine.bin").read_bytes()
    bins, same = pickle.loads(data)
    assert data[:2] == b"\x80\x04" and {type(b) for b in bins} == {bytes} and {type(s) for s in same} == {bool}
    assert len(data) < 1.2 * sum(len(b) for b in set(bins))  # an image of several pairs is held once


def test_nothing_is_overwritten_and_nothing_half_is_left(many: Path, tmp_path: Path) -> None:
    source = open_source(many)
    choice = choose_pairs(source, pairs=12, folds=2, per_person=5, seed=1)  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(OutputExists, match="name another --out"):
        write_pairs(source, choice, tmp_path / "full")  # type: ignore[arg-type]
    (many / source.names[choice.left[-1]]).unlink()
    with pytest.raises(InputError, match=r"\.jpg cannot be read: there is no such file"):
        write_pairs(source, choice, tmp_path / "half")  # type: ignore[arg-type]
    assert not (tmp_path / "half").exists() and not list(tmp_path.glob(".half*"))


@pytest.mark.parametrize("name", [" a.jpg", "\udcff.jpg", "../a.jpg"])
def test_names_that_a_list_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    source = faces([2] * 4)
    source.names = [name if i == 0 else n for i, n in enumerate(source.names)]
    choice = choose_pairs(source, pairs=8, folds=2, per_person=5, seed=1)
    with pytest.raises(InputError, match="rename the file|not inside"):
        write_pairs(source, choice, tmp_path / "out")
    assert not list(tmp_path.iterdir())
