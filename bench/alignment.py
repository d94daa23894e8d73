"""What an alignment adds to an evaluation: the search of a support bank beside embedding the images."""

from __future__ import annotations

import time

import numpy as np
import torch

from bench.timing import Row, cpu_seconds
from facekit.alignment.bank import bank_of
from facekit.alignment.scorers import build_scorer
from facekit.alignment.settings import Settings
from facekit.alignment.statistics import BankStatistics
from facekit.core.device import Device
from facekit.core.preprocess import Preprocess
from facekit.evaluation.verification import pair_cosines
from facekit.models import build_backbone
from facekit.models.loading import as_embedder

IDENTITIES, IMAGES, WIDTH = 10_000, 12_000, 128
EMBEDDED = 256


def unit_rows(count: int, seed: int) -> np.ndarray:
    """Random unit vectors float64 [n,D]."""
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedding_seconds(images: int) -> float:
    """CPU seconds that mbf_s1 takes for the images, scaled from a few batches."""
    device = Device.pick("cpu", "fp32")
    embed = as_embedder(build_backbone("mbf_s1", WIDTH).eval(), Preprocess(embedding=WIDTH), device)
    batch = torch.zeros(64, 3, 112, 112, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    embed(batch)
    taken = [cpu_seconds(lambda: embed(batch)) for _ in range(EMBEDDED // 64)]
    return float(np.median(taken)) * images / 64


def dao_bank(identities: int = IDENTITIES, images: int = IMAGES) -> Row:
    """dao's statistics of every image, and the aligned scores of 6,000 pairs."""
    people = [f"{i:05d}" for i in range(identities)]
    bank = bank_of(unit_rows(identities, 0), people, people, "cohort", model_sha="", preproc_sha="")
    vectors = unit_rows(images, 1)
    left, right = 2 * np.arange(images // 2), 2 * np.arange(images // 2) + 1

    def aligned() -> None:
        source = BankStatistics(bank, Settings())
        scorer = build_scorer("dao", Settings(), source, cosines=pair_cosines, support="cohort")
        terms = scorer.terms(vectors)
        scorer.combine(pair_cosines(vectors, vectors, left, right), terms[left], terms[right])

    start = time.perf_counter()
    ours = float(np.median([cpu_seconds(aligned) for _ in range(5)]))
    wall = (time.perf_counter() - start) / 5
    embedding = embedding_seconds(images)
    value = ours / (ours + embedding)
    note = (
        f"{identities:,} identities, {images:,} images, {WIDTH}-d, K 50: {ours:.2f} CPU s ({wall:.2f} wall) beside "
        f"{embedding:.0f} CPU s of mbf_s1 without flips, scaled from {EMBEDDED} images"
    )
    return Row("dao's bank, share of an evaluation", value, None, None, "<= 0.10", value <= 0.10, "x", note)
