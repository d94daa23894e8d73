"""Vectors of D+2 numbers: their plain inner product is the aligned score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.alignment.errors import UndefinedSides
from facekit.alignment.extended import extend
from facekit.alignment.operators import Terms, add
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import Reference
from tests.alignment.sphere import random_images


@given(
    st.sampled_from(["both", "enrol", "probe"]),
    st.floats(0, 2),
    st.floats(-0.2, 0.5),
    st.sampled_from([np.float64, np.float32]),
)
def test_the_inner_product_is_the_aligned_score(sides: str, alpha: float, dbar: float, kind: type) -> None:
    gallery, probes = random_images(7, width=64), random_images(5, width=64, seed=2)
    d_gallery, d_probes = np.linspace(-0.1, 0.6, 7), np.linspace(0.5, 0.1, 5)
    settings, reference = Settings(alpha=alpha, sides=sides), Reference(dbar, 0.1, 0.9)
    stored = extend(gallery.astype(kind), d_gallery, settings, reference, "enrol")
    asked = extend(probes.astype(kind), d_probes, settings, reference, "probe")
    assert stored.shape == (7, 66) and stored.dtype == kind
    enrolled, probe = (Terms(d, d, d) for d in (d_gallery[:, None], d_probes[None]))
    aligned = add(gallery @ probes.T, enrolled, probe, settings, reference)
    np.testing.assert_allclose(stored @ asked.T, aligned, atol=1e-6)


def test_alpha_zero_appends_what_cannot_change_a_score() -> None:
    stored = extend(random_images(3), np.ones(3), Settings(alpha=0.0), Reference(0.1, 0.1, 0.9), "enrol")
    np.testing.assert_array_equal(stored[:, -2:], [[0.0, 1.0]] * 3)


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        (Settings(operator="z"), "enrol"),
        (Settings(sides="max"), "enrol"),
        (Settings(), "both"),
    ],
)
def test_what_is_no_inner_product_is_refused(settings: Settings, side: str) -> None:
    with pytest.raises(UndefinedSides) as refused:
        extend(random_images(3), np.ones(3), settings, Reference(0.1, 0.1, 0.9), side)
    assert (refused.value.code, refused.value.exit_code) == ("ALIGN-SIDES", 2)
