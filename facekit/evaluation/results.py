"""The results document, schema ``facekit.results/1``: one row per number, written as JSON and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facekit import __version__
from facekit.core.files import plain, write_atomic, write_json
from facekit.core.preprocess import Preprocess
from facekit.data.classes import ClassSet
from facekit.data.decode import decoder_name
from facekit.data.pairs import PairSet

SCHEMA = "facekit.results/1"
TIES = "a tie with the threshold's impostor counts against the system"
CLASS_TIES = "a tie of scores goes to the lowest class number"
NO_RATES = ("nll",)
"""Metrics that are not shown in percent."""
CLASS = "top1@class."
"""Begins the metric of one class of a closed set; its name follows."""


@dataclass(frozen=True)
class Row:
    """One number, what it was measured on, and how sure it is. Rates in 0..1; None where there is no number.

    On closed sets ``n_identities`` counts classes.
    """

    run: str | None = None
    model: str | None = None
    seed: int | None = None
    checkpoint: str | None = None
    benchmark: str | None = None
    variant: str | None = None
    protocol: str | None = None
    score: str | None = "raw"
    metric: str = ""
    at: float | None = None
    value: float | None = None
    std: float | None = None
    std_kind: str | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    ci_method: str | None = None
    threshold: float | None = None
    achieved: float | None = None
    n_false: int | None = None
    n_genuine: int | None = None
    n_impostor: int | None = None
    n_images: int | None = None
    n_identities: int | None = None
    n_failed: int | None = None
    status: str = "ok"
    note: str = ""
    support: str | None = None
    alpha: float | None = None
    neighbours: int | None = None
    transductive: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Column name -> value, in the order of the schema."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def find(rows: Sequence[Row], metric: str, at: float | None = None, benchmark: str | None = None) -> Row | None:
    """The first row of a metric at an operating point."""
    for row in rows:
        if row.metric == metric and row.at == at and benchmark in (None, row.benchmark):
            return row
    return None


class DescribedModel(Protocol):
    """What a result must say about a model; ``facekit.models`` provides it."""

    name: str
    architecture: dict[str, Any]
    preprocess: Preprocess
    sha256: str
    licence: str
    size_bytes: int
    parameters: int
    path: str


def model_label(model: DescribedModel) -> str:
    """``mbf_half@1f2e3d4c5b6a``: name and weight hash, as in the ``model`` column."""
    return f"{model.name}@{model.sha256[:12]}"


def describe_model(model: DescribedModel) -> dict[str, Any]:
    """An entry of ``models``."""
    return {
        "label": model_label(model),
        "name": model.name,
        "sha256": model.sha256,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "size_bytes": model.size_bytes,
        "preprocess": model.preprocess.to_dict(),
        "licence": model.licence,
        "path": model.path,
    }


class NamedBenchmark(Protocol):
    """What every kind of benchmark has."""

    @property
    def name(self) -> str:
        """As in the ``benchmark`` column."""

    @property
    def path(self) -> str:
        """Where it was read."""

    @property
    def failed(self) -> int:
        """What could not be used."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening left out or doubts."""


def describe_benchmark(benchmark: NamedBenchmark) -> dict[str, Any]:
    """An entry of ``benchmarks``; the counts of searches and templates stand in the rows."""
    if isinstance(benchmark, PairSet):
        return describe_pairs(benchmark)
    if isinstance(benchmark, ClassSet):
        return describe_classes(benchmark)
    sources = {f.name: getattr(benchmark, f.name) for f in dataclasses.fields(benchmark)}  # type: ignore[arg-type]
    prints = {f"{name}_fingerprint": s.fingerprint for name, s in sources.items() if hasattr(s, "fingerprint")}
    return {
        "name": benchmark.name,
        "path": benchmark.path,
        **prints,
        "failed": benchmark.failed,
        "ties": TIES,
        "notes": list(benchmark.notes),
    }


def describe_pairs(pairs: PairSet) -> dict[str, Any]:
    """A list of pairs, or all pairs of its people."""
    return {
        "name": pairs.name,
        "path": pairs.path,
        "sha256": pairs.sha256,
        "images_fingerprint": pairs.source.fingerprint,
        "pairs": len(pairs.same),
        "genuine": int(np.sum(pairs.same)),
        "impostor": int(np.sum(~pairs.same)),
        "images": len(pairs.source),
        "identities": None if pairs.identity is None else len(np.unique(pairs.identity)),
        "failed": pairs.failed,
        "folds": None if pairs.fold is None else int(pairs.fold.max()) + 1,
        "fold_rule": pairs.fold_rule,
        "ties": TIES,
        "notes": list(pairs.notes),
    }


def describe_classes(bench: ClassSet) -> dict[str, Any]:
    """Images and their classes."""
    return {
        "name": bench.name,
        "path": bench.path,
        "images_fingerprint": bench.source.fingerprint,
        "images": len(bench.source),
        "size": list(bench.source.size),
        "classes": list(bench.source.identities),
        "failed": bench.failed,
        "ties": CLASS_TIES,
        "notes": list(bench.notes),
    }


def describe_environment(device: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, device, precision, threads and the machine; ``device`` is ``Device.describe()``."""
    return {
        **device,
        "facekit": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "decoder": decoder_name(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def command_line() -> str:
    """The command that is running, as it can be pasted into a shell."""
    return shlex.join(["facekit", *sys.argv[1:]])


def document(
    rows: Iterable[Row],
    *,
    models: Sequence[DescribedModel],
    benchmarks: Sequence[NamedBenchmark],
    device: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole document; ``write_json`` turns what is not finite into null."""
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facekit": __version__,
        "command": command_line(),
        "environment": describe_environment(device),
        "models": [describe_model(m) for m in models],
        "benchmarks": [describe_benchmark(b) for b in benchmarks],
        "rows": [row.to_dict() for row in rows],
    }


def write_results(folder: Path, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write results.json and results.csv with the same rows, each atomically."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(content["rows"]))
    return (
        write_json(folder / "results.json", content),
        write_atomic(folder / "results.csv", stream.getvalue().encode()),
    )
