"""Does a threshold keep its promise? Chosen on some pairs, applied unchanged to others, or to worse images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from facekit.data.pairs import PairSet
from facekit.data.protocol import Source
from facekit.evaluation import verification as v
from facekit.evaluation.operating import frozen_rows, thresholds_of
from facekit.evaluation.pairwise import benchmark_row, bootstrap, score_pairs
from facekit.evaluation.results import Row
from facekit.evaluation.scoring import Asked, Side, Table, label_of, marked, people_on
from facekit.evaluation.vectors import unit_vectors

Thresholds = Mapping[str, Mapping[float, v.OperatingPoint]]
"""Label of the scorer -> FAR -> where it was reached."""


def thresholds_on(pairs: PairSet, table: Table, asked: Asked) -> Thresholds:
    """The strict threshold of every scorer at every FAR that these pairs can measure."""
    vectors = unit_vectors(table(pairs.source), asked.flip, pairs.source.names)
    found = {}
    for scorer in asked.scorers:
        scores, _ = score_pairs(scorer, vectors, pairs)
        found[label_of(scorer)] = thresholds_of(v.Scores.of(scores, pairs.same), asked.fars)
    return found


def measure_frozen(
    pairs: PairSet, table: Table, asked: Asked, thresholds: Thresholds, source: str, worse: Mapping[str, Source]
) -> list[Row]:
    """TAR and FAR of ``pairs`` at given thresholds, and once more for each rendering of the probe images.

    ``worse`` names renderings of ``pairs.source``; the enrolled (left) image stays as it is. ``source`` says where the
    thresholds come from.
    """
    people = people_on(pairs.source)
    clean = unit_vectors(table(pairs.source), asked.flip, pairs.source.names)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, asked.draws, asked.seed) if asked.draws else None
    base = benchmark_row(pairs, asked.flip, asked.stamp)
    enrolled = {label_of(s): Side(clean, s.terms(clean, people)) for s in asked.scorers}
    rows: list[Row] = []
    for condition, images in {"": pairs.source, **worse}.items():
        probes = clean if not condition else unit_vectors(table(images), asked.flip, images.names)
        variant = f"{base.variant},{condition}" if condition else base.variant
        for scorer in asked.scorers:
            gallery = enrolled[label_of(scorer)]
            probe = gallery if not condition else Side(probes, scorer.terms(probes, people))
            scores = scorer.pairs(gallery, probe, pairs.left, pairs.right)
            row = dataclasses.replace(marked(base, scorer), variant=variant)
            rows += frozen_rows(scores, pairs, row, boot, thresholds[label_of(scorer)], source)
    return rows
