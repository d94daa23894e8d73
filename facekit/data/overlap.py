"""Whether two sets of images share pictures or people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from facekit.data.prefetch import prefetched, reader_threads
from facekit.data.protocol import Source

BLOCK = 256


def shared_images(one: Source, other: Source) -> list[tuple[str, str]]:
    """(name in ``one``, name of the first such in ``other``) of every image of ``one`` whose pixels are in ``other``.

    By the content hash of decoded pixels, so that files and packed pixels compare. Memory grows with ``one`` alone:
    name the smaller set first. Raises InputError naming a broken image.
    """
    if one.size != other.size:
        return []
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(pixel_digests(one)):
        rows.setdefault(digest, []).append(row)
    found: dict[int, int] = {}
    for theirs, digest in enumerate(pixel_digests(other)):
        for row in rows.get(digest, ()):
            found.setdefault(row, theirs)
    return [(one.names[row], other.names[found[row]]) for row in sorted(found)]


def shared_people(one: Source, other: Source) -> list[str]:
    """The names of identities that both sources have, in the order of ``one``.

    Classes of a closed set and people that are only numbered share names without being the same.
    """
    known = set(other.identities)
    return [name for name in one.identities if name in known]


def pixel_digests(source: Source) -> Iterator[bytes]:
    """SHA-256 of the pixels of every image in order, decoded some blocks ahead in a few threads."""
    blocks = (np.arange(first, min(first + BLOCK, len(source))) for first in range(0, len(source), BLOCK))
    jobs = (partial(block_digests, source, rows) for rows in blocks)
    for digests in prefetched(jobs, threads=reader_threads(), ahead=8):
        yield from digests


def block_digests(source: Source, rows: np.ndarray) -> list[bytes]:
    """SHA-256 of the pixels of some images."""
    return [hashlib.sha256(image.data).digest() for image in source.read(rows)]
