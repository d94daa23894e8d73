"""Every kind of benchmark by the prefix that a user types: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from facekit.core.errors import UsageError, unknown_name
from facekit.data.agedb import open_agedb
from facekit.data.cfp import open_cfp
from facekit.data.classes import ClassSet, open_classes
from facekit.data.galleries import GallerySet
from facekit.data.ijb import TemplateSet, open_ijb
from facekit.data.megaface import MegaFaceSet, open_megaface
from facekit.data.pairs import ALL, PairSet, open_benchmark
from facekit.data.protocol import Source
from facekit.data.retrieval import RetrievalSet, open_retrieval
from facekit.data.scorefiles import ScoredSet, open_scored
from facekit.data.vectors import VectorFile, pairs_from_names

Benchmark = PairSet | GallerySet | RetrievalSet | TemplateSet | MegaFaceSet | ScoredSet | ClassSet

FOLDERS: Mapping[str, Callable[[Path, Path | None], Benchmark]] = {
    "agedb": open_agedb,
    "cfp-fp": lambda folder, images: open_cfp(folder, "FP", images),
    "cfp-ff": lambda folder, images: open_cfp(folder, "FF", images),
    "retrieval": open_retrieval,
    "classes": open_classes,
}
"""Prefix -> how its images are opened; ``images`` is the root of paths, where the layout does not fix it."""


def open_any(
    text: str, images: Path | None = None, vectors: VectorFile | None = None, noise: str = "cleaned", seed: int = 0
) -> Benchmark:
    """Open what ``--benchmark`` names: PREFIX:FOLDER of any kind, or what ``open_benchmark`` takes.

    With ``vectors`` no images are needed: embeddings will be found by name. ``noise`` is MegaFace's noise list,
    ``seed`` that of its replacements. Raises UsageError for an unknown prefix, MissingFile and InputError.
    """
    prefix, colon, rest = text.partition(":")
    if prefix == "megaface" and colon:
        return open_megaface(Path(rest), noise=noise, seed=seed, pixels=vectors is None)
    if prefix in ("ijbb", "ijbc") and colon:
        return open_ijb(Path(rest), prefix, pixels=vectors is None)
    if prefix == "scores" and colon:
        return open_scored(Path(rest))
    if prefix in FOLDERS and colon:
        if vectors is not None:
            instead = "--model" if prefix == "classes" else "its pairs as a list"
            raise UsageError(f"{prefix}: reads images, which --embeddings does without; give {instead}")
        return FOLDERS[prefix](Path(rest), images)
    if colon and prefix + colon != ALL and len(prefix) > 1 and not Path(text).exists():  # one letter is a drive
        raise unknown_name("benchmark", prefix, (ALL[:-1], "ijbb", "ijbc", "megaface", "scores", *FOLDERS))
    return open_benchmark(text, images) if vectors is None else pairs_from_names(text, vectors)


def people_tested(benchmark: Benchmark) -> set[str]:
    """The names of the people it tests, as far as it tells: nobody of them may be in a support set."""
    if isinstance(benchmark, GallerySet):
        return set(benchmark.people)
    if isinstance(benchmark, TemplateSet):
        return set(benchmark.subjects)
    if isinstance(benchmark, PairSet):
        return set(benchmark.source.identities)
    if isinstance(benchmark, ClassSet):
        return set()  # a class is nobody's name
    if isinstance(benchmark, ScoredSet):
        return set(benchmark.pairs.source.identities)
    return set(benchmark.gallery.identities) if isinstance(benchmark, RetrievalSet) else set(benchmark.people)


def enrolled_in(benchmark: Benchmark) -> Source | None:
    """The images that others are compared with, where they can be a support set themselves."""
    if isinstance(benchmark, GallerySet | RetrievalSet):
        return benchmark.gallery
    return benchmark.source if isinstance(benchmark, PairSet) else None
