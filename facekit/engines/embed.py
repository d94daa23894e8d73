"""``facekit embed``: embeddings of a set of images, float32, not normalised, in a file others can read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from facekit.alignment.extended import extend
from facekit.alignment.policy import Policy, policy_table, write_policy
from facekit.configs import EmbedConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.files import write_atomic
from facekit.core.preprocess import Preprocess
from facekit.core.reporting import image_progress, say
from facekit.data.embeddings import embed_source
from facekit.data.sources import Source, choose_data
from facekit.engines.fitting import open_images
from facekit.engines.supports import Alignments, ModelEmbedder, unit
from facekit.evaluation.scoring import people_on
from facekit.evaluation.vectors import VIEWS, fuse
from facekit.models.loading import Model, load_model

VERB = {"enrol": "be enrolled", "probe": "be searched with"}


def run(config: EmbedConfig) -> None:
    """Embed --data with --model into --out."""
    if config.out.suffix.lower() not in (".npz", ".npy"):
        raise UsageError(f"--out {config.out} must end in .npz, or in .npy for a matrix with a .csv beside it")
    check_alignment(config)
    path = choose_data(config.data)
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    source = open_images(config, path)
    for note in source.notes:
        say("note", note)
    flip = model.preprocess.flip if config.flip == "model" else config.flip
    preprocess = replace(model.preprocess, flip=flip)
    embedder = ModelEmbedder(model, device, flip, config.batch, None)
    if config.aligned is not None:
        vectors, policy = aligned(config, embedder, source)
        write_aligned(config.out, vectors, source, preprocess, policy, config.aligned)
        say("wrote", f"{config.out}: {len(vectors):,} images x {vectors.shape[1]}, aligned, to {VERB[config.aligned]}")
        say("use", "the inner product of an enrolled and a probe vector is the aligned score; do not normalise them")
        return
    table = embed(model, source, VIEWS[flip], config.batch)
    write(config.out, table, source, preprocess)
    say("wrote", f"{config.out}: {len(table):,} images x {table.shape[2]}, flip {flip}")


def embed(model: Model, source: Source, views: tuple[int, ...], batch: int) -> np.ndarray:
    """float32 [N,V,D] with a progress bar."""
    with image_progress("embed", len(source)) as advance:
        return embed_source(model.embed, source, views=views, batch=batch, progress=advance)


# --- aligned ----------------------------------------------------------------------------------------------


def check_alignment(config: EmbedConfig) -> None:
    """What the flags alone decide."""
    if config.aligned is None:
        if config.support or config.policy:
            raise UsageError("--support and --policy are read with --aligned: say for which side, enrol or probe")
        return
    if len(config.support) != 1 or config.support[0] == "gallery":
        raise UsageError(
            "--aligned needs one --support that is the same for all that will be enrolled and searched: cohort=PATH, "
            "train=PATH, latentmix=PATH, noise, learned=FILE, or a bank .npz"
        )


def aligned(config: EmbedConfig, embedder: ModelEmbedder, source: Source) -> tuple[np.ndarray, Policy]:
    """Vectors [N,D+2] whose inner product is the aligned score, and the alignment they stand for."""
    assert config.aligned is not None
    alignments = Alignments(config, ("dao",), embedder, None, source.identities, 0)
    (policy,) = alignments.policies()
    (prepared,) = alignments.prepared
    assert prepared.source is not None
    vectors = unit(embedder, source)
    stats = prepared.source(vectors, people_on(source))
    return extend(vectors, stats.d, policy.settings, policy.reference, config.aligned).astype(np.float32), policy


def write_aligned(
    out: Path, vectors: np.ndarray, source: Source, preprocess: Preprocess, policy: Policy, side: str
) -> None:
    """.npz with ``aligned``, ``names``, ``side``, ``policy`` and ``preprocess``; or .npy with .csv and .policy.json."""
    if out.suffix.lower() == ".npy":
        write_csv(out.with_suffix(".csv"), source)
        write_policy(out.with_suffix(".policy.json"), policy)
        write_atomic(out, lambda stream: np.save(stream, vectors, allow_pickle=False))
        return
    arrays = {
        "aligned": vectors,
        "names": np.array(list(source.names), dtype=np.str_),
        "side": np.array(side),
        "policy": np.array(json.dumps(policy_table(policy))),
        "preprocess": np.array(json.dumps(preprocess.to_dict())),
    }
    write_atomic(out, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


# --- files ------------------------------------------------------------------------------------------------


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
    """Columns ``path`` and, where known, ``label`` (the name of the person): one line per row of the matrix."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    people = people_on(source)
    writer.writerow(["path"] if people is None else ["path", "label"])
    writer.writerows([[name] for name in source.names] if people is None else zip(source.names, people, strict=True))
    write_atomic(path, text.getvalue().encode())
