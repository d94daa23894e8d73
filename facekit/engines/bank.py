"""``facekit align-eval bank``: write a support set, so that every run is aligned by the same faces."""

from __future__ import annotations

import numpy as np

from facekit.alignment.bank import SupportBank, require_same, write_bank
from facekit.alignment.candidates import keep_candidates
from facekit.alignment.statistics import stranger_similarity
from facekit.alignment.virtual import judged, latentmix, noise, split_people, virtual_bank
from facekit.configs import BankConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.reporting import image_progress, say
from facekit.data.protocol import Source
from facekit.data.sources import choose_data
from facekit.engines.fitting import open_training_data
from facekit.engines.supports import ModelEmbedder, bank_of_source, describe_bank
from facekit.evaluation.vectors import VIEWS, fuse, unit_vectors
from facekit.models.loading import load_model
from facekit.training.virtual_faces import draw_candidates, load_generator

STRANGER_FAR = 1e-4
"""A drawn face counts as a real person above the raw threshold of this rate."""


def run(config: BankConfig) -> None:
    """Embed --data with --model and write --out; virtual people are made from them."""
    if config.out.suffix.lower() != ".npz":
        raise UsageError(f"--out {config.out} must end in .npz")
    if (config.generator is None) == (config.kind == "cgan"):
        raise UsageError("--generator is the run folder that --kind cgan draws with: give both, or neither")
    device = Device.pick(config.device, config.precision, measuring=True, threads=config.threads)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    embedder = ModelEmbedder.of(model, device, config.flip, config.batch, config.cache_dir)
    bank = built(config, embedder)
    write_bank(config.out, bank)
    for name, value in describe_bank(bank).items():
        say("bank", f"{name}: {value}")
    say("wrote", f"{config.out}: {len(bank.labels):,} images, hash {bank.sha[:12]}; use it as --support {config.out}")


def built(config: BankConfig, embedder: ModelEmbedder) -> SupportBank:
    """The bank of the kind that was asked for."""
    if config.kind == "noise":
        return noise(
            embedder.width,
            candidates=config.candidates,
            model_sha=embedder.model_sha,
            preproc_sha=embedder.preproc_sha,
            seed=config.seed,
        )
    source = open_training_data(config, choose_data(config.data), need_labels=True)
    if config.kind in ("cohort", "train"):
        return bank_of_source(source, config.kind, config.reduce, embedder)
    real = bank_of_source(source, "train", config.reduce, embedder)
    if config.kind == "latentmix":
        return latentmix(real, candidates=config.candidates, partners=config.partners, seed=config.seed)
    return drawn(config, embedder, source, real)


def drawn(config: BankConfig, embedder: ModelEmbedder, source: Source, real: SupportBank) -> SupportBank:
    """Faces drawn for mixtures of the training people, embedded, and those kept that are people of their own."""
    assert config.generator is not None
    model, device = embedder.model, embedder.device
    generator = load_generator(config.generator, device)
    drawn_for = model if config.drawn_for is None else load_model(config.drawn_for, device=device)
    require_same("the generator", "model", generator.recogniser, drawn_for.sha256)
    require_same("the generator", "preprocessing", generator.preprocess, drawn_for.preprocess.hash())
    plain = ModelEmbedder(drawn_for, device, "none", config.batch, config.cache_dir)
    mixed = latentmix(
        bank_of_source(source, "train", config.reduce, plain),
        candidates=config.candidates,
        partners=config.partners,
        seed=config.seed,
    )
    with image_progress("draw and embed", config.candidates) as advance:
        table = draw_candidates(
            generator,
            mixed.embeddings,
            model.embed,
            size=model.preprocess.size,
            views=VIEWS[embedder.flip],
            batch=config.batch,
            seed=config.seed,
            progress=advance,
        )
    # Whether a face is the one asked for is the generator's own model's word.
    asked = (
        draw_candidates(generator, mixed.embeddings, drawn_for.embed, size=drawn_for.preprocess.size, seed=config.seed)
        if embedder.flip != "none" or drawn_for is not model
        else table
    )
    vectors = unit_vectors(table, embedder.flip, mixed.sample_ids)
    split = split_people(real, config.seed)
    kept = keep_candidates(
        vectors,
        np.einsum("nd,nd->n", unit_vectors(asked, "none", mixed.sample_ids), mixed.embeddings),
        split.prototypes.entries().vectors,
        threshold=stranger_similarity(real, 1 - STRANGER_FAR, config.seed),
        norms=None if model.preprocess.normalised_output else norms_of(table, embedder.flip),
        real_norms=None if model.preprocess.normalised_output else norms_of(embedder.table(source), embedder.flip),
        most=config.candidates,
    )
    report = {**generator.provenance(embedder.model_sha), **kept.report}
    return judged(virtual_bank(vectors[kept.rows], "cgan", real, config.seed, report), split)


def norms_of(table: np.ndarray, flip: str) -> np.ndarray:
    """Lengths of fused embeddings before normalisation, [N]."""
    return np.asarray(np.linalg.norm(fuse(table, flip), axis=1))
