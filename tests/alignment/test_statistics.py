"""Statistics of an image against five-line loops; who is left out; tiles, ties, limits and refusals."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from facekit.alignment.errors import BadEmbedding, FewNeighbours, SmallBank, SmallGallery
from facekit.alignment.rows import unit_rows
from facekit.alignment.search import Search, Tile
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics, reference_of, soft_maximum, stranger_similarity
from tests.alignment.sphere import made, random_bank, random_images


def by_loop(rows: np.ndarray, image: np.ndarray, settings: Settings, left_out: int | None = None) -> tuple[float, ...]:
    """(d, m, v, count) of one image against one row per person."""
    q = sorted((float(row @ image) for j, row in enumerate(rows) if j != left_out), reverse=True)
    if settings.radius is not None:
        inside = sum(value >= settings.radius for value in q)
        q = q[: min(max(inside, 10), 200)]
    else:
        q = q[: settings.neighbours]
    d = {"mean": np.mean(q), "max": q[0], "lse": settings.tau * np.log(np.mean(np.exp(np.array(q) / settings.tau)))}
    return float(d[settings.statistic]), float(np.mean(q)), float(np.std(q, ddof=settings.ddof)), len(q)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(neighbours=7),
        Settings(neighbours=7, ddof=1, statistic="lse"),
        Settings(neighbours=1, statistic="max"),
        Settings(neighbours=1, ddof=1),
        Settings(neighbours=1000),
        Settings(radius=0.2),
        Settings(radius=0.99, statistic="lse"),
        Settings(radius=-1.0),
    ],
)
def test_statistics_equal_the_loop(settings: Settings) -> None:
    bank, images = random_bank(250, width=8), random_images(6, width=8)
    rows = bank.entries().vectors.astype(np.float64)
    stats = BankStatistics(bank, settings)(images)
    for i, image in enumerate(images):
        if settings.neighbours == 1 and settings.ddof == 1:
            assert stats.v[i] == 0.0
            continue
        wanted = by_loop(rows, image, settings)
        found = (stats.d[i], stats.m[i], stats.v[i], stats.count[i])
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_listed_entries_are_the_closest_ones() -> None:
    bank, images = random_bank(60), random_images(5)
    cosine = images @ bank.entries().vectors.T
    stats = BankStatistics(bank, Settings(neighbours=12))(images)
    np.testing.assert_array_equal(stats.idx, np.argsort(-cosine, axis=1)[:, :12])


def test_the_whole_bank() -> None:
    bank, images = random_bank(40), random_images(5)
    people = ["bank 3", None, "bank 39", "nobody", "bank 0"]
    for ddof in (0, 1):
        stats = BankStatistics(bank, Settings(ddof=ddof)).whole(images, people)
        for i, name in enumerate(people):
            cosine = [float(r @ images[i]) for r, n in zip(*both(bank), strict=True) if n != name]
            wanted = (np.mean(cosine), np.std(cosine, ddof=ddof), len(cosine))
            np.testing.assert_allclose((stats.m[i], stats.v[i], stats.count[i]), wanted, atol=1e-7)
            assert stats.d[i] == stats.m[i]


def both(bank: object) -> tuple[np.ndarray, tuple[str, ...]]:
    entries = bank.entries()  # type: ignore[attr-defined]
    return entries.vectors.astype(np.float64), entries.people


def test_the_closest_image_of_a_person_counts_with_max() -> None:
    bank, images = random_bank(30, each=4, reduce="max"), random_images(5)
    rows = bank.embeddings.astype(np.float64).reshape(-1, 4, 16)
    order = [bank.identities.index(f"bank {i}") for i in range(30)]
    closest = np.array([[max(float(r @ x) for r in rows[i]) for i in np.argsort(order)] for x in images])
    for tile in (Tile(2, 1), Tile(3, 7), Tile(100, 10_000)):
        search = Search(bank, 10, tile=tile)
        search.want_moments()
        found = search(images)
        np.testing.assert_allclose(found.values, -np.sort(-closest, axis=1)[:, :10], atol=1e-6)
        np.testing.assert_allclose(found.total, closest.sum(axis=1), atol=1e-5)


# --- who is left out ----------------------------------------------------------------------------------------


def test_an_image_does_not_meet_its_own_person() -> None:
    rows, images = random_bank(50).embeddings, random_images(8)
    clean = BankStatistics(made(rows, [f"bank {i}" for i in range(50)]), Settings(neighbours=10))(images)
    # Every image leaves its own person out, so the other seven strangers are added to both.
    others = made(np.concatenate([rows, images]), [f"bank {i}" for i in range(50)] + [f"own {i}" for i in range(8)])
    stats = BankStatistics(others, Settings(neighbours=10))(images, [f"own {i}" for i in range(8)])
    for i in range(8):
        loop = np.delete(np.concatenate([rows, images]), 50 + i, axis=0)
        np.testing.assert_allclose(stats.d[i], by_loop(loop, images[i], Settings(neighbours=10))[0], atol=1e-6)
    assert clean.count.tolist() == stats.count.tolist()


def test_one_own_person_among_strangers_changes_nothing_when_named_and_much_when_not() -> None:
    rows, image = random_bank(50).embeddings, random_images(1)
    people = [f"bank {i}" for i in range(50)]
    clean = BankStatistics(made(rows, people), Settings(neighbours=10))(image).d[0]
    leaky = made(np.concatenate([rows, image]), [*people, "own"])
    named = BankStatistics(leaky, Settings(neighbours=10))(image, ["own"]).d[0]
    unnamed = BankStatistics(leaky, Settings(neighbours=10))(image).d[0]
    guarded = BankStatistics(leaky, Settings(neighbours=10, same_above=0.95))(image).d[0]
    np.testing.assert_allclose((named, guarded), clean, atol=1e-6)
    assert unnamed > clean + 0.03, "the hazard is gone: an unnamed person of the bank should push d up"


def test_a_guard_that_works_often_is_told_as_a_leak() -> None:
    rows, images = random_bank(50).embeddings, random_images(60)
    people = [f"bank {i}" for i in range(50)]
    source = BankStatistics(made(np.concatenate([rows, images[:1]]), [*people, "own"]), Settings(same_above=0.95))
    source(images)
    (note,) = [n for n in source.notes() if "leak" in n]
    assert "1 of 60" in note
    clean = BankStatistics(made(rows, people), Settings(same_above=0.95))
    clean(images)
    assert not [n for n in clean.notes() if "leak" in n]


def test_the_guard_is_also_left_out_of_the_whole_bank() -> None:
    bank, images = random_bank(60), random_images(7)
    stats = BankStatistics(bank, Settings(same_above=0.3)).whole(images)
    for i, image in enumerate(images):
        cosine = bank.entries().vectors @ image
        kept = cosine[cosine <= 0.3]
        np.testing.assert_allclose((stats.m[i], stats.count[i]), (kept.mean(), len(kept)), atol=1e-6)


# --- tiles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["single", "centre", "max"])
def test_nothing_depends_on_the_tiles(reduce: str) -> None:
    bank, images = random_bank(300, each=2, width=64, reduce=reduce), random_images(40, width=64)
    people = [f"bank {7 * i}" for i in range(40)]
    found = []
    for tile in (Tile(40, 10_000), Tile(1, 77), Tile(77, 1), Tile(17, 100)):
        search = Search(bank, 50, same_above=0.4, tile=tile)
        source = BankStatistics(bank, Settings(same_above=0.4), search=search)
        found.append((source(images, people), source.whole(images, people)))
    for near, whole in found[1:]:
        for part in ("d", "m", "v", "count"):
            np.testing.assert_allclose(getattr(near, part), getattr(found[0][0], part), atol=1e-6)
            np.testing.assert_allclose(getattr(whole, part), getattr(found[0][1], part), atol=1e-6)


@given(st.integers(4, 1 << 34))
def test_a_tile_fits_its_memory_and_is_no_smaller_than_it_must_be(memory: int) -> None:
    tile = Tile.within(memory)
    size = 4 * tile.images * tile.rows
    assert size <= memory
    assert tile == Tile(4096, 65_536) or 2 * size > memory


class LiveTensors(TorchDispatchMode):
    """The most bytes that tensors made inside held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        self.holders[place] += 1
        if self.holders[place] == 1:
            self.live += size
            self.peak = max(self.peak, self.live)
        weakref.finalize(tensor, self.drop, place, size)

    def drop(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if self.holders[place] == 0:
            self.live -= size


@pytest.mark.slow  # watching every operation loads half of torch
def test_memory_is_a_tile() -> None:
    bank, budget = random_bank(20_000, width=8), 1 << 22
    source = BankStatistics(bank, Settings(same_above=0.9), memory=budget)
    source.search.want_moments()
    with LiveTensors() as seen:
        source(random_images(300, width=8))
    assert budget <= seen.peak - bank.embeddings.nbytes <= 1.5 * budget, "a tile, its guard, lists of neighbours"


def test_precision_of_networks_does_not_reach_the_search() -> None:
    bank, images = random_bank(40), random_images(5)
    wanted = BankStatistics(bank, Settings(neighbours=10))(images).d
    torch.set_float32_matmul_precision("medium")
    try:
        found = BankStatistics(bank, Settings(neighbours=10))(images).d
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found, wanted)


# --- the bank's rows ------------------------------------------------------------------------------------------


def test_turning_everything_changes_nothing() -> None:
    bank, images = random_bank(100), random_images(10)
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))
    turned = made(bank.embeddings @ turn, [bank.identities[i] for i in bank.labels])
    settings = Settings(neighbours=20)
    first, second = BankStatistics(bank, settings)(images), BankStatistics(turned, settings)(images @ turn)
    np.testing.assert_allclose(second.d, first.d, atol=1e-5)
    np.testing.assert_allclose(second.v, first.v, atol=1e-5)


@given(st.integers(0, 1000), st.sampled_from(["single", "centre", "max"]))
def test_the_order_of_the_rows_changes_nothing(seed: int, reduce: str) -> None:
    rng = np.random.default_rng(seed)
    rows, images = random_bank(30, each=2).embeddings, random_images(5)
    people, samples = [f"p{i // 2}" for i in range(60)], [f"s{i}" for i in range(60)]
    order = rng.permutation(60)
    found = []
    for chosen in (np.arange(60), order):
        bank = made(rows[chosen], [people[i] for i in chosen], reduce=reduce)
        object.__setattr__(bank, "sample_ids", tuple(samples[i] for i in chosen))
        found.append(BankStatistics(bank, Settings(neighbours=12))(images))
    np.testing.assert_allclose(found[1].d, found[0].d, atol=1e-6)
    np.testing.assert_allclose(found[1].v, found[0].v, atol=1e-6)


@pytest.mark.parametrize(("reduce", "copied"), [("single", [0, 3, 3]), ("max", [0, 3, 3]), ("centre", list(range(60)))])
def test_copies_of_rows_change_nothing(reduce: str, copied: list[int]) -> None:
    rows, images = random_bank(30, each=2).embeddings, random_images(5)
    people = [f"p{i // 2}" for i in range(60)]
    before = made(rows, people, reduce=reduce)
    after = made(np.concatenate([rows, rows[copied]]), people + [people[i] for i in copied], reduce=reduce)
    first, second = (BankStatistics(bank, Settings(neighbours=12))(images).d for bank in (before, after))
    np.testing.assert_allclose(second, first, atol=1e-6)


# --- limits ---------------------------------------------------------------------------------------------------


@given(st.floats(1e-4, 1e4), st.integers(0, 100))
def test_lse_is_finite_in_float32_and_between_mean_and_maximum(tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = -np.sort(-rng.uniform(-1, 1, (3, 50)).astype(np.float32), axis=1)
    near = np.arange(50) < np.array([[50], [1], [10]])
    d = soft_maximum(values, near, tau)
    mean = np.where(near, values, 0).sum(axis=1) / near.sum(axis=1)
    assert np.isfinite(d).all()
    assert (d >= mean - 1e-5).all()
    assert (d <= values[:, 0] + 1e-5).all()


def test_lse_tends_to_the_maximum_and_to_the_mean() -> None:
    bank, images = random_bank(100), random_images(20)
    of = {tau: BankStatistics(bank, Settings(statistic="lse", tau=tau))(images) for tau in (1e-4, 1e4)}
    largest = BankStatistics(bank, Settings(statistic="max"))(images)
    np.testing.assert_allclose(of[1e-4].d, largest.d, atol=1e-3)
    np.testing.assert_allclose(of[1e4].d, largest.m, atol=1e-4)


def test_what_is_usual() -> None:
    bank = random_bank(40)
    settings = Settings(neighbours=10)
    reference = reference_of(BankStatistics(bank, settings).own())
    rows = bank.entries().vectors.astype(np.float64)
    loops = np.array([by_loop(rows, rows[j], settings, left_out=j)[:3] for j in range(40)])
    np.testing.assert_allclose(reference, (loops[:, 0].mean(), loops[:, 2].mean(), 1 - loops[:, 1].mean()), atol=1e-6)


def test_strangers_of_the_bank_give_a_radius() -> None:
    bank = random_bank(30, each=2)
    apart = bank.labels[:, None] != bank.labels
    cosine = (bank.embeddings @ bank.embeddings.T)[apart]
    assert abs(stranger_similarity(bank, 0.9) - np.quantile(cosine, 0.9)) < 2e-3
    radius = stranger_similarity(bank)
    assert np.mean(cosine >= radius) == pytest.approx(0.01, abs=0.002)
    assert BankStatistics(bank, Settings(radius=radius))(random_images(4)).count.min() >= 10


def test_more_neighbours_than_people_is_noted() -> None:
    source = BankStatistics(random_bank(20), Settings(neighbours=50))
    assert source(random_images(3)).count.tolist() == [20, 20, 20]
    assert source.neighbours == 20
    (note,) = source.notes()
    assert "K is 20 and not 50" in note
    assert BankStatistics(random_bank(50), Settings(neighbours=50)).notes() == []


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 0.0])
def test_broken_embeddings_are_refused_by_row(broken: float) -> None:
    images = random_images(5)
    images[3] = broken
    with pytest.raises(BadEmbedding, match="row 3") as refused:
        BankStatistics(random_bank(20), Settings())(images)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-EMB", 1)


def test_another_width_is_refused() -> None:
    with pytest.raises(BadEmbedding, match="16"):
        BankStatistics(random_bank(20), Settings())(random_images(5, width=8))


def test_rows_that_are_not_unit_are_renormalised_with_a_note() -> None:
    images = random_images(5)
    source = BankStatistics(random_bank(60), Settings())
    wanted = source(images)
    images[2] *= 3
    np.testing.assert_allclose(source(images).d, wanted.d, atol=1e-6)
    assert any("1 embeddings were not of unit length" in note for note in source.notes())
    slightly = images.copy()
    slightly[0] *= 1 + 5e-4
    assert unit_rows(slightly[:2], "rows")[1] == 0


def test_small_banks_are_refused() -> None:
    with pytest.raises(SmallBank) as refused:
        BankStatistics(random_bank(9), Settings())
    assert refused.value.code == "ALIGN-SMALL"
    BankStatistics(random_bank(10), Settings())
    rows = random_images(200)
    with pytest.raises(SmallGallery) as refused_gallery:
        BankStatistics(made(rows[:199], [f"p{i}" for i in range(199)], "gallery"), Settings())
    assert refused_gallery.value.code == "ALIGN-GALLERY"
    BankStatistics(made(rows, [f"p{i}" for i in range(200)], "gallery"), Settings())


def test_an_image_with_too_few_neighbours_is_named() -> None:
    bank = random_bank(10)
    with pytest.raises(FewNeighbours, match="image 2 of 4 has 9") as refused:
        BankStatistics(bank, Settings())(random_images(4), [None, "x", "bank 4", "bank 5"])
    assert refused.value.code == "ALIGN-FEW"


def test_no_images_are_no_error() -> None:
    source = BankStatistics(random_bank(20), Settings())
    assert source(np.empty((0, 16))).d.shape == (0,)
    assert source.whole(np.empty((0, 16))).m.shape == (0,)


def test_answers_are_remembered_by_content() -> None:
    source = BankStatistics(random_bank(20), Settings(neighbours=10))
    images = random_images(5)
    first = source(images).d
    images[0] = random_images(1, seed=9)[0]
    assert source(images).d[0] != first[0]
    named = source(images, ["bank 1"] * 5)
    assert source.search.images == 15
    np.testing.assert_array_equal(source(images, ["bank 1"] * 5).d, named.d)
    assert source.search.images == 15
