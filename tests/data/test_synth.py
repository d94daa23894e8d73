"""Drawn people: each picture follows from (seed, person, picture) alone, identity shows, lists are sound."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from facekit.core.errors import InputError, OutputExists, WriteFailed
from facekit.data import synth
from facekit.data.faces import TRAITS, draw_person, draw_shots
from facekit.data.pairlist import read_pairs
from facekit.data.pairs import open_benchmark
from facekit.data.rendering import Canvas, background, render, soften
from facekit.data.sources import open_source
from facekit.data.synth import pictures, synthesise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "demo"
    synthesise(out, identities=20, per_identity=4, size=48, seed=3)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_layout_and_record(made: Path) -> None:
    source = open_source(made / "images", need_labels=True)
    assert len(source) == 80 and source.size == (48, 48)
    assert source.identities[0] == "id_0001" and source.names[0] == "id_0001/id_0001_0001.jpg"
    record = json.loads((made / "synth.json").read_text())
    assert record["seed"] == 3 and record["version"] == synth.VERSION and record["images"] == 80
    assert record["people"] == {"train": 10, "dev": 4, "test": 6}
    assert sorted(p.name for p in made.iterdir()) == ["images", "pairs_dev.txt", "pairs_test.txt", "synth.json"]
    assert len(list(made.parent.iterdir())) == 1


def test_the_lists_are_sound_and_their_people_disjoint(made: Path) -> None:
    dev, test = (read_pairs(made / f"pairs_{role}.txt") for role in ("dev", "test"))
    assert not dev.people() & test.people()
    train = open_source(made / "images", exclude=(made / "pairs_dev.txt", made / "pairs_test.txt"))
    assert len(train.identities) == 10 and not set(train.identities) & (dev.people() | test.people())
    for listed in (dev, test):
        unordered = {tuple(sorted((p.left, p.right))) for p in listed.pairs}
        assert len(unordered) == len(listed.pairs) and listed.same.sum() * 2 == len(listed.pairs)
        assert all(p.left != p.right for p in listed.pairs)
    found = open_benchmark(str(made / "pairs_test.txt"))
    assert found.failed == 0 and len(found.same) == 2 * min(60, 6 * 6)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(made: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "again", identities=20, per_identity=4, size=48, seed=3)
    assert files(tmp_path / "again") == files(made)
    synthesise(tmp_path / "other", identities=2, per_identity=2, size=48, seed=4)
    assert files(tmp_path / "other").keys().isdisjoint({"pairs_dev.txt", "pairs_test.txt"})
    name = "images/id_0001/id_0001_0001.jpg"
    assert files(tmp_path / "other")[name] != files(made)[name]


def test_pictures_do_not_depend_on_how_many_are_asked_for(made: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "few", identities=3, per_identity=3, size=48, seed=3)
    few, many = files(tmp_path / "few" / "images"), files(made / "images")
    assert len(few) == 9 and all(many[name] == data for name, data in few.items())
    # Nor on the block they are rendered in.
    assert list(pictures(0, 5, synth.BLOCK + 2, 32))[: synth.BLOCK - 1] == list(pictures(0, 5, synth.BLOCK - 1, 32))


def test_every_trait_changes_the_picture() -> None:
    person = draw_person(0, 0)
    person.traits.update(freckles=0.1, forehead_line=0.1, beard=0.3, moustache=0.3, iris_green=0.4, iris_brown=0.4)
    person.traits.update(hair_red=0.5, hair_grey=0.3, mouth_width=14.0)
    shots = draw_shots(0, 0, 2, person)
    shots.glasses[:] = 1
    quiet = np.zeros((2, 112, 112, 3), np.float32)
    plain = render(person, shots, 112, quiet).astype(int)
    silent = {name for name in TRAITS if not change(person, shots, name, quiet, plain)}
    assert silent == {"glasses"}  # how often they are worn, decided before


def change(person: object, shots: object, name: str, quiet: np.ndarray, plain: np.ndarray) -> bool:
    traits = person.traits  # type: ignore[attr-defined]
    before = traits[name]
    traits[name] = before + 0.5 * TRAITS[name][1]
    moved = np.abs(render(person, shots, 112, quiet).astype(int) - plain).max() > 0  # type: ignore[arg-type]
    traits[name] = before
    return bool(moved)


def test_pictures_of_a_person_are_alike_in_the_mean_and_differ_one_by_one() -> None:
    grey = []
    for number in range(8):
        person = draw_person(0, number)
        shots = draw_shots(0, number, 8, person)
        noise = np.random.default_rng(number).standard_normal((8, 64, 64, 3)).astype(np.float32)
        grey.append(render(person, shots, 64, noise).astype(float).mean(axis=3))
    images = np.stack(grey)  # [people, pictures, H, W]
    assert images.std() > 20
    flat = images - images.mean(axis=(2, 3), keepdims=True)
    flat = (flat / flat.std(axis=(2, 3), keepdims=True)).reshape(8, 8, -1)
    likeness = np.einsum("aip,bjp->abij", flat, flat) / flat.shape[2]
    same = likeness[np.arange(8), np.arange(8)][:, ~np.eye(8, dtype=bool)]
    different = likeness[~np.eye(8, dtype=bool)]
    assert same.max() < 0.99  # no two pictures of a person repeat
    assert 0.05 < same.mean() - different.mean() < 0.5  # identity shows in raw pixels, but does not settle it
    assert np.quantile(different, 0.9) > np.quantile(same, 0.1)


def test_blur_keeps_flat_colour_and_edges_are_one_pixel_wide() -> None:
    flat = np.full((2, 9, 9, 3), 0.3, np.float32)
    assert np.allclose(soften(flat, np.array([0.0, 1.0])), 0.3, atol=1e-6)
    point = np.zeros((1, 9, 9, 3), np.float32)
    point[0, 4, 4] = 1
    assert soften(point, np.array([1.0]))[0, 4, 4, 0] == pytest.approx((6 / 16) ** 2)
    assert np.array_equal(soften(point, np.array([0.0])), point)
    canvas = Canvas(np.zeros((3, 1, 1, 5), np.float32), np.zeros(()), np.zeros(()), 1.0)
    assert canvas.edge(np.array([-1, -0.5, 0, 0.5, 1.0])).tolist() == [1, 1, 0.5, 0, 0]
    assert background(draw_shots(0, 0, 3, draw_person(0, 0)), 16).shape == (3, 3, 16, 16)


def test_any_size_has_the_same_composition() -> None:
    person = draw_person(0, 1)
    shots = draw_shots(0, 1, 2, person)
    large = render(person, shots, 112, np.zeros((2, 112, 112, 3), np.float32)).astype(float)
    small = render(person, shots, 56, np.zeros((2, 56, 56, 3), np.float32)).astype(float)
    assert np.abs(large.reshape(2, 56, 2, 56, 2, 3).mean(axis=(2, 4)) - small).mean() < 6


def test_nothing_is_overwritten_and_a_full_disk_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(made)
    with pytest.raises(OutputExists):
        synthesise(made, identities=2, per_identity=2)
    assert files(made) == before
    for wrong in ({"identities": 1}, {"per_identity": 1}, {"size": 16}):
        with pytest.raises(InputError):
            synthesise(tmp_path / "x", **wrong)

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        synthesise(tmp_path / "x", identities=2, per_identity=2, size=32)
    assert list(tmp_path.iterdir()) == []
