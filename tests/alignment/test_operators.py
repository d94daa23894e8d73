"""Operators against formulas written out, their published kin, and what must leave a ranking as it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.alignment.errors import OutOfRange, UndefinedSides, UnknownAlignment
from facekit.alignment.operators import OPERATORS, Terms, pack
from facekit.alignment.settings import OPERATORS as NAMES
from facekit.alignment.settings import SIDES, TAKES_LARGER_SIDE, Settings
from facekit.alignment.statistics import BankStatistics, Reference, Stats
from tests.alignment.sphere import random_bank, random_images

REFERENCE = Reference(0.1, 0.05, 0.9)
ALL = [
    Settings(operator=operator, sides=sides)
    for operator, sides in itertools.product(NAMES, SIDES)
    if sides != "max" or operator in TAKES_LARGER_SIDE
]
every = pytest.mark.parametrize("settings", ALL, ids=lambda s: f"{s.operator}-{s.sides}")


def some_terms(count: int, seed: int) -> Terms:
    rng = np.random.default_rng(seed)
    return Terms(rng.uniform(0, 0.5, count), rng.uniform(0, 0.5, count), rng.uniform(0, 0.1, count))


def written_out(s: float, a: tuple[float, ...], b: tuple[float, ...], settings: Settings) -> float:
    (da, ma, va), (db, mb, vb) = a, b
    pick = {"enrol": lambda x, y: x, "probe": lambda x, y: y, "max": max, "both": lambda x, y: (x + y) / 2}[
        settings.sides
    ]
    if settings.operator == "add":
        return s - settings.alpha * (pick(da, db) - 0.1)
    if settings.operator == "z":
        return pick((s - ma) / max(va, 1e-4), (s - mb) / max(vb, 1e-4))
    if settings.operator == "ratio":
        return s / max(pick(ma, mb), 0.05)
    ra, rb = max(1 - ma, 1e-3), max(1 - mb, 1e-3)
    return 1 - 0.9 * (1 - s) / {"enrol": ra, "probe": rb, "both": (ra * rb) ** 0.5}[settings.sides]


def test_the_table_has_the_names_of_the_settings() -> None:
    assert tuple(OPERATORS) == NAMES


@every
def test_pairs_and_matrices_equal_the_formula(settings: Settings) -> None:
    a, b = some_terms(6, 0), some_terms(5, 1)
    a.v[0], a.m[1], a.m[2] = 0.0, 0.9999, -0.3
    cosine = np.random.default_rng(2).uniform(-1, 1, (6, 5))
    operator = OPERATORS[settings.operator]
    rows, columns = Terms(*(t[:, None] for t in a)), Terms(*(t[None] for t in b))
    matrix = operator(cosine, rows, columns, settings, REFERENCE)
    for i, j in itertools.product(range(6), range(5)):
        wanted = written_out(cosine[i, j], tuple(float(t[i]) for t in a), tuple(float(t[j]) for t in b), settings)
        assert matrix[i, j] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    left, right = np.array([5, 0, 3]), np.array([1, 4, 2])
    pairs = operator(
        cosine[left, right], Terms(*(t[left] for t in a)), Terms(*(t[right] for t in b)), settings, REFERENCE
    )
    np.testing.assert_allclose(pairs, matrix[left, right], atol=1e-12)


@every
def test_a_float32_matrix_stays_float32(settings: Settings) -> None:
    cosine = np.random.default_rng(2).uniform(-1, 1, (6, 5)).astype(np.float32)
    packed = np.random.default_rng(3).uniform(0.1, 0.4, (6, 3))
    rows, columns = Terms.of(packed[:, None], cosine.dtype), Terms.of(packed[None, :5], cosine.dtype)
    found = OPERATORS[settings.operator](cosine, rows, columns, settings, REFERENCE)
    assert found.dtype == np.float32
    exact = OPERATORS[settings.operator](
        cosine.astype(np.float64),
        Terms.of(packed[:, None], np.dtype(float)),
        Terms.of(packed[None, :5], np.dtype(float)),
        settings,
        REFERENCE,
    )
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sides", ["both", "max"])
@pytest.mark.parametrize("operator", NAMES)
def test_both_sides_are_treated_alike(operator: str, sides: str) -> None:
    if sides == "max" and operator not in TAKES_LARGER_SIDE:
        return
    a, b = some_terms(50, 0), some_terms(50, 1)
    cosine = np.random.default_rng(2).uniform(-1, 1, 50)
    settings = Settings(operator=operator, sides=sides)
    one, other = (OPERATORS[operator](cosine, *pair, settings, REFERENCE) for pair in ((a, b), (b, a)))
    np.testing.assert_array_equal(one, other)


@given(
    st.floats(-0.5, 0.9),
    st.floats(0.0, 0.3),
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=40),
    st.sampled_from([s for s in ALL if s.operator != "ratio"]),
)
def test_equal_statistics_keep_every_ordering(d: float, v: float, scores: list[float], settings: Settings) -> None:
    cosine = np.unique(scores)
    same = Terms(*(np.full(len(cosine), x) for x in (d, d, v)))
    aligned = OPERATORS[settings.operator](cosine, same, same, settings, Reference(d, v, 1 - d))
    np.testing.assert_array_equal(np.argsort(aligned, kind="stable"), np.arange(len(cosine)))
    if settings.operator == "add":
        np.testing.assert_allclose(aligned, cosine, atol=1e-7)


# --- published kin by loops ---------------------------------------------------------------------------------


def loops(ddof: int, near: int | None, neighbours: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cosine [20,20], m and v of every image by loops over a bank of 20)."""
    bank, images = random_bank(20, width=20, seed=4), random_images(20, width=20, seed=5)
    rows = bank.entries().vectors.astype(np.float64)
    m, v = np.empty(20), np.empty(20)
    for i, image in enumerate(images):
        scores = sorted((sum(x * y for x, y in zip(row, image, strict=True)) for row in rows), reverse=True)[:near]
        m[i] = sum(scores) / len(scores)
        v[i] = (sum((s - m[i]) ** 2 for s in scores) / (len(scores) - ddof)) ** 0.5
    return images @ images.T, m, v


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("near", [10, None])
def test_z_is_the_score_normalisation_of_speaker_verification(ddof: int, near: int | None) -> None:
    cosine, m, v = loops(ddof, near)
    z_norm = np.array([[(cosine[e, t] - m[e]) / v[e] for t in range(20)] for e in range(20)])
    t_norm = np.array([[(cosine[e, t] - m[t]) / v[t] for t in range(20)] for e in range(20)])
    images = random_images(20, width=20, seed=5)
    source = BankStatistics(random_bank(20, width=20, seed=4), Settings(neighbours=near or 20, ddof=ddof))
    for stats in [source(images)] if near else [source(images), source.whole(images)]:
        packed = pack(stats)
        sides = Terms.of(packed[:, None], cosine.dtype), Terms.of(packed[None], cosine.dtype)
        for name, wanted in {"enrol": z_norm, "probe": t_norm, "both": (z_norm + t_norm) / 2}.items():
            found = OPERATORS["z"](cosine, *sides, Settings(operator="z", sides=name), REFERENCE)
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def constant(difference: np.ndarray) -> bool:
    return bool(np.ptp(difference) <= 1e-6)


def test_add_is_csls_the_laser_margin_and_the_data_specific_threshold() -> None:
    cosine, m, _ = loops(0, 10)
    images = random_images(20, width=20, seed=5)
    bank = random_bank(20, width=20, seed=4)

    def added(settings: Settings, dbar: float) -> np.ndarray:
        packed = pack(BankStatistics(bank, settings)(images))
        sides = Terms.of(packed[:, None], cosine.dtype), Terms.of(packed[None], cosine.dtype)
        return OPERATORS["add"](cosine, *sides, settings, Reference(dbar, 1, 1))

    full = Settings(alpha=1.0, neighbours=10)
    csls = 2 * cosine - m[:, None] - m[None]
    assert constant(2 * added(full, 0.3) - csls)
    laser_distance = cosine - (m[:, None] + m[None]) / 2
    assert constant(added(full, 0.3) - laser_distance)
    threshold = np.array([max(float(row @ x) for row in bank.entries().vectors) for x in images])
    accepted = added(Settings(alpha=1.0, statistic="max", sides="enrol"), 0.0) >= 0
    clear = np.abs(cosine - threshold[:, None]) > 1e-6
    np.testing.assert_array_equal(accepted[clear], (cosine >= threshold[:, None])[clear])


def test_ratio_is_the_laser_ratio_margin() -> None:
    rng = np.random.default_rng(0)
    m = rng.uniform(0.1, 0.5, 20)
    stats = Stats(m, m, m, np.full(20, 10), np.empty((20, 0), np.int64))
    cosine = rng.uniform(-1, 1, (20, 20))
    sides = Terms.of(pack(stats)[:, None], cosine.dtype), Terms.of(pack(stats)[None], cosine.dtype)
    found = OPERATORS["ratio"](cosine, *sides, Settings(operator="ratio"), REFERENCE)
    laser = cosine / ((m[:, None] + m[None]) / 2)
    np.testing.assert_allclose(found, laser, atol=1e-12)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "error", "code"),
    [
        ({"operator": "ad"}, UnknownAlignment, "ALIGN-OP"),
        ({"statistic": "median"}, UnknownAlignment, "ALIGN-OP"),
        ({"selection": "both"}, UnknownAlignment, "ALIGN-OP"),
        ({"sides": "left"}, UndefinedSides, "ALIGN-SIDES"),
        ({"sides": "max", "operator": "z"}, UndefinedSides, "ALIGN-SIDES"),
        ({"sides": "max", "operator": "nicdm"}, UndefinedSides, "ALIGN-SIDES"),
        ({"alpha": -0.1}, OutOfRange, "ALIGN-RANGE"),
        ({"alpha": 2.1}, OutOfRange, "ALIGN-RANGE"),
        ({"alpha": float("nan")}, OutOfRange, "ALIGN-RANGE"),
        ({"tau": 0.0}, OutOfRange, "ALIGN-RANGE"),
        ({"tau": float("nan")}, OutOfRange, "ALIGN-RANGE"),
        ({"neighbours": 0}, OutOfRange, "ALIGN-RANGE"),
        ({"ddof": 2}, OutOfRange, "ALIGN-RANGE"),
        ({"radius": 1.5}, OutOfRange, "ALIGN-RANGE"),
        ({"same_above": -2.0}, OutOfRange, "ALIGN-RANGE"),
    ],
)
def test_settings_refuse_what_makes_no_sense(given_: dict[str, object], error: type, code: str) -> None:
    with pytest.raises(error) as refused:
        Settings(**given_)
    assert (refused.value.code, refused.value.exit_code) == (code, 2)


def test_an_unknown_operator_is_answered_with_the_names() -> None:
    with pytest.raises(UnknownAlignment, match="Did you mean 'add'.*add, z, ratio, nicdm"):
        Settings(operator="ad")
