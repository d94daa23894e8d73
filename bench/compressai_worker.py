"""CompressAI's models at work in an environment of their own: one request a line in, one answer a line out, JSON.

A request is ``{"model": "mbt2018", "part": "decode"}``, the answer ``{"cpu": s, "wall": s}``. The first line, before
any request, says what is installed. Weights are random: seconds are right, bytes are not.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

HEIGHT, WIDTH = 512, 768
MODELS = {
    "bmshj2018-hyperprior": ("ScaleHyperprior", 128, 192),
    "mbt2018-mean": ("MeanScaleHyperprior", 128, 192),
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", 192, 192),
}
"""Class, N, M: the smaller ones of each name in CompressAI's zoo."""
OPERATORS = ("nms", "qnms")
"""Which torchvision's package registers only beside the torch that it was built for; nothing here calls them."""


def shim() -> torch.library.Library:
    """Declare them. Keep what this returns: they go with it."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@functools.cache
def parts(name: str) -> dict[str, Callable[[], Any]]:
    """What can be timed of a model."""
    import compressai.models

    kind, n, m = MODELS[name]
    torch.manual_seed(0)
    net = getattr(compressai.models, kind)(n, m).eval()
    net.update()
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    y = torch.randn(1, m, HEIGHT // 16, WIDTH // 16)
    with torch.inference_mode():
        coded = net.compress(image)
    return {
        "encode": lambda: net.compress(image),
        "decode": lambda: net.decompress(coded["strings"], coded["shape"]),
        "synthesis": lambda: net.g_s(y),
    }


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of all threads, and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with torch.inference_mode():
        call()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(1)
    library = shim()
    import compressai  # noqa: F401  # fails here where it cannot be used

    versions = {name: importlib.metadata.version(name) for name in ("compressai", "torch", "numpy")}
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(timed(parts(request["model"])[request["part"]])), file=answers)
    del library


if __name__ == "__main__":
    main()
