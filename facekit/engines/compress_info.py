"""``facekit compress info``: what a compressed file, an archive or a codec is, and what the codec's parts cost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from facekit.codec import archive, container
from facekit.codec.arch import Arch
from facekit.codec.archive import read_archive
from facekit.codec.coder import Coder, padded_size
from facekit.codec.container import read_layout
from facekit.codec.costs import Cost, costs
from facekit.codec.export import exported
from facekit.codec.framing import LARGEST_SIDE, MAX_PIXELS, opened
from facekit.codec.modelfile import CodecModel
from facekit.codec.networks import Codec
from facekit.codec.opening import open_model
from facekit.codec.timing import added_ms, part_ms, sample_picture
from facekit.configs import CompressInfoConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import plain
from facekit.core.reporting import printable, result_screen, say

LISTED = 10
"""Sizes of an archive's images that the table names."""


def run(config: CompressInfoConfig) -> None:
    """Print tables, or with ``json`` one document."""
    size = parse_size(config.size)
    found = describe(config.path)
    model = open_model(config.model or config.path) if config.model or found["kind"] == "model" else None
    if model is not None and not model.encoder:
        say("note", "the model holds the decoder alone, and there is no image to time it on")
    elif model is not None:
        device = Device.pick(config.device, "fp32", threads=config.threads)
        found["costs"] = measured_costs(config, model, found.get("image", size), device)
    if config.json:
        print(json.dumps(plain(found), indent=1, allow_nan=False))
    else:
        show(found)


def parse_size(text: str) -> tuple[int, int]:
    """``512x768`` -> (512, 768)."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE and height * width <= MAX_PIXELS):
        raise UsageError(f"--size is {text!r}; give height x width in pixels, as 512x768, at most {MAX_PIXELS} in all")
    return height, width


# --- facts ------------------------------------------------------------------------------------------------


def describe(path: Path) -> dict[str, Any]:
    """What a path is. Images and archives are recognised by their first bytes; everything else must be a model."""
    if path.is_dir():
        return of_model(path, open_model(path))
    with opened(path) as (file, size):
        magic = file.read(len(container.MAGIC))
    if magic == container.MAGIC:
        return of_file(path, size)
    if magic == archive.MAGIC:
        return of_archive(path, size)
    if path.suffix == ".safetensors":
        return of_model(path, open_model(path))
    # A file that nobody recognises is told what an image must be.
    return of_file(path, size)


def of_file(path: Path, size: int) -> dict[str, Any]:
    """The header of one compressed image."""
    layout = read_layout(path)
    header = layout.header
    area = header.height * header.width
    return {
        "kind": "image",
        "path": path,
        "model_id": header.model_id.hex(),
        "mode": header.mode,
        "image": (header.height, header.width),
        "padded": padded_size(header.height, header.width),
        "grey": header.grey,
        "latent_crc": layout.has_latent_crc,
        "bytes": size,
        "bpp": 8 * size / area,
        "z_bytes": layout.z_size,
        "y_bytes": layout.y_size,
        "framing_bytes": size - layout.z_size - layout.y_size,
    }


def of_archive(path: Path, size: int) -> dict[str, Any]:
    """The header and the index of an archive."""
    found = read_archive(path, None)
    payload = int(found.index.length.sum())
    shapes: dict[str, int] = {}
    for shape, count in zip(
        found.index.shapes, torch.bincount(torch.from_numpy(found.index.shape)).tolist(), strict=True
    ):
        shapes[f"{shape.height}x{shape.width}{' grey' * shape.grey}"] = count
    names = 0 if found.names is None else len("\0".join(found.names).encode())
    return {
        "kind": "archive",
        "path": path,
        "model_id": found.model_id.hex(),
        "mode": found.mode,
        "images": len(found),
        "named": found.names is not None,
        "sizes": shapes,
        "bytes": size,
        "bytes_per_image": size / len(found),
        "payload_bytes": payload,
        "name_bytes": names,
        "index_bytes_per_image": (size - payload - names) / len(found),
    }


def of_model(path: Path, model: CodecModel) -> dict[str, Any]:
    """What a model file says of itself."""
    return {
        "kind": "model",
        "path": path,
        "model_id": model.model_id.hex(),
        "mode": model.mode,
        **asdict(model.arch),
        "encoder": bool(model.encoder),
        "about": dict(model.about),
    }


# --- costs ------------------------------------------------------------------------------------------------


def measured_costs(
    config: CompressInfoConfig, model: CodecModel, size: tuple[int, int], device: Device
) -> dict[str, Any]:
    """Multiply-adds, parameters and milliseconds of each part, and what each switch adds to all networks together."""

    def coder(used: CodecModel) -> Coder:
        return Coder(used, device.torch_device, config.precision)

    whole, picture, counted = coder(model), sample_picture(*size), costs(model.arch, *size)
    parts = {name: {"ms": ms} for name, ms in part_ms(whole, picture, config.repeats).items()}
    switches = {}
    for name, arch in switched_off(model.arch).items():
        added = added_ms(whole, coder(exported(Codec(arch), {})), picture, config.repeats)
        switches[name] = {**difference(total(counted), total(costs(arch, *size))), "ms": added}
    return {
        "image": size,
        "precision": config.precision,
        "measured_on": device.describe() | {"hyper_synthesis": "cpu, float64"},
        "parts": {name: {**(counted[name]._asdict() if name in counted else {}), **ms} for name, ms in parts.items()},
        "switches": switches,
    }


def total(counted: Mapping[str, Cost]) -> Cost:
    """Of all networks."""
    return Cost(*(sum(column) for column in zip(*counted.values(), strict=True)))


def difference(whole: Cost, lesser: Cost) -> dict[str, int]:
    """What the whole has more."""
    return {"macs": whole.macs - lesser.macs, "parameters": whole.parameters - lesser.parameters}


def switched_off(arch: Arch) -> dict[str, Arch]:
    """The same codec without one of its parts, for each that it has."""
    without = {
        "channel attention": replace(arch, attention=False),
        f"mixture of {arch.k} instead of one Gaussian": replace(arch, k=1),
        f"enhancement {arch.enhancement}": replace(arch, enhancement="none"),
    }
    return {name: other for name, other in without.items() if other != arch}


# --- tables -----------------------------------------------------------------------------------------------


def show(found: Mapping[str, Any]) -> None:
    """A table of facts, and one of costs where there are any."""
    screen = result_screen()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in found.items():
        if name not in ("costs", "about"):
            facts.add_row(name.replace("_", " "), printable(shown(value)))
    for name, value in found.get("about", {}).items():
        facts.add_row(printable(name), printable(shown(value)))
    screen.print(facts)
    if "costs" in found:
        screen.print(cost_table(found["costs"]))


def shown(value: Any) -> str:
    """A fact for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        more = f", and {len(value) - LISTED} more" if len(value) > LISTED else ""
        return ", ".join(f"{k}: {v}" for k, v in list(value.items())[:LISTED]) + more
    return str(value)


def cost_table(found: Mapping[str, Any]) -> Table:
    """One row a part, and one a switch."""
    height, width = found["image"]
    where = found["measured_on"]
    title = f"{height}x{width}, {where['device']}, {where['threads']} threads, synthesis {found['precision']}"
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", title=title, title_justify="left")
    table.add_column("part", no_wrap=True)
    for column in ("parameters", "MMAC", "kMAC/pixel", "ms"):
        table.add_column(column, justify="right")
    rows = [(name.replace("_", " "), row) for name, row in found["parts"].items()]
    rows += [(f"added by {name}", row) for name, row in found["switches"].items()]
    for name, row in rows:
        macs = row.get("macs")
        counts = ("", "", "")
        if macs is not None:
            counts = (f"{row['parameters']:,}", f"{macs / 1e6:,.1f}", f"{macs / 1e3 / (height * width):,.2f}")
        table.add_row(name, *counts, f"{row['ms']:,.2f}")
    return table
