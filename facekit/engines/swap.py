"""``facekit align-eval swap``: may the new model embed the probes while the gallery stays?"""

from __future__ import annotations

import json
import statistics

from rich import box
from rich.table import Table

from facekit.configs import SwapConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import plain, write_atomic
from facekit.core.reporting import ranged, result_screen, say
from facekit.data.pairs import PairSet, open_benchmark
from facekit.engines.supports import Alignments, ModelEmbedder, check_options, unit
from facekit.evaluation.figures import style
from facekit.evaluation.page import Cost, render
from facekit.evaluation.results import (
    command_line,
    describe_benchmark,
    describe_environment,
    document,
    model_label,
    write_results,
)
from facekit.evaluation.scoring import Scorer
from facekit.evaluation.swap import Certificate, certify, shared_flip, swap_rows
from facekit.evaluation.verdict import Verdict, judge, one_in, points, summary
from facekit.models.loading import Model, load_model

DEFAULT_FAR = 1e-3


def run(config: SwapConfig) -> None:
    """Load both, embed, measure the three set-ups, judge; table, document and page."""
    if len(config.benchmark) != 1:
        raise UsageError(f"--benchmark: a swap is judged on one benchmark, {len(config.benchmark)} were given")
    if config.threshold is not None and config.far is not None:
        raise UsageError("--threshold names the threshold in use and --far derives it: give one of them")
    if config.report is not None:
        with style():
            pass  # a missing report extra is said before the work, not after it
    check_alignment(config)
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    old, new = (
        load_model(path, device=device, channels=config.channels, scaling=config.scaling)
        for path in (config.old, config.new)
    )
    flip = shared_flip(old.preprocess, new.preprocess, config.flip)
    pairs = open_benchmark(config.benchmark[0], config.images)
    for note in pairs.notes:
        say("note", f"{pairs.name}: {note}")
    embedders = [ModelEmbedder.of(model, device, flip, config.batch, config.cache_dir) for model in (old, new)]
    vectors = [unit(embedder, pairs.source) for embedder in embedders]
    scorers = [scorer_in(embedder, pairs, config) for embedder in embedders]
    certificate = certify(
        vectors[0],
        vectors[1],
        pairs,
        threshold=config.threshold,
        at_far=DEFAULT_FAR if config.far is None else config.far,
        tolerance=config.tolerance,
        draws=config.draws,
        seed=config.seed,
        scorers=(scorers[0], scorers[1]),
    )
    verdict = judge(certificate)
    costs = [
        Cost(role, model, table.shape[1], model.macs(), latency)
        for role, model, table, latency in zip(("old", "new"), (old, new), vectors, latencies([old, new]), strict=True)
    ]
    rows = [*swap_rows(certificate, pairs, flip, (model_label(old), model_label(new)))]
    content = document(rows, models=[old, new], benchmarks=[pairs], device=device.describe())
    content["swap"] = {**summary(certificate, verdict), "costs": [cost_entry(cost) for cost in costs]}
    if config.report is not None:
        environment = describe_environment(device.describe())
        page = render(certificate, verdict, costs, describe_benchmark(pairs), environment, command_line())
        write_atomic(config.report, page.encode())
        say("wrote", str(config.report))
    if config.out is not None:
        write_results(config.out, content)
        say("wrote", f"{config.out / 'results.json'} and results.csv")
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    show(certificate, verdict, costs)


def check_alignment(config: SwapConfig) -> None:
    """A threshold is in use in one way to score: raw, or one alignment by one support set."""
    aligned = [name for name in config.scores if name != "raw"]
    if len(aligned) > 1 or len(config.support) > 1 or "rerank" in aligned or "fmr" in aligned:
        raise UsageError(
            "a swap is judged in one way to score: give --scores raw, or one aligned score (not rerank or fmr) "
            "with one --support"
        )
    check_options(config)


def scorer_in(embedder: ModelEmbedder, pairs: PairSet, config: SwapConfig) -> Scorer:
    """The way to score in the gallery of one model: its support set is embedded by that model."""
    alignments = Alignments(config, config.scores, embedder, None, pairs.source.identities, config.seed)
    return alignments.scorers(pairs.source)[-1]


def latencies(models: list[Model], rounds: int = 5, repeats: int = 6) -> list[float]:
    """Milliseconds for one image, the models taking turns so that a busy moment hits both."""
    times = [[model.latency_ms(repeats) for model in models] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def cost_entry(cost: Cost) -> dict[str, object]:
    """The costs of one model in the document."""
    return {
        "role": cost.role,
        "model": model_label(cost.model),
        "size_bytes": cost.model.size_bytes,
        "parameters": cost.model.parameters,
        "macs": cost.macs,
        "latency_ms": cost.latency_ms,
        "embedding": cost.width,
        "licence": cost.model.licence,
    }


def show(c: Certificate, verdict: Verdict, costs: list[Cost]) -> None:
    """The verdict first, then the three set-ups; percent only here."""
    screen = result_screen()
    screen.print()
    screen.print(verdict.sentence, style="bold", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    target = "same FAR" if c.far is None else f"FAR {c.far:.3g}"
    for heading in ("gallery, probe", f"TAR % at cos {c.threshold:.4f}", "impostors pass", f"TAR % at {target}", "cos"):
        table.add_column(heading, justify="left" if heading == "gallery, probe" else "right")
    for arm in c.arms:
        table.add_row(
            arm.title,
            ranged(arm.tar_at_threshold.value, arm.tar_at_threshold.low, arm.tar_at_threshold.high),
            one_in(arm.far_at_threshold.value),
            ranged(arm.tar_at_far.value, arm.tar_at_far.low, arm.tar_at_far.high),
            "" if arm.own.threshold is None else f"{arm.own.threshold:.4f}",
        )
    screen.print(table)
    for name, change in (("threshold in use", c.change_at_threshold), (target, c.change_at_far)):
        if change is not None:
            sees = "" if change.smallest is None else f"; this benchmark would notice {100 * change.smallest:.1f}"
            screen.print(f"change at {name}: {points(change)}{sees}", markup=False, soft_wrap=True)
    for cost in costs:
        screen.print(
            f"{cost.role}: {model_label(cost.model)}, {cost.model.size_bytes / 1e6:.1f} MB, "
            f"{cost.macs / 1e6:,.0f} MMAC, {cost.latency_ms:.1f} ms an image, licence {cost.model.licence}",
            markup=False,
            soft_wrap=True,
        )
    if c.note:
        screen.print(f"* {c.note}", markup=False, soft_wrap=True)
