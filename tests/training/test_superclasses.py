"""Clusters of the teacher's features, and the batches drawn by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facekit.core.errors import InputError, UsageError
from facekit.data.samplers import class_uniform
from facekit.training import superclasses as module
from facekit.training.artefacts import open_artefacts
from facekit.training.superclasses import (
    Superclasses,
    default_count,
    filled,
    first_centres,
    nearest,
    superclasses,
)


def planted(clusters: int, each: int, width: int, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Features near ``clusters`` orthogonal directions, of any length, and which one each is near."""
    rng = np.random.default_rng(clusters)
    ids = rng.permutation(np.repeat(np.arange(clusters), each))
    directions = np.linalg.qr(rng.normal(size=(width, width)))[0][:clusters]
    rows = directions[ids] + noise * rng.normal(size=(len(ids), width)) / width**0.5
    return (rows * rng.uniform(0.1, 10, (len(ids), 1))).astype(np.float32), ids


def blob(rows: int = 400, width: int = 6) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(rows, width)).astype(np.float32)


def unit(features: np.ndarray) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(features).double())


def test_planted_clusters_are_found_and_batches_are_those_of_their_ids() -> None:
    features, ids = planted(12, 15, 16)
    found = superclasses(features, 12, seed=0)
    assert found.cluster.dtype == torch.int32 and found.cluster.shape == (180,)
    assert found.centres.dtype == torch.float32 and found.centres.shape == (12, 16)
    pairs = {*zip(ids.tolist(), found.cluster.tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 12
    for epoch in (0, 3):  # only who is with whom matters to the sampler
        by_cluster = class_uniform(found.cluster.numpy(), 24, 4, seed=7)(epoch)
        assert np.array_equal(by_cluster, class_uniform(ids, 24, 4, seed=7)(epoch))


@pytest.mark.parametrize("seed", range(5))
def test_the_start_has_a_row_of_every_planted_cluster(seed: int) -> None:
    features, ids = planted(12, 15, 16, noise=0.01)
    rows = nearest(features, first_centres(features, 12, seed))[0]
    assert len({*zip(ids.tolist(), rows.tolist(), strict=True)}) == 12  # at random: once in 20,000


def test_at_the_end_rows_are_with_their_nearest_centre_and_centres_are_unit_means() -> None:
    features = blob()
    found = superclasses(features, 9, seed=1)
    rows, cluster = unit(features), found.cluster.long()
    cosine = rows @ found.centres.double().t()
    assert float((cosine.max(dim=1).values - cosine[torch.arange(400), cluster]).max()) < 1e-6
    for k in range(9):
        mean = rows[cluster == k].mean(dim=0)
        torch.testing.assert_close(found.centres[k].double(), mean / mean.norm(), rtol=0, atol=1e-6)


def test_more_rounds_are_better_and_the_first_is_better_than_chance() -> None:
    features = blob()

    def spread(rounds: int) -> float:
        found = superclasses(features, 9, seed=1, max_iter=rounds)
        return float((1 - (unit(features) * found.centres.double()[found.cluster.long()]).sum(dim=1)).mean())

    few, more, most = spread(1), spread(3), spread(100)
    assert most < more < few
    alone = unit(features).mean(dim=0)
    assert few < 0.8 * float(1 - (unit(features) @ alone / alone.norm()).mean())


def test_lengths_and_blocks_do_not_matter_seeds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    features = blob()
    found = superclasses(features, 9, seed=1)
    again, other = superclasses(features, 9, seed=1), superclasses(features, 9, seed=2)
    assert torch.equal(found.cluster, again.cluster) and torch.equal(found.centres, again.centres)
    assert not torch.equal(found.cluster, other.cluster)
    longer = superclasses(features * np.float32(4), 9, seed=1)
    assert torch.equal(longer.cluster, found.cluster)
    monkeypatch.setattr(module, "_BLOCK", 64)
    in_blocks = superclasses(features, 9, seed=1)
    assert torch.equal(in_blocks.cluster, found.cluster)
    torch.testing.assert_close(in_blocks.centres, found.centres)


def test_the_start_may_see_a_part_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = planted(6, 100, 8)
    monkeypatch.setattr(module, "_START_ROWS", 60)
    monkeypatch.setattr(module, "_BLOCK", 64)
    found = superclasses(features, 6, seed=0)
    assert len({*zip(ids.tolist(), found.cluster.tolist(), strict=True)}) == 6


def test_features_may_be_a_view_of_a_mapped_table(tmp_path: Path) -> None:
    features, _ = planted(4, 20, 8)
    np.save(tmp_path / "table.npy", np.stack([features, -features], axis=1))
    table = np.load(tmp_path / "table.npy", mmap_mode="r")
    assert torch.equal(superclasses(table[:, 0], 4, seed=0).cluster, superclasses(features, 4, seed=0).cluster)


# --- what k-means can stumble over ---------------------------------------------------------------------------


def test_an_empty_cluster_takes_the_farthest_row_that_leaves_none_empty() -> None:
    cluster = torch.tensor([0, 0, 0, 2, 3, 3])
    cosine = torch.tensor([0.9, 0.2, 0.8, 0.1, 0.5, 0.6])  # row 3 is farthest, and alone in its cluster
    assert filled(cluster, cosine, 5).tolist() == [0, 4, 0, 2, 1, 3]
    assert filled(cluster, cosine, 4).tolist() == [0, 1, 0, 2, 3, 3]
    same = torch.tensor([0, 1])
    assert torch.equal(filled(same, torch.ones(2), 2), same)


@pytest.mark.parametrize("n_super", [1, 5, 9, 10])
def test_no_cluster_is_empty_even_where_rows_are_equal_or_zero(n_super: int) -> None:
    features = np.ones((10, 3), np.float32)
    features[:2], features[2] = [0, -1, 0], 0
    found = superclasses(features, n_super, seed=0)
    assert sorted({*found.cluster.tolist()}) == list(range(n_super))
    assert bool(found.centres.isfinite().all())


def test_as_many_clusters_as_rows_gives_each_its_own() -> None:
    features = blob(20)
    found = superclasses(features, 20, seed=0)
    torch.testing.assert_close(found.centres[found.cluster.long()].double(), unit(features), rtol=0, atol=1e-6)


def test_ties_go_to_the_first_centre() -> None:
    cluster, cosine = nearest(np.array([[2, 0], [0, 3]], np.float32), torch.tensor([[0.0, 1], [1, 0], [1, 0], [0, 1]]))
    assert cluster.tolist() == [1, 0] and cosine.tolist() == [1, 1]


def test_what_cannot_be_clustered() -> None:
    with pytest.raises(InputError, match="21 superclasses of 20 images were asked for; lower --superclasses"):
        superclasses(blob(20), 21, seed=0)
    with pytest.raises(UsageError, match="--superclasses 0 is less than 1"):
        superclasses(blob(20), 0, seed=0)
    features = blob(20)
    features[7, 2] = np.nan
    with pytest.raises(InputError, match="features of images 0 to 19 are not all finite"):
        superclasses(features, 2, seed=0)


# --- the artefact --------------------------------------------------------------------------------------------


def test_the_default_number() -> None:
    assert default_count(128, 4, 10) == 64 and default_count(128, 4, 4339) == 1084


def test_the_artefact_is_kept_and_read_back(tmp_path: Path) -> None:
    about: dict[str, Any] = {"teacher_sha256": "ab", "superclasses": 4, "seed": 0}
    found: list[Superclasses] = []

    def build() -> Any:
        found.append(superclasses(planted(4, 20, 8)[0], 4, seed=0))
        return found[0].files()

    made, again = (open_artefacts(tmp_path, about, build) for _ in range(2))
    assert len(found) == 1 and list(again.hashes) == ["superclasses.safetensors"] and again.hashes == made.hashes
    assert torch.equal(again.tensors["cluster"], found[0].cluster) and again.tensors["cluster"].dtype == torch.int32
    assert torch.equal(again.tensors["centres"], found[0].centres)
