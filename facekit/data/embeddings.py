"""Embeddings of a source, kept on disk: the teacher's outputs in distillation and the evaluation's cache in one.

A cache entry is ``<name>.npy`` (float32 [N,V,D]) with ``<name>.json`` beside it, which says of what, how many rows are
safely on disk, and their CRC. While it grows the array file is called ``<name>.partial.npy``; a killed run continues
after its last safe row.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from facekit.core.device import Device
from facekit.core.errors import FacekitError, InputError, NonFinite
from facekit.core.files import explain_write, locked, read_json, sync_folder, write_json
from facekit.data.cache_dir import default_cache_dir
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Source

__all__ = ["default_cache_dir", "embed_source"]

Embed = Callable[[Tensor], Tensor]
Report = Callable[[int], None]
Produce = Callable[[int, Report], Iterator[np.ndarray]]
SAVE_SECONDS = 5.0
"""How much work a kill may cost."""
CRC_BLOCK = 1 << 24
ALONE = Device(torch.device("cpu"), "fp32")
"""One process, which computes where it calls: nothing is queued."""


def embed_source(
    embed: Embed,
    source: Source,
    *,
    views: tuple[int, ...] = (0,),
    batch: int = 64,
    key: str = "",
    cache_dir: Path | None = None,
    progress: Report | None = None,
    device: Device = ALONE,
) -> np.ndarray:
    """Embed every image in every view (0 plain, 1 mirrored): float32 [N,V,D], not normalised.

    ``embed`` takes uint8 [n,3,H,W] RGB in channels_last memory and returns [n,D]. ``key`` names the network, its
    preprocessing and precision; with ``cache_dir`` the result is kept under a name made of key, source and views, and
    what is there is used after its CRC was checked. ``progress`` is told how many more images are done,
    those found in the cache too. ``device`` says where ``embed`` computes, and which processes do it together: each
    embeds its share of the batches, all get the whole, as one process would make it, and process 0 alone writes.
    Raises NonFinite if an embedding is not finite, so that a broken network never fills a cache.
    """
    if not views or any(v not in (0, 1) for v in views):
        raise InputError(f"views {views} must name 0 (plain) or 1 (mirrored)")
    report = progress or (lambda more: None)
    produce = partial(blocks, embed, source, views, batch, device)
    if cache_dir is None:
        return gather(produce(0, report), len(source))
    about = {"key": key, "fingerprint": source.fingerprint, "views": list(views), "images": len(source)}
    entry = Entry(cache_dir, about)
    if device.rank == 0:
        found = kept(entry, produce, report, device)
        device.tell("written")
    else:
        done = device.tell(None)
        report(done)
        for _ in produce(done, report):
            pass  # process 0 keeps them
        device.tell(None)
        found = entry.finished()
    if found is None:
        reason = "is the disk failing?" if device.rank == 0 else "do all processes see the same cache folder?"
        raise InputError(f"the embeddings just written to {entry.final} cannot be read back; {reason}")
    return found


def kept(entry: Entry, produce: Produce, report: Report, device: Device) -> np.ndarray | None:
    """The entry, found or made now; the other processes are told from which row on they are needed."""
    with locked(entry.lock):  # another run may compute the same: then its result is found
        found = entry.finished()
        if found is None:
            fill(entry, lambda done, report: produce(device.tell(done), report), report)
            return entry.finished()
        report(device.tell(len(found)))
        return found


def blocks(
    embed: Embed, source: Source, views: tuple[int, ...], batch: int, device: Device, start: int, report: Report
) -> Iterator[np.ndarray]:
    """Embeddings of consecutive images from ``start`` on, float32 [n,V,D] each, on every process.

    The processes take turns: each embeds every ``world``-th batch, and what was found in a round goes to all.
    """
    rows = [np.arange(i, min(i + batch, len(source))) for i in range(start, len(source), batch)]
    rounds = range(0, len(rows), device.world)
    # In the last round some have nothing left: they repeat the last batch, and it is dropped below.
    own = [rows[min(first + device.rank, len(rows) - 1)] for first in rounds]
    width: int | None = None
    for first, block in zip(rounds, embedded(embed, source, views, own, device), strict=True):
        if width not in (None, block.shape[2]):
            raise InputError(f"the network returned embeddings of {width} and of {block.shape[2]} numbers")
        width = block.shape[2]
        for index, part in zip(rows[first : first + device.world], everyones(block, batch, device), strict=False):
            yield part[: len(index)]
            report(len(index))


def everyones(block: np.ndarray, batch: int, device: Device) -> Iterable[np.ndarray]:
    """What the processes found in this round, in rank order; shorter blocks are filled up to ``batch`` rows."""
    if device.world == 1:
        return (block,)
    padded = torch.zeros(1, batch, *block.shape[1:])
    padded[0, : len(block)] = torch.from_numpy(block)
    return device.gather(padded).numpy()


def embedded(
    embed: Embed, source: Source, views: tuple[int, ...], rows: Sequence[np.ndarray], device: Device
) -> Iterator[np.ndarray]:
    """The blocks of ``rows``, float32 [n,V,D] each. Decoding runs ahead, in one thread where networks need the CPU."""
    queues = device.torch_device.type not in ("cpu", "mps")  # Metal's queue is not for two threads
    threads = min(4, reader_threads()) if queues else 1
    decoded = prefetched((partial(source.read, r) for r in rows), threads=threads, ahead=1 + threads)
    jobs = (
        partial(embed_block, embed, source, views, index, pixels) for index, pixels in zip(rows, decoded, strict=True)
    )
    if queues:  # while one thread waits for a result, the other queues the next batch
        yield from prefetched(jobs, threads=2, ahead=1)
    else:
        yield from (job() for job in jobs)


def embed_block(
    embed: Embed, source: Source, views: tuple[int, ...], index: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """One batch in all views, float32 [n,V,D]. Raises NonFinite naming the image."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    block = np.stack([to_array(embed(images.flip(3) if view else images), len(index)) for view in views], axis=1)
    bad = np.flatnonzero(~np.isfinite(block).all(axis=(1, 2)))
    if len(bad):
        raise NonFinite(f"the network's output for {source.names[index[bad[0]]]} is not finite; nothing of it was kept")
    return block


def gather(parts: Iterator[np.ndarray], n: int) -> np.ndarray:
    """All blocks in one array of ``n`` rows, made when the first tells its width.

    A list of blocks would be ten times as large: each small block kept pins a freed batch of pixels beside it.
    """
    done = 0
    out = np.empty((0, 0, 0), np.float32)
    for block in parts:
        if not done:
            out = np.empty((n, *block.shape[1:]), np.float32)
        out[done : done + len(block)] = block
        done += len(block)
    return out


def to_array(embedding: Tensor, n: int) -> np.ndarray:
    """float32 [n,D] on the host."""
    if embedding.ndim != 2 or embedding.shape[0] != n:
        raise InputError(f"the network returned shape {tuple(embedding.shape)} for {n} images; [{n}, D] was expected")
    return embedding.detach().to("cpu", torch.float32).numpy()


def fill(entry: Entry, produce: Produce, report: Report) -> None:
    """Write all rows, continuing after the safe ones of an earlier attempt."""
    with entry.partial_file() as (stream, done):
        report(done)
        for block in produce(done, report):
            entry.append(stream, block)
        entry.save(stream)
    entry.finish()


class Entry:
    """One cache entry on disk. Only the process that holds its lock touches its files."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = folder / "embeddings"
        self.final, self.growing, self.table, self.lock = (
            self.folder / f"{name}{suffix}" for suffix in (".npy", ".partial.npy", ".json", ".lock")
        )
        self.about = about
        self.shape: tuple[int, ...] = ()
        self.rows = self.crc = 0
        self.saved_at = time.monotonic()

    def finished(self) -> np.ndarray | None:
        """The complete array, mapped privately (writing to it changes no file); None if there is none to trust."""
        rows, crc = self.stored()
        if rows != self.about["images"] or not self.final.is_file():
            return None
        try:
            array = np.load(self.final, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        plain = array.view(np.ndarray)
        wanted = (rows, len(self.about["views"]))
        if plain.dtype != np.float32 or plain.ndim != 3 or plain.shape[:2] != wanted or crc_of(plain) != crc:
            return None
        return plain

    def stored(self) -> tuple[int, int]:
        """(rows safely on disk, their CRC) if the table is of this entry, else (0, 0)."""
        try:
            table = read_json(self.table)
            if {k: table[k] for k in self.about} == self.about:
                return int(table["rows"]), int(table["crc32"])
        except (FacekitError, KeyError, TypeError, ValueError):
            pass
        return 0, 0

    @contextmanager
    def partial_file(self) -> Iterator[tuple[BinaryIO, int]]:
        """The growing file, cut to the rows that are certainly whole, and their number."""
        with explain_write(self.growing):
            stream = open(self.growing, "r+b" if self.growing.exists() else "w+b")  # noqa: SIM115  # as above
        with stream:
            with explain_write(self.growing):
                self.recover(stream)
            yield stream, self.rows

    def recover(self, stream: BinaryIO) -> None:
        """Set rows and crc to what can be continued and cut the rest off."""
        self.rows, self.crc = self.stored()
        end = 0
        try:
            shape, fortran, dtype = read_npy_header(stream)
            wanted = (self.about["images"], len(self.about["views"]))
            length = self.rows * int(np.prod(shape[1:])) * 4
            if shape[:2] == wanted and len(shape) == 3 and dtype == np.float32 and not fortran and self.rows:
                begin = stream.tell()
                if crc_of_stream(stream, length) == self.crc:
                    self.shape, end = shape, begin + length
        except (ValueError, EOFError, OSError, SyntaxError):
            pass
        if not end:
            self.rows = self.crc = 0
        stream.truncate(end)
        stream.seek(end)

    def append(self, stream: BinaryIO, block: np.ndarray) -> None:
        """Add rows; every few seconds make them safe."""
        if self.shape and block.shape[1:] != self.shape[1:]:
            raise InputError(
                f"the network returned {block.shape[2]} numbers an image, the {self.rows} rows kept in {self.growing} "
                f"have {self.shape[2]}; delete that file if the network is the right one"
            )
        data = np.ascontiguousarray(block, "<f4").tobytes()
        with explain_write(self.growing):
            if not self.shape:
                self.shape = (self.about["images"], *block.shape[1:])
                header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(data)
        self.rows += len(block)
        self.crc = zlib.crc32(data, self.crc)
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save(stream)

    def save(self, stream: BinaryIO) -> None:
        """Bytes first, then the table that vouches for them."""
        with explain_write(self.growing):
            stream.flush()
            os.fsync(stream.fileno())
        write_json(self.table, {**self.about, "rows": self.rows, "crc32": self.crc})
        self.saved_at = time.monotonic()

    def finish(self) -> None:
        """The table vouches for all rows already, so a kill right here costs only this rename."""
        with explain_write(self.final):
            os.replace(self.growing, self.final)
            sync_folder(self.folder)


def read_npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type; the stream then stands at the data."""
    stream.seek(0)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not version 1.0")
    return np.lib.format.read_array_header_1_0(stream)


def crc_of(array: np.ndarray) -> int:
    """CRC-32 of the array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def crc_of_stream(stream: BinaryIO, length: int) -> int | None:
    """CRC-32 of the next ``length`` bytes, None if there are fewer."""
    crc = 0
    while length:
        data = stream.read(min(length, CRC_BLOCK))
        if not data:
            return None
        crc, length = zlib.crc32(data, crc), length - len(data)
    return crc
