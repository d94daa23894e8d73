"""How long a user waits for the audit of a file of embeddings, from the command to the list."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.timing import Row

IMAGES, IDENTITIES, WIDTH = 10_000, 500, 512
LIMIT = 60.0
REPEATS = 3


def write_embeddings(path: Path) -> None:
    """Random embeddings of people with 20 images each, in the form of ``facekit embed``."""
    vectors = np.random.default_rng(0).normal(size=(IMAGES, WIDTH)).astype(np.float32)
    names = [f"person{i % IDENTITIES:03d}/{i:05d}.jpg" for i in range(IMAGES)]
    np.savez(path, embs=vectors, names=np.array(names))


def seconds_of(command: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of a child process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def audit_embeddings() -> Row:
    """``facekit autoweight audit emb.npz``, the start of Python included."""
    with tempfile.TemporaryDirectory() as folder:
        embeddings = Path(folder) / "emb.npz"
        write_embeddings(embeddings)
        verb = [sys.executable, "-m", "facekit", "autoweight", "audit", str(embeddings), "--device", "cpu"]
        found = [seconds_of([*verb, "--out", str(Path(folder) / f"audit{i}")]) for i in range(REPEATS)]
    wall, cpu = (float(np.median(column)) for column in zip(*found, strict=True))
    note = f"{IMAGES:,} x {WIDTH}, {IDENTITIES} identities: wall, median of {REPEATS}; {cpu:.1f} CPU s"
    return Row("audit of embeddings", wall, None, None, f"< {LIMIT:g} s", wall < LIMIT, "s", note)
