"""Faces as they look after a codec: what they cost, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.data.embeddings import embed_source
from facekit.data.protocol import Source
from facekit.evaluation.evaluator import Embed
from facekit.evaluation.imagecodec import ImageCodec
from facekit.evaluation.ratedistortion import psnr
from facekit.evaluation.vectors import VIEWS, unit_vectors

UNCOMPRESSED = "uncompressed"


class CodedFaces:
    """The images of ``parent`` as they look after a codec, made when they are read; what it cost is noted then."""

    def __init__(self, parent: Source, codec: ImageCodec) -> None:
        self.parent, self.codec = parent, codec
        self.names, self.labels, self.identities = parent.names, parent.labels, parent.identities
        self.size = parent.size
        self.notes: tuple[str, ...] = ()
        self.bytes, self.payload = (np.zeros(len(parent), np.int64) for _ in range(2))
        self.psnr = np.zeros(len(parent))

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def fingerprint(self) -> str:
        """Says who they are, not how they look: nothing of them is kept under it."""
        return self.parent.fingerprint

    def read(self, index: np.ndarray) -> np.ndarray:
        """uint8 [n,H,W,3] RGB."""
        out = self.parent.read(index)
        for image, i in zip(out, np.asarray(index).tolist(), strict=True):
            data = self.codec.encode(image)
            back = self.codec.pixels(data, image.shape)
            self.bytes[i], self.payload[i], self.psnr[i] = len(data), self.codec.payload(data), psnr(image, back)
            image[...] = back
        return out


@dataclass(frozen=True)
class Face:
    """The faces of one benchmark at one setting: unit embeddings, and means over the images."""

    codec: str
    setting: str
    vectors: np.ndarray
    """float64 [N,D]"""
    bytes: float
    payload: float
    psnr: float | None
    cosine: float | None
    """Between the embedding of the coded and of the uncompressed image"""


@dataclass(frozen=True)
class Embedder:
    """How faces become unit vectors."""

    embed: Embed
    flip: str = "none"
    batch: int = 64
    key: str = ""
    """Names the network, its preprocessing and precision in the cache"""
    cache_dir: Path | None = None
    """Keeps the embeddings of uncompressed faces"""
    progress: Callable[[int], None] | None = None
    """Told how many more images are embedded"""

    def vectors(self, source: Source, cache_dir: Path | None = None) -> np.ndarray:
        """Unit rows float64 [N,D]."""
        table = embed_source(
            self.embed, source, views=VIEWS[self.flip], batch=self.batch, key=self.key, cache_dir=cache_dir,
            progress=self.progress,
        )  # fmt: skip
        return unit_vectors(table, self.flip, source.names)

    def plain(self, source: Source) -> Face:
        """The uncompressed images; their bytes are the pixels'."""
        size = 3.0 * source.size[0] * source.size[1]
        return Face(UNCOMPRESSED, "", self.vectors(source, self.cache_dir), size, size, None, None)

    def coded(self, plain: Face, source: Source, codec: ImageCodec) -> Face:
        """The images after a codec."""
        faces = CodedFaces(source, codec)
        vectors = self.vectors(faces)
        cosine = float(np.mean(np.einsum("nd,nd->n", plain.vectors, vectors)))
        size, payload, quality = (float(np.mean(values)) for values in (faces.bytes, faces.payload, faces.psnr))
        return Face(codec.name, codec.setting, vectors, size, payload, quality, cosine)


def mean_file_size(source: Source, most: int = 300) -> float | None:
    """Mean bytes of the image files of a source, of at most so many spread over it; None where it holds pixels."""
    if getattr(source, "kind", None) != "jpeg":
        return None
    rows = np.unique(np.linspace(0, len(source) - 1, most).astype(np.int64))
    return float(np.mean([len(source.encoded(i)) for i in rows.tolist()]))  # type: ignore[attr-defined]
