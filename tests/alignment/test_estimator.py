"""The estimator's oracle on the sphere, its files, and the network that ships with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.alignment.bank import bank_of
from facekit.alignment.errors import BadEmbedding, OtherModel
from facekit.alignment.estimator import (
    Estimator,
    EstimatorStatistics,
    LearnedEstimator,
    Lesson,
    estimate,
    module_with_aligned_output,
    read_estimator,
    require_estimator,
    write_estimator,
)
from facekit.alignment.extended import extend
from facekit.alignment.operators import OPERATORS, Terms, pack
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics, Reference, StatsSource
from facekit.core.device import Device
from facekit.core.errors import CorruptFile, InputError, MissingFile
from facekit.core.types import Outputs
from facekit.training.estimator import FitSettings, Lessons, fit_estimator, split_people, targets_of
from facekit.training.optimisers import build_optimiser

CPU = Device(torch.device("cpu"), "fp32", deterministic=True)
WIDTH = 6


def lesson(dbar: float = 0.25, vbar: float = 0.1, r2: float = 0.5) -> Lesson:
    return Lesson(50, "mean", 0.05, "single", dbar, vbar, "model", "table", "bank", r2, 0.7, 100, 400)


def some_estimator(width: int = WIDTH) -> Estimator:
    torch.manual_seed(0)
    network = Estimator(width, torch.tensor([0.25, -2.0]), torch.tensor([0.05, 0.3]))
    nn.init.normal_(network.last.weight)
    return network.eval().requires_grad_(False)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def vectors(count: int, width: int = WIDTH) -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(count, width)))


def aligned(f: np.ndarray, left: np.ndarray, right: np.ndarray, source: StatsSource, dbar: float) -> np.ndarray:
    """Operator add at alpha 0.5 on pairs, sides both."""
    stats = source(f)
    terms = pack(stats)
    cosine = np.einsum("pd,pd->p", f[left], f[right])
    sides = (Terms.of(terms[rows], np.dtype(np.float64)) for rows in (left, right))
    return OPERATORS["add"](cosine, *sides, Settings(), Reference(dbar, 1.0, 1.0))


# --- the statistics ---------------------------------------------------------------------------------------


def test_an_untrained_estimator_leaves_every_score_as_it_is() -> None:
    f = vectors(200)
    left, right = np.triu_indices(200, 1)
    centre = torch.tensor([0.25, np.log(0.1)])
    source = EstimatorStatistics(LearnedEstimator(Estimator(WIDTH, centre), lesson()))
    stats = source(f, ["a"] * 200)
    assert np.array_equal(stats.d, np.full(200, 0.25)) and np.allclose(stats.v, 0.1)
    raw = np.einsum("pd,pd->p", f[left], f[right])
    assert np.array_equal(aligned(f, left, right, source, dbar=0.25), raw)
    moved = aligned(f, left, right, source, dbar=0.1)
    assert np.array_equal(np.argsort(moved, kind="stable"), np.argsort(raw, kind="stable"))


def test_statistics_are_the_networks_word() -> None:
    network, f = some_estimator(), vectors(9)
    stats = EstimatorStatistics(LearnedEstimator(network, lesson()))(f)
    said = network(torch.from_numpy(f).float()).double().numpy()
    np.testing.assert_allclose(stats.d, said[:, 0], rtol=1e-6)
    np.testing.assert_allclose(stats.m, said[:, 0], rtol=1e-6)
    np.testing.assert_allclose(stats.v, np.exp(said[:, 1]), rtol=1e-6)
    assert stats.count.tolist() == [50] * 9 and stats.idx.shape == (9, 0)
    assert np.ptp(stats.d) > 0


def test_many_embeddings_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    network, f = some_estimator(), vectors(23)
    whole = estimate(network, f)
    monkeypatch.setattr("facekit.alignment.estimator._BLOCK", 5)
    np.testing.assert_allclose(estimate(network, f), whole, atol=1e-6)
    assert estimate(network, f[:0]).shape == (0, 2)


def test_broken_rows_and_other_widths_are_refused() -> None:
    source = EstimatorStatistics(LearnedEstimator(some_estimator(), lesson()))
    with pytest.raises(BadEmbedding):
        source(np.full((2, WIDTH), np.nan))
    with pytest.raises(BadEmbedding):
        source(vectors(2, WIDTH + 1))


# --- the sphere of the spec -------------------------------------------------------------------------------

DENSE, OPEN, NEIGHBOURS, SIZE = 0.7, 0.0, 50, 128


def people(rng: np.random.Generator, pull: float, centre: np.ndarray, count: int, images: int) -> np.ndarray:
    """Unit images [count,images,128] of people pulled towards a centre."""
    means = unit(pull * centre + np.sqrt(1 - pull**2) * unit(rng.normal(size=(count, SIZE))))
    return unit(means[:, None] + rng.normal(size=(count, images, SIZE)) / np.sqrt(SIZE))


def trials(rng: np.random.Generator, offset: int, count: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """5,000 genuine and 50,000 impostor pairs within one group whose first image is row ``offset``."""
    person = rng.integers(count, size=5_000)
    first, second = (rng.permuted(np.tile(np.arange(images), (5_000, 1)), axis=1)[:, :2]).T
    a = rng.integers(count, size=50_000)
    b = (a + rng.integers(1, count, size=50_000)) % count
    left = np.concatenate([person * images + first, a * images + rng.integers(images, size=50_000)])
    right = np.concatenate([person * images + second, b * images + rng.integers(images, size=50_000)])
    return left + offset, right + offset, np.arange(55_000) < 5_000


def tar(scores: np.ndarray, same: np.ndarray, far: float = 1e-3) -> float:
    """Strict: ties count against the system."""
    impostor = np.sort(scores[~same])[::-1]
    return float(np.mean(scores[same] > impostor[int(far * len(impostor))]))


def test_on_the_sphere_it_does_what_the_bank_does_for_people_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    centre_a, centre_b = unit(rng.normal(size=(2, SIZE)))
    training = np.concatenate([people(rng, DENSE, centre_a, 500, 4), people(rng, OPEN, centre_b, 500, 4)])
    tested = np.concatenate([people(rng, DENSE, centre_a, 300, 5), people(rng, OPEN, centre_b, 300, 5)])
    rows, f = training.reshape(-1, SIZE), tested.reshape(-1, SIZE)
    labels = np.repeat(np.arange(1_000), 4)
    split = split_people(labels, seed=0)
    names = [f"person {label}" for label in labels[split.bank]]
    ids = [f"{i:05d}" for i in split.bank]
    bank = bank_of(rows[split.bank], names, ids, "train", model_sha="model", preproc_sha="table")
    statistics = BankStatistics(bank, Settings(neighbours=NEIGHBOURS))
    learn, held = (
        Lessons(torch.from_numpy(rows[part]).float(), targets_of(statistics(rows[part])))
        for part in (split.learn, split.held)
    )
    torch.manual_seed(0)
    fitted = fit_estimator(learn, held, lambda m: build_optimiser("adamw", m, 1e-3, 1e-4), CPU, FitSettings(20, 256, 0))
    assert fitted.r2 > 0.9
    learned = LearnedEstimator(fitted.network, lesson(r2=fitted.r2))
    groups = [trials(rng, offset, 300, 5) for offset in (0, 1_500)]
    left, right, same = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    raw = tar(np.einsum("pd,pd->p", f[left], f[right]), same)
    by_bank = tar(aligned(f, left, right, statistics, dbar=0.2), same)
    by_estimator = tar(aligned(f, left, right, EstimatorStatistics(learned), dbar=0.2), same)
    assert abs(by_estimator - by_bank) <= 0.02
    assert by_estimator > raw + 0.06


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_estimator(tmp_path / "e.safetensors", LearnedEstimator(some_estimator(), lesson()))


def test_files_hold_all_there_is_to_know(written: Path) -> None:
    assert sorted(p.name for p in written.parent.iterdir()) == ["e.json", "e.safetensors"]
    found, f = read_estimator(written), vectors(5)
    assert found.lesson == lesson() and not found.constant
    np.testing.assert_array_equal(estimate(found.network, f), estimate(some_estimator(), f))
    table = json.loads((written.parent / "e.json").read_text())
    assert {"reduce", "neighbours", "statistic", "tau", "dbar", "vbar", "model_sha", "bank_sha", "r2", "spearman"} <= {
        *table
    }
    assert found.sha == table["weights_sha256"]


def test_an_estimator_of_another_model_is_refused() -> None:
    learned = LearnedEstimator(some_estimator(), lesson())
    require_estimator(learned, "model", "table")
    with pytest.raises(OtherModel, match="the estimator was made with model model, but is used with other") as caught:
        require_estimator(learned, "other", "table")
    assert caught.value.code == "ALIGN-HASH"
    with pytest.raises(OtherModel, match="preprocessing"):
        require_estimator(learned, "model", "other")


def test_one_flipped_byte_is_noticed(written: Path) -> None:
    content = bytearray(written.read_bytes())
    content[-3] ^= 1
    written.write_bytes(bytes(content))
    with pytest.raises(CorruptFile, match="damaged"):
        read_estimator(written)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "facekit.estimator/9"},
        {"neighbours": 0},
        {"neighbours": "many"},
        {"statistic": "median"},
        {"reduce": "all"},
        {"dbar": float("nan")},
        {"r2": None},
        {"weights_sha256": "0"},
    ],
    ids=lambda change: str(next(iter(change.items()))),
)
def test_a_table_that_makes_no_sense_is_refused(written: Path, change: dict[str, object]) -> None:
    file = written.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CorruptFile, match="not an estimator, or is damaged"):
        read_estimator(written)


def test_weights_of_something_else_are_refused(written: Path, tmp_path: Path) -> None:
    from facekit.core.checkpoints import write_tensors

    state = some_estimator().state_dict()
    for wrong in (
        {"layers.0.weight": torch.ones(3)},
        {**state, "extra": torch.ones(1)},
        {**state, "last.weight": torch.ones(3, 128)},
        {**state, "last.bias": torch.full((2,), float("nan"))},
        {**state, "last.bias": torch.ones(2, dtype=torch.int64)},
        {**state, "layers.0.weight": torch.ones(())},
    ):
        write_tensors(written, wrong)
        with pytest.raises(CorruptFile, match="not an estimator, or is damaged"):
            read_estimator(written)
    with pytest.raises(InputError, match="is no estimator: give the .safetensors file"):
        read_estimator(tmp_path / "e.json")
    with pytest.raises(MissingFile):
        read_estimator(tmp_path / "none.safetensors")


# --- inside a network that ships --------------------------------------------------------------------------


class Net(nn.Module):
    """A little network with an embedding of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, WIDTH)

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(self.layer(x.flatten(1)))


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
def test_aligned_vectors_of_a_network_multiply_to_the_operators_score(flip: str) -> None:
    torch.manual_seed(1)
    net, images = Net().requires_grad_(False), torch.randn(7, 3, 4, 4)
    plain, mirrored = (net(x).embedding.double().numpy() for x in (images, images.flip(3)))
    fused = {"none": plain, "sum": plain + mirrored, "concat": np.concatenate([plain, mirrored], axis=1)}[flip]
    learned = LearnedEstimator(some_estimator(fused.shape[1]), lesson(dbar=0.2))
    embedding, enrolled, probe = module_with_aligned_output(net, learned, 0.5, flip)(images)
    np.testing.assert_allclose(embedding.numpy(), plain, rtol=1e-6)
    f, source = unit(fused), EstimatorStatistics(learned)
    for side, vectors_of_side in (("enrol", enrolled), ("probe", probe)):
        wanted = extend(f, source(f).d, Settings(), Reference(0.2, 1.0, 1.0), side)
        np.testing.assert_allclose(vectors_of_side.numpy(), wanted, atol=1e-6)
    left, right = np.indices((7, 7)).reshape(2, -1)
    score = aligned(f, left, right, source, dbar=0.2).reshape(7, 7)
    np.testing.assert_allclose((enrolled @ probe.T).numpy(), score, atol=1e-6)


def test_an_unknown_flip_rule_cannot_ship() -> None:
    with pytest.raises(InputError, match="flip rule 'both'"):
        module_with_aligned_output(Net(), LearnedEstimator(some_estimator(), lesson()), 0.5, "both")
