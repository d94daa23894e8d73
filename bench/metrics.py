"""Metrics against the literal InsightFace algorithm; memory of a large .bin; time of the swap page."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.peers import insightface_evaluate
from bench.timing import Row, at_least, interleave
from facekit.data.folds import contiguous_tenths
from facekit.evaluation import verification as v


def six_thousand() -> tuple[np.ndarray, np.ndarray]:
    """6,000 pairs of 512-d float64 unit rows with overlapping classes, genuine and impostor interleaved per fold."""
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 300), 10)
    left = rng.normal(size=(6000, 512))
    noise = rng.normal(size=(6000, 512))
    right = np.where(same[:, None], left + 1.7 * noise, noise)
    vectors = np.stack([left, right], axis=1).reshape(12000, 512)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), same


def ours(vectors: np.ndarray, same: np.ndarray) -> tuple[object, ...]:
    """The same six outputs."""
    index = np.arange(len(same))
    distance = v.pair_distances(vectors, 2 * index, 2 * index + 1)
    folds = v.accuracy_10fold(distance, same)
    value, std, far = v.val_at_far(distance, same, contiguous_tenths(len(same)), 1e-3)
    return folds.tpr, folds.fpr, folds.accuracy, value, std, far


def metrics_speed() -> Row:
    """Both end to end, from embeddings to the six outputs, which must be bit-equal."""
    vectors, same = six_thousand()
    theirs = insightface_evaluate(vectors, same)
    for a, b in zip(theirs, ours(vectors, same), strict=True):
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            raise SystemExit("the six outputs differ from the literal algorithm")
    paired = interleave(lambda: insightface_evaluate(vectors, same), lambda: ours(vectors, same))
    note = "400 + 4,000 thresholds, ten folds; all six outputs bit-equal"
    return at_least("metrics of 6,000 pairs, literal InsightFace algorithm / ours", paired, 60, note)


# Peak memory is reset after the model has run once (Linux: writing 5 to clear_refs), so that neither its start-up nor
# its first pass hides what the evaluation adds.
BIN_CHILD = """
import sys
import torch
from pathlib import Path
from facekit.core.preprocess import Preprocess
from facekit.core.device import Device
from facekit.data.pairs import open_benchmark
from facekit.evaluation.evaluator import evaluate, table_of
from facekit.evaluation.scoring import Asked
from facekit.models import build_backbone
from facekit.models.loading import as_embedder
device = Device.pick("cpu", "fp32", threads=2)
model = build_backbone("mbf_nano", 128).eval()
embed = as_embedder(model, Preprocess(embedding=128), device)
embed(torch.zeros(64, 3, 112, 112, dtype=torch.uint8))
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open("/proc/self/clear_refs", "w").write("5")
base = status("VmRSS")
pairs = open_benchmark(sys.argv[1])
rows = evaluate(table_of(embed, "sum"), [pairs], Asked(flip="sum")).rows
print(status("VmHWM") - base, len(pairs.source))
"""


def bin_memory() -> Row:
    """Peak memory beyond the loaded and used model, for a .bin of 12,000 images, flip fusion included."""
    from facekit.data.decode import encode_jpeg

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twelve_thousand.bin"
        bins = []
        for _ in range(12000):
            small = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            bins.append(encode_jpeg(np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1))))
        path.write_bytes(pickle.dumps((bins, [bool(i % 2) for i in range(6000)]), protocol=4))
        size = path.stat().st_size
        del bins
        out = subprocess.run([sys.executable, "-c", BIN_CHILD, str(path)], check=True, capture_output=True, text=True)
    grown, images = (int(x) for x in out.stdout.split()[-2:])
    value = grown * 1024 / 1e9
    note = f"{images:,} images, {size / 1e6:.0f} MB of JPEG; peak resident memory minus that of the model in use"
    return Row(".bin of 12,000 images, memory beyond the model", value, None, None, "< 0.6", value < 0.6, "GB", note)


def swap_page() -> Row:
    """From embeddings to the written page, on a benchmark of the size of LFW's test people."""
    from bench.swapping import certificate_page

    times = []
    for _ in range(3):
        start = time.perf_counter()
        size = certificate_page()
        times.append(time.perf_counter() - start)
    value = float(np.median(times))
    note = f"963 people, 2,186 images, 2.4 million pairs, 1,000 draws; page of {size / 1e3:.0f} kB; wall, median of 3"
    return Row("swap page after embedding", value, None, None, "< 10", value < 10, "s", note)
