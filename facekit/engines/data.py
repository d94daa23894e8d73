"""``facekit data pack | check | synth``: what training and evaluation need around them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from facekit.configs import CheckConfig, PackConfig, SynthConfig
from facekit.core.errors import InputError, UsageError
from facekit.core.reporting import image_progress, say
from facekit.data.check import Duplicates, Findings, check_data
from facekit.data.packing import write_pack
from facekit.data.sources import FORMS, list_source
from facekit.data.synth import synthesise
from facekit.engines.fitting import open_images

SHOWN = 5
"""Examples in each line of the table; --json has them all."""


def pack(config: PackConfig) -> None:
    """Write --data into one packed folder."""
    if config.kind == "jpeg" and config.size is not None:
        raise UsageError("--size resizes pixels and needs --kind uint8; jpeg keeps the image files as they are")
    begin = time.monotonic()
    data = required(config.data)
    source = open_images(config, data, one_size=config.size is None)
    for note in source.notes:
        say("note", note)
    if config.noise_plan is not None:
        say(
            "note",
            "the pack keeps the labels of the plan and forgets the true ones; to have both, pack without the plan and "
            "give it to the verb that trains",
        )
    with image_progress("pack", len(source)) as moved:
        packed = write_pack(source, config.out, kind=config.kind, size=config.size, progress=moved)
    say(
        "wrote",
        f"{config.out}: {packed.images:,} images of {packed.identities:,} identities as {config.kind}, "
        f"{packed.bytes / 2**20:,.1f} MiB in {time.monotonic() - begin:.1f} s",
    )
    unchanged = config.size is None and config.noise_plan is None
    say("content", packed.fingerprint[:16] + (f", as of {data}" if unchanged else ""))


def check(config: CheckConfig) -> None:
    """Look at every image of --data; broken images and people of a --test-list among them end with exit code 1."""
    if config.noise_plan is not None:
        raise UsageError("data check looks at images under the labels they came with; leave --noise-plan out")
    data = required(config.data)
    begin = time.monotonic()
    with image_progress("check", len(list_source(data, config.images)[1].names)) as moved:
        found = check_data(
            data,
            images=config.images,
            exclude=config.exclude,
            min_images=config.min_images,
            take=config.take,
            size=config.size,
            test_lists=config.test_list,
            progress=moved,
        )
    if config.json:
        print(json.dumps({"data": data.as_posix(), **found.to_dict()}, indent=1))
    else:
        show(found, config)
        for note in found.notes:
            say("note", note)
        say("read", f"{found.images:,} images in {time.monotonic() - begin:.1f} s")
    fault = found.verdict()
    if fault:
        raise InputError(f"{data}: {fault}")


def synth(config: SynthConfig) -> None:
    """Draw people into --out."""
    begin = time.monotonic()
    with image_progress("draw", config.identities * config.per_identity) as moved:
        made = synthesise(
            config.out,
            identities=config.identities,
            per_identity=config.per_identity,
            size=config.size,
            seed=config.seed,
            progress=moved,
        )
    say(
        "wrote",
        f"{config.out}: {made.images:,} images of {made.identities:,} people, {made.bytes / 2**20:,.1f} MiB "
        f"in {time.monotonic() - begin:.1f} s",
    )
    lists = (
        ", ".join(f"{name} ({count:,} pairs)" for name, count in made.pairs.items()) or "no pair lists: too few people"
    )
    say("people", f"{made.people['train']} train, {made.people['dev']} dev, {made.people['test']} test; {lists}")


def required(data: Path | None) -> Path:
    """--data of a verb that has no teacher to ask."""
    if data is None:
        raise UsageError(f"--data is required: {FORMS}")
    return data


def show(found: Findings, config: CheckConfig) -> None:
    """The findings as a table on stdout."""
    least, median, most = found.images_per_identity
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("check")
    table.add_column("found", justify="right")
    table.add_column("examples", overflow="fold")
    table.add_row("images", f"{found.images:,}", "")
    table.add_row(
        "identities", f"{found.identities:,}", f"{least} to {most} images each, median {median}" if most else ""
    )
    table.add_row("broken", f"{len(found.broken):,}", examples(found.broken))
    table.add_row(f"tiny (below {config.size / 2:g})", f"{len(found.tiny):,}", examples(sizes(found.tiny)))
    table.add_row(f"not {config.size}x{config.size}", f"{len(found.mis_sized):,}", examples(sizes(found.mis_sized)))
    across = [d for d in found.duplicates if d.across_identities]
    within = [d for d in found.duplicates if not d.across_identities]
    table.add_row("duplicates, two identities", f"{len(across):,}", examples(groups(across)))
    table.add_row("duplicates, one identity", f"{len(within):,}", examples(groups(within)))
    if config.test_list:
        table.add_row("people of the test lists", f"{len(found.overlap):,}", examples(dict.fromkeys(found.overlap, "")))
    Console(highlight=False, markup=False).print(table)


def sizes(found: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """name -> ``96x112``"""
    return {name: f"{height}x{width}" for name, (height, width) in found.items()}


def groups(found: list[Duplicates]) -> dict[str, str]:
    """The images of a group -> how alike they are."""
    return {" = ".join(d.names): "same file" if d.byte_identical else "same pixels" for d in found}


def examples(found: Mapping[str, str]) -> str:
    """The first few, one a line, with their reasons."""
    lines = [f"{name} ({reason})" if reason else name for name, reason in list(found.items())[:SHOWN]]
    return "\n".join(lines + ([f"and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []))
