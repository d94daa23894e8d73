"""What is known of coded faces: one row a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sides = Literal["both", "probe"]
SIDES: tuple[Sides, ...] = ("both", "probe")
"""Who was coded: both images of a pair, or the right one alone."""


@dataclass(frozen=True)
class FaceRow:
    """One rate of one codec at one setting. Rates in 0..1; None where there is no number."""

    benchmark: str
    codec: str
    setting: str
    sides: str
    """``both`` or ``probe``; "" for the uncompressed"""
    bytes: float
    """Mean of whole files a face; of raw pixels for the uncompressed"""
    payload: float
    """Without what all files of the setting share"""
    psnr: float | None
    cosine: float | None
    """Mean, between the embeddings of the coded and of the uncompressed face"""
    near_source: bool
    """Larger than a third of the files that the faces come from: the loss seen here is too small to be true"""
    metric: str
    """``tar@far``, ``accuracy_lfw``, and with a threshold from other people ``tar@threshold`` and ``far@threshold``"""
    at: float | None = None
    """The FAR"""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    """Against the uncompressed; below 0 is a loss of TAR and of accuracy"""
    delta_low: float | None = None
    delta_high: float | None = None
    smallest_effect: float | None = None
    """The smallest true difference that this comparison would find four times in five"""
    ci_method: str | None = None
    status: str = "ok"
    note: str = ""
