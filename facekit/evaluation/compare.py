"""Which arm of a sweep is better than its control, and is that more than chance?

An *arm* is one configuration, trained with one seed or several; the first arm is the *control*. All networks are
measured on the same pairs and in the same draws of people, or on the same images of a closed set and in the same draws
of images. An arm's rate is the mean over its seeds, in every draw too: draws are joint for all seeds of both arms. The
interval of a difference so says how far other *people* (or images) would move it; how far other *seeds* would is told
by the differences seed by seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facekit.core.errors import ArtefactMismatch, InputError
from facekit.core.preprocess import Preprocess
from facekit.core.runfolder import StoredRun, measured_rows, method_of, number, table, tables, words
from facekit.core.runs import NEUTRAL
from facekit.evaluation.statistics import (
    LEAST_FALSE,
    Difference,
    IdentityBootstrap,
    bootstrap_p,
    holm,
    paired_difference,
    t_interval,
)
from facekit.evaluation.verdict import points, signed
from facekit.evaluation.versus import RateDraws

ALPHA = 0.05
ENOUGH_SEEDS = 5
"""From so many seeds on their spread must allow a claim too; fewer of them show no more than a direction."""
DIRECTION_SEEDS = 3
WITHOUT_POINT = ("accuracy_10fold", "top1", "top5")
"""Metrics that stand side by side, beside TAR at the rates asked for."""
_BY_CONTENT = {"data": ("fingerprint", ("data", "images", "exclude")), "teacher": ("sha256", ("teacher",))}
"""What run.json knows by its hash -> (the hash's name, the options that are only the way to it)."""


# --- arms ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """One network to compare: a run, a checkpoint of one, or a plain model file (without options)."""

    path: Path
    options: dict[str, Any]
    seed: int | None

    @staticmethod
    def of_run(run: StoredRun, defaults: Mapping[str, Any]) -> Network:
        """The options that make it what it is: all but seed and neutral ones; data and teacher by their content.

        An option that the run's facekit did not have yet counts as left at its default.
        """
        options: dict[str, Any] = {"verb": words(run.record.get("verb")) or "unknown"}
        given = {**defaults, **run.config}
        options |= {name: value for name, value in given.items() if name not in NEUTRAL | {"seed"}}
        if (method := method_of(run)) is not None:
            options["method"] = method
        for name, (key, ways) in _BY_CONTENT.items():
            known = table(run.record.get(name))
            if sha := words(known.get(key)):
                title = words(known.get("name")) or Path(str(run.config.get(name))).name
                options = {k: value for k, value in options.items() if k not in ways}
                options[name] = f"{title}@{sha[:8]}"
        options["checkpoint"] = run.path.name if run.path.parent.name == "checkpoints" else "last"
        seed = number(run.config.get("seed"))
        return Network(run.path, options, None if seed is None else int(seed))


@dataclass(frozen=True)
class Arm:
    """Networks whose options are equal but for the seed."""

    name: str
    """The options in which it differs from the control; of the control, all in which arms differ."""
    options: dict[str, Any]
    members: tuple[int, ...]
    """Positions in the list of networks."""
    seeds: tuple[int | None, ...]


def group(networks: Sequence[Network]) -> list[Arm]:
    """The arms in order of their first network, which makes the first arm the control. Model files stay alone.

    Raises InputError where two networks have the same options and the same seed: they are one measurement.
    """
    groups: dict[str, list[int]] = {}
    filled = [with_all_options(network, networks) for network in networks]
    for i, options in enumerate(filled):
        key = json.dumps(options, sort_keys=True) if options else f"file {networks[i].path}"
        for other in groups.setdefault(key, []):
            if networks[other].seed == networks[i].seed:
                raise InputError(
                    f"{networks[other].path} and {networks[i].path} have the same options and the same seed: "
                    "they are one measurement, not two; leave one out"
                )
        groups[key].append(i)
    firsts = [filled[members[0]] for members in groups.values()]
    differing = differing_options(firsts)
    arms = []
    for options, members in zip(firsts, groups.values(), strict=True):
        own = {name: options[name] for name in differing if name in options}
        reference = {} if options is firsts[0] else firsts[0]
        new = {name: value for name, value in own.items() if name not in reference or reference[name] != value}
        seeds = tuple(networks[i].seed for i in members)
        arms.append(Arm(describe(new) or networks[members[0]].path.as_posix(), own, tuple(members), seeds))
    return arms


def with_all_options(network: Network, networks: Sequence[Network]) -> dict[str, Any]:
    """Its options, those that only other versions of its verb wrote down set to None."""
    same_verb = [n.options for n in networks if n.options.get("verb") == network.options.get("verb")]
    return {name: network.options.get(name) for options in same_verb for name in options}


def differing_options(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the options that are not the same in all arms that have them."""
    values: dict[str, list[Any]] = {}
    for options in arms:
        for name, value in options.items():
            values.setdefault(name, []).append(value)
    return [name for name, found in values.items() if any(value != found[0] for value in found)]


def describe(options: Mapping[str, Any]) -> str:
    """``weights=rad=30, neighbours=64``; what was not given is its default."""
    return ", ".join(f"{name}={shown(value)}" for name, value in options.items())


def shown(value: Any) -> str:
    """A value as a person would write it."""
    if value is None or value == []:
        return "default"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def common_flip(inputs: Mapping[str, Preprocess], asked: str) -> str:
    """The flip rule of all models. Raises ArtefactMismatch where they cannot be compared on the same images."""
    (first, reference), *others = inputs.items()
    for name, other in others:
        for what, a, b in (("size", reference.size, other.size), ("crop", reference.crop, other.crop)):
            if a != b:
                raise ArtefactMismatch(f"{first} expects the {what} {a}, {name} the {what} {b}: compare them apart")
        if asked == "model" and other.flip != reference.flip:
            raise ArtefactMismatch(
                f"{first} fuses flips by '{reference.flip}', {name} by '{other.flip}'; "
                f"give one rule for all, for example --flip {reference.flip}"
            )
    return reference.flip if asked == "model" else asked


# --- paired comparison ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedChanges:
    """The difference to the control seed by seed, for the seeds that both have."""

    seeds: tuple[int, ...]
    changes: tuple[float, ...]
    sd: float | None
    low: float | None
    high: float | None
    """95 % t interval of the mean over seeds; None for fewer than two."""

    @staticmethod
    def of(control: Mapping[int, float], arm: Mapping[int, float]) -> SeedChanges:
        """From a rate by seed."""
        seeds = tuple(sorted(control.keys() & arm.keys()))
        changes = tuple(arm[seed] - control[seed] for seed in seeds)
        _, sd, low, high = t_interval(changes) if len(changes) > 1 else (None, None, None, None)
        return SeedChanges(seeds, changes, sd, low, high)

    def describe(self) -> str:
        """``up on 2 of 3 seeds (+0.3 points, sd 0.2)``."""
        ups = sum(c > 0 for c in self.changes)
        mean = signed(float(np.mean(self.changes)))
        return f"up on {ups} of {len(self.changes)} seeds ({mean} points, sd {100 * (self.sd or 0.0):.1f})"

    @property
    def side(self) -> int:
        """+1 or -1 where the seeds agree which way it goes, else 0: from 5 seeds on by their t interval."""
        if len(self.changes) >= ENOUGH_SEEDS:
            assert self.low is not None and self.high is not None
            return int(self.low > 0) - int(self.high < 0)
        return int(all(c > 0 for c in self.changes)) - int(all(c < 0 for c in self.changes)) if self.changes else 0


@dataclass(frozen=True)
class Change:
    """An arm against the control at one point."""

    paired: Difference
    """Over the same draws of people or images"""
    p: float
    seeds: SeedChanges


Point = tuple[str, float | None]
"""What is compared: a metric and its operating point, ``("tar@far", 0.001)`` or ``("top1", None)``."""


@dataclass(frozen=True)
class Standing:
    """An arm at one point."""

    metric: str
    at: float | None
    values: tuple[float, ...]
    """The rate of each network; empty where it cannot be measured."""
    mean: float | None
    sd: float | None
    """Over seeds, ddof 1; None for one."""
    low: float | None
    high: float | None
    """Of the mean, other people or images drawn."""
    status: str
    note: str
    change: Change | None
    """None for the control, and where nothing can be measured."""


def standings(
    arms: Sequence[Arm], measured: Sequence[RateDraws], points: Sequence[Point], boot: IdentityBootstrap
) -> list[list[Standing]]:
    """Every arm [A] at every point [F]; ``measured`` holds the networks, to which the arms' members point."""
    return [[standing(arm, arms[0], measured, i, point, boot) for i, point in enumerate(points)] for arm in arms]


def standing(
    arm: Arm, control: Arm, measured: Sequence[RateDraws], i: int, point: Point, boot: IdentityBootstrap
) -> Standing:
    """One arm at the ``i``-th point."""
    first = measured[arm.members[0]].observed[i]
    if first.value is None:
        return Standing(*point, (), None, None, None, None, first.status, first.note, None)
    own, drawn = over_seeds(arm, measured, i)
    mean = float(np.mean(own))
    interval = boot.interval(mean, drawn)
    change = None if arm is control else changed(arm, control, measured, i, boot)
    sd = float(np.std(own, ddof=1)) if len(own) > 1 else None
    return Standing(*point, tuple(own), mean, sd, interval.low, interval.high, first.status, first.note, change)


def over_seeds(arm: Arm, measured: Sequence[RateDraws], i: int) -> tuple[list[float], np.ndarray]:
    """(rate of each of an arm's networks, their mean in every draw [R])."""
    values = [measured[member].observed[i].value for member in arm.members]
    drawn = np.mean([measured[member].drawn[i] for member in arm.members], axis=0)
    return [value for value in values if value is not None], drawn


def changed(arm: Arm, control: Arm, measured: Sequence[RateDraws], i: int, boot: IdentityBootstrap) -> Change:
    """The arm's mean less the control's, over the same draws, and seed by seed."""
    (base, base_drawn), (own, own_drawn) = over_seeds(control, measured, i), over_seeds(arm, measured, i)
    paired = paired_difference(float(np.mean(own)) - float(np.mean(base)), base_drawn, own_drawn, boot.trials)
    seeds = SeedChanges.of(by_seed(control, base), by_seed(arm, own))
    return Change(paired, bootstrap_p(own_drawn - base_drawn), seeds)


def by_seed(arm: Arm, values: Sequence[float]) -> dict[int, float]:
    """Seed -> value, for networks that have a seed."""
    return {seed: value for seed, value in zip(arm.seeds, values, strict=True) if seed is not None}


# --- findings --------------------------------------------------------------------------------------------------

Word = Literal["better", "worse", "direction", "undecided"]


@dataclass(frozen=True)
class Finding:
    """What may be said of an arm at the leading point."""

    word: Word
    p_holm: float
    """Over all arms and all ways of trying them."""
    sentence: str


def leading(fars: Sequence[float], n_impostor: int) -> tuple[int, str]:
    """(position of the rate at which arms are judged, why nothing can be decided there, empty where something can).

    The first with at least 10 false accepts expected, else the first that can be measured at all.
    Raises InputError where none can.
    """
    expected = [Fraction(str(far)) * n_impostor for far in fars]
    for least, why in (
        (LEAST_FALSE, ""),
        (1, f"fewer than {LEAST_FALSE} false accepts are expected: too few to decide anything"),
    ):
        for i, count in enumerate(expected):
            if count >= least:
                return i, why
    raise InputError(
        f"none of --far {', '.join(f'{far:g}' for far in fars)} can be measured on {n_impostor:,} impostor pairs; "
        "give a higher one, or a larger benchmark"
    )


def judge(
    arms: Sequence[Arm], tried: Mapping[str, list[list[Standing]]], lead: int, why_not: str
) -> dict[str, list[Finding | None]]:
    """A finding for every arm but the control, for each way of trying (its own gallery, a common gallery).

    Holm's correction covers all of them: asking twice is as good a chance of being fooled as two arms.
    """
    tests = [
        (way, a, change)
        for way, table_of_arms in tried.items()
        for a, row in enumerate(table_of_arms)
        if (change := row[lead].change) is not None
    ]
    findings: dict[str, list[Finding | None]] = {way: [None] * len(arms) for way in tried}
    for (way, a, change), p in zip(tests, holm([change.p for _, _, change in tests]), strict=True):
        word = "undecided" if why_not else decide(change, p)
        findings[way][a] = Finding(word, p, explain(change, word, p, len(tests), why_not))
    return findings


def decide(change: Change, p_holm: float) -> Word:
    """The rules, in order.

    1. *better*, *worse*: the paired interval over draws excludes zero, its p stays at most 0.05 after Holm, and
       where there are 5 seeds or more, the t interval over seeds excludes zero on the same side.
    2. *direction*: at least 3 seeds, and they agree. No claim.
    3. Otherwise *undecided*.
    """
    up = change.paired.value > 0
    agree = change.seeds.side == (1 if up else -1)
    seeds = len(change.seeds.changes)
    if change.paired.decided and p_holm <= ALPHA and (agree or seeds < ENOUGH_SEEDS):
        return "better" if up else "worse"
    return "direction" if agree and seeds >= DIRECTION_SEEDS else "undecided"


def explain(change: Change, word: Word, p_holm: float, tests: int, why_not: str) -> str:
    """The finding with the numbers it rests on."""
    seeds, paired = change.seeds, change.paired
    told = [points(paired), f"p {p_holm:.2g}" + (f" after Holm over {tests} comparisons" if tests > 1 else "")]
    if len(seeds.changes) > 1:
        told.append(seeds.describe())
    if why_not:
        told.append(why_not)
    text = f"{word.upper()}: {'; '.join(told)}"
    if word in ("better", "worse") or paired.smallest is None:
        return f"{text}."
    return f"{text}. It takes a true difference of {100 * paired.smallest:.1f} points to be noticed four times in five."


# --- documents side by side ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """The same benchmark in the results documents of several networks."""

    benchmark: str
    variant: str
    columns: tuple[Point, ...]
    rows: tuple[dict[Point, dict[str, Any]], ...]
    """One per network: column -> row of its document."""


def side_by_side(contents: Sequence[Mapping[str, Any] | None], fars: Sequence[float]) -> list[Board]:
    """What the networks' documents say of the same benchmark: the same list, the same images, the same flip rule."""
    wanted: list[Point] = [*(("tar@far", far) for far in fars), *((metric, None) for metric in WITHOUT_POINT)]
    found: dict[tuple[str, ...], list[dict[Point, dict[str, Any]]]] = {}
    for i, content in enumerate(contents):
        if content is None:
            continue
        files = {
            words(entry.get("name")) or "": (str(entry.get("sha256")), str(entry.get("images_fingerprint")))
            for entry in tables(content.get("benchmarks"))
        }
        for row in measured_rows(content):
            column = (words(row.get("metric")) or "", number(row.get("at")))
            if column in wanted:
                name = words(row.get("benchmark")) or ""
                key = (name, words(row.get("variant")) or "", *files.get(name, ("", "")))
                found.setdefault(key, [{} for _ in contents])[i].setdefault(column, row)
    return [
        Board(key[0], key[1], tuple(c for c in wanted if any(c in row for row in rows)), tuple(rows))
        for key, rows in found.items()
    ]
