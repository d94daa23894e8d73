"""``facekit export``: an ONNX file that was proven on real images before it got its name."""

from __future__ import annotations

import os
import secrets

import numpy as np

from facekit.configs import ExportConfig
from facekit.core.device import Device
from facekit.core.errors import FacekitError, UsageError
from facekit.core.files import explain_write, sync_folder
from facekit.core.reporting import say
from facekit.data.embeddings import embed_source
from facekit.data.sources import Source, open_source, select
from facekit.models.export import Parity, parity, write_onnx
from facekit.models.loading import Model, load_model


class ParityFailed(FacekitError):
    """The exported file computes something else; it was removed."""


def run(config: ExportConfig) -> None:
    """Export, load the file as any user would, compare on images, and only then give it its name."""
    if config.out.suffix.lower() != ".onnx":
        raise UsageError(f"--out {config.out} must end in .onnx")
    # The reference is computed in fp32 on the CPU, where onnxruntime runs too.
    device = Device.pick("cpu", "fp32", threads=config.threads)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    source = open_source(config.data)
    for note in source.notes:
        say("note", note)
    source = spread(source, config.count)
    result = export_proven(model, source, config)
    size = config.out.stat().st_size
    say(
        "parity",
        f"{result.images} images: least cosine {result.min_cosine:.7f}, "
        f"largest relative difference {result.max_difference:.1e}",
    )
    say("input", f"data [N,3,H,W]: {model.preprocess.describe()}")
    say("wrote", f"{config.out} ({size / 1e6:.2f} MB, licence: {model.licence})")


def spread(source: Source, count: int) -> Source:
    """At most ``count`` images, evenly over the data: neighbours are often the same person."""
    if len(source) <= count:
        return source
    keep = np.zeros(len(source), dtype=bool)
    keep[np.linspace(0, len(source) - 1, count).round().astype(np.int64)] = True
    return select(source, keep)


def export_proven(model: Model, source: Source, config: ExportConfig) -> Parity:
    """Write under a temporary name, pass the gate, rename. Raises ParityFailed, leaving nothing behind."""
    temporary = config.out.with_name(f".{config.out.stem}.{secrets.token_hex(4)}.onnx")
    try:
        write_onnx(model, temporary, config.opset)
        exported = load_model(temporary, device=model.device)
        result = parity(embed_source(model.embed, source)[:, 0], embed_source(exported.embed, source)[:, 0])
        if reason := result.fails(config.min_cosine, config.max_difference):
            raise ParityFailed(
                f"the exported file differs from {config.model} on {result.images} images: {reason}. "
                f"{config.out} was not written; try another --opset, or loosen the limit if you can afford it"
            )
        with explain_write(config.out):
            os.replace(temporary, config.out)
            sync_folder(config.out.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return result
