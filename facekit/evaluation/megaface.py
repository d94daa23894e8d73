"""MegaFace challenge 1, streamed: one mate at a time among up to a million distractors, and 3.5e9 impostor pairs.

Distractors pass by in blocks. Of every block's scores only those are looked at that beat a mate still in the race, or
belong to the best impostors so far; everything else is one comparison. Nothing but a count per mate and those best
impostors is kept, so |D| costs time alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from facekit.data.lazy import items_at
from facekit.data.megaface import MegaFaceSet
from facekit.data.protocol import Source
from facekit.evaluation import manyscores
from facekit.evaluation.identification import on_grid, same_width
from facekit.evaluation.manyscores import Tail, TopScores
from facekit.evaluation.probedraws import ProbeBootstrap
from facekit.evaluation.rates import Rates, delta_rows, plain_rate, rate_rows
from facekit.evaluation.results import Row
from facekit.evaluation.rivals import Mates, Rivals, place_among
from facekit.evaluation.scoring import RAW, Asked, CmcCurve, Measured, Scorer, Table, label_of, marked
from facekit.evaluation.tailrates import tar_rates, with_wilson
from facekit.evaluation.vectors import unit_vectors

BLOCK, ROWS = 4096, 512
"""Distractors and probes of one tile of scores."""
EXACT_RANKS = 1000
SPARE, LEAST_SPARE, SPARED = 20, 4, 1 << 22
"""Some draws' thresholds lie lower than the observed one: 20 times as many impostors are kept, but only 4 times as many
where that is more than 4 million."""
MOST_KEPT, MOST_DRAWN = 40_000_000, 1 << 24
"""320 MB: a FAR that needs more is not measurable here; 0.01 of 3,530 x 1,000,000 pairs just fits. Draws are read from
fewer."""
GUARD = {np.dtype(np.float32): 2.0**-17, np.dtype(np.float64): 0.0}
"""How far a cosine may be from the exact one: far more than float32 was ever seen to be; on a grid float64 is exact."""


def measure_megaface(bench: MegaFaceSet, table: Table, asked: Asked, block: int = BLOCK) -> Measured:
    """Identification rate and TAR among the first 10, 100, .. and all distractors, for every scorer, in one pass.

    ``asked.ties`` says who wins a tie, the distractor (pessimistic) or the mate (optimistic). Aligned scores are
    aligned on both sides of every comparison. The result does not depend on ``block``. Intervals draw the people
    searched for; distractors are nobody's and stay.
    """
    crowd = views_of(bench.distractors, table, asked.flip)
    probes = probe_vectors(bench, views_of(bench.probes, table, asked.flip))
    base = dataclasses.replace(
        asked.stamp,
        benchmark=bench.name,
        n_images=len(probes),
        n_identities=len(np.unique(bench.person)),
        n_failed=bench.failed,
    )
    optimistic = asked.ties == "optimistic"
    variant = f"flip-{asked.flip},{bench.noise}" + (",optimistic" if optimistic else "")
    contests = [Contest(scorer, probes, bench, asked, optimistic) for scorer in asked.scorers]
    # An alignment may make more of a cosine than float32 resolves.
    exact = any(scorer.name != RAW.name for scorer in asked.scorers)
    searched = on_grid(probes) if exact else probes.astype(np.float32)
    found = Measured([], [])
    for start, stop in pieces(len(bench.distractor), block):
        rows = bench.distractor[start:stop][~bench.ignored[start:stop]]
        if len(rows):
            pass_by(contests, searched, Distractors(crowd, rows))
        if stop in marks(len(bench.distractor)):
            row = dataclasses.replace(base, variant=f"{variant},D={stop}")
            found.rows.extend(rows_at(contests, bench, stop, asked, row))
    if asked.curves:
        found.curves.extend(contest.curve(bench.name) for contest in contests)
    return found


def pass_by(contests: Sequence[Contest], searched: np.ndarray, distractors: Distractors) -> None:
    """One block of distractors against all probes, unit rows [P,D] in the precision that is needed."""
    unit = distractors.quick() if searched.dtype == np.float32 else distractors.exact()
    same_width(unit, searched)
    for contest in contests:
        contest.meet(distractors, unit)
    for first in range(0, len(searched), ROWS):
        part = slice(first, first + ROWS)
        cosine = searched[part] @ unit.T
        for contest in contests:
            contest.judge(part, cosine)


def marks(distractors: int) -> list[int]:
    """Numbers of distractors that are reported: 10, 100, .. and all."""
    return [n for n in (10**k for k in range(1, len(str(distractors)))) if n < distractors] + [distractors]


def pieces(distractors: int, block: int) -> Iterator[tuple[int, int]]:
    """Blocks of the list that end at every mark."""
    start = 0
    for mark in marks(distractors):
        while start < mark:
            stop = min(start + block, mark)
            yield start, stop
            start = stop


# --- embeddings ---------------------------------------------------------------------------------------------


class Views(NamedTuple):
    """Embeddings before anything was done to them."""

    table: np.ndarray
    """float32 [N,V,D], not normalised; may be mapped, or read when indexed"""
    flip: str
    names: Sequence[str]

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows float64 [n,D] of some images."""
        return unit_vectors(self.table[rows], self.flip, items_at(self.names, rows))


def views_of(source: Source, table: Table, flip: str) -> Views:
    """The source's own embeddings, or those of the table.

    What somebody else computed has one view, whatever was fused into it.
    """
    own = getattr(source, "embeddings", None)
    views = table(source) if own is None else own
    return Views(views, flip if views.shape[1] == 2 else "none", source.names)


class Distractors:
    """A block of them."""

    def __init__(self, crowd: Views, rows: np.ndarray) -> None:
        self.crowd = crowd._replace(table=crowd.table[rows], names=items_at(crowd.names, rows))

    def exact(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Unit rows float64 [n,D] on the grid, of all or some of the block."""
        return on_grid(self.crowd.unit(np.arange(len(self.crowd.table)) if rows is None else rows))

    def quick(self) -> np.ndarray:
        """Unit rows float32 [n,D]: rounding here is what GUARD allows for."""
        views, flip, _ = self.crowd
        count, each, width = views.shape
        if flip == "concat":
            fused = views.reshape(count, each * width)
        else:
            fused = views[:, 0] + views[:, 1] if flip == "sum" else views[:, 0]
        norms = np.sqrt(np.einsum("nd,nd->n", fused, fused))
        if not (np.isfinite(norms) & (norms > 0)).all():
            return self.exact().astype(np.float32)  # refuses it by name, unless only float32 is too narrow for it
        return fused * (1 / norms)[:, None]


def probe_vectors(bench: MegaFaceSet, views: Views) -> np.ndarray:
    """Unit rows float64 [P,D]; noise that is to be replaced becomes its person's centre, as in ``remove_noises.py``.

    That is the sum of the unit vectors of the person's other probes plus uniform noise of at most 0.001, unit again.
    Unseeded there, and an easy mate: the rates it gives are flattering.
    """
    unit = views.unit(bench.probe)
    noise = np.random.default_rng(bench.seed)
    for i in np.flatnonzero(bench.replaced).tolist():
        clean = (bench.person == bench.person[i]) & ~bench.replaced
        centre = unit[clean].sum(axis=0) + noise.uniform(-0.001, 0.001, unit.shape[1])
        unit[i] = centre / np.linalg.norm(centre)
    return unit


# --- one scorer ---------------------------------------------------------------------------------------------


class Contest:
    """Mates and distractors of all probes under one scorer."""

    def __init__(self, scorer: Scorer, probes: np.ndarray, bench: MegaFaceSet, asked: Asked, optimistic: bool) -> None:
        self.scorer, self.probes, self.person = scorer, on_grid(probes), bench.person
        # Who is on a probe is what the search shall find: its terms may not know it.
        self.searching = scorer.terms(self.probes)
        enrolled = scorer.terms(self.probes, [bench.people[who] for who in bench.person.tolist()])
        self.mates = mates_of(scorer, self.probes, enrolled, self.searching, bench.person)
        self.rivals = Rivals(self.mates, max((EXACT_RANKS, *asked.ranks)), optimistic)
        self.top = TopScores(kept_impostors(asked.fars, len(probes) * len(bench.distractor)))

    def meet(self, distractors: Distractors, unit: np.ndarray) -> None:
        """The next distractors and their unit rows [n,D]."""
        self.distractors, self.met = distractors, self.scorer.terms(unit)

    def judge(self, rows: slice, cosine: np.ndarray) -> None:
        """Their cosines [p,n] with some probes."""
        score = self.scorer.combine(cosine, self.met[None], self.searching[rows, None])
        guard = GUARD[score.dtype]
        lowest = self.rivals.floor[rows] - guard
        hit = np.flatnonzero(score >= np.minimum(lowest, self.top.floor).astype(score.dtype)[:, None])
        probe, distractor = np.divmod(hit, score.shape[1])
        found = score.ravel()[hit].astype(np.float64)
        live = np.flatnonzero(found >= lowest[probe])
        found[live] = self.exact(rows.start + probe[live], distractor[live], found[live], guard)
        best = found >= self.top.floor
        self.top.add(found[best], self.person[rows][probe[best]])
        self.rivals.add(rows.start + probe[live], found[live])
        self.rivals.drop_the_lost(rows)

    def exact(self, probe: np.ndarray, distractor: np.ndarray, score: np.ndarray, guard: float) -> np.ndarray:
        """Scores [n]; those so close to a mate's that rounding might decide are computed again without any."""
        if guard and len(score):
            low, high = (place_among(self.mates.score, probe, score + shift) for shift in (-guard, guard))
            close = np.flatnonzero(low != high)
            if len(close):
                left, right = distractor[close], probe[close]
                cosine = np.einsum("nd,nd->n", self.distractors.exact(left), self.probes[right])
                score[close] = self.scorer.combine(cosine, self.met[left], self.searching[right])
        return score

    def impostors(self, total: int) -> tuple[np.ndarray, np.ndarray]:
        """(the best of ``total`` impostor scores, highest first; the person on each one's probe).

        Those of ignored distractors are lower than any other.
        """
        best, person = self.top.best()
        ignored = (0, max(0, min(total, self.top.keep) - len(best)))
        return np.pad(best, ignored, constant_values=-np.inf), np.pad(person, ignored)

    def within(self, ranks: Sequence[int]) -> np.ndarray:
        """For each trial, a mate alone among the distractors, whether it is found within each rank, bool [N,r]."""
        return self.rivals.beaten()[self.mates.who >= 0][:, None] < np.array(ranks)

    def curve(self, benchmark: str) -> CmcCurve:
        """Identification rate at all ranks that are counted."""
        ranks = np.unique(np.geomspace(1, self.rivals.limit, 100).astype(np.int64))
        return CmcCurve(benchmark, label_of(self.scorer), ranks, self.within(ranks.tolist()).mean(axis=0))


def mates_of(
    scorer: Scorer, probes: np.ndarray, enrolled: np.ndarray, searching: np.ndarray, person: np.ndarray
) -> Mates:
    """The other images of each probe's person, each enrolled in turn; ``probes`` are on the grid."""
    most = max(int(np.bincount(person).max()) - 1, 1)
    score, who = np.full((len(probes), most), np.inf), np.full((len(probes), most), -1)
    for one in np.unique(person).tolist():
        images = np.flatnonzero(person == one)
        searched, gallery = np.nonzero(~np.eye(len(images), dtype=bool))
        left, right = images[gallery], images[searched]
        cosine = (probes[images] @ probes[images].T)[searched, gallery]
        shape = len(images), len(images) - 1
        scores = scorer.combine(cosine, enrolled[left], searching[right]).reshape(shape)
        order = np.argsort(scores, axis=1, kind="stable")
        score[images, : shape[1]] = np.take_along_axis(scores, order, axis=1)
        who[images, : shape[1]] = np.take_along_axis(left.reshape(shape), order, axis=1)
    return Mates(score, who)


def kept_impostors(fars: Sequence[float], total: int) -> int:
    """How many of the best impostors the FARs need, and their draws."""
    needed = max((n for far in fars if (n := manyscores.depth([far], total)) <= MOST_KEPT), default=1)
    return min(total, MOST_KEPT, max(LEAST_SPARE * needed, min(SPARE * needed, SPARED)))


# --- rows ---------------------------------------------------------------------------------------------------


def rows_at(
    contests: Sequence[Contest], bench: MegaFaceSet, distractors: int, asked: Asked, base: Row
) -> Iterator[Row]:
    """All numbers among the first ``distractors``, each score held against the first."""
    first: tuple[Measurement, ...] = ()
    for contest in contests:
        measured = identification(contest, distractors, asked), verification(contest, distractors, asked)
        for i, found in enumerate(measured):
            row = dataclasses.replace(marked(base, contest.scorer), n_genuine=found.trials, n_impostor=found.impostors)
            rows = rate_rows(found.rates, row, found.boot)
            yield from with_wilson(rows) if asked.draws else rows
            if first:
                yield from delta_rows(first[i].rates, found.rates, row, found.boot)
        first = first or measured


@dataclass(frozen=True)
class Measurement:
    """Rates, what they are of, and the draws behind their intervals."""

    rates: Rates
    trials: int
    impostors: int
    boot: ProbeBootstrap | None


def identification(contest: Contest, distractors: int, asked: Asked) -> Measurement:
    """Share of the trials, each mate alone among the distractors, in which it is within rank r."""
    trial = contest.mates.who >= 0
    within, boot = contest.within(asked.ranks), boot_of(contest, trial, distractors, asked)
    rates = Rates(
        protocol="megaface-id",
        metric="cmc",
        at=asked.ranks,
        points=[plain_rate(float(rate)) for rate in within.mean(axis=0)],
        drawn=[None if boot is None else boot.mean(column) for column in within.T],
    )
    return Measurement(rates, int(trial.sum()), distractors, boot)


def verification(contest: Contest, distractors: int, asked: Asked) -> Measurement:
    """Strict TAR: every pair of images of one person once, against every probe with every distractor."""
    probes = len(contest.person)
    once = (contest.mates.who >= 0) & (contest.mates.who < np.arange(probes)[:, None])
    # The best impostors are kept as float32: the genuine scores are rounded alike, so that a tie stays one.
    genuine = contest.mates.score[once].astype(np.float32)
    best, probe_person = contest.impostors(probes * distractors)
    tail, boot = Tail(best, probes * distractors), boot_of(contest, once, distractors, asked)
    within = Tail(best[:MOST_DRAWN], tail.total)
    draw = None if boot is None else partial(boot.tail_tar, genuine, within, probe_person[:MOST_DRAWN])
    rates = tar_rates("megaface-ver", np.sort(genuine), tail, asked.fars, draw)
    return Measurement(rates, len(genuine), tail.total, boot)


def boot_of(contest: Contest, trial: np.ndarray, distractors: int, asked: Asked) -> ProbeBootstrap | None:
    """Draws of the people searched for; ``trial`` is bool [P,K], which of the mates count."""
    if not asked.draws:
        return None
    of_trial = np.broadcast_to(contest.person[:, None], trial.shape)[trial]
    return ProbeBootstrap(contest.person, of_trial, distractors, draws=asked.draws, seed=asked.seed)
