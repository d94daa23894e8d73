"""Fitting the estimator: who is for what, the loss by hand, worse copies, and the sphere where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekit.alignment.estimator import Estimator
from facekit.alignment.statistics import Stats
from facekit.core.device import Device
from facekit.core.errors import InputError
from facekit.training.degraded import WAYS, Degraded, covered
from facekit.training.estimator import (
    BestEpoch,
    FitSettings,
    Lessons,
    RowBatches,
    discrepancy_terms,
    explained,
    fit_estimator,
    split_people,
    targets_of,
    usual,
)
from facekit.training.optimisers import build_optimiser

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)


def test_people_are_cut_in_three_and_shared_by_none() -> None:
    labels = np.repeat(np.arange(100), np.arange(100) % 5 + 1)
    split = split_people(labels, seed=0)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(labels)))
    people = [set(labels[rows].tolist()) for rows in split]
    assert [len(part) for part in people] == [50, 40, 10]
    assert not people[0] & people[1] and not people[1] & people[2] and not people[0] & people[2]
    assert all(np.array_equal(a, b) for a, b in zip(split, split_people(labels, seed=0), strict=True))
    assert not np.array_equal(split.bank, split_people(labels, seed=1).bank)
    with pytest.raises(InputError, match="39 people, and an estimator needs at least 40"):
        split_people(np.arange(39), seed=0)


def test_targets_are_the_discrepancy_and_the_log_of_a_clamped_deviation() -> None:
    stats = Stats(np.array([0.2, 0.4]), np.zeros(2), np.array([0.1, 0.0]), np.ones(2, int), np.empty((2, 0), int))
    wanted = torch.tensor([[0.2, np.log(0.1)], [0.4, np.log(1e-4)]], dtype=torch.float32)
    torch.testing.assert_close(targets_of(stats), wanted)
    torch.testing.assert_close(usual(wanted), torch.tensor([0.3, np.log((0.1 + 1e-4) / 2)], dtype=torch.float32))


def test_the_loss_by_hand() -> None:
    said, wanted = torch.tensor([[0.30, -2.0], [0.10, -3.0]]), torch.tensor([[0.25, -4.0], [0.10, -3.0]])
    terms = discrepancy_terms(said, wanted, torch.tensor(0.05))
    # d is off by one spread: smooth L1 is 1/2, of two images. log v is off by 2: 2 - 1/2, of two images, at weight 1/2.
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"d": 0.25, "log_v": 0.375})


def test_batches_of_rows_hold_every_row_once_and_can_start_anywhere() -> None:
    batches = RowBatches(rows=10, batch=4, seed=3, device=CPU)
    whole = [b.index.tolist() for b in batches.epoch(1)]
    assert batches.steps_per_epoch == 3 and [len(rows) for rows in whole] == [4, 4, 2]
    assert sorted(row for rows in whole for row in rows) == list(range(10))
    assert [b.index.tolist() for b in batches.epoch(1, start=2)] == whole[2:]
    assert [b.index.tolist() for b in batches.epoch(2)] != whole


def test_r2_by_hand() -> None:
    true = np.array([1.0, 2.0, 3.0])
    assert explained(true, true) == 1.0
    assert explained(np.full(3, 2.0), true) == 0.0
    assert explained(np.full(3, 3.0), true) == pytest.approx(1 - 5 / 2)
    assert explained(np.zeros(3), np.ones(3)) == 0.0


def unrelated(seed: int, count: int = 200) -> Lessons:
    """Targets that the vectors say nothing about."""
    rng = np.random.default_rng(seed)
    vectors, targets = rng.normal(size=(count, 8)), rng.normal(size=(count, 2)) * 0.01
    return Lessons(torch.from_numpy(vectors).float(), torch.from_numpy(targets).float())


def fit(learn: Lessons, held: Lessons, epochs: int = 20) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    fitted = fit_estimator(
        learn, held, lambda m: build_optimiser("adamw", m, 1e-3, 1e-4), CPU, FitSettings(epochs, 64, 0)
    )
    with torch.no_grad():
        return fitted.r2, fitted.network(held.vectors)


def test_an_estimator_no_better_than_a_constant_becomes_one() -> None:
    learn = unrelated(0)
    r2, said = fit(learn, unrelated(1), epochs=60)
    assert r2 <= 0
    assert torch.equal(said, usual(learn.targets).expand_as(said))


def related(seed: int) -> Lessons:
    """Targets that are two of the vectors' numbers."""
    vectors = unrelated(seed, 600).vectors
    return Lessons(vectors, vectors[:, :2] * 0.01)


def test_what_can_be_learned_is_learned_and_repeats() -> None:
    held = related(1)
    r2, said = fit(related(0), held, epochs=20)
    assert r2 > 0.8
    assert explained(said[:, 0].numpy(), held.targets[:, 0].numpy()) == pytest.approx(r2, abs=1e-5)
    again, same = fit(related(0), held, epochs=20)
    assert again == r2 and torch.equal(said, same)


def test_the_best_epoch_is_kept_whatever_comes_after() -> None:
    held = Lessons(torch.eye(4), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    best = BestEpoch(held)
    for constant, wanted in ((0.0, -1.8), (1.4, -0.008), (3.0, -1.8)):  # 1 - sum of squares / 5
        assert best(Estimator(4, torch.tensor([constant, 0.0]))) == {"r2": pytest.approx(wanted)}
    assert best.r2 == pytest.approx(-0.008) and best.weights["centre"].tolist() == pytest.approx([1.4, 0.0])


# --- worse copies -----------------------------------------------------------------------------------------


class Faces:
    """Noise in memory."""

    size, fingerprint, identities, notes = (40, 40), "noise", (), ()
    names = tuple(f"{i}.png" for i in range(30))
    labels = np.full(30, -1)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 40, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return 30

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


def test_worse_copies_are_functions_of_seed_and_row() -> None:
    source, rows = Faces(), np.arange(30)
    worse = Degraded(source, seed=0)
    copies = worse.read(rows)
    assert copies.shape == source.pixels.shape and copies.dtype == np.uint8
    assert np.array_equal(worse.read(rows[::-1])[::-1], copies)
    assert np.array_equal(worse.read(rows[7:8])[0], copies[7])
    assert all(not np.array_equal(a, b) for a, b in zip(copies, source.pixels, strict=True))
    other = Degraded(source, seed=1)
    assert not np.array_equal(other.read(rows), copies)
    assert len({worse.fingerprint, other.fingerprint, source.fingerprint}) == 3
    kept = (copies == source.pixels).mean(axis=(1, 2, 3)) > 0.5
    assert 0 < kept.sum() < 30, "some are covered, which leaves the rest as it was, some are not"
    assert len(WAYS) == 3


def test_a_cover_is_one_grey_square() -> None:
    words = np.random.default_rng(0).integers(0, 2**63, 50).astype(np.uint64)
    grey = (covered(np.full((50, 40, 30, 3), 200, np.uint8), words) == 127).all(axis=3)
    assert (grey.sum(axis=(1, 2)) == 12 * 12).all()
    for one in grey:
        y, x = np.nonzero(one)
        assert np.ptp(y) == np.ptp(x) == 11
    assert len({tuple(np.argwhere(one)[0]) for one in grey}) > 30
