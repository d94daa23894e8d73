"""``facekit export``: an ONNX file that was proven on real images before it got its name."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facekit.alignment.estimator import (
    EstimatorStatistics,
    LearnedEstimator,
    module_with_aligned_output,
    read_estimator,
    require_estimator,
)
from facekit.alignment.extended import EXTENDED_SIDES, extend
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import Reference
from facekit.configs import ExportConfig
from facekit.core.device import Device
from facekit.core.errors import FacekitError, InputError, UsageError
from facekit.core.files import explain_write, sync_folder
from facekit.core.reporting import say
from facekit.data.embeddings import embed_source
from facekit.data.sources import Source, open_source, select
from facekit.evaluation.vectors import VIEWS, unit_vectors
from facekit.models.export import Parity, parity, write_onnx
from facekit.models.loading import Model, load_model
from facekit.models.onnxfile import OnnxNetwork

ALIGNED = ("aligned_enrol", "aligned_probe")
"""Outputs after the embedding, [N,D+2] each: to store, and to search with."""


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
    estimator = None if config.with_estimator is None else open_estimator(config.with_estimator, model)
    for what, result in export_proven(model, source, config, estimator).items():
        say(
            "parity",
            f"{what}, {result.images} images: least cosine {result.min_cosine:.7f}, "
            f"largest relative difference {result.max_difference:.1e}",
        )
    size = config.out.stat().st_size
    say("input", f"data [N,3,H,W]: {model.preprocess.describe()}")
    say("wrote", f"{config.out} ({size / 1e6:.2f} MB, licence: {model.licence})")


def spread(source: Source, count: int) -> Source:
    """At most ``count`` images, evenly over the data: neighbours are often the same person."""
    if len(source) <= count:
        return source
    keep = np.zeros(len(source), dtype=bool)
    keep[np.linspace(0, len(source) - 1, count).round().astype(np.int64)] = True
    return select(source, keep)


def open_estimator(path: Path, model: Model) -> LearnedEstimator:
    """The estimator of this network, under the flip rule that the network's table says."""
    if model.classes:
        raise InputError(f"{model.path} has classes; --with-estimator aligns the embeddings of faces")
    learned = read_estimator(path)
    require_estimator(learned, model.sha256, model.preprocess.hash())
    return learned


def export_proven(
    model: Model, source: Source, config: ExportConfig, estimator: LearnedEstimator | None = None
) -> dict[str, Parity]:
    """Write under a temporary name, pass the gate, rename: output -> how well both models agree.

    Raises ParityFailed, leaving nothing behind.
    """
    temporary = config.out.with_name(f".{config.out.stem}.{secrets.token_hex(4)}.onnx")
    try:
        if estimator is None:
            write_onnx(model, temporary, config.opset)
        else:
            write_aligned(model, temporary, config, estimator)
        exported = load_model(temporary, device=model.device)
        found = compare(model, exported, source)
        for what, result in found.items():
            if reason := result.fails(config.min_cosine, config.max_difference):
                raise ParityFailed(
                    f"the {what} of the exported file differ from those of {config.model} on {result.images} images: "
                    f"{reason}. {config.out} was not written; try another --opset, or loosen the limit if you can "
                    "afford it"
                )
        if estimator is not None:
            check_aligned(model, exported, source, config, estimator)
        with explain_write(config.out):
            os.replace(temporary, config.out)
            sync_folder(config.out.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def compare(model: Model, exported: Model, source: Source) -> dict[str, Parity]:
    """Embeddings, and class scores where there are classes, of both models on the same images."""
    both = {"embeddings": (model.embed, exported.embed)}
    if model.classes:
        both["class scores"] = (model.logits, exported.logits)
    return {
        what: parity(embed_source(first, source)[:, 0], embed_source(second, source)[:, 0])
        for what, (first, second) in both.items()
    }


# --- aligned outputs --------------------------------------------------------------------------------------


def write_aligned(model: Model, path: Path, config: ExportConfig, estimator: LearnedEstimator) -> None:
    """The network with its estimator behind it: three outputs, the embedding first."""
    flip = model.preprocess.flip

    def wrap(net: nn.Module) -> nn.Module:
        return module_with_aligned_output(net, estimator, config.alpha, flip)

    facts = {"alignment": json.dumps({"alpha": config.alpha, "flip": flip, "estimator": estimator.sha})}
    write_onnx(model, path, config.opset, wrap, ALIGNED, facts)


def check_aligned(
    model: Model, exported: Model, source: Source, config: ExportConfig, estimator: LearnedEstimator
) -> None:
    """Raise ParityFailed where an inner product of the file's aligned vectors is not the aligned score."""
    vectors = unit_vectors(
        embed_source(model.embed, source, views=VIEWS[model.preprocess.flip]), model.preprocess.flip, source.names
    )
    d = EstimatorStatistics(estimator)(vectors).d
    settings, usual = Settings(alpha=config.alpha), Reference(estimator.lesson.dbar, estimator.lesson.vbar, 0.0)
    sides = [extend(vectors, d, settings, usual, side) for side in EXTENDED_SIDES]
    wanted = sides[0] @ sides[1].T
    network = exported.network
    assert isinstance(network, OnnxNetwork)
    images = exported.preprocess(torch.from_numpy(source.read(np.arange(len(source)))).permute(0, 3, 1, 2))
    enrolled, probe = (network.aligned(images, name) for name in ALIGNED)
    worst = float(np.abs(enrolled @ probe.T - wanted).max())
    if not worst <= config.max_difference:
        raise ParityFailed(
            f"aligned scores of the exported file differ by {worst:.2e} on {len(source)} images, the limit is "
            f"{config.max_difference:g}. {config.out} was not written; try another --opset"
        )
    say("aligned", f"largest difference of an aligned score {worst:.1e}; outputs {', '.join(ALIGNED)}")
