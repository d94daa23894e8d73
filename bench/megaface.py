"""MegaFace's stream beside the bare blocked matrix product, and strict rates of 1e8 scores beside sorting them."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.children import in_child, with_peak
from bench.timing import Paired, Row, at_least, interleave
from facekit.data.megaface import MegaFaceSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation import manyscores
from facekit.evaluation import verification as v
from facekit.evaluation.megaface import BLOCK, measure_megaface
from facekit.evaluation.scoring import Asked

PEOPLE, PROBES, DISTRACTORS, WIDTH = 80, 3530, 1_000_000, 512
FARS = (1e-4, 1e-5, 1e-6)
BUDGET_S = 150
"""A slower machine gets fewer distractors, and the note says how many."""
SPREAD = 204
"""Dimensions in which strangers differ: their cosines are N(0, 0.07)."""


class Numbered:
    """Names that nobody reads, without the memory of a million texts."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> str:
        """``12``."""
        return str(i)


class Beside:
    """A mapped table that, whenever a block of it is read, also times the bare product of probes and block."""

    def __init__(self, table: np.ndarray, probes: np.ndarray) -> None:
        self.table, self.probes = table, probes
        self.shape = table.shape
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """[n,1,D]"""
        block = np.asarray(self.table[rows])
        start = time.process_time()
        self.probes @ block[:, 0].T
        self.seconds += time.process_time() - start
        return block


def write_crowd(path: Path, count: int) -> np.ndarray:
    """Distractors as a mapped .npy, written in blocks."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, 1, WIDTH))
    rng = np.random.default_rng(1)
    for start in range(0, count, BLOCK):
        block = table[start : start + BLOCK, 0]
        block[:] = 0
        block[:, :SPREAD] = rng.standard_normal((len(block), SPREAD), np.float32)
    table.flush()
    return np.load(path, mmap_mode="r")


def some_probes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings [P,1,D], people [P]): cosines of one person's images are about N(.6, .15)."""
    rng = np.random.default_rng(0)
    person = np.sort(np.arange(count) % PEOPLE)
    centre, own = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, count, SPREAD)))
    close = np.clip(rng.normal(0.775, 0.13, (count, 1)), 0.1, 0.99)
    table = np.zeros((count, 1, WIDTH), np.float32)
    table[:, 0, :SPREAD] = close * centre[person] + np.sqrt(1 - close**2) * own
    return table, person


def stream(probes: int, distractors: int) -> dict[str, float]:
    """CPU seconds of our pass and of the bare product, block by block in turn, and the peak of anonymous memory."""
    table, person = some_probes(probes)
    with tempfile.TemporaryDirectory() as folder:
        crowd: Any = Beside(write_crowd(Path(folder) / "crowd.npy", distractors), table[:, 0])
        names = tuple(map(str, range(PEOPLE)))
        bench = MegaFaceSet(
            name="made-up",
            path="made-up",
            noise="original",
            seed=0,
            probes=NamedOnly(Numbered(probes), person, names, table),  # type: ignore[arg-type]
            probe=np.arange(probes),
            person=person,
            people=names,
            replaced=np.zeros(probes, bool),
            distractors=NamedOnly(Numbered(distractors), np.full(distractors, -1), (), crowd),  # type: ignore[arg-type]
            distractor=np.arange(distractors),
            ignored=np.zeros(distractors, bool),
            failed=0,
            notes=(),
        )
        start = time.process_time()
        measured, peak = with_peak(lambda: measure_megaface(bench, lambda source: table, Asked(fars=FARS)))
        total = time.process_time() - start
    rank_1 = next(
        row.value for row in measured.rows if row.metric == "cmc" and str(row.variant).endswith(f"D={distractors}")
    )
    return {"bare": crowd.seconds, "ours": total - crowd.seconds, "peak": peak, "rank_1": rank_1 or math.nan}


def affordable(budget_s: float) -> int:
    """How many distractors fit the budget: two products each, at the speed of this machine."""
    probes, block = np.ones((PROBES, WIDTH), np.float32), np.ones((BLOCK, WIDTH), np.float32)
    probes @ block.T
    start = time.perf_counter()
    for _ in range(3):
        probes @ block.T
    each = (time.perf_counter() - start) / 3 / BLOCK
    return DISTRACTORS if 2.3 * each * DISTRACTORS < budget_s else max(BLOCK, int(budget_s / each / 2.3))


def faiss_seconds(distractors: int) -> str:
    """What IndexFlatIP takes to find each probe's best 1,000, where it is installed; scaled from 100,000."""
    try:
        import faiss
    except ImportError:
        return "faiss is not installed"
    table, _ = some_probes(PROBES)
    some = np.random.default_rng(2).standard_normal((100_000, WIDTH), np.float32)
    start = time.process_time()
    index = faiss.IndexFlatIP(WIDTH)
    index.add(some)
    index.search(np.ascontiguousarray(table[:, 0]), 1000)
    return f"faiss IndexFlatIP, best 1,000: {(time.process_time() - start) * distractors / len(some):.0f} s"


def megaface_stream() -> Row:
    """One pass: rank counts of 153,000 trials, TAR down to FAR 1e-6, 1,000 draws, at six numbers of distractors."""
    distractors = affordable(BUDGET_S)
    found = in_child("bench.megaface", PROBES, distractors)
    value, memory = found["ours"] / found["bare"], found["peak"] / 1e9
    less = "" if distractors == DISTRACTORS else f" (reduced from {DISTRACTORS:,}: this machine is slow)"
    note = (
        f"{PROBES:,} x {distractors:,} x {WIDTH}{less}, mapped; {found['ours']:.0f} CPU s, bare product "
        f"{found['bare']:.0f}, in turn block by block; peak anonymous memory {memory:.2f} GB (bar < 1); "
        f"{faiss_seconds(distractors)}"
    )
    passed = value <= 1.3 and memory < 1
    return Row("MegaFace in one pass / bare blocked product", value, None, None, "<= 1.3", passed, "x", note)


# --- many scores ---------------------------------------------------------------------------------------------

MANY, SORTED = 100_000_000, 10_000_000
LOW_FARS = tuple(10.0**k for k in range(-7, -1))


def roc_many(many: int = MANY, some: int = SORTED, repeats: int = 5) -> Row:
    """Strict TAR at six FARs from unsorted float32 scores, against argsort and cumulative counts."""
    rng = np.random.default_rng(0)
    impostor = rng.standard_normal(many, np.float32) * np.float32(0.07)
    genuine = np.sort(rng.normal(0.6, 0.15, 20_000))
    few = np.concatenate([impostor[:some], genuine.astype(np.float32)])
    same = np.arange(len(few)) >= some

    def ours() -> list[v.OperatingPoint]:
        tail = manyscores.tail_of(
            lambda: (impostor[i : i + (1 << 20)] for i in range(0, many, 1 << 20)), manyscores.depth(LOW_FARS, many)
        )
        return [manyscores.tar_at_far(genuine, tail, far) for far in LOW_FARS]

    def sorting() -> np.ndarray:
        order = np.argsort(-few)
        return np.cumsum(same[order])[np.searchsorted(np.cumsum(~same[order]), [int(f * some) for f in LOW_FARS])]

    paired = interleave(sorting, ours, repeats=repeats, warm=1)
    scale = many * math.log(many) / (some * math.log(some))
    note = f"{many:,} float32 scores, FAR 1e-7 to 1e-2, exact; argsort timed on {some:,} and scaled by n log n"
    return at_least("strict rates of many scores, argsort / ours", Paired(paired.a * scale, paired.b), 20, note)


if __name__ == "__main__":
    print(json.dumps(stream(int(sys.argv[1]), int(sys.argv[2]))))
