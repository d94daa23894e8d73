"""``facekit align-eval``: how good is a model, raw and aligned, and how sure is that?"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facekit.configs import AlignEvalConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import plain, write_atomic
from facekit.core.processes import processes_of_this_run
from facekit.core.reporting import hush, result_screen, say
from facekit.data.benchmarks import Benchmark, enrolled_in, open_any, people_tested
from facekit.data.classes import ClassSet
from facekit.data.conditions import render
from facekit.data.galleries import open_galleries
from facekit.data.pairs import PairSet
from facekit.data.protocol import Source
from facekit.data.scorefiles import Trial, write_four_columns, write_scores
from facekit.data.vectors import is_vectors, open_vectors
from facekit.engines.supports import Alignments, Embedder, FileEmbedder, ModelEmbedder, check_options, unit
from facekit.evaluation.classification import named_alike
from facekit.evaluation.evaluator import evaluate
from facekit.evaluation.figures import style
from facekit.evaluation.frozen import measure_frozen, thresholds_on
from facekit.evaluation.hardest import Hardest, hardest_pairs
from facekit.evaluation.operating import advice
from facekit.evaluation.pairwise import benchmark_row, bootstrap, score_pairs
from facekit.evaluation.report import ReportContent, render_report
from facekit.evaluation.reportfigures import write_figures
from facekit.evaluation.results import (
    Row,
    document,
    model_label,
    write_results,
)
from facekit.evaluation.scoring import Asked, Measured, label_of, people_on
from facekit.evaluation.screen import screens
from facekit.evaluation.verification import pair_cosines
from facekit.evaluation.versus import rows as versus_rows
from facekit.evaluation.versus import sentences, versus
from facekit.models.loading import Model, load_model


def run(config: AlignEvalConfig) -> None:
    """Open everything, measure, and tell: tables or, with --json, the results document alone; files; the page."""
    check_flags(config)
    with opened_device(config) as device:
        model, embedder = open_embedder(config, device)
        benchmarks = open_benchmarks(config, embedder)
        dev = open_dev(config, embedder)
        found = measure(config, model, embedder, benchmarks, dev)
        if device.rank == 0:
            tell(config, device, model, benchmarks, found)


# --- what is asked, and whether it makes sense ------------------------------------------------------------


def check_flags(config: AlignEvalConfig) -> None:
    """What the flags alone decide."""
    if config.model is not None and config.embeddings is not None:
        raise UsageError("--model embeds images and --embeddings does without: give one of them")
    if (config.gallery is None) != (config.probe is None):
        raise UsageError("--gallery and --probe belong together: who is enrolled, and who is searched")
    if not config.benchmark and config.gallery is None:
        raise UsageError("nothing to measure on: give --benchmark, or --gallery with --probe")
    if config.model is None and (config.condition or config.compare):
        raise UsageError("--condition and --compare need a --model: embeddings have no pictures")
    if config.thumbnails and config.report is None:
        raise UsageError("--thumbnails shows faces in the report: give --report as well")
    if "fmr" in config.scores and config.dev is None:
        raise UsageError("--scores fmr is calibrated on other people: give them as --dev")
    check_options(config)
    if config.report is not None:
        with style():
            pass  # a missing report extra is said before the work, not after it


@contextmanager
def opened_device(config: AlignEvalConfig) -> Iterator[Device]:
    """The device to measure on, and with it the processes that torchrun started, until they end."""
    with processes_of_this_run() as processes:
        if processes and processes.rank > 0:
            hush()
        yield Device.pick(config.device, config.precision, threads=config.threads, measuring=True, processes=processes)


def open_embedder(config: AlignEvalConfig, device: Device) -> tuple[Model | None, Embedder]:
    """The model, where there is one, and what gives embeddings."""
    if config.model is not None:
        return opened_model(config.model, config, device)
    if config.embeddings is not None:
        vectors = open_vectors(config.embeddings)
        return None, FileEmbedder(vectors, vectors.flip_rule(config.flip))
    if config.gallery is not None and is_vectors(config.gallery):
        return None, FileEmbedder(None, open_vectors(config.gallery).flip_rule(config.flip))
    return None, FileEmbedder(None, "none" if config.flip == "model" else config.flip)


def opened_model(path: Path, config: AlignEvalConfig, device: Device) -> tuple[Model, ModelEmbedder]:
    """A network and its cache."""
    model = load_model(path, device=device, channels=config.channels, scaling=config.scaling)
    return model, ModelEmbedder.of(model, device, config.flip, config.batch, config.cache_dir)


def open_benchmarks(config: AlignEvalConfig, embedder: Embedder) -> list[Benchmark]:
    """Everything to measure on; what their readers left out is said at once."""
    vectors = embedder.vectors if isinstance(embedder, FileEmbedder) else None
    found = [open_any(t, config.images, vectors, config.megaface_list, config.seed) for t in config.benchmark]
    if config.gallery is not None and config.probe is not None:
        found.append(open_galleries(config.gallery, config.probe, config.images))
    found = [named_alike(b, embedder.classifier) if isinstance(b, ClassSet) else b for b in found]
    for benchmark in found:
        for note in benchmark.notes:
            say("note", f"{benchmark.name}: {note}")
    return found


def open_dev(config: AlignEvalConfig, embedder: Embedder) -> PairSet | None:
    """Pairs of other people, for choices."""
    if config.dev is None:
        return None
    vectors = embedder.vectors if isinstance(embedder, FileEmbedder) else None
    dev = open_any(config.dev, config.dev_images, vectors)
    if not isinstance(dev, PairSet):
        raise UsageError(f"--dev {config.dev} holds no pairs; give a pair list, a .bin or allpairs:LIST")
    return dev


# --- measuring --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Found:
    """Everything that was measured, in the order in which it is told."""

    measured: Measured
    sentences: list[str]
    advice: dict[str, list[str]]
    hardest: list[Hardest]
    alignments: Alignments
    dev: PairSet | None


def measure(
    config: AlignEvalConfig, model: Model | None, embedder: Embedder, benchmarks: list[Benchmark], dev: PairSet | None
) -> Found:
    """All benchmarks with all scores; thresholds kept from dev or from clean images; the second model."""
    tested = {name for benchmark in benchmarks for name in people_tested(benchmark)}
    alignments = Alignments(config, config.scores, embedder, dev, tested, config.seed)
    asked = Asked(
        flip=embedder.flip,
        fars=config.far,
        fpirs=config.fpir,
        ranks=config.rank,
        draws=config.draws,
        seed=config.seed,
        stamp=stamp_of(config, model, embedder),
        curves=config.report is not None,
        image_norm=config.image_norm,
        faceness=config.faceness,
        ties=config.ties,
        classifier=embedder.classifier,
    )
    found = Found(Measured([], []), [], {}, [], alignments, dev)
    for benchmark in benchmarks:
        own = dataclasses.replace(asked, scorers=alignments.scorers(enrolled_in(benchmark)))
        rows, curves = evaluate(embedder.table, [benchmark], own)
        found.measured.rows.extend(rows)
        found.measured.curves.extend(curves)
        if isinstance(benchmark, PairSet):
            if config.save_scores is not None:
                save_scores(config.save_scores, benchmark, embedder, own)
            found.measured.rows.extend(kept_thresholds(config, embedder, benchmark, own, found))
            found.advice[benchmark.name] = advice(found.measured.rows, benchmark.name, dev.name if dev else None)
            compare(config, model, embedder, benchmark, own, found)
            if config.report is not None:
                found.hardest.append(hardest_of(embedder, benchmark, config.thumbnails))
    return found


def kept_thresholds(
    config: AlignEvalConfig, embedder: Embedder, pairs: PairSet, asked: Asked, found: Found
) -> list[Row]:
    """TAR and FAR at thresholds chosen on --dev, or on the clean images, also under every --condition."""
    if found.dev is None and not config.condition:
        return []
    worse: dict[str, Source] = {name: render(pairs.source, name, config.seed) for name in config.condition}
    if found.dev is None:
        return measure_frozen(
            pairs, embedder.table, asked, thresholds_on(pairs, embedder.table, asked), "the same pairs, clean", worse
        )
    on_dev = dataclasses.replace(asked, scorers=found.alignments.scorers(found.dev.source))
    thresholds = thresholds_on(found.dev, embedder.table, on_dev)
    return measure_frozen(pairs, embedder.table, asked, thresholds, found.dev.name, worse)


def save_scores(folder: Path, pairs: PairSet, embedder: Embedder, asked: Asked) -> None:
    """The score of every pair in every way: <benchmark>-<score>.npy, and four columns where the people are known."""
    vectors, people = unit(embedder, pairs.source), people_on(pairs.source)
    for scorer in asked.scorers:
        scores, _ = score_pairs(scorer, vectors, pairs)
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{pairs.name}-{label_of(scorer)}")
        write_scores(folder / f"{stem}.npy", [scores], len(scores))
        if people is not None:
            names = pairs.source.names
            trials = (
                Trial(str(people[a]), str(people[b]), names[b].replace(" ", "_"), float(np.float32(score)))
                for a, b, score in zip(pairs.left.tolist(), pairs.right.tolist(), scores.tolist(), strict=True)
            )
            write_four_columns(folder / f"{stem}.txt", trials)
    say("wrote", f"{folder}: scores of {len(pairs.same):,} pairs, {len(asked.scorers)} ways")


def compare(
    config: AlignEvalConfig, model: Model | None, embedder: Embedder, pairs: PairSet, asked: Asked, found: Found
) -> None:
    """--compare: the raw scores of the second model against those of the first, over the same draws of people."""
    if config.compare is None or model is None or not isinstance(embedder, ModelEmbedder):
        return
    other, by_other = opened_model(config.compare, config, embedder.device)
    vectors = [unit(each, pairs.source) for each in (embedder, by_other)]
    first, second = (pair_cosines(x, x, pairs.left, pairs.right) for x in vectors)
    boot = bootstrap(pairs, pairs.left, pairs.right, pairs.same, config.draws, config.seed)
    result = versus(pairs, first, second, (model_label(model), model_label(other)), config.far, boot)
    found.measured.rows.extend(versus_rows(result, benchmark_row(pairs, asked.flip, asked.stamp)))
    found.sentences.extend(f"{pairs.name}: {text}" for text in sentences(result))


def hardest_of(embedder: Embedder, pairs: PairSet, thumbnails: bool) -> Hardest:
    """The worst pairs by the raw score."""
    vectors = unit(embedder, pairs.source)
    scores = pair_cosines(vectors, vectors, pairs.left, pairs.right)
    return hardest_pairs(pairs, scores, thumbnails=thumbnails)


def stamp_of(config: AlignEvalConfig, model: Model | None, embedder: Embedder) -> Row:
    """Run, model and checkpoint columns."""
    if model is None:
        return Row(model=f"{config.embeddings.name}@{embedder.model_sha[:12]}" if config.embeddings else "embeddings")
    path, label = Path(model.path), model_label(model)
    if not path.is_dir():
        return Row(model=label)
    if path.parent.name == "checkpoints":
        return Row(model=label, run=path.parent.parent.name, checkpoint=path.name)
    return Row(model=label, run=path.name, checkpoint="last")


# --- telling ----------------------------------------------------------------------------------------------


def tell(
    config: AlignEvalConfig, device: Device, model: Model | None, benchmarks: list[Benchmark], found: Found
) -> None:
    """Files first, then the screen."""
    content = document(
        found.measured.rows,
        models=[model] if model else [],
        benchmarks=benchmarks,
        device=device.describe(),
    )
    content["alignment"] = found.alignments.describe()
    content |= {"sentences": found.sentences, "advice": found.advice, "warnings": found.alignments.notes()}
    if config.out is not None:
        write_results(config.out, content)
        found.alignments.write_policies(config.out)
        say("wrote", f"{config.out / 'results.json'} and results.csv")
    if config.report is not None:
        write_report(config, content, found)
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    for line in screens(found.measured.rows, found.advice, [*found.sentences, *content["warnings"]]):
        screen.print(line, markup=False, soft_wrap=isinstance(line, str))


def write_report(config: AlignEvalConfig, content: dict[str, Any], found: Found) -> None:
    """The page, and its figures as files beside it."""
    assert config.report is not None
    page = render_report(
        ReportContent(
            rows=found.measured.rows,
            curves=found.measured.curves,
            benchmarks=content["benchmarks"],
            models=content["models"],
            environment=content["environment"],
            command=content["command"],
            sentences=found.sentences,
            advice=found.advice,
            warnings=content["warnings"],
            hardest=found.hardest,
        )
    )
    write_atomic(config.report, page.encode())
    figures = write_figures(found.measured.curves, config.report.parent, config.report.stem)
    say("wrote", f"{config.report} and {len(figures)} figures beside it")
