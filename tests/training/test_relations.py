"""Prototypes, mining, and the folder that keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import ArtefactMismatch, InputError
from facekit.training.artefacts import Files, open_artefacts
from facekit.training.relations import (
    Prototypes,
    distinct,
    most_similar,
    prototypes,
    random_neighbours,
    stable_top,
)


def grid(rows: int, columns: int) -> Tensor:
    return torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)


def known(proto: Tensor, valid: Tensor | None = None) -> Prototypes:
    valid = torch.ones(len(proto), dtype=torch.bool) if valid is None else valid
    return Prototypes(proto.float(), torch.ones(len(proto), dtype=torch.int64), valid)


def test_top_two_of_the_fixture() -> None:
    proto = normalize(torch.sin(0.91 * grid(5, 8) + 0.3))
    found = most_similar(known(proto), 2)
    assert found.ids.tolist() == [[1, 2], [2, 0], [1, 3], [4, 2], [3, 2]] and found.ids.dtype == torch.int32
    cosine = (proto @ proto.t()).float()
    torch.testing.assert_close(found.similarity, cosine.gather(1, found.ids.long()))


def test_prototypes_of_the_fixture_skip_the_identity_without_images() -> None:
    table = torch.cos(0.53 * grid(6, 8) + 0.2).float().numpy()[:, None]
    made = prototypes(table, np.array([0, 0, 1, 1, 2, 4]), 5)
    assert made.images.tolist() == [2, 2, 1, 0, 1] and made.valid.tolist() == [True, True, True, False, True]
    assert not made.proto[3].any()
    index = most_similar(made, 2).ids
    assert index[made.valid].tolist() == [[2, 1], [4, 0], [0, 4], [1, 2]] and index[3].tolist() == [-1, -1]


def test_prototypes_are_unit_means_of_unit_rows_after_averaging_views() -> None:
    table = np.array([[[3.0, 0.0]], [[0.0, 2.0]], [[5.0, 5.0]]], dtype=np.float32)
    torch.testing.assert_close(prototypes(table, np.array([0, 0, 1]), 2).proto, torch.full((2, 2), 0.5**0.5))
    two_views = np.array([[[4.0, 0.0], [0.0, 2.0]]], dtype=np.float32)
    torch.testing.assert_close(prototypes(two_views, np.array([0]), 1).proto, torch.tensor([[2.0, 1.0]]) / 5**0.5)


def test_opposite_images_make_no_prototype() -> None:
    table = np.array([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]], dtype=np.float32)
    made = prototypes(table, np.array([0, 0, 1, 2]), 3)
    assert made.valid.tolist() == [False, True, True]
    assert most_similar(made, 1).ids.tolist() == [[-1], [2], [1]]


def test_planted_twins_find_each_other() -> None:
    basis = torch.eye(20)
    twins = normalize(torch.stack([basis, basis + 0.3 * basis.roll(1, 1)], dim=1).flatten(0, 1))
    mixed = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = most_similar(known(twins[mixed]), 1).ids.squeeze(1)
    assert torch.equal(mixed[found.long()], mixed ^ 1)


def test_all_others_is_a_permutation_of_them() -> None:
    proto = normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))
    for found in (most_similar(known(proto), 6), random_neighbours(known(proto), 6, seed=3)):
        assert [sorted([i, *row]) for i, row in enumerate(found.ids.tolist())] == [list(range(7))] * 7


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = normalize(torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))
    whole = most_similar(known(proto), 4).ids
    monkeypatch.setattr("facekit.training.relations._BLOCK", 150)
    assert torch.equal(most_similar(known(proto), 4).ids, whole)


def test_ties_go_to_the_lowest_id_and_zeros_of_both_signs_are_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 40, generator=generator).round(decimals=1)
    values[0], values[0, ::2], values[1] = 0.0, -0.0, -torch.inf
    wanted = values.sort(dim=1, descending=True, stable=True).indices[:, :9]
    assert torch.equal(stable_top(values, 9), wanted)


@pytest.mark.parametrize("k", [3, 30, 98])
def test_random_neighbours_are_distinct_valid_others_and_seeded(k: int) -> None:
    valid = torch.ones(101, dtype=torch.bool)
    valid[[4, 50]] = False
    proto = normalize(torch.randn(101, 5, generator=torch.Generator().manual_seed(0)))
    found = random_neighbours(known(proto, valid), k, seed=1)
    for i, row in enumerate(found.ids.tolist()):
        if valid[i]:
            assert len({*row, i}) == k + 1 and all(valid[j] for j in row)
        else:
            assert row == [-1] * k
    torch.testing.assert_close(found.similarity[0], proto[found.ids[0].long()] @ proto[0])
    assert torch.equal(found.ids, random_neighbours(known(proto, valid), k, seed=1).ids)
    assert k == 98 or not torch.equal(found.ids, random_neighbours(known(proto, valid), k, seed=2).ids)


def test_random_draws_are_even() -> None:
    drawn = distinct(20000, 50, 5, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=50).double()
    assert float((counts - 2000).square().sum() / 2000) < 90  # chi-square with 49 degrees of freedom: 1 in 4,000


@pytest.mark.parametrize("k", [0, 5])
def test_a_wrong_number_of_neighbours_is_explained(k: int) -> None:
    proto = normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    for mine in (most_similar, lambda p, n: random_neighbours(p, n, 0)):
        with pytest.raises(InputError, match=f"{k} neighbours .* has 5 usable identities: choose .* from 1 to 4"):
            mine(known(proto), k)
    with pytest.raises(InputError, match="at least 2 usable identities"):
        most_similar(known(proto[:1]), 1)


# --- the folder ------------------------------------------------------------------------------------------


ABOUT: dict[str, Any] = {"teacher_sha256": "ab", "sizes": {"identities": 3}}


def build() -> Files:
    return {"a.safetensors": {"x": torch.arange(3)}, "b.safetensors": {"y": torch.ones(2)}}


def test_artefacts_are_built_once_and_read_back(tmp_path: Path) -> None:
    made = open_artefacts(tmp_path, ABOUT, build)
    again = open_artefacts(tmp_path, ABOUT, lambda: pytest.fail("built twice"))
    assert torch.equal(again.tensors["x"], torch.arange(3)) and torch.equal(again.tensors["y"], torch.ones(2))
    assert again.hashes == made.hashes and again.manifest == made.manifest
    other = open_artefacts(tmp_path, {**ABOUT, "teacher_sha256": "cd"}, build)
    assert other.folder != made.folder and other.manifest != made.manifest


def test_a_folder_without_its_manifest_is_built_again(tmp_path: Path) -> None:
    made = open_artefacts(tmp_path, ABOUT, build)
    (made.folder / "manifest.json").unlink()
    (made.folder / "a.safetensors").write_bytes(b"half")
    assert open_artefacts(tmp_path, ABOUT, build).hashes == made.hashes


@pytest.mark.parametrize("damage", ["file", "missing", "manifest", "about"])
def test_what_was_changed_is_refused_with_the_way_out(tmp_path: Path, damage: str) -> None:
    made = open_artefacts(tmp_path, ABOUT, build)
    file, manifest = made.folder / "a.safetensors", made.folder / "manifest.json"
    if damage == "file":
        file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    elif damage == "missing":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text("{}")
    else:
        manifest.write_text(manifest.read_text().replace('"ab"', '"cd"'))
    with pytest.raises(ArtefactMismatch, match=f"rm -r {made.folder}") as caught:
        open_artefacts(tmp_path, ABOUT, build)
    if damage == "file":
        assert made.hashes["a.safetensors"] in str(caught.value)
