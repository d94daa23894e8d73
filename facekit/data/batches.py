"""Training batches: their order, flips and masks are functions of (seed, epoch, index) alone.

So a run resumes from the two numbers (epoch, step), with batches identical to those it would have seen. Several
processes cut every batch into equal slices, in rank order: what a batch holds does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from facekit.core.errors import InputError, UsageError
from facekit.core.types import Batch
from facekit.data.memory import free_ram
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Source

ORDER, FLIP, MASK = 1, 2, 3
BLOCK = 256


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hash whole numbers to uint64 by chained splitmix64 rounds (Steele, Lea, Flood 2014).

    Our own rather than numpy's generator, whose streams may change between versions: a resumed run must not.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        state = state + np.asarray(word).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0..n-1, int64 [n]."""
    return np.argsort(mix(seed, epoch, ORDER, np.arange(n)), kind="stable")


def epoch_views(seed: int, epoch: int, n: int) -> np.ndarray:
    """0 plain or 1 mirrored for every image, int64 [n]; half of them each on average."""
    return (mix(seed, epoch, FLIP, np.arange(n)) >> np.uint64(63)).astype(np.int64)


def epoch_masks(seed: int, epoch: int, n: int, share: float) -> np.ndarray:
    """The mask of every image as a key of ``wear_mask``, int64 [n]: about ``share`` of them wear one, 0 is none."""
    draw = mix(seed, epoch, MASK, np.arange(n))
    worn = (draw >> np.uint64(11)).astype(np.float64) < share * 2.0**53
    return np.where(worn, draw | np.uint64(1), np.uint64(0)).view(np.int64)


class Plan(NamedTuple):
    """One epoch, laid out: everything but the pixels, already on the device so that a step copies nothing small."""

    order: np.ndarray
    rows: Tensor
    labels: Tensor
    view: Tensor
    position: Tensor
    mask: Tensor | None


class Batches:
    """Batches of a source. ``cache``: where the decoded pixels are.

    ``ram`` and ``device`` decode everything once and gather with one indexing call a step; ``none`` decodes every
    batch in a few threads ahead of the step; ``auto`` is ram if the pixels of all processes fit into a third of the
    free RAM. ``mask`` is the share of the images that wear a face mask; the pixels handed out are without it, the task
    puts it on (``core.augment.seen``). ``batch`` is the whole batch; process ``rank`` of ``world`` gets rows
    [rank B/world, (rank+1) B/world).
    """

    def __init__(
        self,
        source: Source,
        *,
        batch: int,
        seed: int,
        flip: bool,
        put: Callable[[Tensor], Tensor],
        cache: str = "auto",
        drop_last: bool = True,
        mask: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world or (world > 1 and not drop_last):
            raise UsageError(f"--batch {batch} cannot be cut into equal slices for {world} processes")
        self.share, self.rank = batch // world, rank
        self.source, self.batch, self.seed, self.flip, self.put = source, batch, seed, flip, put
        self.mask = mask
        self.steps_per_epoch = len(source) // batch if drop_last else -(-len(source) // batch)
        if self.steps_per_epoch == 0:
            raise InputError(f"{len(source)} images are fewer than one batch of {batch}; lower --batch or add images")
        self.cache = choose_cache(source, world) if cache == "auto" else cache
        self.pixels = None if self.cache == "none" else decode_all(source)
        if self.pixels is not None and self.cache == "device":
            self.pixels = put(self.pixels)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on. Images are uint8 [B,3,H,W] in channels_last memory."""
        plan = self.plan(epoch)
        begins = [s * self.batch + self.rank * self.share for s in range(start, self.steps_per_epoch)]
        slices = [slice(begin, begin + self.share) for begin in begins]
        for part, images in zip(slices, self.images(plan, slices), strict=True):
            rows = plan.rows[part]
            mask = None if plan.mask is None else plan.mask[part]
            yield Batch(images, plan.labels[part], rows, plan.view[part], plan.position[: len(rows)], mask)

    def plan(self, epoch: int) -> Plan:
        """Order, labels, flips and masks of an epoch."""
        n = len(self.source)
        order = epoch_order(self.seed, epoch, n)
        view = epoch_views(self.seed, epoch, n)[order] if self.flip else np.zeros(n, np.int64)
        own = np.arange(self.rank * self.share, (self.rank + 1) * self.share)
        rows, labels, views, position = (
            self.put(torch.from_numpy(np.ascontiguousarray(a))) for a in (order, self.source.labels[order], view, own)
        )
        mask = None
        if self.mask > 0:
            mask = self.put(torch.from_numpy(epoch_masks(self.seed, epoch, n, self.mask)[order]))
        return Plan(order, rows, labels, views, position, mask)

    def images(self, plan: Plan, slices: list[slice]) -> Iterator[Tensor]:
        """The pixels of each slice of the plan, on the device."""
        if self.pixels is None:
            jobs = (partial(self.source.read, plan.order[part]) for part in slices)
            for pixels in prefetched(jobs, threads=min(4, reader_threads()), ahead=4):
                yield self.put(channels_last(torch.from_numpy(pixels)))
        elif self.cache == "device":
            for part in slices:
                yield channels_last(self.pixels.index_select(0, plan.rows[part]))
        else:
            order = torch.from_numpy(plan.order)
            for part in slices:
                yield self.put(channels_last(self.pixels.index_select(0, order[part])))


def channels_last(pixels: Tensor) -> Tensor:
    """[B,H,W,3] -> [B,3,H,W] without moving a byte: the layout on disk is the one the convolutions want."""
    return pixels.permute(0, 3, 1, 2)


def pixel_bytes(source: Source) -> int:
    """Size of all decoded images."""
    return len(source) * source.size[0] * source.size[1] * 3


def choose_cache(source: Source, world: int) -> str:
    """``ram`` if a copy for each of ``world`` processes fits into a third of what is free, else ``none``."""
    return "ram" if pixel_bytes(source) * world <= free_ram() // 3 else "none"


def decode_all(source: Source) -> Tensor:
    """All images, uint8 [N,H,W,3], decoded in a few threads."""
    pixels = np.empty((len(source), *source.size, 3), np.uint8)

    def fill(first: int) -> None:
        rows = np.arange(first, min(first + BLOCK, len(source)))
        pixels[rows[0] : rows[-1] + 1] = source.read(rows)

    jobs = (partial(fill, first) for first in range(0, len(source), BLOCK))
    for _ in prefetched(jobs, threads=reader_threads(), ahead=16):
        pass
    return torch.from_numpy(pixels)
