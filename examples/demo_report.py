"""Measure the demo's networks beside an untrained one, print the table, draw the learning curves.

Usage: python examples/demo_report.py FOLDER. Exits 1 if a trained network does not beat the untrained one with
intervals that do not overlap: then something is broken, and the demo must not look as if it worked.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.data.pairs import PairSet, open_benchmark
from facekit.evaluation.evaluator import Embed, embed_pairs, evaluate, table_of
from facekit.evaluation.figures import learning_curves
from facekit.evaluation.results import Row, document, find, write_results
from facekit.evaluation.scoring import Asked
from facekit.evaluation.swap import Rate, certify
from facekit.models import build_backbone
from facekit.models.loading import Model, as_embedder, load_model

FAR = 0.01
ARMS = {"teacher": "teacher (mbf_half)", "alone": "student alone (mbf_nano)", "fcd": "student by FCD (mbf_nano)"}


def untrained(pairs: PairSet, device: Device) -> list[Row]:
    """The rows of a freshly initialised student: what no training gives."""
    torch.manual_seed(0)
    model = build_backbone("mbf_nano", 128).eval()
    embed = as_embedder(model, Preprocess(embedding=128), device)
    return measured(embed, "sum", "untrained (mbf_nano)", pairs)


def trained(model: Model, name: str, pairs: PairSet) -> list[Row]:
    """The rows of one trained network."""
    return measured(model.embed, model.preprocess.flip, name, pairs)


def measured(embed: Embed, flip: str, name: str, pairs: PairSet) -> list[Row]:
    """All rows of what embeds."""
    return evaluate(table_of(embed, flip), [pairs], Asked(flip=flip, fars=(FAR,), stamp=Row(model=name))).rows


def searching(teacher: Model, model: Model, pairs: PairSet) -> str:
    """TAR of a network's probes against the gallery the teacher enrolled, with its interval."""
    old, new = (embed_pairs(m.embed, pairs, flip=m.preprocess.flip) for m in (teacher, model))
    certificate = certify(old, new, pairs, threshold=None, at_far=FAR, tolerance=0.05, draws=1000, seed=0)
    return ranged(certificate.arms[2].tar_at_far)


def ranged(rate: Rate | Row) -> str:
    """``63.6 (51.3 .. 79.3)``, in percent."""
    value, low, high = (100 * (x or 0) for x in (rate.value, rate.low, rate.high))
    return f"{value:.1f} ({low:.1f} .. {high:.1f})"


def show(rows: dict[str, Row], across: dict[str, str]) -> None:
    """One line per network."""
    table = Table(title=f"TAR % at FAR {FAR:g} (95 % interval) on people nobody was trained on")
    table.add_column("network")
    table.add_column("its own gallery", justify="right")
    table.add_column("the teacher's gallery", justify="right")
    for name, row in rows.items():
        table.add_row(name, ranged(row), across.get(name, ""))
    Console().print(table)
    first = next(iter(rows.values()))
    print(
        f"{first.n_genuine:,} genuine and {first.n_impostor:,} impostor pairs of {first.n_identities} people; one seed."
    )


def main(out: Path) -> int:
    """Measure, print, draw; 1 if training did not help."""
    pairs = open_benchmark(f"allpairs:{out / 'faces' / 'pairs_test.txt'}")
    device = Device.pick("auto", "fp32")
    results = {"untrained (mbf_nano)": untrained(pairs, device)}
    models = [load_model(out / folder, device=device) for folder in ARMS]
    for model, name in zip(models, ARMS.values(), strict=True):
        results[name] = trained(model, name, pairs)
    points: dict[str, Row] = {}
    for name, rows in results.items():
        row = find(rows, "tar@far", FAR)
        assert row is not None
        points[name] = row
    across = {name: searching(models[0], model, pairs) for model, name in zip(models, ARMS.values(), strict=True)}
    show(points, across)
    every = [dataclasses.replace(row, run="demo") for rows in results.values() for row in rows]
    write_results(out / "results", document(every, models=models, benchmarks=[pairs], device=device.describe()))
    curves = learning_curves(
        {name: out / folder for folder, name in ARMS.items()},
        f"dev/tar@far={FAR:g}",
        out / "learning_curves.svg",
        label=f"TAR at FAR {FAR:g} on dev people",
        percent=True,
    )
    print(f"wrote    {out / 'results' / 'results.json'}, {curves}")
    floor, *learned = points.values()
    weak = [row.model for row in learned if not (row.low or 0) > (floor.high or 1)]
    if weak:
        print(f"demo failed: {', '.join(map(str, weak))} did not beat the untrained network", file=sys.stderr)
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
