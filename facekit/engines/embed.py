"""``facekit embed``: embeddings of a set of images, float32, not normalised, in a file others can read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from facekit.configs import EmbedConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import write_atomic
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.data.embeddings import embed_source
from facekit.data.sources import Source, choose_data, open_source
from facekit.evaluation.evaluator import fuse
from facekit.models.loading import Model, load_model


def run(config: EmbedConfig) -> None:
    """Embed --data with --model into --out."""
    if config.out.suffix.lower() not in (".npz", ".npy"):
        raise UsageError(f"--out {config.out} must end in .npz, or in .npy for a matrix with a .csv beside it")
    path = choose_data(config.data)
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    source = open_source(path, images=config.images, exclude=config.exclude, min_images=config.min_images)
    for note in source.notes:
        say("note", note)
    flip = model.preprocess.flip if config.flip == "model" else config.flip
    table = embed(model, source, (0,) if flip == "none" else (0, 1), config.batch)
    write(config.out, table, source, replace(model.preprocess, flip=flip))
    say("wrote", f"{config.out}: {len(table):,} images x {table.shape[2]}, flip {flip}")


def embed(model: Model, source: Source, views: tuple[int, ...], batch: int) -> np.ndarray:
    """float32 [N,V,D] with a progress bar."""
    with image_progress("embed", len(source)) as advance:
        return embed_source(model.embed, source, views=views, batch=batch, progress=advance)


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
