"""``facekit runs compare``: runs against the first of them, from their own results or all on one benchmark."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from facekit import __version__
from facekit.configs import RunsCompareConfig, defaults_of
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError, MissingFile, UsageError
from facekit.core.files import plain, write_atomic, write_json
from facekit.core.reporting import result_screen, say
from facekit.core.runfolder import is_network, measured_on, read_results, read_run, status_of
from facekit.data.benchmarks import open_any
from facekit.data.classes import ClassSet
from facekit.data.pairs import PairSet
from facekit.engines.supports import ModelEmbedder, unit
from facekit.evaluation import comparescreen
from facekit.evaluation.classification import TOP, classified, draw_top, named_alike, require_classes
from facekit.evaluation.compare import (
    ALPHA,
    ENOUGH_SEEDS,
    Arm,
    Network,
    Point,
    Standing,
    common_flip,
    group,
    judge,
    leading,
    side_by_side,
    standings,
)
from facekit.evaluation.comparescreen import drawn
from facekit.evaluation.imagedraws import ImageBootstrap
from facekit.evaluation.pairwise import bootstrap
from facekit.evaluation.results import command_line, describe_benchmark, describe_environment, describe_model
from facekit.evaluation.statistics import LEVEL, IdentityBootstrap
from facekit.evaluation.swap import orient
from facekit.evaluation.verification import pair_cosines
from facekit.evaluation.versus import RateDraws, draw_tar
from facekit.models.loading import Model, load_model

OWN, COMMON = "own gallery", "common gallery"
Document = dict[str, Any]


def run(config: RunsCompareConfig) -> None:
    """Group the runs into arms, compare them, print or write what was found."""
    if len(config.benchmark) > 1:
        raise UsageError(f"--benchmark: runs are compared on one benchmark, {len(config.benchmark)} were given")
    for flag, value in (("--gallery", config.gallery), ("--images", config.images)):
        if value is not None and not config.benchmark:
            raise UsageError(f"{flag} needs --benchmark: without one, the runs' own results are put side by side")
    networks = [open_network(path) for path in config.run]
    arms = group(networks)
    content: Document = {
        "schema": "facekit.compare/1",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facekit": __version__,
        "command": command_line(),
        "paired": bool(config.benchmark),
        "control": arms[0].name,
        "arms": [describe_arm(arm, networks) for arm in arms],
    }
    if config.benchmark:
        content |= compare_paired(config, networks, arms)
    else:
        content |= compare_documents(config, networks, arms)
    if config.out is not None:
        write_json(config.out / "compare.json", content)
        write_atomic(config.out / "compare.csv", as_csv(content["numbers"]))
        say("wrote", f"{config.out / 'compare.json'} and compare.csv")
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    for line in (comparescreen.paired if config.benchmark else comparescreen.side_by_side)(content):
        screen.print(line, soft_wrap=not isinstance(line, Table))


# --- what is compared ----------------------------------------------------------------------------------


def open_network(path: Path) -> Network:
    """A run, a checkpoint of one, or a model file. Raises MissingFile and InputError."""
    if path.is_file():
        return Network(path, {}, None)
    if not (path / "run.json").is_file():
        raise MissingFile(f"{path} is neither a run folder (it holds no run.json) nor a model file")
    stored = read_run(path)
    if stored.fault:
        raise InputError(f"{path}: {stored.fault}")
    return Network.of_run(stored, defaults_of(str(stored.record.get("verb"))))


def describe_arm(arm: Arm, networks: Sequence[Network]) -> Document:
    """An entry of ``arms``."""
    members = [networks[i].path.as_posix() for i in arm.members]
    return {"name": arm.name, "options": arm.options, "seeds": list(arm.seeds), "runs": members}


def unfinished(networks: Sequence[Network]) -> Iterator[str]:
    """A sentence for each run that is not done."""
    for network in networks:
        stored = read_run(network.path) if network.options else None
        if stored is None or is_network(stored.record):
            continue
        status, _ = status_of(stored, time.time())
        if status != "done":
            yield f"{network.path} is {status}, not done: what is compared is its last checkpoint so far"


# --- all on one benchmark ----------------------------------------------------------------------------------


def compare_paired(config: RunsCompareConfig, networks: Sequence[Network], arms: Sequence[Arm]) -> Document:
    """Measure every network on the benchmark; paired differences to the control, judged at the leading point."""
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    benchmark = open_any(config.benchmark[0], config.images)
    paths = [network.path for network in networks]
    if isinstance(benchmark, PairSet):
        found = on_pairs(config, device, benchmark, paths)
    elif isinstance(benchmark, ClassSet):
        found = on_classes(config, device, benchmark, paths)
    else:
        raise UsageError(f"--benchmark {config.benchmark[0]}: runs are compared on pairs, or on classes:PATH")
    tried = {way: standings(arms, rates, found.points, found.boots[way]) for way, rates in found.rates.items()}
    findings = judge(arms, tried, found.lead, found.why_not)
    boot = found.boots[OWN]
    metric, at = found.points[found.lead]
    return {
        "notes": [*unfinished(networks), *found.notes, *caveats(arms, boot, len(findings), config.draws)],
        "benchmark": describe_benchmark(benchmark),
        "environment": describe_environment(device.describe()),
        "models": found.models.described,
        "gallery": found.gallery,
        "flip": found.models.flip,
        "draws": config.draws,
        "level": LEVEL,
        "ci_method": boot.method,
        "metric": metric,
        "leading": at,
        "findings": [
            {"arm": arms[a].name, "way": way, **dataclasses.asdict(finding)}
            for way, row in findings.items()
            for a, finding in enumerate(row)
            if finding is not None
        ],
        "numbers": [
            {"arm": arm.name, "way": way, **describe_standing(point, drawn(boot.method))}
            for way, table_of_arms in tried.items()
            for arm, row in zip(arms, table_of_arms, strict=True)
            for point in row
        ],
    }


def describe_standing(point: Standing, of: str) -> Document:
    """An entry of ``numbers``; the paired difference stands under what was drawn, people or images."""
    entry = dataclasses.asdict(point)
    if (change := entry["change"]) is not None:
        entry["change"] = {of: change.pop("paired"), **change}
    return entry


class Models:
    """Loads one network after the other, and describes them; all must take the same images under one flip rule."""

    def __init__(self, config: RunsCompareConfig, device: Device, flip: str) -> None:
        self.config, self.device = config, device
        self.asked = self.flip = flip
        self.first: Model | None = None
        self.described: list[Document] = []

    def load(self, path: Path) -> ModelEmbedder:
        """Raises ArtefactMismatch for one that differs from the first in what it takes."""
        model = load_model(path, device=self.device, channels=self.config.channels, scaling=self.config.scaling)
        self.first = self.first or model
        self.flip = common_flip({self.first.path: self.first.preprocess, model.path: model.preprocess}, self.asked)
        self.described.append(describe_model(model))
        return ModelEmbedder(model, self.device, self.flip, self.config.batch, self.config.cache_dir)


@dataclasses.dataclass(frozen=True)
class Found:
    """The rates of all networks at all points, in one way of trying them or several, and the draws of each way."""

    models: Models
    points: Sequence[Point]
    lead: int
    """The point at which arms are judged"""
    why_not: str
    """Why nothing can be decided there; empty where something can"""
    boots: Mapping[str, IdentityBootstrap]
    rates: Mapping[str, Sequence[RateDraws]]
    notes: Sequence[str]
    gallery: Document | None = None


def on_pairs(config: RunsCompareConfig, device: Device, pairs: PairSet, paths: Sequence[Path]) -> Found:
    """TAR within each network's own embeddings and, with --gallery, against those of another network."""
    lead, why_not = leading(config.far, int(np.sum(~pairs.same)))
    models = Models(config, device, config.flip)
    enrolled = gallery = None
    if config.gallery is not None:
        enrolled = unit(models.load(config.gallery), pairs.source)
        gallery = models.described.pop()
    own, common, _ = orient(pairs)
    trials = {OWN: own} if enrolled is None else {OWN: own, COMMON: common}
    # The same people are drawn whichever way round the pairs are tried: same people, same seed.
    boots = {
        way: bootstrap(pairs, tried.left, tried.right, tried.same, config.draws, config.seed)
        for way, tried in trials.items()
    }
    rates: dict[str, list[RateDraws]] = {way: [] for way in trials}
    for path in paths:
        vectors = unit(models.load(path), pairs.source)
        for way, tried in trials.items():
            others = vectors if way == OWN or enrolled is None else enrolled
            if others.shape[1] != vectors.shape[1]:
                raise ArtefactMismatch(
                    f"{path} makes embeddings of {vectors.shape[1]} numbers, the --gallery model of "
                    f"{others.shape[1]}: they cannot be compared; leave one of them out"
                )
            scores = pair_cosines(others, vectors, tried.left, tried.right)
            rates[way].append(draw_tar(scores, tried.same, config.far, boots[way]))
    points = [("tar@far", far) for far in config.far]
    return Found(models, points, lead, why_not, boots, rates, pairs.notes, gallery)


def on_classes(config: RunsCompareConfig, device: Device, bench: ClassSet, paths: Sequence[Path]) -> Found:
    """Accuracy of each network on the same images; the first class decides."""
    if config.gallery is not None:
        raise UsageError("--gallery is for pairs: a network that is asked for classes is compared with no gallery")
    models = Models(config, device, "none")
    boot = ImageBootstrap(len(bench.source), draws=config.draws, seed=config.seed)
    notes, rates = dict.fromkeys(bench.notes), []
    for path in paths:
        classifier = require_classes(models.load(path).classifier, bench)
        notes |= dict.fromkeys(named_alike(bench, classifier).notes)
        rates.append(draw_top(classified(classifier, bench), boot))
    points = [(metric, None) for metric in TOP][: min(len(found.observed) for found in rates)]
    return Found(models, points, 0, "", {OWN: boot}, {OWN: rates}, [*notes])


def caveats(arms: Sequence[Arm], boot: IdentityBootstrap, ways: int, draws: int) -> Iterator[str]:
    """What the intervals do not cover, and what the draws cannot show."""
    least = 2 / draws * ways * (len(arms) - 1)
    if least > ALPHA:
        needed = math.ceil(2 / ALPHA * ways * (len(arms) - 1))
        yield f"after Holm, {draws} draws show no p below {least:.2g}: to decide anything give --draws {needed} or more"
    if not boot.knows_people:
        yield "the people are unknown, so pairs are drawn: intervals are too narrow by what pairs share"
    fewest = min(len(arm.members) for arm in arms)
    if fewest == 1:
        yield "an arm of one seed is one trained network: what is found holds for the networks, not for the methods"
    elif fewest < ENOUGH_SEEDS:
        yield f"fewer than {ENOUGH_SEEDS} seeds: what is found holds for these networks; other seeds may move it"
    if len(arms) == 1:
        yield "there is one arm only: nothing to compare it with"


# --- documents side by side --------------------------------------------------------------------------------


def compare_documents(config: RunsCompareConfig, networks: Sequence[Network], arms: Sequence[Arm]) -> Document:
    """The numbers of the runs' own results. Raises InputError where no run has any."""
    contents: list[Mapping[str, Any] | None] = []
    notes = [*unfinished(networks)]
    for network in networks:
        content, fault = read_results(network.path) if network.options else (None, "")
        contents.append(content)
        if content is None:
            notes.append(f"{network.path} has no results{f' ({fault})' if fault else ''}")
        elif measured_on(read_run(network.path), content) == "other":
            notes.append(f"the results of {network.path} are of weights that it no longer has")
    boards = side_by_side(contents, config.far)
    if not boards:
        raise InputError(
            f"none of the {len(networks)} runs has results of TAR at FAR {', '.join(f'{f:g}' for f in config.far)}, "
            "or of accuracy; measure them by 'facekit align-eval --model RUN --out RUN/results', or add --benchmark"
        )
    kept = ("value", "low", "high", "std", "ci_method", "status", "model")
    return {
        "notes": notes,
        "numbers": [
            {
                "arm": arm.name,
                "run": networks[i].path.as_posix(),
                "seed": networks[i].seed,
                "benchmark": board.benchmark,
                "variant": board.variant,
                "metric": metric,
                "at": at,
                **{name: board.rows[i][metric, at].get(name) for name in kept},
            }
            for board in boards
            for arm in arms
            for i in arm.members
            for metric, at in board.columns
            if (metric, at) in board.rows[i]
        ],
    }


def as_csv(numbers: Sequence[Mapping[str, Any]]) -> bytes:
    """One line per number; nested tables become ``change.people.low``, lists one cell with spaces."""
    rows = [dict(flat(row)) for row in plain(numbers)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, " ".join(map(str, value)) if isinstance(value, list) else value
