"""``facekit embed``: embeddings of a set of images, float32, not normalised, in a file others can read."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from facekit.configs import EmbedConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import write_atomic
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import console, progress_bar
from facekit.data.embeddings import embed_source
from facekit.data.sources import Source, open_source
from facekit.evaluation.evaluator import fuse
from facekit.models.loading import Model, load_model


def run(config: EmbedConfig) -> None:
    """Embed --data with --model into --out."""
    if config.out.suffix.lower() not in (".npz", ".npy"):
        raise UsageError(f"--out {config.out} must end in .npz, or in .npy for a matrix with a .csv beside it")
    path = config.data or (Path(os.environ["FACEKIT_DATA"]) if os.environ.get("FACEKIT_DATA") else None)
    if path is None:
        raise UsageError("no images given: add --data FOLDER, or set FACEKIT_DATA to your folder of faces")
    # fp32 unless asked otherwise: what reduced precision does to accuracy is for a measurement to say.
    precision = "fp32" if config.precision == "auto" else config.precision
    device = Device.pick(config.device, precision, threads=config.threads)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    source = open_source(path, images=config.images, exclude=config.exclude, min_images=config.min_images)
    flip = model.preprocess.flip if config.flip == "model" else config.flip
    table = embed(model, source, (0,) if flip == "none" else (0, 1), config.batch)
    write(config.out, table, source, replace(model.preprocess, flip=flip))
    console.print(
        f"wrote    {config.out}: {len(table):,} images x {table.shape[2]}, flip {flip}", highlight=False, soft_wrap=True
    )


def embed(model: Model, source: Source, views: tuple[int, ...], batch: int) -> np.ndarray:
    """float32 [N,V,D] with a progress bar."""
    with progress_bar() as bar:
        shown = bar.add_task("embed", total=len(source), terms="", img_s=None)
        return embed_source(model.embed, source, views=views, batch=batch, progress=lambda n: bar.advance(shown, n))


def write(out: Path, table: np.ndarray, source: Source, preprocess: Preprocess) -> None:
    """.npz keeps the views apart (``embs``, ``embs_f``), as ijb_evals.py does; .npy holds the fused matrix."""
    if out.suffix.lower() == ".npy":
        write_csv(out.with_suffix(".csv"), source)
        fused = fuse(table, preprocess.flip).astype(np.float32)
        write_atomic(out, lambda stream: np.save(stream, fused, allow_pickle=False))
        return
    arrays = {"embs": np.ascontiguousarray(table[:, 0])}
    if table.shape[1] > 1:
        arrays["embs_f"] = np.ascontiguousarray(table[:, 1])
    arrays["names"] = np.array(list(source.names), dtype=np.str_)
    arrays["preprocess"] = np.array(json.dumps(preprocess.to_dict()))
    write_atomic(out, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def write_csv(path: Path, source: Source) -> None:
    """Columns ``path`` and, where known, ``label``: one line per row of the matrix."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    labelled = len(source.identities) > 0
    writer.writerow(["path", "label"] if labelled else ["path"])
    writer.writerows(
        zip(source.names, source.labels.tolist(), strict=True) if labelled else ([n] for n in source.names)
    )
    write_atomic(path, text.getvalue().encode())
