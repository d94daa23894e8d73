"""The one pass over a support bank: for every image the closest entries, and the moments of all similarities.

Similarities are float32 inner products in tiles; a running merge keeps the best of each tile, so that memory is a tile
and not images x bank. An image's own person is left out.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from facekit.alignment.bank import LEAST_ENTRIES, SupportBank, require_size
from facekit.alignment.errors import FewNeighbours
from facekit.alignment.rows import unit_rows

People = Sequence[str | None]
"""The name of the person on each image, None where unknown."""
REMEMBERED = 4
"""Sets of images whose neighbours are kept: gallery and probes, and once more."""
_CPU = torch.device("cpu")
LEFT_OUT = -2.0
"""Stands for the similarity to an entry that does not count: below every cosine, and finite, so that sums stay so."""
_MOMENT_ROWS = 16  # rows of a tile that are float64 at once


class Found(NamedTuple):
    """What one pass finds for N images."""

    values: np.ndarray
    """float32 [N,K] similarities to the closest entries, falling; ``LEFT_OUT`` where there are no more"""
    entries: np.ndarray
    """int64 [N,K] which entries they are, -1 where there are no more"""
    usable: np.ndarray
    """int64 [N] entries that are not the image's own person"""
    total: np.ndarray
    """float64 [N] sum of the similarities to the usable entries; [0] where not asked for"""
    squares: np.ndarray
    """float64 [N] sum of their squares; [0] where not asked for"""


class Met(NamedTuple):
    """What one tile gives for its B images."""

    values: Tensor
    """[B,k] best similarities"""
    entries: Tensor
    """[B,k] whose they are"""
    same: Tensor | int
    """[B] entries left out as too similar, or 0"""
    sums: Tensor | int
    """[2,B] of similarities and their squares, or 0"""


class Tile(NamedTuple):
    """Images and bank rows that meet in one matrix product."""

    images: int
    rows: int

    @staticmethod
    def within(memory: int) -> Tile:
        """The largest tile of at most ``memory`` bytes of float32: 4,096 x 65,536 (1 GiB), halved until it fits.

        Images are halved first, to 256: fewer merges, and a product that small is as fast.
        """
        images, rows = 4096, 65_536
        while 4 * images * rows > memory and (images > 1 or rows > 1):
            if images > 256 or rows == 1:
                images //= 2
            else:
                rows //= 2
        return Tile(images, rows)


def default_tile(place: torch.device) -> Tile:
    """1 GiB on an accelerator. On a CPU 64 MiB: a tile near the cache took a fifth less time than one of 1 GiB."""
    return Tile.within(1 << 26 if place.type == "cpu" else 1 << 30)


class Search:
    """Finds the ``reach`` closest entries of a bank; remembers its last answers, so that many scores share one pass.

    ``same_above``: an entry more similar than this is taken for the image's own person. Raises ALIGN-SMALL or
    ALIGN-GALLERY for a bank of too few people.
    """

    def __init__(
        self,
        bank: SupportBank,
        reach: int,
        *,
        same_above: float | None = None,
        tile: Tile | None = None,
        place: torch.device = _CPU,
    ) -> None:
        require_size(bank)
        self.bank, self.same_above, self.place = bank, same_above, place
        self.moments = False
        self.tile = tile or default_tile(place)
        self.entries = bank.entries()
        self.rows = torch.from_numpy(self.entries.vectors).to(place)
        self.reach = min(reach, len(self.entries))
        self.images = self.suspected = self.renormalised = 0
        self._remembered: OrderedDict[bytes, Found] = OrderedDict()

    def __call__(self, vectors: np.ndarray, people: People | None = None) -> Found:
        """Unit rows [N,D] of images, and who is on them -> what is found.

        Raises ALIGN-EMB for rows that are no embeddings of this width, ALIGN-FEW naming an image with fewer than ten
        usable entries.
        """
        own = self.own_entries(people, len(vectors))
        key = hashlib.sha256(np.ascontiguousarray(vectors).view(np.uint8).data).digest() + own.tobytes()
        if key not in self._remembered:
            self._remembered[key] = self._search(vectors, own)
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(key)
        return self._remembered[key]

    def want_moments(self) -> None:
        """From now on sum over all entries too."""
        if not self.moments:
            self.moments = True
            self._remembered.clear()

    def own_entries(self, people: People | None, images: int) -> np.ndarray:
        """Entry of the person on each image, int64 [N]; -1 where the bank has none."""
        if people is None:
            return np.full(images, -1)
        return np.array([self.entries.number.get(name, -1) if name is not None else -1 for name in people], np.int64)

    def _search(self, vectors: np.ndarray, own: np.ndarray) -> Found:
        images, renormalised = unit_rows(vectors, "embeddings of the images", self.rows.shape[1])
        blocks = [
            self._search_block(images[start : start + self.tile.images], own[start : start + self.tile.images])
            for start in range(0, max(len(images), 1), self.tile.images)
        ]
        found = Found(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
        few = found.usable < LEAST_ENTRIES
        if few.any():
            raise FewNeighbours(
                f"image {int(np.argmax(few))} of {len(images)} has {int(found.usable[few][0])} usable neighbours in "
                f"the {self.bank.kind} bank of {len(self.entries)} people, but needs {LEAST_ENTRIES}; "
                "add people to the bank, or raise --same-above"
            )
        self.images += len(images)
        self.suspected += int(np.sum(found.usable < len(self.entries) - (own >= 0)))
        self.renormalised += renormalised
        return found

    def _search_block(self, vectors: np.ndarray, own: np.ndarray) -> Found:
        """All tiles of one block of images, merged as they come."""
        images = torch.from_numpy(np.array(vectors, np.float32)).to(self.place)
        best = torch.empty(len(images), 0, device=self.place)
        entries = torch.empty(len(images), 0, dtype=torch.int64, device=self.place)
        usable = torch.from_numpy(len(self.entries) - (own >= 0)).to(self.place)
        sums = torch.zeros(2, len(images) if self.moments else 0, dtype=torch.float64, device=self.place)
        for first, last in self.spans():
            met = self._meet(images, own, first, last)
            best, place = torch.cat([best, met.values], dim=1).topk(min(self.reach, last), dim=1)
            entries = torch.cat([entries, met.entries], dim=1).gather(1, place)
            usable -= met.same
            sums += met.sums
        if self.moments:
            left_out = len(self.entries) - usable
            sums -= torch.stack([LEFT_OUT * left_out, LEFT_OUT**2 * left_out])
        entries.masked_fill_(best == LEFT_OUT, -1)
        return Found(*(part.cpu().numpy() for part in (best, entries, usable, *sums)))

    def _meet(self, images: Tensor, own: np.ndarray, first: int, last: int) -> Met:
        """One tile: its own call, so that it is gone before the next one is made."""
        tile = self.similarities(images, first, last)
        self._leave_out_own(tile, own, first)
        same = self._leave_out_same(tile)
        best = tile.topk(min(self.reach, last - first), dim=1)
        return Met(best.values, best.indices + first, same, moments(tile) if self.moments else 0)

    def _leave_out_own(self, tile: Tensor, own: np.ndarray, first: int) -> None:
        """Mark the entry of the image's own person, where it is in this tile [B,m]."""
        here = np.flatnonzero((own >= first) & (own < first + tile.shape[1]))
        rows, columns = (torch.from_numpy(part).to(self.place) for part in (here, own[here] - first))
        tile[rows, columns] = LEFT_OUT

    def _leave_out_same(self, tile: Tensor) -> Tensor | int:
        """Mark what is too similar for another person; how many entries of each image, [B] or 0."""
        if self.same_above is None or tile.amax() <= self.same_above:
            return 0
        same = tile > self.same_above
        tile.masked_fill_(same, LEFT_OUT)
        return same.sum(dim=1)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Entries [first, last) of each tile: as many as have ``tile.rows`` rows, at least one."""
        starts, first = self.entries.starts, 0
        while first < len(self.entries):
            fitting = int(np.searchsorted(starts, starts[first] + self.tile.rows, side="right")) - 1
            last = max(first + 1, fitting)
            yield first, last
            first = last

    def similarities(self, images: Tensor, first: int, last: int) -> Tensor:
        """float32 [B, last-first]: of images [B,D] to the entries; with several rows to an entry, to the closest."""
        starts = self.entries.starts[first : last + 1]
        with exact_products():
            tile = images @ self.rows[starts[0] : starts[-1]].T
        if len(starts) == tile.shape[1] + 1:
            return tile
        entry = torch.from_numpy(np.repeat(np.arange(last - first), np.diff(starts))).to(self.place)
        closest = tile.new_full((len(tile), last - first), -torch.inf)
        return closest.scatter_reduce_(1, entry.expand(len(tile), -1), tile, "amax")


def moments(tile: Tensor) -> Tensor:
    """Sum and sum of squares of each row, float64 [2,B]. A few rows at a time are float64."""
    parts = []
    for rows in tile.split(_MOMENT_ROWS):
        exact = rows.double()
        parts.append(torch.stack([exact.sum(dim=1), exact.square_().sum(dim=1)]))
    return torch.cat(parts, dim=1)


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 inside, whatever precision networks run in."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
