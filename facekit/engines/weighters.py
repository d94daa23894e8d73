"""``facekit autoweight compare``: every rule that weighs samples, tuned alike, on the same seeds, side by side."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from torch import nn

from facekit import __version__
from facekit.configs import PolicySearchConfig, TrainConfig, WeightersConfig
from facekit.core.device import Device
from facekit.core.errors import Interrupted, Unfinished, UsageError
from facekit.core.files import plain, read_json, write_atomic, write_json
from facekit.core.reporting import result_screen, say
from facekit.core.schedule import Schedule
from facekit.data.benchmarks import open_any
from facekit.data.classes import ClassSet
from facekit.data.pairs import PairSet
from facekit.engines.classifying import train
from facekit.engines.fitting import open_images, opened_device
from facekit.engines.searching import POLICY, metric_of, search
from facekit.engines.supports import ModelEmbedder, unit
from facekit.engines.weighing import needs_of, rule_of
from facekit.evaluation.classification import TOP, classified, draw_top, require_classes
from facekit.evaluation.compare import Arm, Finding, Point, Standing, judge, leading, standings
from facekit.evaluation.imagedraws import ImageBootstrap
from facekit.evaluation.pairwise import bootstrap
from facekit.evaluation.results import command_line, describe_benchmark, describe_environment
from facekit.evaluation.statistics import IdentityBootstrap
from facekit.evaluation.verification import pair_cosines
from facekit.evaluation.versus import RateDraws, draw_tar
from facekit.models.loading import Model, load_model

FARS = (1e-3, 1e-2, 1e-4)
ENOUGH_HEADROOM = 0.1
"""What a ceiling must lie above the control for a claim of ten points to be put to the test."""
CLEANED, PEER = "uniform+clean", "coteaching.peer"
ACTIONS = ("-2/0/0", "0/-2/0", "-1/0/0", "-2/-2/0", "2/0/0", "-3/0/1", "-1/-1/0", "0/2/0")
GRID: dict[str, tuple[str, ...]] = {
    "focal": ("gamma=2", "gamma=1", "gamma=0.5", "gamma=4"),
    "self_paced": ("rho_max=0.8", "rho_max=0.6", "rho_max=0.7", "rho_max=0.9", "rho_max=0.8,form=linear"),
    "small_loss": ("tau=0.4", "tau=0.2", "tau=0.3", "tau=0.1", "tau=0.5", "tau=0.6"),
    "coteaching": ("tau=0.4", "tau=0.2", "tau=0.3", "tau=0.1", "tau=0.5", "tau=0.6"),
    "fixed": tuple(f"action={action}" for action in ACTIONS),
    "random": tuple(f"seed={seed}" for seed in range(32)),
}
"""Settings of each rule in the order in which they are tried; the first is its default. Rules that are not here have
none to try: l2rw and mwnet train on the very images that would choose."""


class Tried(NamedTuple):
    """A rule with its settings, and what finding them took."""

    text: str
    """As --weighter takes it."""
    seconds: float
    """Of all trainings that led to it."""
    val: float | None
    """Percent on the clean images, under the plan of search; None where it was not tried."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    tried: Tried
    runs: tuple[Path, ...]
    """One for each seed."""


def run(config: WeightersConfig) -> None:
    """Tune, search, train, measure, tell."""
    check(config)
    started = time.monotonic()
    with opened_device(training(config, "uniform", config.seeds[0], config.out, None)) as device:
        work = Work(config, device, started)
        with call_again(config.out):
            found = {name: work.tuned(name) for name in config.rows}
            rows = [
                Row(name, found[name], tuple(work.final(name, found[name], s) for s in config.seeds)) for name in found
            ]
        if "coteaching" in found:
            peers = tuple(path / "checkpoints" / "peer" for path in rows[list(found).index("coteaching")].runs)
            rows.append(Row(PEER, found["coteaching"], peers))
        content = measured(config, rows, device)
    write_json(config.out / "results.json", content)
    write_atomic(config.out / "results.csv", as_csv(content["rows"]))
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    for part in tables(content):
        screen.print(part)
        screen.print()
    for sentence in sentences(content):
        screen.print(sentence, soft_wrap=True)
    say("wrote", f"{config.out / 'results.json'} and results.csv")


@contextmanager
def call_again(out: Path) -> Iterator[None]:
    """A training that stops says to go on with its own --resume; here that is the same command once more."""
    how = f"run the same command again: what is done in {out} is kept, and goes on bit for bit"
    try:
        yield
    except Unfinished as error:
        raise Unfinished(f"the time budget ended; {how}") from error
    except Interrupted as error:
        raise Interrupted(f"stopped; {how}", error.signum) from error


def check(config: WeightersConfig) -> None:
    """Refuse, before anything is trained, what would fail at the end."""
    for name, values in (("--rows", config.rows), ("--seeds", config.seeds)):
        if len(set(values)) != len(values):
            raise UsageError(f"{name} names {max(values, key=values.count)} twice")
    if CLEANED in config.rows and "uniform" not in config.rows:
        raise UsageError(f"row {CLEANED} goes on from uniform: add it to --rows")
    if CLEANED in config.rows and config.clean is None:
        raise UsageError(f"row {CLEANED} trains on images with trusted labels: add --clean PATH")
    if config.policy is not None and "law" not in config.rows:
        raise UsageError("--policy is for the row law, which --rows does not name")
    if config.val is None and (config.tune or ("law" in config.rows and config.policy is None)):
        raise UsageError("tuning and the search of a policy are measured on clean images: add --val")
    for name in config.rows:
        if name not in (CLEANED, "law"):
            rule_of(training(config, name, 0, config.out, None))


def training(config: WeightersConfig, rule: str, seed: int, out: Path, plan: Path | None) -> TrainConfig:
    """The options of one training."""
    own = {field.name for field in dataclasses.fields(TrainConfig)}
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name in own}
    reads_clean = "clean" in needs_of(rule.partition(":")[0])
    return TrainConfig(
        **shared
        | {
            "out": out,
            "seed": seed,
            "seeds": (),
            "noise_plan": plan,
            "weighter": rule,
            "clean": config.clean if reads_clean else None,
            "resume": out.exists(),
            "budget_s": None,
        }
    )


class Work:
    """The trainings of a comparison, each done once: a call after the first goes on where it stopped."""

    def __init__(self, config: WeightersConfig, device: Device, started: float) -> None:
        self.config, self.device = config, device
        self.deadline = None if config.budget_s is None else started + config.budget_s
        self.search_plan = config.search_plan or config.noise_plan
        self._metric: Callable[[Path], float] | None = None

    def budget(self) -> float | None:
        """Seconds that are left, at least one step's worth."""
        return None if self.deadline is None else max(0.01, self.deadline - time.monotonic())

    def trained(self, options: TrainConfig) -> Path:
        """The run folder of a finished training. Raises Unfinished when the time is over."""
        assert options.out
        say("train", f"{options.out.relative_to(self.config.out)}: {options.weighter}, seed {options.seed}")
        train("train", replace(options, budget_s=self.budget()), self.device)
        return options.out

    # --- finding settings -------------------------------------------------------------------------------------

    def tuned(self, name: str) -> Tried:
        """The settings of a rule that are best on the clean images under the plan of search."""
        if name == CLEANED:
            return Tried(name, 0.0, None)
        if name == "law":
            return self.law()
        texts = [f"{name}:{settings}" for settings in GRID.get(name, ())] or [name]
        if self.config.tune == 0:
            return Tried(texts[0], 0.0, None)
        found = [self.on_clean(name, k, text) for k, text in enumerate(texts[: self.config.tune])]
        best = max(found, key=lambda tried: tried.val or 0.0)
        cost = sum(tried.seconds for tried in found) if len(found) > 1 else 0.0
        say("tuned", f"{best.text}: {best.val:.1f} % of {len(found)} tried in {cost:.0f} s")
        return best._replace(seconds=cost)

    def on_clean(self, name: str, k: int, text: str) -> Tried:
        """Train with the plan and the seed of search, and measure on the clean images."""
        out = self.config.out / "tune" / name / str(k)
        path = self.trained(training(self.config, text, self.config.search_seed, out, self.search_plan))
        file = path / "val.json"
        if not file.is_file():
            write_json(file, {"percent": self.percent(path)})
        return Tried(text, seconds_of(path), float(read_json(file)["percent"]))

    def percent(self, path: Path) -> float:
        """A trained network on the clean images."""
        if self._metric is None:
            plain_source = open_images(replace(self.config, noise_plan=None), self.data(), need_labels=True)
            model = load_model(path, device=self.device)
            measure = metric_of(self.config, self.config.model, plain_source, model.preprocess, self.device)
            self._metric = lambda folder: measure(module_of(load_model(folder, device=self.device)))
        return self._metric(path)

    def data(self) -> Path:
        """The training images."""
        if self.config.data is None:
            raise UsageError("no images given: add --data")
        return self.config.data

    def law(self) -> Tried:
        """The policy that was given, or one that is searched now."""
        if self.config.policy is not None:
            return Tried(f"law:{self.config.policy}", 0.0, None)
        own = {field.name for field in dataclasses.fields(PolicySearchConfig)}
        shared = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config) if f.name in own}
        out = self.config.out / "search"
        options = PolicySearchConfig(
            **shared
            | {
                "out": out,
                "seed": self.config.search_seed,
                "noise_plan": self.search_plan,
                "resume": out.exists(),
                "budget_s": self.budget(),
            }
        )
        search("autoweight search", options, self.device)
        tried = Tried(f"law:{out / POLICY}", seconds_of(out), None)
        if self.config.tune == 0:
            return tried
        return tried._replace(val=self.on_clean("law", 0, tried.text).val)

    # --- the final trainings ----------------------------------------------------------------------------------

    def final(self, name: str, tried: Tried, seed: int) -> Path:
        """A training with the plan that nothing was chosen by."""
        out = self.config.out / name / f"seed_{seed}"
        if name == CLEANED:
            return self.trained(self.on_trusted(seed, out))
        return self.trained(training(self.config, tried.text, seed, out, self.config.noise_plan))

    def on_trusted(self, seed: int, out: Path) -> TrainConfig:
        """uniform+clean: the plain network goes on at its last learning rate, on the images with trusted labels."""
        config = self.config
        options = training(config, "uniform", seed, out, None)
        last = Schedule(config.epochs, 1000, config.schedule, config.warmup, config.milestones)
        rate = config.lr * last.factor(last.total_steps - 1)
        return replace(
            options,
            data=config.clean,
            take=config.clean_take,
            images=None,
            exclude=(),
            min_images=1,
            batch=min(config.batch, config.clean_batch),
            epochs=config.clean_epochs,
            lr=max(rate, 1e-6),
            schedule="constant",
            warmup=0.0,
            init=None if options.resume else config.out / "uniform" / f"seed_{seed}",
        )


def module_of(model: Model) -> nn.Module:
    """The network of a run."""
    assert model.module is not None  # runs hold networks of ours
    return model.module


def seconds_of(path: Path) -> float:
    """What a run took."""
    return float(read_json(path / "run.json").get("seconds", 0.0))


# --- measuring ---------------------------------------------------------------------------------------------------


def measured(config: WeightersConfig, rows: Sequence[Row], device: Device) -> dict[str, Any]:
    """Every network on the test set; each row against the first, and law against its best rival."""
    exact = replace(device, precision="fp32", compile=False)
    test = open_any(config.test, config.test_images)
    paths = [path for row in rows for path in row.runs]
    seeds = config.seeds
    arms = [
        Arm(row.name, {}, tuple(range(k * len(seeds), (k + 1) * len(seeds))), tuple(seeds))
        for k, row in enumerate(rows)
    ]
    if isinstance(test, ClassSet):
        points, lead, why_not, boot, rates = on_classes(config, exact, test, paths)
    elif isinstance(test, PairSet):
        points, lead, why_not, boot, rates = on_pairs(config, exact, test, paths)
    else:
        raise UsageError(f"--test {config.test}: rules are compared on pairs, or on classes:PATH")
    standing = standings(arms, rates, points, boot)
    findings = judge(arms, {"": standing}, lead, why_not)[""]
    content = {
        "schema": "facekit.weighters/1",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "facekit": __version__,
        "command": command_line(),
        "environment": describe_environment(device.describe()),
        "benchmark": describe_benchmark(test),
        "seeds": list(seeds),
        "draws": config.draws,
        "rows": [
            described(row, own[lead], finding) for row, own, finding in zip(rows, standing, findings, strict=True)
        ],
        "numbers": [
            {"row": arm.name, **dataclasses.asdict(p)} for arm, own in zip(arms, standing, strict=True) for p in own
        ],
        "findings": [
            f"{row.name} against {rows[0].name}: {f.sentence}" for row, f in zip(rows, findings, strict=True) if f
        ],
    }
    return content | against_rival(rows, arms, rates, points, lead, why_not, boot) | headroom(rows, standing, lead)


Measured = tuple[Sequence[Point], int, str, IdentityBootstrap, list[RateDraws]]
"""Points, the one that decides, why it cannot, the draws, and the rates of every network."""


def on_classes(config: WeightersConfig, device: Device, test: ClassSet, paths: Sequence[Path]) -> Measured:
    """Top-1 and top-5."""
    boot = ImageBootstrap(len(test.source), draws=config.draws, seed=0)
    rates = []
    for path in paths:
        embedder = ModelEmbedder.of(load_model(path, device=device), device, "none", 256, config.out / "cache")
        rates.append(draw_top(classified(require_classes(embedder.classifier, test), test), boot))
    points: list[Point] = [(metric, None) for metric in TOP]
    return points[: min(len(rate.observed) for rate in rates)], 0, "", boot, rates


def on_pairs(config: WeightersConfig, device: Device, test: PairSet, paths: Sequence[Path]) -> Measured:
    """TAR at FARS."""
    lead, why_not = leading(FARS, int(np.sum(~test.same)))
    boot = bootstrap(test, test.left, test.right, test.same, config.draws, 0)
    rates = []
    for path in paths:
        embedder = ModelEmbedder.of(load_model(path, device=device), device, "model", 256, config.out / "cache")
        vectors = unit(embedder, test.source)
        scores = pair_cosines(vectors, vectors, test.left, test.right)
        rates.append(draw_tar(scores, test.same, FARS, boot))
    return [("tar@far", far) for far in FARS], lead, why_not, boot, rates


def described(row: Row, standing: Standing, finding: Finding | None) -> dict[str, Any]:
    """A line of the table: what was measured, what it cost, what is known of its weights."""
    records = [read_json(run_of(path) / "run.json") for path in row.runs]
    seconds = [float(record.get("seconds", 0.0)) for record in records]
    weighting = [record.get("weighting", {}) for record in records]
    last = [found["epochs"][-1] for found in weighting if found.get("epochs")]
    return {
        "row": row.name,
        "rule": row.tried.text,
        "needs": needs_of_row(row),
        "values": list(standing.values),
        "mean": standing.mean,
        "low": standing.low,
        "high": standing.high,
        "least": min(standing.values, default=None),
        "most": max(standing.values, default=None),
        "change": None if standing.change is None else dataclasses.asdict(standing.change.paired),
        "changes_by_seed": None if standing.change is None else list(standing.change.seeds.changes),
        "finding": None if finding is None else finding.word,
        "tuned_on_val": row.tried.val,
        "search_seconds": row.tried.seconds,
        "train_seconds": float(np.mean(seconds)),
        "mislabelled": first_of(weighting, "mislabelled"),
        "memorised": mean_of(weighting, "memorised"),
        "auc": mean_of(weighting, "last_auc"),
        "weight_clean": mean_of(last, "clean"),
        "weight_mislabelled": mean_of(last, "mislabelled"),
    }


def needs_of_row(row: Row) -> list[str]:
    """What a row is given beyond the batch; ``val`` and ``reference`` only while its settings are found."""
    if row.name == CLEANED:
        return ["clean"]
    own = needs_of(row.tried.text.partition(":")[0])
    found_by = {"val", "reference"} if row.name == "law" else {"val"} if row.tried.seconds else set()
    return sorted(own | found_by)


def run_of(path: Path) -> Path:
    """The run folder of a run or of one of its checkpoints."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def mean_of(tables: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The mean of a number that some of the runs know."""
    values = [table[key] for table in tables if table.get(key) is not None]
    return float(np.mean(values)) if values else None


def first_of(tables: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The same in all runs."""
    return next((table[key] for table in tables if table.get(key) is not None), None)


def against_rival(
    rows: Sequence[Row],
    arms: Sequence[Arm],
    rates: Sequence[RateDraws],
    points: Sequence[Point],
    lead: int,
    why_not: str,
    boot: IdentityBootstrap,
) -> dict[str, Any]:
    """Law against the simple rule that the clean images chose; nothing where nobody was tuned."""
    simple = [k for k, row in enumerate(rows) if row.tried.val is not None and simple_rule(row)]
    law = next((k for k, row in enumerate(rows) if row.name == "law"), None)
    if law is None or not simple:
        return {}
    best = max(simple, key=lambda k: rows[k].tried.val or 0.0)
    pair = [arms[best], arms[law]]
    found = standings(pair, rates, points, boot)
    (_, finding) = judge(pair, {"": found}, lead, why_not)[""]
    assert finding
    return {
        "rival": {
            "row": rows[best].name,
            "rule": rows[best].tried.text,
            "why": "best on the clean images of the rules without a second network and without clean training images",
            "finding": finding.word,
            "sentence": f"law against {rows[best].tried.text}: {finding.sentence}",
        }
    }


def simple_rule(row: Row) -> bool:
    """A rule that needs nothing but the batch and the sample's number, and is not the search's own kind."""
    name = row.tried.text.partition(":")[0]
    return row.name not in ("law", PEER, CLEANED, "random") and needs_of(name) <= {"sample_id"}


def headroom(rows: Sequence[Row], standing: Sequence[Sequence[Standing]], lead: int) -> dict[str, Any]:
    """What dropping all wrong labels would gain, where the table has both."""
    means = {row.name: own[lead].mean for row, own in zip(rows, standing, strict=True)}
    ceiling, floor = means.get("clean_only"), means.get("uniform")
    return {} if ceiling is None or floor is None else {"headroom": ceiling - floor}


# --- telling -------------------------------------------------------------------------------------------------


def tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """What the rules reach, and what they do and cost; in percent and seconds."""
    reached = grid("row", "test %", "least..most", "change (95 %)", "finding")
    for row in content["rows"]:
        reached.add_row(*cells_reached(row))
    yield reached
    cost = grid("row", "weight clean/wrong", "AUC", "memorised %", "search s", "train s", "also needs")
    for row in content["rows"]:
        cost.add_row(*cells_cost(row))
    yield cost


def sentences(content: Mapping[str, Any]) -> Iterator[str]:
    """What may be said."""
    yield from content["findings"]
    if "rival" in content:
        yield content["rival"]["sentence"]
    if "headroom" in content:
        few = ": too little for a claim of ten points" if content["headroom"] < ENOUGH_HEADROOM else ""
        yield f"Dropping all wrong labels would gain {100 * content['headroom']:+.1f} points{few}."


def grid(*columns: str) -> Table:
    """An empty table; the first and the last column hold words, and the last one may take several lines."""
    empty = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        words = column in (columns[0], columns[-1])
        empty.add_column(column, justify="left" if words else "right", no_wrap=column != columns[-1])
    return empty


def cells_reached(row: Mapping[str, Any]) -> Iterator[str]:
    """One line of the first table."""
    change = row["change"]
    yield row["row"]
    yield percent(row["mean"])
    yield f"{percent(row['least'])}..{percent(row['most'])}"
    yield (
        ""
        if change is None
        else " ".join((f"{100 * change['value']:+.1f}", f"({100 * change['low']:+.1f}..{100 * change['high']:+.1f})"))
    )
    yield row["finding"] or "control"


def cells_cost(row: Mapping[str, Any]) -> Iterator[str]:
    """One line of the second table."""
    known = row["weight_clean"] is not None and row["weight_mislabelled"] is not None
    yield row["row"]
    yield f"{row['weight_clean']:.2f} / {row['weight_mislabelled']:.2f}" if known else ""
    yield "" if row["auc"] is None else f"{row['auc']:.2f}"
    yield percent(row["memorised"])
    yield f"{row['search_seconds']:.0f}"
    yield f"{row['train_seconds']:.0f}"
    yield ", ".join(row["needs"])


def percent(value: float | None) -> str:
    """One digit, or nothing."""
    return "" if value is None else f"{100 * value:.1f}"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The flat columns of the rows."""
    flat = [
        {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items() if k != "change"}
        for row in rows
    ]
    for line, row in zip(flat, rows, strict=True):
        line |= {f"change.{k}": (row["change"] or {}).get(k) for k in ("value", "low", "high")}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(flat))
    return stream.getvalue().encode()
