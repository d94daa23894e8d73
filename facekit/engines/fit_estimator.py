"""``facekit align-eval fit-estimator``: a face's discrepancy from its embedding alone."""

from __future__ import annotations

import numpy as np
import torch

from facekit.alignment.bank import SupportBank, bank_of
from facekit.alignment.estimator import SUFFIX, LearnedEstimator, Lesson, estimate, table_of, write_estimator
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics, StatsSource
from facekit.alignment.virtual import spearman
from facekit.configs import FitEstimatorConfig
from facekit.core.device import Device
from facekit.core.errors import UsageError
from facekit.core.reporting import say
from facekit.data.sources import Source, choose_data, select
from facekit.engines.fitting import now, open_training_data, seed_everything
from facekit.engines.supports import Embedder, ModelEmbedder, unit
from facekit.models.loading import load_model
from facekit.training.degraded import Degraded
from facekit.training.estimator import (
    FitSettings,
    Fitted,
    Lessons,
    Split,
    fit_estimator,
    split_people,
    targets_of,
    usual,
)
from facekit.training.optimisers import build_optimiser

_EMBEDDED = 64  # images at once


def run(config: FitEstimatorConfig) -> None:
    """Embed --data, set targets with half of its people, learn from the others, write the estimator."""
    started = now()
    if config.out.suffix != SUFFIX:
        raise UsageError(f"--out {config.out} must end in {SUFFIX}; the .json is written beside it")
    settings = Settings(neighbours=config.neighbours, statistic=config.statistic, tau=config.tau)
    path = choose_data(config.data)
    device = Device.pick(config.device, config.precision, threads=config.threads, measuring=True)
    model = load_model(config.model, device=device, channels=config.channels, scaling=config.scaling)
    source = open_training_data(config, path, need_labels=True)
    split = split_people(source.labels, config.seed)
    embedder = ModelEmbedder.of(model, device, config.flip, _EMBEDDED, config.cache_dir)
    vectors = unit(embedder, source)
    bank = bank_of_half(config, source, vectors, split, embedder)
    statistics = BankStatistics(bank, settings, place=device.torch_device)
    learn = lessons(vectors[split.learn], statistics)
    if config.augment:
        worse = unit(embedder, Degraded(select(source, split.learn), config.seed))
        learn = Lessons(*map(torch.cat, zip(learn, lessons(worse, statistics), strict=True)))
    held = lessons(vectors[split.held], statistics)
    for note in statistics.notes():
        say("note", note)
    tell_split(config, source, split)
    fitted = fit(config, learn, held, device)
    learned = LearnedEstimator(fitted.network, lesson_of(config, fitted, learn, held, source, bank))
    write_estimator(config.out, learned)
    report(config, learned, len(held.vectors), now() - started)


def bank_of_half(
    config: FitEstimatorConfig, source: Source, vectors: np.ndarray, split: Split, embedder: Embedder
) -> SupportBank:
    """The people whose faces set the targets."""
    return bank_of(
        vectors[split.bank],
        [source.identities[label] for label in source.labels[split.bank].tolist()],
        [source.names[row] for row in split.bank.tolist()],
        "train",
        reduce=config.reduce,
        seed=config.seed,
        model_sha=embedder.model_sha,
        preproc_sha=embedder.preproc_sha,
    )


def lessons(vectors: np.ndarray, statistics: StatsSource) -> Lessons:
    """Unit rows and what the bank says of them."""
    return Lessons(torch.from_numpy(vectors.astype(np.float32)), targets_of(statistics(vectors)))


def fit(config: FitEstimatorConfig, learn: Lessons, held: Lessons, device: Device) -> Fitted:
    """Train from this seed on."""
    seed_everything(config.seed)
    settings = FitSettings(config.epochs, config.batch, config.seed)
    return fit_estimator(
        learn,
        held,
        lambda modules: build_optimiser("adamw", modules, config.lr, config.weight_decay),
        device,
        settings,
    )


def lesson_of(
    config: FitEstimatorConfig, fitted: Fitted, learn: Lessons, held: Lessons, source: Source, bank: SupportBank
) -> Lesson:
    """What the file says beside the weights."""
    dbar, log_vbar = usual(learn.targets).tolist()
    return Lesson(
        neighbours=config.neighbours,
        statistic=config.statistic,
        tau=config.tau,
        reduce=config.reduce,
        dbar=dbar,
        vbar=float(np.exp(log_vbar)),
        model_sha=bank.model_sha,
        preproc_sha=bank.preproc_sha,
        bank_sha=bank.sha,
        r2=fitted.r2,
        spearman=spearman(estimate(fitted.network, held.vectors.numpy())[:, 0], held.targets[:, 0].numpy()),
        people=len(source.identities),
        images=len(learn.vectors),
    )


def tell_split(config: FitEstimatorConfig, source: Source, split: Split) -> None:
    """Who is for what."""
    bank, learn, held = (len(np.unique(source.labels[rows])) for rows in split)
    copies = ", each also as a worse copy" if config.augment else ""
    say(
        "people",
        f"{bank:,} set the targets, {learn:,} are learned from ({len(split.learn):,} images{copies}), {held:,} are "
        f"held out ({len(split.held):,} images)",
    )


def report(config: FitEstimatorConfig, learned: LearnedEstimator, held: int, seconds: float) -> None:
    """How good it is, what was written, what to type next."""
    lesson = learned.lesson
    say("fitted", f"R2 {lesson.r2:.3f}, Spearman {lesson.spearman:.3f} on {held:,} images of unseen people")
    if learned.constant:
        say("warning", "the estimator is no better than a constant: with it scores keep their raw order")
    say("wrote", f"{config.out} and {table_of(config.out).name} ({seconds:.0f} s)")
    say(
        "next",
        f"facekit align-eval --model {config.model} --scores raw,dao --support learned={config.out} --benchmark LIST",
    )
