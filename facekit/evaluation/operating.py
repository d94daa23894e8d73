"""Operating thresholds: chosen on some people, applied unchanged to others, and told in plain sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.pairwise import with_interval
from facekit.evaluation.results import Row
from facekit.evaluation.statistics import IdentityBootstrap
from facekit.evaluation.verdict import one_in, rounded_up

ENOUGH_FALSE = 30
"""False accepts behind a rate that is known to about 30 % (rule of 30)."""


def thresholds_of(dev: v.Scores, fars: Sequence[float]) -> dict[float, v.OperatingPoint]:
    """FAR -> the strict threshold of these scores; without one where they cannot measure the FAR."""
    return {far: v.tar_at_far(dev, far) for far in fars}


def frozen_rows(
    scores: np.ndarray,
    pairs: PairSet,
    base: Row,
    boot: IdentityBootstrap | None,
    thresholds: Mapping[float, v.OperatingPoint],
    source: str,
) -> list[Row]:
    """TAR and FAR of pair scores [P] at thresholds that were chosen elsewhere, each with its interval.

    ``at`` is the FAR that a threshold was chosen for, ``achieved`` the one it holds here. A row is *low_support* where
    fewer than 30 false accepts were behind the choice. ``source`` says where that was: "dev", "the clean images".
    """
    split = v.Scores.of(scores, pairs.same)
    rows: list[Row] = []
    for far, chosen in thresholds.items():
        note = f"threshold from {source}" + (f"; there, {chosen.note}" if chosen.note else "")
        row = dataclasses.replace(
            base, protocol="1:1", at=far, threshold=chosen.threshold, status=chosen.status, note=note
        )
        rows += rates_at(scores, split, row, boot, chosen.threshold)
    return rows


def rates_at(
    scores: np.ndarray, split: v.Scores, row: Row, boot: IdentityBootstrap | None, threshold: float | None
) -> Iterator[Row]:
    """The two rates at a fixed threshold; without numbers where there is none."""
    tar, far = (dataclasses.replace(row, metric=metric) for metric in ("tar@threshold", "far@threshold"))
    if threshold is None:
        yield from (tar, far)
        return
    share, n_false, n_genuine = split.tar(threshold), split.n_false(threshold), len(split.genuine)
    drawn = boot if boot is not None and boot.knows_people else None
    tar = dataclasses.replace(tar, value=share, achieved=split.far(threshold), n_false=n_false)
    replicates = None if drawn is None else drawn.tar(scores, threshold)
    yield from with_interval(tar, boot, replicates, (round(share * n_genuine), n_genuine))
    far = dataclasses.replace(far, value=split.far(threshold), achieved=split.far(threshold), n_false=n_false)
    # Where nobody passed, no draw can hold a false accept: then the interval is Wilson's.
    replicates = drawn.far(scores, threshold) if drawn is not None and n_false else None
    yield from with_interval(far, boot, replicates, (n_false, len(split.impostor)))


# --- advice ------------------------------------------------------------------------------------------------


def advice(rows: Iterable[Row], benchmark: str, dev: str | None = None) -> list[str]:
    """What a benchmark's rows of the raw score say about thresholds, in sentences for people.

    ``dev`` names the benchmark that the thresholds were chosen on; None where there was none, and the same pairs gave
    both thresholds and rates.
    """
    mine = [row for row in rows if row.benchmark == benchmark and row.score == "raw" and is_clean(row)]
    own = [row for row in mine if row.metric == "tar@far"]
    impostors = next((row.n_impostor for row in own if row.n_impostor), None)
    if impostors is None:
        return []
    said = [supported(benchmark, impostors)]
    if dev is None:
        said += [recommended(row) for row in own]
        said.append(
            f"{benchmark}: thresholds and rates come from the same pairs, which is optimistic; choose thresholds on "
            "other people with --dev."
        )
        return said
    held = {row.at: row for row in mine if row.metric == "far@threshold"}
    accepted = {row.at: row for row in mine if row.metric == "tar@threshold"}
    return said + [confirmed(row, accepted[at], benchmark, dev) for at, row in held.items() if at in accepted]


def is_clean(row: Row) -> bool:
    """False for rows of images that were rendered worse: their variant names the condition behind a comma."""
    return "," not in (row.variant or "")


def supported(benchmark: str, impostors: int) -> str:
    """Which FARs so many impostor pairs can measure."""
    least, sure = f"{1 / impostors:.2g}", f"{ENOUGH_FALSE / impostors:.2g}"
    trusted = f"{sure} is the lowest" if impostors >= ENOUGH_FALSE else "none comes"
    return (
        f"{benchmark} has {impostors:,} impostor pairs: the lowest FAR it can measure is {least}; {trusted} with "
        f"{ENOUGH_FALSE} false accepts behind it, which is what a number needs to be trusted."
    )


def recommended(row: Row) -> str:
    """A threshold read from the pairs that it is judged on."""
    if row.value is None or row.threshold is None:
        return f"FAR {row.at:g}: no threshold; {row.note}."
    doubt = f" Uncertain: {row.note}." if row.status == "low_support" else ""
    return (
        f"For FAR {row.at:g} ({one_in(row.at)}) take {in_units(row.threshold)}: {percent(row)} of genuine pairs pass."
        f"{doubt}"
    )


def confirmed(far: Row, tar: Row, benchmark: str, dev: str) -> str:
    """A threshold chosen on dev, and what it holds here."""
    if far.value is None or far.threshold is None:
        return f"FAR {far.at:g}: no threshold; {far.note}."
    doubt = f" Uncertain: {far.note}." if far.status == "low_support" else ""
    return (
        f"For FAR {far.at:g} ({one_in(far.at)}) take {in_units(far.threshold)}, chosen on {dev}: on {benchmark} it "
        f"holds FAR {far.value:.2g}{between(far)}, {keeps(far)}, and {percent(tar)} of genuine pairs pass.{doubt}"
    )


def keeps(row: Row) -> str:
    """Whether a FAR is the one that was asked for, as far as its interval tells."""
    if row.low is None or row.high is None or row.at is None:
        return "without an interval"
    if row.low > row.at:
        return "MORE than asked for"
    return "less than asked for" if row.high < row.at else "which agrees with what was asked for"


def in_units(threshold: float) -> str:
    """``cosine 0.4124 (squared L2 distance 1.1752, 65.6 degrees)``, rounded to the strict side."""
    cosine = float(rounded_up(threshold))
    return f"cosine {cosine:.4f} (squared L2 distance {v.to_distance(cosine):.4f}, {v.to_degrees(cosine):.1f} degrees)"


def percent(row: Row) -> str:
    """``98.7 % (97.7 to 99.4)``."""
    assert row.value is not None
    span = "" if row.low is None or row.high is None else f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
    return f"{100 * row.value:.1f} %{span}"


def between(row: Row) -> str:
    """`` (0.00081 to 0.0014)``."""
    return "" if row.low is None or row.high is None else f" ({row.low:.2g} to {row.high:.2g})"
