"""Parity numbers by hand; the exported file itself is proven in tests/engines/test_export_verb.py."""

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.models.export import Parity, parity


def test_parity_by_hand() -> None:
    result = parity(np.array([[1.0, 0.0], [0.0, 4.0]], np.float32), np.array([[1.0, 0.5], [0.0, 4.0]], np.float32))
    assert result.images == 2
    assert result.min_cosine == pytest.approx(1 / np.sqrt(1.25))
    assert result.max_difference == pytest.approx(0.5 / 4.0)


def test_limits() -> None:
    good = Parity(10, 0.9999, 1e-3)
    assert good.fails(0.9999, 1e-3) is None
    assert "least cosine is 0.999900, the limit is 0.99999" in str(good.fails(0.99999, 1e-3))
    assert "difference is 1.00e-03, the limit is 0.0001" in str(good.fails(0.9999, 1e-4))


def test_numbers_that_are_not_finite_never_pass() -> None:
    assert Parity(1, float("nan"), 0.0).fails(-1.0, 1.0) and Parity(1, 1.0, float("nan")).fails(-1.0, 1.0)
    assert parity(np.zeros((1, 2)), np.ones((1, 2))).fails(-1.0, 1e9)


def test_unequal_tables_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        parity(np.zeros((2, 3)), np.zeros((2, 4)))
