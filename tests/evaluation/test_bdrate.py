"""BD-rate: the published comparisons, exact cases, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from facekit.core.errors import InputError
from facekit.evaluation.bdrate import bd_rate, pchip
from facekit.evaluation.published import ANCHOR, PublishedCurve, about_curves, looks_like_kodak, published_curves

CODECS = (
    "jpeg", "webp", "hm", "av1", "vtm", ANCHOR, "mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn",
    "paper-elic2022",
)  # fmt: skip
PERCENT = {
    "bpg444": (143.2, 44.2, 0.8, -6.2, -18.0, 3.9, -3.3, -11.3, -18.9, -17.6, -26.6),
    ANCHOR: (122.2, 39.7, -3.6, -10.6, -23.4, 0, -6.8, -14.3, -22.6, -21.6, -29.3),
}
"""Computed elsewhere from the same curves, rounded to hundredths and then to tenths: -11.248 stands there as -11.3."""


@pytest.fixture(scope="module")
def curves() -> dict[str, PublishedCurve]:
    return {curve.name: curve for curve in published_curves()}


def points(curve: PublishedCurve) -> np.ndarray:
    return np.stack([curve.bpp, curve.psnr], axis=1)


@pytest.mark.parametrize("anchor", PERCENT)
def test_published_comparisons_are_reproduced(anchor: str, curves: dict[str, PublishedCurve]) -> None:
    found = [bd_rate(points(curves[anchor]), points(curves[codec])).percent for codec in CODECS]
    assert np.allclose(np.round(found, 2), PERCENT[anchor], rtol=0, atol=0.05 + 1e-9)


def test_the_curves_are_whole_and_say_where_they_come_from(curves: dict[str, PublishedCurve]) -> None:
    assert (len(curves), sum(len(curve.bpp) for curve in curves.values())) == (30, 260)
    for curve in curves.values():
        assert (np.diff(curve.bpp) > 0).all() and (np.diff(curve.psnr) > 0).all() and curve.source.endswith(".json")
        shares = curve.ms_ssim[np.isfinite(curve.ms_ssim)]
        assert ((shares > 0.8) & (shares < 1)).all() and (curve.psnr > 20).all()
    assert "869a9f5" in about_curves()["origin"] and "BSD-3-Clause-Clear" in about_curves()["licence"]


def test_only_24_images_of_its_size_are_held_against_kodak() -> None:
    kodak = [(512, 768)] * 18 + [(768, 512)] * 6
    assert looks_like_kodak(kodak)
    assert not looks_like_kodak(kodak[1:]) and not looks_like_kodak([*kodak[1:], (512, 512)])


def test_a_constant_share_of_the_bits_is_that_share() -> None:
    anchor = np.array([[0.1, 28.0], [0.3, 31.5], [0.7, 35.0], [1.5, 39.0], [2.0, 40.0]])
    half = anchor * [0.5, 1]
    assert bd_rate(anchor, half) == pytest.approx((-50, 28, 40))
    assert bd_rate(half, anchor) == pytest.approx((100, 28, 40))
    assert bd_rate(anchor, anchor[::-1]).percent == pytest.approx(0)  # the order of settings does not matter


def test_the_common_interval_alone_counts() -> None:
    quality = np.arange(30.0, 41.0)
    anchor = np.stack([np.exp(quality / 10), quality], axis=1)
    better = np.stack([np.exp(quality / 10 + 0.3), quality + 5], axis=1)
    found = bd_rate(anchor, better)  # at equal quality e^-.2 of the bits, straight lines in ln(bits)
    assert found == pytest.approx((100 * np.expm1(-0.2), 35, 40))


def test_of_equal_quality_the_cheapest_counts_and_lossless_not() -> None:
    curve = np.array([[0.1, 28.0], [0.3, 31.5], [0.7, 35.0], [1.5, 39.0]])
    more = np.concatenate([curve, [[0.9, 35.0], [9.0, np.inf]]])
    assert bd_rate(curve, more) == bd_rate(curve, curve)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([[0.1, 28], [0.3, 31], [0.7, 35]], "needs 4 points of different quality, there are 3"),
        ([[0.1, 8], [0.2, 9], [0.3, 10], [0.4, 28]], "share no quality: 28.00 to 39.00 dB and 8.00 to 28.00 dB"),
        ([[0.1, np.nan]] * 5, "there are 0"),
    ],
)
def test_what_cannot_be_compared_is_said(other: list[list[float]], message: str) -> None:
    curve = np.array([[0.1, 28.0], [0.3, 31.5], [0.7, 35.0], [1.5, 39.0]])
    with pytest.raises(InputError, match=message):
        bd_rate(curve, np.array(other, float))


# --- the interpolation -----------------------------------------------------------------------------------------


def test_pchip_by_hand() -> None:
    # Slopes 1 and 3: the inner tangent is 6/(3/1 + 3/3) = 1.5, the first end (3*1 - 3)/2 = 0, the last (3*3 - 1)/2 = 4.
    x, y = np.array([0.0, 1, 2]), np.array([0.0, 1, 4])
    at = np.array([0, 0.5, 1, 1.5, 2])
    assert np.allclose(pchip(x, y, at), [0, 0.5 - 1.5 / 8, 1, 2.5 + (1.5 - 4) / 8, 4])


def test_pchip_keeps_lines_and_never_overshoots() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.1, 3, 30))
    at = np.linspace(x[0], x[-1], 1000)
    assert np.allclose(pchip(x, 2 - 3 * x, at), 2 - 3 * at)
    rising = np.cumsum(rng.exponential(size=30) ** 3)
    assert (np.diff(pchip(x, rising, at)) >= -1e-12).all()
    wild = rng.normal(size=30)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, 28)
    found = pchip(x, wild, at)
    assert (found >= np.minimum(wild[i], wild[i + 1]) - 1e-12).all()
    assert (found <= np.maximum(wild[i], wild[i + 1]) + 1e-12).all()
