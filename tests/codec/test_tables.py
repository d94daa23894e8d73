"""The shipped tables: what their formula says, by two other routes, and refused when one value differs."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest

from facekit.codec import tables
from facekit.codec.tables import CENTRE, LUT, PATH, PRECISION, REACH, T, Tables, read_tables
from facekit.core.errors import CorruptFile


def test_the_file_is_what_the_formula_gives_here() -> None:
    for shipped, here in zip(read_tables(PATH), tables.computed(), strict=True):
        np.testing.assert_array_equal(shipped, here)


def test_sizes() -> None:
    assert (len(T), len(LUT), len(REACH)) == (170_334, 256, 64)
    assert PATH.stat().st_size < 1_000_000
    assert (REACH[0], REACH[-1]) == (15, 8192)
    assert CENTRE[0] == 15
    assert CENTRE[-1] + REACH[-1] == len(T) - 1


def test_entries_are_the_normal_distribution_to_half_a_count() -> None:
    rng = np.random.default_rng(0)
    with mpmath.workdps(30):
        for level in rng.integers(0, 64, 300).tolist():
            d = int(rng.integers(-int(REACH[level]), int(REACH[level]) + 1))
            scale = mpmath.mpf("0.11") * (mpmath.mpf(64) / mpmath.mpf("0.11")) ** (mpmath.mpf(level) / 63)
            exact = 2**PRECISION * mpmath.ncdf(d / (16 * scale))
            assert abs(int(T[CENTRE[level] + d]) - exact) <= 0.5001


def test_every_level_rises_from_0_to_all_and_is_symmetric() -> None:
    for centre, h in zip(CENTRE.tolist(), REACH.tolist(), strict=True):
        values = T[centre - h : centre + h + 1].astype(np.int64)
        assert (values[0], values[h], values[-1]) == (0, 1 << (PRECISION - 1), 1 << PRECISION)
        assert (np.diff(values) >= 0).all()
        np.testing.assert_array_equal(values + values[::-1], 1 << PRECISION)


def test_weights_of_logits_in_sixteenths() -> None:
    assert LUT[0] == 4096
    assert LUT[16] == 1507  # 4096 / e = 1506.8
    assert LUT[255] == 0
    assert (np.diff(LUT.astype(int)) <= 0).all()


def test_spelt_out_logarithms() -> None:
    assert pytest.approx(math.log(0.11), rel=1e-15) == tables.LEAST_LOG_SCALE
    assert pytest.approx(63 / math.log(64 / 0.11), rel=1e-15) == tables.LEVELS_PER_LOG


def test_nobody_can_change_them_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        T[0] = 1


@pytest.mark.parametrize("name", Tables._fields)
def test_one_changed_value_is_refused(tmp_path: Path, name: str) -> None:
    shipped = read_tables(PATH)
    changed = getattr(shipped, name).copy()
    changed[-1] ^= 1
    np.savez_compressed(tmp_path / "t.npz", **shipped._replace(**{name: changed})._asdict())
    with pytest.raises(CorruptFile, match=r"t\.npz is not the table file"):
        read_tables(tmp_path / "t.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04N.", None], ids=["empty", "short", "pickle", "cut"])
def test_what_is_no_table_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.npz"
    path.write_bytes(PATH.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(CorruptFile, match=r"t\.npz cannot be read"):
        read_tables(path)
