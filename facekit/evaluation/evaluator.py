"""The one evaluator: embeddings and benchmarks in, result rows out.

Every image is embedded once, whatever is asked about it. The evaluator is given a function that embeds, never a model,
and ways to score, never an alignment package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from facekit.data.benchmarks import Benchmark
from facekit.data.classes import ClassSet
from facekit.data.embeddings import embed_source
from facekit.data.galleries import GallerySet
from facekit.data.ijb import TemplateSet
from facekit.data.megaface import MegaFaceSet
from facekit.data.pairs import PairSet
from facekit.data.retrieval import RetrievalSet
from facekit.data.scorefiles import ScoredSet
from facekit.evaluation import verification as v
from facekit.evaluation.classification import measure_classes
from facekit.evaluation.identification import measure_galleries
from facekit.evaluation.ijb import measure_ijb
from facekit.evaluation.megaface import measure_megaface
from facekit.evaluation.pairwise import measure_pairs, measure_scored
from facekit.evaluation.retrieval import measure_retrieval
from facekit.evaluation.scoring import Asked, Measured, Table
from facekit.evaluation.vectors import VIEWS, unit_vectors

Embed = Callable[[Tensor], Tensor]
"""uint8 RGB [n,3,H,W] -> float32 [n,D], not normalised."""
MEASURES: dict[type, Callable[[Any, Table, Asked], Measured]] = {
    PairSet: measure_pairs,
    GallerySet: measure_galleries,
    RetrievalSet: measure_retrieval,
    TemplateSet: measure_ijb,
    MegaFaceSet: measure_megaface,
    ScoredSet: measure_scored,
    ClassSet: measure_classes,
}
"""Kind of benchmark -> its protocol."""


def table_of(
    embed: Embed,
    flip: str,
    *,
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Table:
    """What protocols ask for embeddings: sources go through ``embed`` once, in the views that ``flip`` needs.

    ``key`` names the weights, the preprocessing and the precision in the embedding cache.
    """
    return partial(embed_source, embed, views=VIEWS[flip], batch=batch, key=key, cache_dir=cache_dir, progress=progress)


def evaluate(table: Table, benchmarks: Sequence[Benchmark], asked: Asked) -> Measured:
    """Measure everything that is ``asked`` of the embeddings that ``table`` gives, on every benchmark.

    Closed sets look at the class scores of ``asked.classifier`` instead.
    """
    found = Measured([], [])
    for benchmark in benchmarks:
        rows, curves = MEASURES[type(benchmark)](benchmark, table, asked)
        found.rows.extend(rows)
        found.curves.extend(curves)
    return found


def embed_pairs(
    embed: Embed,
    pairs: PairSet,
    *,
    flip: str,
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Unit embeddings float64 [N,D] of a benchmark's images, flips fused before normalisation."""
    table = embed_source(
        embed, pairs.source, views=VIEWS[flip], batch=batch, key=key, cache_dir=cache_dir, progress=progress
    )
    return unit_vectors(table, flip, pairs.source.names)


def tar_by_far(embed: Embed, pairs: PairSet, fars: Sequence[float], batch: int = 64) -> dict[str, float]:
    """Only the measurable TARs, ``{"tar@far=0.001": 0.93}``, without flips, intervals or cache: to choose an epoch."""
    vectors = embed_pairs(embed, pairs, flip="none", batch=batch)
    scores = v.Scores.of(v.pair_cosines(vectors, vectors, pairs.left, pairs.right), pairs.same)
    points = {far: v.tar_at_far(scores, far).value for far in fars}
    return {f"tar@far={far:g}": value for far, value in points.items() if value is not None}
