"""From a certificate to one sentence: swap, swap with another threshold, do not swap, or undecided."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from facekit.evaluation.statistics import LEAST_FALSE, Difference, Interval
from facekit.evaluation.swap import FAR_GROWTH, Certificate, Rate

Kind = Literal["swap", "swap_at", "no", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What to do, in one sentence, and why."""

    kind: Kind
    sentence: str
    reasons: tuple[str, ...]


def decide(
    expected_false: float,
    at_threshold: Difference,
    far_excess: Interval,
    at_far: Difference | None,
    tolerance: float,
) -> Kind:
    """The rules, in order; a claim must hold at the unfavourable end of its 95 % interval.

    0. Fewer than 10 false accepts expected at the target FAR: *undecided*.
    1. *swap*: at the threshold in use, false accepts at most double and TAR loses at most the tolerance.
    2. *swap_at*: with the new probes' own threshold for the same FAR, TAR loses at most the tolerance.
    3. *no*: 1 and 2 are both refuted, each at the favourable end of its interval.
    4. Otherwise *undecided*: the benchmark is too small to tell.
    """
    if expected_false < LEAST_FALSE:
        return "undecided"
    kept, lost = within(at_threshold, tolerance)
    safe = far_excess.high is not None and far_excess.high <= 0
    unsafe = far_excess.low is not None and far_excess.low > 0
    kept_own, lost_own = (False, False) if at_far is None else within(at_far, tolerance)
    if kept and safe:
        return "swap"
    if kept_own:
        return "swap_at"
    return "no" if (lost or unsafe) and lost_own else "undecided"


def judge(c: Certificate) -> Verdict:
    """Apply the rules and say it in one sentence, with the numbers it rests on."""
    expected = 0.0 if c.far is None else c.far * c.arms[0].n_impostor
    kind = decide(expected, c.change_at_threshold, c.far_excess, c.change_at_far, c.tolerance)
    say = {"swap": yes, "swap_at": with_threshold, "no": no, "undecided": open_question}[kind]
    sentence = too_few_impostors(c) if expected < LEAST_FALSE else say(c)
    return Verdict(kind, sentence, tuple(reasons(c)))


def yes(c: Certificate) -> str:
    """Swap."""
    return (
        f"Swap: at the threshold in use (cosine {c.threshold:.4f}), new probes against the old gallery "
        f"{lose(c.change_at_threshold)} and let {odds(c.arms[2].far_at_threshold)} impostors pass "
        f"(old probes: {odds(c.arms[0].far_at_threshold)})."
    )


def with_threshold(c: Certificate) -> str:
    """Swap with threshold t."""
    own, change = c.arms[2].own.threshold, c.change_at_far
    assert own is not None and change is not None
    return (
        f"Swap with threshold {rounded_up(own)}: new probes against the old gallery then {lose(change)} "
        f"at the same rate of false accepts ({one_in(c.far)}); "
        f"at the threshold in use (cosine {c.threshold:.4f}) {trouble(c)}."
    )


def no(c: Certificate) -> str:
    """Do not swap."""
    assert c.change_at_far is not None
    return (
        f"Do not swap: even with a threshold of their own, new probes against the old gallery {lose(c.change_at_far)} "
        f"at the same rate of false accepts ({one_in(c.far)}), and {100 * c.tolerance:g} are allowed; "
        f"at the threshold in use {trouble(c)}."
    )


def open_question(c: Certificate) -> str:
    """Undecided."""
    change = c.change_at_far or c.change_at_threshold
    sees = "" if change.smallest is None else f" (it would notice a change of {100 * change.smallest:.1f} points)"
    return (
        f"Undecided: TAR changes by {points(change)} and a loss of {100 * c.tolerance:g} is allowed; "
        f"this benchmark is too small to tell{sees}. Measure on more people."
    )


def too_few_impostors(c: Certificate) -> str:
    """Undecided, because the FAR itself cannot be seen."""
    have = c.arms[0].n_impostor
    need = f"needs at least {math.ceil(LEAST_FALSE / c.far):,}" if c.far else "needs many more"
    return (
        f"Undecided: {c.note or 'too few false accepts are expected'}; to judge at this rate of false accepts "
        f"the benchmark {need} impostor pairs, it has {have:,}."
    )


def rounded_up(threshold: float) -> str:
    """Four digits, upwards: typed in as it is printed, it lets no more impostors pass than were counted."""
    return f"{math.ceil(threshold * 1e4) / 1e4:.4f}"


def trouble(c: Certificate) -> str:
    """Why the threshold in use does not do."""
    _, lost = within(c.change_at_threshold, c.tolerance)
    if c.far_excess.low is not None and c.far_excess.low > 0:
        return f"{odds(c.arms[2].far_at_threshold)} impostors would pass, {odds(c.arms[0].far_at_threshold)} do now"
    if lost:
        return f"they {lose(c.change_at_threshold)}"
    return "it is not shown that they keep TAR and false accepts within bounds"


def reasons(c: Certificate) -> Iterator[str]:
    """The measurements behind the sentence, one per line."""
    old, new, cross = c.arms
    yield (
        f"At the threshold in use: TAR {shown(old.tar_at_threshold)} with old probes, "
        f"{shown(cross.tar_at_threshold)} with new ones; change {points(c.change_at_threshold)}."
    )
    yield (
        f"Impostors that pass there: {odds(old.far_at_threshold)} with old probes, {odds(cross.far_at_threshold)} "
        f"with new ones; {FAR_GROWTH:g} times as many are allowed."
    )
    if c.change_at_far is not None and cross.own.threshold is not None:
        yield (
            f"With a threshold of their own for the same rate of false accepts (cosine {cross.own.threshold:.4f}): TAR "
            f"{shown(old.tar_at_far)} against {shown(cross.tar_at_far)}; change {points(c.change_at_far)}."
        )
        yield f"Enrolling everybody again with the new model would give TAR {shown(new.tar_at_far)} at that rate."
    yield f"Loss of TAR that is acceptable: {100 * c.tolerance:g} points."


def within(change: Difference, tolerance: float) -> tuple[bool, bool]:
    """(the loss is surely within the tolerance, the loss is surely above it)."""
    if change.low is None or change.high is None:
        return False, False
    return -change.low <= tolerance, -change.high > tolerance


def shown(r: Rate) -> str:
    """``98.7 %``."""
    return "not measurable" if r.value is None else f"{100 * r.value:.1f} %"


def odds(r: Rate) -> str:
    """``1 in 990``."""
    return one_in(r.value)


def one_in(far: float | None) -> str:
    """``1 in 990``; none where nothing was seen."""
    return f"1 in {round(1 / far):,}" if far else "none"


def lose(change: Difference) -> str:
    """``lose 1.2 points of TAR``."""
    return f"lose {-100 * change.value:.1f} points of TAR" if change.value <= -5e-4 else "lose no TAR"


def points(d: Difference) -> str:
    """``-1.2 points (95 %: -2.0 to -0.5)``."""
    text = f"{signed(d.value)} points"
    return text if d.low is None or d.high is None else f"{text} (95 %: {signed(d.low)} to {signed(d.high)})"


def signed(share: float) -> str:
    """``+1.2``: a change of a rate in points, without a negative zero."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def summary(c: Certificate, verdict: Verdict) -> dict[str, Any]:
    """The ``swap`` entry of the results document."""
    return {
        "verdict": verdict.kind,
        "sentence": verdict.sentence,
        "reasons": list(verdict.reasons),
        "threshold": c.threshold,
        "threshold_source": c.threshold_source,
        "new_threshold": c.arms[2].own.threshold,
        "far": c.far,
        "tolerance": c.tolerance,
        "far_growth": FAR_GROWTH,
        "trials": c.trials,
        "draws": c.draws,
    }
