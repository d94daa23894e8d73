"""``facekit profile``: what a network costs, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich import box
from rich.console import Console
from rich.table import Table

from facekit.configs import ProfileConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import plain
from facekit.models import CLASSIFIERS
from facekit.models.profile import Profile, open_or_build, profile


def run(config: ProfileConfig) -> None:
    """Print the table, or with ``json`` the document."""
    if config.model in CLASSIFIERS and config.embedding != ProfileConfig.embedding:
        raise UsageError(f"--embedding is {config.embedding}, and the width of {config.model} is fixed; leave it out")
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    model = open_or_build(config.model, config.embedding, device, config.channels, config.scaling)
    result = profile(model, config.repeats)
    if config.json:
        print(json.dumps(plain(dataclasses.asdict(result)), indent=1))
    else:
        Console(markup=False, highlight=False).print(table(result))


def table(result: Profile) -> Table:
    """One row per cost, with its unit."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", title=result.name, title_justify="left")
    shown.add_column("cost", no_wrap=True)
    shown.add_column("value", justify="right", overflow="fold")
    shown.add_row("parameters", f"{result.parameters:,}")
    shown.add_row("multiply-accumulates", f"{result.macs / 1e6:,.1f} M")
    shown.add_row("size", f"{result.size_bytes / 1e6:,.2f} MB")
    height, width = result.preprocess["size"]
    shown.add_row("image", f"{height}x{width}")
    shown.add_row("embedding", str(result.embedding))
    if result.classes:
        shown.add_row("classes", f"{result.classes:,}")
    where = f"{result.device['device']}, {result.device['threads']} threads, {result.device['precision']}"
    shown.add_row("one image (median)", f"{result.latency_ms:,.2f} ms")
    shown.add_row("measured on", where)
    shown.add_row("licence", result.licence)
    return shown
