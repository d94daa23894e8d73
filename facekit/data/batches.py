"""Training batches: their order, flips, masks and crops are functions of (seed, epoch, index) alone.

So a run resumes from the two numbers (epoch, step), with batches identical to those it would have seen. Several
processes cut every batch into equal slices, in rank order: what a batch holds does not depend on their number.
An image that an order brings twice in an epoch looks the same both times.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
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

ORDER, FLIP, MASK, CROP, GROUP, MEMBER = range(1, 7)
"""What a stream of hashed numbers is for: the word behind (seed, epoch)."""
BLOCK = 256

Order = Callable[[int], np.ndarray]
"""Epoch -> the rows of the data set in the order they are seen, int64; as many in every epoch."""


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


def epoch_crops(seed: int, epoch: int, n: int) -> np.ndarray:
    """The crop of every image as a key of ``core.augment.Augment``, int64 [n]."""
    return mix(seed, epoch, CROP, np.arange(n)).view(np.int64)


class Plan(NamedTuple):
    """One epoch, laid out: everything but the pixels, already on the device so that a step copies nothing small."""

    order: np.ndarray
    rows: Tensor
    labels: Tensor
    view: Tensor
    position: Tensor
    mask: Tensor | None
    crop: Tensor | None


class Batches:
    """Batches of a source. ``cache``: where the decoded pixels are.

    ``ram`` and ``device`` decode everything once and gather with one indexing call a step; ``none`` decodes every
    batch in a few threads ahead of the step. ``auto`` is device if the pixels fit into a quarter of ``free_bytes``, the
    free memory of an accelerator, else ram if those of all processes fit into a third of the free RAM. ``order`` says
    which images meet (``data.samplers``), None is at random. ``mask`` is the share of the images that wear a face mask,
    ``crops`` whether they are cropped; the pixels handed out are bare and whole, the task does both
    (``core.augment.Augment``). ``batch`` is the whole batch; process ``rank`` of ``world`` gets rows
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
        crops: bool = False,
        order: Order | None = None,
        free_bytes: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world or (world > 1 and not drop_last):
            raise UsageError(f"--batch {batch} cannot be cut into equal slices for {world} processes")
        self.share, self.rank = batch // world, rank
        self.source, self.batch, self.seed, self.flip, self.put = source, batch, seed, flip, put
        self.mask, self.crops = mask, crops
        self.order: Order = partial(epoch_order, seed, n=len(source)) if order is None else order
        rows = len(source) if order is None else len(order(0))
        self.steps_per_epoch = rows // batch if drop_last else -(-rows // batch)
        if self.steps_per_epoch == 0:
            raise InputError(f"{len(source)} images are fewer than one batch of {batch}; lower --batch or add images")
        self.cache = choose_cache(source, world, free_bytes) if cache == "auto" else cache
        self.pixels: Tensor | None = None
        if self.cache != "none":
            self.pixels = decode_all(source, put if self.cache == "device" else unmoved)

    def reseeded(self, seed: int, order: Order | None = None) -> Batches:
        """The same images in another order, with other flips, masks and crops; the pixels are shared."""
        other = copy.copy(self)
        other.seed = seed
        other.order = partial(epoch_order, seed, n=len(self.source)) if order is None else order
        return other

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on. Images are uint8 [B,3,H,W] in channels_last memory."""
        plan = self.plan(epoch)
        begins = [s * self.batch + self.rank * self.share for s in range(start, self.steps_per_epoch)]
        slices = [slice(begin, begin + self.share) for begin in begins]
        for part, images in zip(slices, self.images(plan, slices), strict=True):
            rows = plan.rows[part]
            mask, crop = (None if keys is None else keys[part] for keys in (plan.mask, plan.crop))
            yield Batch(images, plan.labels[part], rows, plan.view[part], plan.position[: len(rows)], mask, crop)

    def plan(self, epoch: int) -> Plan:
        """Order, labels, flips, masks and crops of an epoch."""
        n = len(self.source)
        order = self.order(epoch)
        view = epoch_views(self.seed, epoch, n)[order] if self.flip else np.zeros(len(order), np.int64)
        own = np.arange(self.rank * self.share, (self.rank + 1) * self.share)
        mask = self.onto(epoch_masks(self.seed, epoch, n, self.mask)[order]) if self.mask > 0 else None
        crop = self.onto(epoch_crops(self.seed, epoch, n)[order]) if self.crops else None
        rows, labels, views, position = map(self.onto, (order, self.source.labels[order], view, own))
        return Plan(order, rows, labels, views, position, mask, crop)

    def onto(self, array: np.ndarray) -> Tensor:
        """The array as a tensor on the device."""
        return self.put(torch.from_numpy(np.ascontiguousarray(array)))

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


class SideBySide:
    """Batches of several runs, one behind the other: [N B] rows, run by run. ``apart`` undoes it."""

    def __init__(self, runs: Sequence[Batches]) -> None:
        self.runs = runs
        self.steps_per_epoch = runs[0].steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """From step ``start`` on; ``position`` is the place in each run's own batch."""
        for parts in zip(*(run.epoch(epoch, start) for run in self.runs), strict=True):
            joined = (None if fields[0] is None else torch.cat(fields) for fields in zip(*parts, strict=True))
            yield Batch(*joined)  # type: ignore[arg-type]  # None only where the field may be


def apart(batch: Batch, runs: int) -> list[Batch]:
    """The batches of the runs that were laid side by side."""
    parts = [[None] * runs if field is None else field.chunk(runs) for field in batch]
    return [Batch(*fields) for fields in zip(*parts, strict=True)]


def channels_last(pixels: Tensor) -> Tensor:
    """[B,H,W,3] -> [B,3,H,W] without moving a byte: the layout on disk is the one the convolutions want."""
    return pixels.permute(0, 3, 1, 2)


def pixel_bytes(source: Source) -> int:
    """Size of all decoded images."""
    return len(source) * source.size[0] * source.size[1] * 3


def choose_cache(source: Source, world: int, free_bytes: int | None = None) -> str:
    """Where all pixels fit: ``device``, ``ram`` or nowhere (``none``).

    ``device`` if they take at most a quarter of an accelerator's ``free_bytes``, ``ram`` if a copy for each of
    ``world`` processes takes at most a third of the free RAM.
    """
    pixels = pixel_bytes(source)
    if free_bytes is not None and pixels <= free_bytes // 4:
        return "device"
    return "ram" if pixels * world <= free_ram() // 3 else "none"


def decode_all(source: Source, put: Callable[[Tensor], Tensor]) -> Tensor:
    """All images, uint8 [N,H,W,3] where ``put`` puts things, decoded in a few threads, some blocks at a time."""
    place = put(torch.empty(0)).device
    pixels = torch.empty((len(source), *source.size, 3), dtype=torch.uint8, device=place)
    blocks = [np.arange(first, min(first + BLOCK, len(source))) for first in range(0, len(source), BLOCK)]
    jobs = (partial(source.read, rows) for rows in blocks)
    for rows, block in zip(blocks, prefetched(jobs, threads=reader_threads(), ahead=16), strict=True):
        pixels[rows[0] : rows[-1] + 1] = put(torch.from_numpy(block))
    return pixels


def unmoved(tensor: Tensor) -> Tensor:
    """The tensor where it is."""
    return tensor
