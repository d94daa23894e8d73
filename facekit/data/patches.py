"""Training batches of patches: images of any size, made smaller by a random factor and cut to squares.

Scale, place and flips are functions of (seed, epoch, image, turn), as all of ``data.batches``: a run resumes from two
numbers. Making images smaller weakens the traces of the JPEG coder that they went through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facekit.core.errors import InputError, UsageError
from facekit.core.types import Batch
from facekit.data.batches import channels_last, epoch_order, epoch_views, mix
from facekit.data.memory import free_ram
from facekit.data.originals import Originals
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Store

PATCH = 32
"""What the stream of hashed numbers is for, beside those of ``data.batches``."""
SCALE, TOP, LEFT, UPSIDE = range(4)
LEAST_SCALE, MIDDLE_SCALE = 0.6, 0.75
"""Half of the patches are scaled by a factor between these two, the others by one up to 1."""
REACH = 2
"""Bicubic interpolation sees so many pixels of the smaller picture to each side."""


class Patches(NamedTuple):
    """Which patches are cut out of their images, one row each; lengths are shares, since images differ in size."""

    image: np.ndarray
    """int64 [n], position in the data set."""
    scale: np.ndarray
    """float64 [n], .6 to 1."""
    top: np.ndarray
    """float64 [n], share of the way from the topmost patch to the lowest."""
    left: np.ndarray
    """float64 [n], share of the way from the leftmost to the rightmost."""
    upside: np.ndarray
    """bool [n], turned upside down."""


class PatchBatches:
    """Batches of square patches of a source whose images may differ in size.

    ``side`` of a patch in pixels; ``turns`` patches are cut out of every image in an epoch. ``put`` moves a batch to
    the device. Decoded images are kept in ``keep_bytes`` of RAM, by default a third of what is free, shared between
    ``world`` processes. ``batch`` is the whole batch; process ``rank`` gets rows [rank B/world, (rank+1) B/world).
    An image smaller than a patch raises InputError when it is read.
    """

    def __init__(
        self,
        source: Store,
        *,
        batch: int,
        side: int,
        seed: int,
        put: Callable[[Tensor], Tensor],
        turns: int = 1,
        keep_bytes: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world:
            raise UsageError(f"--batch {batch} cannot be cut into equal slices for {world} processes")
        self.source, self.batch, self.side, self.seed, self.put = source, batch, side, seed, put
        self.turns, self.share, self.rank = turns, batch // world, rank
        self.originals = Originals(source, free_ram() // 3 // world if keep_bytes is None else keep_bytes)
        self.steps_per_epoch = len(source) * turns // batch
        if self.steps_per_epoch == 0:
            raise InputError(
                f"{turns} patches of each of {len(source)} images are fewer than one batch of {batch}; "
                "lower --batch or add images"
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step ``start`` on. Images are uint8 [B,3,side,side] in channels_last memory.

        Mirroring is left to the device, as ``view`` says; turning upside down is done.
        """
        count = len(self.source) * self.turns
        order, views = epoch_order(self.seed, epoch, count), epoch_views(self.seed, epoch, count)
        begins = [step * self.batch + self.rank * self.share for step in range(start, self.steps_per_epoch)]
        parts = [order[begin : begin + self.share] for begin in begins]
        jobs = (partial(self.cut, drawn(self.seed, epoch, rows, self.turns)) for rows in parts)
        position = self.put(torch.arange(self.rank * self.share, (self.rank + 1) * self.share))
        for rows, pixels in zip(parts, prefetched(jobs, threads=reader_threads(), ahead=8), strict=True):
            index = rows // self.turns
            labels, image, view = map(self.onto, (self.source.labels[index], index, views[rows]))
            yield Batch(self.put(channels_last(torch.from_numpy(pixels))), labels, image, view, position)

    def onto(self, array: np.ndarray) -> Tensor:
        """The array as a tensor on the device."""
        return self.put(torch.from_numpy(array))

    def cut(self, patches: Patches) -> np.ndarray:
        """uint8 [n,side,side,3] RGB."""
        out = np.empty((len(patches.image), self.side, self.side, 3), np.uint8)
        for row, (image, scale, top, left, upside) in enumerate(zip(*patches, strict=True)):
            pixels = self.originals[int(image)]
            if min(pixels.shape[:2]) < self.side:
                raise self.too_small(int(image), pixels)
            square = patch(pixels, self.side, scale, top, left)
            out[row] = square[::-1] if upside else square
        return out

    def too_small(self, i: int, pixels: np.ndarray) -> InputError:
        """One sentence that names the image."""
        height, width, _ = pixels.shape
        return InputError(
            f"image {self.source.names[i]} is {height}x{width}, smaller than a patch of {self.side}x{self.side}; "
            "lower --crop, or take it out of the data"
        )


def drawn(seed: int, epoch: int, rows: np.ndarray, turns: int) -> Patches:
    """The patches of int64 rows [n]: row r is turn r % turns of image r // turns."""
    words = mix(seed, epoch, PATCH, rows[:, None], np.arange(4))
    share = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    scale = np.interp(share[:, SCALE], (0, 0.5, 1), (LEAST_SCALE, MIDDLE_SCALE, 1))
    return Patches(rows // turns, scale, share[:, TOP], share[:, LEFT], share[:, UPSIDE] < 0.5)


def patch(pixels: np.ndarray, side: int, scale: float, top: float, left: float) -> np.ndarray:
    """A square of the image scaled by ``scale``, or by as much more as the square needs to fit into it.

    uint8 [H,W,3] -> uint8 [side,side,3], bicubic without aliasing. ``top`` and ``left`` are shares of the way it can
    be moved. The result equals the same square of the whole scaled image: its surroundings count at its border.
    """
    height, width, _ = pixels.shape
    span = min(side / scale, height, width)
    y, x = top * (height - span), left * (width - span)
    margin = math.ceil(REACH * span / side) + 1
    # Only what the filter reaches is handed to Pillow, which copies what it is given.
    above, before = max(0, math.floor(y) - margin), max(0, math.floor(x) - margin)
    below, after = math.ceil(y + span) + margin, math.ceil(x + span) + margin
    near = np.ascontiguousarray(pixels[above:below, before:after])
    box = (x - before, y - above, min(x - before + span, near.shape[1]), min(y - above + span, near.shape[0]))
    return np.asarray(Image.fromarray(near).resize((side, side), Image.Resampling.BICUBIC, box))
