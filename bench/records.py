"""Reading an MXNet ``.rec`` in random order, beside bare decoding of the same bytes."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import simplejpeg

from bench.timing import Paired, Row, interleave
from facekit.data.sources import open_source
from facekit.data.synth import synthesise

BATCH = 128
BAR = 9000
"""Images a second and core."""


def write_records(folder: Path, images: list[bytes]) -> Path:
    """``x.rec`` and ``x.idx`` in the plain form: every key is an image, here each with a label of its own."""
    data, lines = bytearray(), []
    for key, image in enumerate(images):
        payload = struct.pack("<IfQQ", 0, float(key), key, 0) + image
        lines.append(f"{key}\t{len(data)}\n")
        data += struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)
    (folder / "x.rec").write_bytes(data)
    (folder / "x.idx").write_text("".join(lines))
    return folder / "x.rec"


def record_reading() -> Row:
    """One thread, CPU time: batches at random positions against simplejpeg on the bytes in memory."""
    with tempfile.TemporaryDirectory() as folder:
        synthesise(Path(folder) / "faces", identities=50, per_identity=40)
        images = [path.read_bytes() for path in sorted((Path(folder) / "faces" / "images").rglob("*.jpg"))]
        source = open_source(write_records(Path(folder), images))
        order = np.random.default_rng(0).permutation(len(images))
        wanted = [images[i] for i in order.tolist()]

        def read() -> None:
            for first in range(0, len(order), BATCH):
                source.read(order[first : first + BATCH])

        def decode() -> None:
            for image in wanted:
                simplejpeg.decode_jpeg(image, "RGB")

        paired = interleave(read, decode)
    value, low, high = Paired(np.full(len(paired.a), len(images)), paired.a).ratio()
    note = (
        f"{len(images):,} JPEGs of 112x112, {sum(map(len, images)) / len(images) / 1e3:.1f} kB each; "
        f"{1 / paired.ratio()[0]:.2f} of the speed of bare simplejpeg in the same run"
    )
    return Row(".rec in random order, one thread", value, low, high, f">= {BAR}", value >= BAR, "img/s", note)
