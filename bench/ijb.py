"""IJB-C's 1:1 protocol from image embeddings to the rows, on made-up embeddings of its size."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from bench.children import in_child, with_peak
from bench.timing import Row
from facekit.data.ijb import TemplateSet
from facekit.data.vectors import NamedOnly
from facekit.evaluation.ijb import measure_ijb
from facekit.evaluation.scoring import Asked

ENROLLED, SEARCHED, PAIRS, WIDTH = 3_531, 19_593, 15_658_489, 512
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def made_up(enrolled: int, searched: int, pairs: int) -> tuple[TemplateSet, np.ndarray]:
    """(the set, its embeddings float32 [N,1,D]): one image per template, one enrolled template per person."""
    rng = np.random.default_rng(0)
    subject = np.concatenate([np.arange(enrolled), rng.integers(0, enrolled, searched)])
    table = rng.standard_normal((enrolled + searched, 1, WIDTH), np.float32)
    table[enrolled:] += 0.8 * table[subject[enrolled:]]
    cell = np.sort(rng.choice(enrolled * searched, pairs - searched, replace=False))
    left = np.concatenate([cell // searched, subject[enrolled:]]).astype(np.int32)
    right = np.concatenate([cell % searched, np.arange(searched)]).astype(np.int32) + np.int32(enrolled)
    order = np.argsort(left, kind="stable")
    left, right = left[order], right[order]
    count = len(subject)
    bench = TemplateSet(
        name="made-up",
        path="made-up",
        sha256="",
        source=NamedOnly([str(i) for i in range(count)], np.full(count, -1), ()),
        template=np.arange(count, dtype=np.int32),
        media=np.zeros(count, np.int64),
        faceness=np.ones(count),
        template_id=np.arange(count),
        left=left,
        right=right,
        same=subject[left] == subject[right],
        subject=subject,
        subjects=tuple(f"{i:05d}" for i in range(enrolled)),
        galleries=(),
        probe=np.empty(0, np.int32),
        failed=0,
        notes=(),
    )
    return bench, table


def measured(enrolled: int, searched: int, pairs: int) -> dict[str, float]:
    """Wall and CPU seconds of one measurement, the peak of anonymous memory, and how many rows it gave."""
    bench, table = made_up(enrolled, searched, pairs)
    wall, cpu = time.perf_counter(), time.process_time()
    found, peak = with_peak(lambda: measure_ijb(bench, lambda source: table, Asked(fars=FARS)))
    times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**times, "peak": peak, "rows": len(found.rows), "pairs": len(bench.same)}


def ijb_pairs() -> Row:
    """Pooling, all cosines, strict and compat TAR at six FARs, 1,000 draws of people."""
    found = in_child("bench.ijb", ENROLLED, SEARCHED, PAIRS)
    value, memory = found["wall"], found["peak"] / 1e9
    note = (
        f"{found['pairs']:,.0f} pairs of {ENROLLED:,} enrolled and {SEARCHED:,} searched templates, FAR 1e-6 to 1e-1, "
        f"1,000 draws; {found['cpu']:.0f} CPU s; peak anonymous memory {memory:.2f} GB, the pairs themselves included "
        "(bar < 1)"
    )
    return Row("IJB-C 1:1 after embedding", value, None, None, "< 30", value < 30 and memory < 1, "s", note)


if __name__ == "__main__":
    print(json.dumps(measured(*map(int, sys.argv[1:]))))
