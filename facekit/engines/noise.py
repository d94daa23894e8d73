"""``facekit data noise``: a plan of wrong labels or of a long tail."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.table import Table

from facekit.configs import NoiseConfig
from facekit.core.errors import OutputExists, UsageError
from facekit.core.reporting import printable, result_screen, say
from facekit.data.noise import make_plan
from facekit.data.noiseplan import LONG_TAIL, NoisePlan, write_plan
from facekit.data.protocol import Source
from facekit.data.sources import choose_data
from facekit.engines.fitting import open_images

SHOWN = 20
"""Classes in the table."""


def run(config: NoiseConfig) -> None:
    """Draw a plan for --data, write it to --out and print what it does to every class."""
    check_options(config)
    path = choose_data(config.data)
    source = open_images(config, path, need_labels=True, one_size=False)
    for note in source.notes:
        say("note", note)
    plan = make_plan(
        source, config.kind, config.p, config.seed, exclude_self=config.exclude_self, imbalance=config.imbalance
    )
    write_plan(config.out, plan)
    show(plan, source)
    say("plan", plan.describe())
    say("wrote", f"{config.out}: hash {plan.sha256[:12]}, for {len(source):,} images of {path}")
    say("use", f"give the same --data, --exclude, --min-images and --take with --noise-plan {config.out}")


def check_options(config: NoiseConfig) -> None:
    """What flags alone decide, and that nothing is overwritten: runs remember a plan by its path."""
    if config.out.suffix.lower() != ".npz":
        raise UsageError(f"--out {config.out} must end in .npz")
    if config.noise_plan is not None:
        raise UsageError("a plan is made from the labels the data came with; leave --noise-plan out")
    read = {"p": config.kind != LONG_TAIL, "imbalance": config.kind == LONG_TAIL, "exclude_self": config.kind == "sym"}
    for name, is_read in read.items():
        if not is_read and getattr(config, name) != getattr(NoiseConfig, name):
            raise UsageError(f"--{name.replace('_', '-')} is not read with --kind {config.kind}; leave it out")
    if config.out.exists():
        raise OutputExists(f"{config.out} exists already; name another --out")


def show(plan: NoisePlan, source: Source) -> None:
    """Of each class: its images, those that stay, the images labelled so, and how many of these wrongly."""
    classes = len(source.identities)
    labelled = [source.labels, plan.true_label, plan.noisy_label, plan.noisy_label[plan.wrong]]
    counts = np.stack([np.bincount(labels, minlength=classes) for labels in labelled], axis=1)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("class")
    for title in ("images", "kept", "labelled so", "of these wrong"):
        table.add_column(title, justify="right")
    for name, row in zip(source.identities[:SHOWN], counts.tolist(), strict=False):
        table.add_row(printable(name), *(f"{count:,}" for count in row))
    if classes > SHOWN:
        table.add_row(f"and {classes - SHOWN:,} more")
    table.add_row("all", *(f"{count:,}" for count in counts.sum(axis=0).tolist()))
    result_screen().print(table)
    empty = [printable(source.identities[k]) for k in np.flatnonzero(counts[:, 2] == 0).tolist()]
    if empty:
        say("note", f"{len(empty):,} classes have no image left under their label (the first is {empty[0]})")
