"""Writing packed images (the form is described in ``packed``)."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from facekit.core.errors import InputError, OutputExists
from facekit.core.files import explain_write, sync_folder, write_json
from facekit.data.decode import BrokenImage, decode, decoder_name
from facekit.data.packed import INDEX, MAGIC, VERSION
from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Source, Store

BLOCK = 256


@dataclass(frozen=True)
class Packed:
    """What was written."""

    images: int
    identities: int
    bytes: int
    fingerprint: str


def write_pack(
    source: Source,
    out: Path,
    *,
    kind: str = "jpeg",
    size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Packed:
    """Pack a source into the folder ``out``, which must not exist or be empty.

    ``jpeg`` keeps the encoded bytes (PNG too); ``uint8`` stores pixels, where ``size`` is given the middle square with
    the short side resized to it: the images may then differ in size. Every image is decoded once, so that a broken one
    is found now. Written beside ``out``, synced and renamed: a kill leaves no half pack. Raises OutputExists,
    InputError (broken image) and WriteFailed.
    """
    if kind not in ("jpeg", "uint8") or (size is not None and kind != "uint8"):
        raise InputError(f"kind {kind!r} with size {size}: choose jpeg, or uint8 with an optional size")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} exists already and is not an empty folder; name another --out")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with explain_write(out):
        temporary.mkdir(parents=True)
    try:
        packed = fill_folder(source, temporary, kind, size, progress or (lambda more: None))
        with explain_write(out):
            os.replace(temporary, out)
            sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return packed


def fill_folder(source: Source, folder: Path, kind: str, size: int | None, report: Callable[[int], None]) -> Packed:
    """Write the four files."""
    resized = size is not None and (size, size) != source.size
    height, width = (size, size) if size is not None else source.size
    store: Store = source  # type: ignore[assignment]  # every source of this package is also a store
    if kind == "jpeg" and store.kind != "jpeg":
        raise InputError("the source holds pixels, its image files are gone; pack it with --kind uint8")
    rows = [np.arange(i, min(i + BLOCK, len(source))) for i in range(0, len(source), BLOCK)]
    jobs = (partial(block_items, store, r, kind, size if resized else None) for r in rows)
    lengths = []
    with explain_write(folder):
        stream = open(folder / "data.bin", "wb")  # noqa: SIM115  # closed below: reading images is no write to explain
    with stream:
        for items in prefetched(jobs, threads=reader_threads(), ahead=8):
            with explain_write(folder):
                lengths += [stream.write(item) for item in items]
            report(len(items))
        with explain_write(folder):
            sync(stream)
    index = np.zeros(len(source), INDEX)
    index["offset"][1:] = np.cumsum(lengths)[:-1]
    index["label"] = source.labels
    mark = resized_fingerprint(source.fingerprint, height, width) if resized else source.fingerprint
    with explain_write(folder):
        write_synced(folder / "index.npy", lambda stream: np.save(stream, index, allow_pickle=False))
        text = "".join(f"{name}\n" for name in source.names)
        write_synced(folder / "names.txt", lambda stream: stream.write(text.encode("utf-8", "surrogateescape")))
    write_json(
        folder / "pack.json",
        {
            "magic": MAGIC,
            "version": VERSION,
            "kind": kind,
            "count": len(source),
            "bytes": sum(lengths),
            "height": height,
            "width": width,
            "fingerprint": mark,
            "decoder": decoder_name(),
            "identities": list(source.identities),
        },
    )
    return Packed(len(source), len(source.identities), sum(lengths), mark)


def block_items(store: Store, rows: np.ndarray, kind: str, size: int | None) -> list[bytes]:
    """What is stored of each image of the block. Raises InputError naming a broken one."""
    if size is not None:
        return [resize(image, size).tobytes() for image in images_of_any_size(store, rows)]
    pixels = store.read(rows)
    if kind == "uint8":
        return [image.tobytes() for image in pixels]
    return [store.encoded(i) for i in rows.tolist()]


def images_of_any_size(store: Store, rows: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [H,W,3] each. Raises InputError naming a broken one."""
    if store.kind == "uint8":
        yield from store.read(rows)
        return
    for i in rows.tolist():
        try:
            yield decode(store.encoded(i))
        except BrokenImage as error:
            raise InputError(f"{store.names[i]} cannot be read as an image: {error}") from None


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H,W,3] -> [side,side,3]: the short side becomes ``side``, area-weighted bilinear, the middle is kept."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    scale = side / min(height, width)
    tall, wide = max(side, round(height * scale)), max(side, round(width * scale))
    scaled = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = (tall - side) // 2, (wide - side) // 2
    return scaled[top : top + side, left : left + side]


def resized_fingerprint(of_source: str, height: int, width: int) -> str:
    """Other pixels need another fingerprint, or caches would mix the two up."""
    return hashlib.sha256(f"{of_source} resized, middle {height}x{width}".encode()).hexdigest()


def write_synced(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write one file of the temporary folder durably."""
    with open(path, "wb") as stream:
        write(stream)
        sync(stream)


def sync(stream: BinaryIO) -> None:
    """Have the bytes on the disk, not on their way to it."""
    stream.flush()
    os.fsync(stream.fileno())
