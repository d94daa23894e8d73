"""How few bytes does a face need to stay recognisable: verification of coded faces, against bytes per face.

Every face goes through a codec at every setting and is embedded again. Two cases come from the same embeddings:
*both* images of a pair coded, or the *probe* alone against an uncompressed gallery. The uncompressed faces come first,
and every rate is held against theirs over the same draws of people. Only embeddings are kept, of one setting at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facekit.data.pairs import PairSet
from facekit.evaluation import verification as v
from facekit.evaluation.benchdocument import opening, write_document
from facekit.evaluation.bytebudget import Budget
from facekit.evaluation.codedfaces import Embedder, Face, mean_file_size
from facekit.evaluation.facerows import SIDES, FaceRow, Sides
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.operating import thresholds_of
from facekit.evaluation.pairwise import FARS, bootstrap
from facekit.evaluation.results import describe_pairs
from facekit.evaluation.statistics import DRAWS, IdentityBootstrap, paired_difference
from facekit.evaluation.versus import draw_tar

SCHEMA = "facekit.faces/1"
TRUSTED_SHARE = 1 / 3
"""Of the size of the files the faces come from: above it, coding what was coded before costs hardly anything new."""


def measure_faces(
    benchmarks: Sequence[PairSet],
    codecs: Sequence[ImageCodec],
    embedder: Embedder,
    *,
    sides: Sequence[Sides] = SIDES,
    fars: Sequence[float] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
    dev: PairSet | None = None,
) -> list[FaceRow]:
    """All rates of every codec on every benchmark, the uncompressed first.

    TAR at each FAR takes its threshold from the coded pairs themselves. ``dev``, of other people, adds what happens at
    the thresholds that its uncompressed images choose: a system in use does not move its threshold with the codec.
    Intervals come from ``draws`` draws of people; 0 leaves them out.
    """
    thresholds = {} if dev is None else thresholds_of(plain_scores(dev, embedder), fars)
    rows: list[FaceRow] = []
    for pairs in benchmarks:
        boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, draws, seed) if draws else None
        judge = Judge(pairs, fars, thresholds, boot, mean_file_size(pairs.source))
        plain = embedder.plain(pairs.source)
        reference = judge.rates(plain, plain)
        rows += judge.rows(plain, "", reference, None)
        for codec in codecs:
            face = embedder.coded(plain, pairs.source, codec)
            for side in sides:
                rates = judge.rates(plain if side == "probe" else face, face)
                rows += judge.rows(face, side, rates, reference)
    return rows


def plain_scores(pairs: PairSet, embedder: Embedder) -> v.Scores:
    """Genuine and impostor cosines of uncompressed images."""
    vectors = embedder.plain(pairs.source).vectors
    return v.Scores.of(v.pair_cosines(vectors, vectors, pairs.left, pairs.right), pairs.same)


class Rate(NamedTuple):
    """A number and its replicates."""

    metric: str
    at: float | None
    value: float | None
    drawn: np.ndarray | None
    """[R], None without a bootstrap"""
    status: str = "ok"
    note: str = ""


@dataclass(frozen=True)
class Judge:
    """One benchmark and what is asked of it."""

    pairs: PairSet
    fars: Sequence[float]
    thresholds: Mapping[float, v.OperatingPoint]
    boot: IdentityBootstrap | None
    file_size: float | None
    """Mean bytes of the files that the faces come from"""

    def rates(self, gallery: Face, probe: Face) -> list[Rate]:
        """The same rates in the same order, whatever the faces: left images from the gallery, right ones from probe."""
        scores = v.pair_cosines(gallery.vectors, probe.vectors, self.pairs.left, self.pairs.right)
        return [*self.tar_rates(scores), *self.accuracy(scores), *self.threshold_rates(scores)]

    def tar_rates(self, scores: np.ndarray) -> Iterator[Rate]:
        """Strict TAR at each FAR."""
        found = draw_tar(scores, self.pairs.same, self.fars, self.boot)
        for i, (far, point) in enumerate(zip(self.fars, found.observed, strict=True)):
            drawn = found.drawn[i] if self.boot is not None else None
            yield Rate("tar@far", far, point.value, drawn, point.status, point.note)

    def accuracy(self, scores: np.ndarray) -> Iterator[Rate]:
        """10-fold accuracy at exact thresholds, where the benchmark has folds."""
        pairs = self.pairs
        if pairs.fold is None:
            return
        form = v.accuracy_10fold(-scores, pairs.same, pairs.fold, exact=True)
        correct = (-scores < form.thresholds[pairs.fold]) == pairs.same
        drawn = None if self.boot is None else self.boot.accuracy(correct)
        yield Rate("accuracy_lfw", None, form.mean, drawn, note=f"folds: {pairs.fold_rule}")

    def threshold_rates(self, scores: np.ndarray) -> Iterator[Rate]:
        """TAR and FAR at the thresholds that other people chose."""
        split = v.Scores.of(scores, self.pairs.same)
        for far, point in self.thresholds.items():
            if point.threshold is None:
                continue
            threshold, boot = point.threshold, self.boot
            note = f"threshold {threshold:.4f}, chosen on uncompressed images of other people"
            for metric, value, draw in (
                ("tar@threshold", split.tar(threshold), boot and boot.tar),
                ("far@threshold", split.far(threshold), boot and boot.far),
            ):
                drawn = draw(scores, threshold) if draw else None
                yield Rate(metric, far, value, drawn, point.status, note)

    def rows(self, face: Face, side: str, rates: Sequence[Rate], reference: Sequence[Rate] | None) -> Iterator[FaceRow]:
        """Each rate with its interval, and with its difference from the reference."""
        limit = np.inf if self.file_size is None else TRUSTED_SHARE * self.file_size
        first: Sequence[Rate | None] = [None] * len(rates) if reference is None else reference
        for rate, before in zip(rates, first, strict=True):
            row = FaceRow(
                benchmark=self.pairs.name,
                codec=face.codec,
                setting=face.setting,
                sides=side,
                bytes=face.bytes,
                payload=face.payload,
                psnr=face.psnr,
                cosine=face.cosine,
                near_source=reference is not None and bool(face.bytes > limit),
                metric=rate.metric,
                at=rate.at,
                value=rate.value,
                status=rate.status,
                note=rate.note,
            )
            yield self.compared(self.with_interval(row, rate), rate, before)

    def with_interval(self, row: FaceRow, rate: Rate) -> FaceRow:
        """95 %, over people where they are known."""
        if self.boot is None or rate.value is None or rate.drawn is None:
            return row
        found = self.boot.interval(rate.value, rate.drawn)
        return dataclasses.replace(row, low=found.low, high=found.high, ci_method=found.method)

    def compared(self, row: FaceRow, rate: Rate, before: Rate | None) -> FaceRow:
        """With the paired difference; without an interval where there is no bootstrap."""
        if before is None or before.value is None or rate.value is None:
            return row
        if self.boot is None or rate.drawn is None or before.drawn is None:
            return dataclasses.replace(row, delta=rate.value - before.value)
        d = paired_difference(rate.value - before.value, before.drawn, rate.drawn, self.boot.trials)
        return dataclasses.replace(row, delta=d.value, delta_low=d.low, delta_high=d.high, smallest_effect=d.smallest)


# --- the document ----------------------------------------------------------------------------------------


def document(
    rows: Sequence[FaceRow],
    budgets: Sequence[Budget],
    *,
    benchmarks: Sequence[PairSet],
    device: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole result, schema ``facekit.faces/1``; ``device`` is ``Device.describe()``."""
    return {
        **opening(SCHEMA, device),
        "benchmarks": [describe_pairs(pairs) for pairs in benchmarks],
        "rows": [dataclasses.asdict(row) for row in rows],
        "budgets": [dataclasses.asdict(budget) for budget in budgets],
    }


def write_faces(folder: Path, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write results.json, and the rows again as results.csv."""
    return write_document(folder, content, "rows")
