"""``facekit align-eval``: how good is a model, and how sure is that?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from facekit.configs import AlignEvalConfig
from facekit.core.device import Device
from facekit.core.files import plain
from facekit.core.reporting import image_progress, result_screen, say
from facekit.data.embeddings import default_cache_dir
from facekit.data.pairs import PairSet, open_benchmark
from facekit.evaluation.evaluator import evaluate, find
from facekit.evaluation.results import Row, document, model_label, write_results
from facekit.evaluation.verification import to_degrees, to_distance
from facekit.models.loading import Model, load_model

HIDDEN = ("threshold.", "smallest_effect.", "partial_auc")
"""Rows for the document only: on screen they are columns of other rows."""

SHOWN = {"accuracy_10fold": "10-fold ± sd", "accuracy_lfw": "LFW ± S_E", "tar@far": "TAR@", "auc": "AUC", "eer": "EER"}


def run(config: AlignEvalConfig) -> None:
    """Load, embed, measure; print a table or, with --json, the results document alone."""
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    benchmarks = [open_benchmark(text, config.images) for text in config.benchmark]
    for pairs in benchmarks:
        for note in pairs.notes:
            say("note", f"{pairs.name}: {note}")
    rows: list[Row] = []
    for pairs in benchmarks:
        with image_progress(f"embed {pairs.name}", len(pairs.source)) as advance:
            rows += evaluate(
                model.embed,
                [pairs],
                flip=model.preprocess.flip if config.flip == "model" else config.flip,
                fars=config.far,
                draws=config.draws,
                seed=config.seed,
                batch=config.batch,
                key=model.cache_key(),
                cache_dir=config.cache_dir or default_cache_dir(),
                stamp=stamp_of(model),
                progress=advance,
            )
    content = document(rows, models=[model], benchmarks=benchmarks, device=device.describe())
    if config.out is not None:
        write_results(config.out, content)
        say("wrote", f"{config.out / 'results.json'} and results.csv")
    if config.json:
        print(json.dumps(plain(content), indent=1, allow_nan=False))
        return
    screen = result_screen()
    for pairs in benchmarks:
        show(screen, model, pairs, [row for row in rows if row.benchmark == pairs.name])


def stamp_of(model: Model) -> Row:
    """Run, model and checkpoint columns."""
    path, label = Path(model.path), model_label(model)
    if not path.is_dir():
        return Row(model=label)
    if path.parent.name == "checkpoints":
        return Row(model=label, run=path.parent.parent.name, checkpoint=path.name)
    return Row(model=label, run=path.name, checkpoint="last")


# --- the table --------------------------------------------------------------------------------------


def show(screen: Console, model: Model, pairs: PairSet, rows: Sequence[Row]) -> None:
    """One table per benchmark, percent only here."""
    first = rows[0]
    people = "people unknown" if first.n_identities is None else f"{first.n_identities:,} people"
    screen.print()
    screen.print(
        f"{model_label(model)} on {pairs.name}: {first.n_genuine:,} genuine and {first.n_impostor:,} impostor pairs, "
        f"{first.n_images:,} images, {people}, {first.variant}"
        + (f", {first.n_failed} images or people failed" if first.n_failed else ""),
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for heading in ("metric", "value %", "95 %\ninterval", "smallest\neffect", "cos", "d²", "angle", "false\naccepts"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", overflow="fold")
    shown = [row for row in rows if row.status != "compat" and not row.metric.startswith(HIDDEN)]
    for row in shown:
        table.add_row(*cells(row, find(rows, f"smallest_effect.{row.metric}", row.at)))
    screen.print(table)
    for note in dict.fromkeys(row.note for row in shown if row.note):
        screen.print(f"* {note}", markup=False, soft_wrap=True)
    screen.print(closing(rows), markup=False, soft_wrap=True)


def cells(row: Row, effect: Row | None) -> tuple[str, ...]:
    """One line of the table."""
    name = SHOWN.get(row.metric, row.metric) + ("" if row.at is None else f"{row.at:g}")
    value = "unmeasurable" if row.value is None else f"{100 * row.value:.2f}"
    if row.std is not None:
        value += f" ± {100 * row.std:.2f}"
    between = f"{100 * row.low:.2f}..{100 * row.high:.2f}" if row.low is not None and row.high is not None else ""
    smallest = f"{100 * effect.value:.2f}" if effect is not None and effect.value is not None else ""
    t = row.threshold
    units = ("", "", "") if t is None else (f"{t:.3f}", f"{to_distance(t):.3f}", f"{to_degrees(t):.1f}°")
    false = "" if row.n_false is None else f"{row.n_false:,}"
    return name + ("*" if row.status != "ok" else ""), value, between, smallest, *units, false


def closing(rows: Sequence[Row]) -> str:
    """How to read the intervals, in a sentence or two."""
    methods = {row.ci_method for row in rows} - {None}
    if "identity_bootstrap" in methods:
        how = "Intervals: 95 %, people drawn with replacement."
    else:
        how = "Intervals: 95 %, Wilson on pairs: the people are unknown, and what pairs share makes them too narrow."
    return (
        f"{how} Smallest effect: a true difference from another model, measured separately on as many people, that "
        "would be noticed four times in five, in points; a paired comparison notices smaller ones."
    )
