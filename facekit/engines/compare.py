"""``facekit runs compare``: runs against the first of them, from their results or pair by pair on one benchmark."""

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
from rich import box
from rich.console import Console
from rich.table import Table

from facekit import __version__
from facekit.configs import RunsCompareConfig, defaults_of
from facekit.core.device import Device
from facekit.core.errors import ArtefactMismatch, InputError, MissingFile, UsageError
from facekit.core.files import plain, write_atomic, write_json
from facekit.core.reporting import image_progress, printable, ranged, result_screen, say
from facekit.core.runfolder import is_network, measured_on, read_results, read_run, status_of
from facekit.data.embeddings import default_cache_dir
from facekit.data.pairs import PairSet, open_benchmark
from facekit.evaluation.compare import (
    ALPHA,
    ENOUGH_SEEDS,
    Arm,
    Network,
    common_flip,
    group,
    judge,
    leading,
    side_by_side,
    standings,
)
from facekit.evaluation.evaluator import embed_pairs
from facekit.evaluation.pairwise import bootstrap
from facekit.evaluation.results import command_line, describe_benchmark, describe_environment, describe_model
from facekit.evaluation.statistics import LEVEL, IdentityBootstrap
from facekit.evaluation.swap import Trials, orient
from facekit.evaluation.verdict import signed
from facekit.evaluation.verification import pair_cosines
from facekit.evaluation.versus import TarDraws, draw_tar
from facekit.models.loading import Model, load_model

OWN, COMMON = "own gallery", "common gallery"
UNPAIRED = (
    "Intervals of separate measurements cannot decide between runs: all were measured on the same people, so even "
    "overlapping intervals may hide a real difference. Add --benchmark to compare them pair by pair."
)
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
    (show_paired if config.benchmark else show_documents)(result_screen(), content)


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


# --- pair by pair on one benchmark -----------------------------------------------------------------------


def compare_paired(config: RunsCompareConfig, networks: Sequence[Network], arms: Sequence[Arm]) -> Document:
    """Embed the benchmark with every network; paired differences to the control, judged at the leading rate."""
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    pairs = open_benchmark(config.benchmark[0], config.images)
    lead, why_not = leading(config.far, int(np.sum(~pairs.same)))
    stage = Stage(config, device, pairs)
    for network in networks:
        stage.add(network.path)
    tried = {way: standings(arms, stage.measured[way], config.far, boot) for way, boot in stage.boots.items()}
    findings = judge(arms, tried, lead, why_not)
    return {
        "notes": [*unfinished(networks), *pairs.notes, *caveats(arms, stage.boots[OWN], len(findings), config.draws)],
        "benchmark": describe_benchmark(pairs),
        "environment": describe_environment(device.describe()),
        "models": stage.models,
        "gallery": None if stage.gallery is None else describe_model(stage.gallery),
        "flip": stage.flip,
        "draws": config.draws,
        "level": LEVEL,
        "ci_method": stage.boots[OWN].method,
        "leading": config.far[lead],
        "findings": [
            {"arm": arms[a].name, "way": way, **dataclasses.asdict(finding)}
            for way, row in findings.items()
            for a, finding in enumerate(row)
            if finding is not None
        ],
        "numbers": [
            {"arm": arm.name, "way": way, **dataclasses.asdict(point)}
            for way, table_of_arms in tried.items()
            for arm, row in zip(arms, table_of_arms, strict=True)
            for point in row
        ],
    }


class Stage:
    """One benchmark and its draws of people, on which one network after the other is measured and let go."""

    def __init__(self, config: RunsCompareConfig, device: Device, pairs: PairSet) -> None:
        self.config, self.device, self.pairs = config, device, pairs
        self.first: Model | None = None
        self.flip: str = config.flip
        self.models: list[Document] = []
        own, common, _ = orient(pairs)
        self.trials = {OWN: own} if config.gallery is None else {OWN: own, COMMON: common}
        self.boots = {way: self.draws(trials) for way, trials in self.trials.items()}
        self.measured: dict[str, list[TarDraws]] = {way: [] for way in self.trials}
        self.gallery = None if config.gallery is None else self.load(config.gallery)
        self.enrolled = None if self.gallery is None else self.embed(self.gallery)

    def draws(self, trials: Trials) -> IdentityBootstrap:
        """The same people are drawn whichever way round the pairs are tried: same people, same seed."""
        return bootstrap(self.pairs, trials.left, trials.right, trials.same, self.config.draws, self.config.seed)

    def add(self, path: Path) -> None:
        """Measure the next network in all ways."""
        model = self.load(path)
        vectors = self.embed(model)
        self.models.append(describe_model(model))
        for way, trials in self.trials.items():
            gallery = vectors if way == OWN else self.enrolled
            assert gallery is not None
            if gallery.shape[1] != vectors.shape[1]:
                raise ArtefactMismatch(
                    f"{path} makes embeddings of {vectors.shape[1]} numbers, the --gallery model of "
                    f"{gallery.shape[1]}: they cannot be compared; leave one of them out"
                )
            scores = pair_cosines(gallery, vectors, trials.left, trials.right)
            self.measured[way].append(draw_tar(scores, trials.same, self.config.far, self.boots[way]))

    def load(self, path: Path) -> Model:
        """A model that takes the same images under the same flip rule as the first one."""
        model = load_model(path, device=self.device, channels=self.config.channels, scaling=self.config.scaling)
        self.first = self.first or model
        self.flip = common_flip(
            {self.first.path: self.first.preprocess, model.path: model.preprocess}, self.config.flip
        )
        return model

    def embed(self, model: Model) -> np.ndarray:
        """Unit embeddings of the benchmark's images, from the cache where they are there."""
        with image_progress(f"embed by {Path(model.path).name}", len(self.pairs.source)) as advance:
            return embed_pairs(
                model.embed,
                self.pairs,
                flip=self.flip,
                batch=self.config.batch,
                key=model.cache_key(),
                cache_dir=self.config.cache_dir or default_cache_dir(),
                progress=advance,
            )


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
            f"none of the {len(networks)} runs has results of TAR at FAR {', '.join(f'{f:g}' for f in config.far)}; "
            "measure them by 'facekit align-eval --model RUN --out RUN/results', or add --benchmark here"
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


# --- for people ----------------------------------------------------------------------------------------------


def show_paired(screen: Console, content: Document) -> None:
    """The findings first, each as loud as the next; then the numbers behind them, the leading rate first."""
    about = content["benchmark"]
    people = "people unknown" if about["identities"] is None else f"{about['identities']:,} people"
    heading(
        screen,
        content,
        f"on {about['name']}: {about['genuine']:,} genuine and {about['impostor']:,} impostor pairs, {people}, "
        f"flip-{content['flip']}",
    )
    ways = list(dict.fromkeys(row["way"] for row in content["numbers"]))
    for finding in content["findings"]:
        way = f", {finding['way']}" if len(ways) > 1 else ""
        line = f"{finding['arm']}{way}, at FAR {content['leading']:g}: {finding['sentence']}"
        screen.print(printable(line), style="bold", soft_wrap=True)
    if content["findings"]:
        screen.print()
    rates = sorted({row["at"] for row in content["numbers"]}, key=lambda at: (at != content["leading"], -at))
    for way in ways:
        for at in rates:
            rows = [row for row in content["numbers"] if (row["way"], row["at"]) == (way, at)]
            where = f", {way}" if len(ways) > 1 else ""
            if rows[0]["mean"] is None:
                screen.print(f"{rows[0]['note']}{where}", soft_wrap=True)
            else:
                screen.print(table_at(rows, content, f"FAR {at:g}{where}"))
    screen.print(
        "Intervals: 95 %, people drawn with replacement, the same ones for all seeds and both arms. sd: over seeds. "
        "Smallest effect: the true difference that this comparison would notice four times in five. "
        "Only the first rate is judged; differences at the others are shown, not tested.",
        soft_wrap=True,
    )


def heading(screen: Console, content: Document, text: str) -> None:
    """How much is compared, on what, what to mind, what the control is."""
    runs = sum(len(arm["runs"]) for arm in content["arms"])
    screen.print()
    screen.print(printable(f"{plural(len(content['arms']), 'arm')}, {plural(runs, 'run')} {text}"), soft_wrap=True)
    for note in content["notes"]:
        screen.print(printable(f"note: {note}"), soft_wrap=True)
    screen.print(printable(f"control: {content['control']}"), soft_wrap=True)
    screen.print()


def plural(count: int, noun: str) -> str:
    """``1 arm``, ``2 arms``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def table_at(rows: Sequence[Document], content: Document, title: str) -> Table:
    """All arms at one rate of false accepts."""
    seeds = {arm["name"]: len(arm["runs"]) for arm in content["arms"]}
    shown = empty_table(("runs", "TAR %", "sd", "change to control", "smallest\neffect"), title)
    for row in rows:
        people = (row["change"] or {}).get("people")
        sd = "" if row["sd"] is None else f"{100 * row['sd']:.1f}"
        change = "" if people is None else signed(people["value"])
        if people is not None and people["low"] is not None:
            change += f" ({signed(people['low'])}..{signed(people['high'])})"
        smallest = "" if people is None or people["smallest"] is None else f"{100 * people['smallest']:.1f}"
        value = ranged(row["mean"], row["low"], row["high"]) + "*" * (row["status"] == "low_support")
        shown.add_row(arm_cell(row["arm"], content), str(seeds[row["arm"]]), value, sd, change, smallest)
    note = next((row["note"] for row in rows if row["note"]), None)
    shown.caption = f"* {note}" if note else None
    return shown


def empty_table(columns: Sequence[str], title: str) -> Table:
    """The look of both levels: arms on the left, numbers on the right."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        collapse_padding=True,
        title=title,
        title_justify="left",
        title_style="",
        caption_justify="left",
        caption_style="",
    )
    shown.add_column("arm", overflow="fold")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    return shown


def show_documents(screen: Console, content: Document) -> None:
    """One table per benchmark: an arm's numbers, their mean and sd where it has several runs."""
    heading(screen, content, "from their own results")
    boards = list(dict.fromkeys((row["benchmark"], row["variant"]) for row in content["numbers"]))
    for benchmark, variant in boards:
        rows = [row for row in content["numbers"] if (row["benchmark"], row["variant"]) == (benchmark, variant)]
        columns = list(dict.fromkeys((row["metric"], row["at"]) for row in rows))
        titles = [metric if at is None else f"{metric}={at:g}" for metric, at in columns]
        shown = empty_table(("runs", *titles), printable(f"{benchmark}, {variant}, percent"))
        for arm in content["arms"]:
            own = [row for row in rows if row["arm"] == arm["name"]]
            cells = [several([row for row in own if (row["metric"], row["at"]) == column]) for column in columns]
            if own:
                shown.add_row(arm_cell(arm["name"], content), str(len({row["run"] for row in own})), *cells)
        screen.print(shown)
    screen.print("Intervals: 95 %, each of one run. Of several runs: mean ± sd over seeds.", soft_wrap=True)
    screen.print(UNPAIRED, style="bold", soft_wrap=True)


def arm_cell(name: str, content: Document) -> str:
    """An arm in a table; the control's options are in the heading."""
    return "control" if name == content["control"] else printable(name)


def several(rows: Sequence[Document]) -> str:
    """``72.5 (69.0..75.7)`` of one run, ``72.5 ± 0.4`` of several."""
    if not rows:
        return ""
    if len(rows) == 1:
        return ranged(rows[0]["value"], rows[0]["low"], rows[0]["high"])
    values = [row["value"] for row in rows]
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
