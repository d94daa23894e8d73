"""Batches as a weighter sees them: in one process, and cut between processes that really wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from facekit.weighting.base import Facts, View

T = TypeVar("T")
CPU = torch.device("cpu")


def facts(classes: int = 4, epochs: int = 2, steps_per_epoch: int = 4, truth: Tensor | None = None) -> Facts:
    """A run of 8 steps on 100 images of classes of 10, 20, 30, ... images."""
    return Facts(100, 10 * torch.arange(1, classes + 1), epochs, steps_per_epoch, seed=0, device=CPU, truth=truth)


def view(seed: int = 0, size: int = 16, classes: int = 4, step: int = 0, rate: float = 1.0) -> View:
    """A random batch whose losses are the cross-entropies of its logits."""
    generator = Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, classes, generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    index = torch.randperm(100, generator=generator)[:size]
    return View(cross_entropy(logits, labels, reduction="none"), logits, labels, index, step, rate)


def in_processes(work: Callable[[View], T], whole: View, cuts: tuple[int, ...]) -> list[T]:
    """What every process gets from ``work`` on its part of the batch; ``cuts`` are the parts' sizes."""
    parts: list[list[Tensor]] = [[] for _ in cuts]
    barrier = threading.Barrier(len(cuts), timeout=30)

    def run(rank: int) -> T:
        def gather(values: Tensor) -> Tensor:
            parts[rank].append(values)
            barrier.wait()
            everything = torch.cat([part[-1] for part in parts])
            barrier.wait()
            return everything

        own = slice(sum(cuts[:rank]), sum(cuts[: rank + 1]))
        tensors = {name: getattr(whole, name)[own] for name in ("loss", "logits", "labels", "index")}
        return work(whole._replace(**tensors, gather=gather, own=own))

    with ThreadPoolExecutor(len(cuts)) as pool:
        return list(pool.map(run, range(len(cuts))))
