"""Images to compressed bytes and back: networks, integer mixtures and the entropy coder joined.

Networks run where they are called: images of one padded size together through g_a and g_s, one image at a time through
h_s. What is left of an image then needs no network and waits for nobody: ``file``, ``entry`` and ``latent`` may run
in threads, since the compiled coder does not hold the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from facekit.codec import container, rans
from facekit.codec.archive import Entry
from facekit.codec.archiveindex import Shape
from facekit.codec.container import Content, Header
from facekit.codec.errors import EntropyDesync, ModelMismatch, NonFiniteParameters
from facekit.codec.export import edges, restored
from facekit.codec.framing import LARGEST_SIDE, MAX_PIXELS, require_size
from facekit.codec.inference import CPU, Frozen, Precision
from facekit.codec.latentcheck import latent_crc, naming_machine, require_latent
from facekit.codec.mixture import FiniteError, Mixture
from facekit.codec.modelfile import CodecModel
from facekit.codec.networks import STRIDE
from facekit.codec.tables import PRECISION

T = TypeVar("T")
PIXELS_AT_ONCE = 1 << 22
"""Of all images that go through a network together. At 128 channels that is about 2 GB."""


class Latent(NamedTuple):
    """What is coded of one image, and the distribution that it is coded with."""

    shape: Shape
    z: np.ndarray
    """int16 [N,h,w]"""
    y: np.ndarray
    """int16 [M,4h,4w]"""
    mixture: Mixture
    clipped: int
    """How many values were beyond what a file can hold, and were cut."""


class Coded(NamedTuple):
    """One image, compressed."""

    data: bytes
    """A whole file, or the stream of an archive's entry."""
    bits: float
    """What the integer distributions charge for z and y: the streams without framing and coder states."""
    clipped: int


class Stream(NamedTuple):
    """One image as a file or an archive holds it, their checks passed and nothing decoded."""

    shape: Shape
    z: bytes
    y: bytes | None
    """None: behind z in the same stream."""
    latent_crc: int | None


class Begun(NamedTuple):
    """An image whose z is decoded: all that decoding y needs."""

    shape: Shape
    z_shape: tuple[int, int]
    y: bytes
    mixture: Mixture
    latent_crc: int | None


class Coder:
    """A model in use. Images are uint8, [H,W,3] RGB or [H,W] grey, of any size from 1x1.

    An image is continued to multiples of 64 by repeating its last column and row, and cut again after decoding. Grey
    ones are coded as RGB of three equal channels; decoding averages them. ``place`` and ``synthesis`` change a picture
    by a grey level here and there; from the same latent any of them makes the same bytes.
    """

    def __init__(self, model: CodecModel, place: torch.device = CPU, synthesis: Precision = "fp32") -> None:
        self.frozen = Frozen(restored(model), place, synthesis)
        self.arch, self.mode, self.model_id, self.edges = model.arch, model.mode, model.model_id, edges(model)

    def encode(self, image: np.ndarray) -> bytes:
        """The ``.edic`` file of an image."""
        return self.file(self.latents([image])[0]).data

    def decode(self, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The image of an ``.edic`` file. Raises as ``container.unpack`` does, then EntropyDesync."""
        begun = self.begun(self.stream(container.unpack(data, self.model_id, max_pixels)))
        return self.pictures([begun.shape], [self.latent(begun)])[0]

    # --- encoding ---------------------------------------------------------------------------------------------

    def latents(self, images: Sequence[np.ndarray]) -> list[Latent]:
        """Of images of one padded size. Raises SizeLimit (a side beyond 65535) and NonFiniteParameters."""
        for image in images:
            require_size(image.shape[0], image.shape[1], LARGEST_SIDE**2, "the image")
        try:
            found = self.frozen.encode_latents(self.batch(images))
            return [
                Latent(shape_of(image), z, y, self.frozen.parameters(z), int(clipped))
                for image, z, y, clipped in zip(images, found.z, found.y, found.clipped, strict=True)
            ]
        except FiniteError as error:
            raise NonFiniteParameters(f"the model cannot code this image: {error}; train it anew, or longer") from error

    def batch(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """The images as the analysis takes them: float32 [B,3,H',W'] in 0..1."""
        pixels = torch.from_numpy(np.stack([padded(image) for image in images])).to(self.frozen.place)
        return pixels.permute(0, 3, 1, 2) / 255

    def file(self, latent: Latent, checked: bool = True) -> Coded:
        """The ``.edic`` file; ``checked`` keeps the CRC of y, four bytes by which another machine notices a desync."""
        coder = rans.loops(None)
        z, y = rans.static_intervals(latent.z, self.edges), self.y_intervals(latent, coder)
        height, width, grey = latent.shape
        header = Header(self.model_id, height, width, self.mode, grey)
        streams = [rans.stream(coder.push(*intervals)) for intervals in (z, y)]
        data = container.pack(header, streams[0], streams[1], latent_crc(latent.y) if checked else None)
        return Coded(data, information(z[1]) + information(y[1]), latent.clipped)

    def entry(self, latent: Latent) -> Coded:
        """The stream of an archive's entry: z and y behind one coder state."""
        coder = rans.loops(None)
        z, y = rans.static_intervals(latent.z, self.edges), self.y_intervals(latent, coder)
        low, width = (np.concatenate(parts) for parts in zip(z, y, strict=True))
        return Coded(rans.stream(coder.push(low, width)), information(width), latent.clipped)

    def y_intervals(self, latent: Latent, coder: rans.Loops) -> tuple[np.ndarray, np.ndarray]:
        """Start and width of every value of y, uint32 [n] each."""
        return rans.mixture_intervals(latent.y.reshape(-1), latent.mixture, coder)

    # --- decoding ---------------------------------------------------------------------------------------------

    def stream(self, content: Content) -> Stream:
        """What is to be decoded of a file."""
        header = content.header
        if header.mode != self.mode:
            raise ModelMismatch(f"the file says numeric mode {header.mode}, and its model computes {self.mode}")
        return Stream(Shape(header.height, header.width, header.grey), content.z, content.y, content.latent_crc)

    def begun(self, stream: Stream) -> Begun:
        """Decode z, and compute the mixture of y. Raises EntropyDesync."""
        rows, columns = (-(-side // STRIDE) for side in stream.shape[:2])
        shape = (self.arch.n, rows, columns)
        with naming_machine(self.mode):
            if stream.y is None:
                z, rest = rans.decode_static_prefix(stream.z, self.edges, shape)
            else:
                z, rest = rans.decode_static(stream.z, self.edges, shape), stream.y
            try:
                mixture = self.frozen.parameters(z)
            except FiniteError as error:
                raise EntropyDesync(f"the model computes no distribution for this file: {error}") from error
        return Begun(stream.shape, (rows, columns), rest, mixture, stream.latent_crc)

    def latent(self, begun: Begun) -> np.ndarray:
        """Decode y, int16 [M,4h,4w]. Raises EntropyDesync."""
        with naming_machine(self.mode):
            y = rans.decode(begun.y, begun.mixture)
            require_latent(y, begun.latent_crc)
        rows, columns = begun.z_shape
        return y.reshape(self.arch.m, 4 * rows, 4 * columns)

    def pictures(self, shapes: Sequence[Shape], latents: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The images of latents of one padded size."""
        decoded = self.frozen.reconstruct(np.stack(latents))
        return [cut(picture, shape) for picture, shape in zip(decoded, shapes, strict=True)]


def of_entry(entry: Entry) -> Stream:
    """What is to be decoded of an archive's entry."""
    return Stream(entry.shape, entry.stream, None, None)


def shape_of(image: np.ndarray) -> Shape:
    """What a file says of an image."""
    return Shape(image.shape[0], image.shape[1], image.ndim == 2)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The next multiples of 64. 112x112 is coded as 128x128."""
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def padded(image: np.ndarray) -> np.ndarray:
    """Repeat the last row and column: [H,W,3] or [H,W] -> [H',W',3]."""
    colours = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    height, width = padded_size(*image.shape[:2])
    return np.pad(colours, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge")


def cut(picture: np.ndarray, shape: Shape) -> np.ndarray:
    """Undo ``padded``: uint8 [H',W',3] -> [H,W,3], or [H,W] of a grey one, the mean of its channels."""
    image = picture[: shape.height, : shape.width]
    if not shape.grey:
        return image
    return ((image.sum(axis=2, dtype=np.uint16) + 1) // 3).astype(np.uint8)  # a third is never a half: this rounds


def information(width: np.ndarray) -> float:
    """Bits of symbols with these shares of 2^24, uint32 [n]."""
    return float(PRECISION * len(width) - np.log2(width).sum())


def grouped(items: Iterable[T], size: Callable[[T], tuple[int, int]], most: int) -> Iterator[list[T]]:
    """Neighbours that can go through a network together: one padded ``size``, at most ``most``, fewer large ones."""
    for (height, width), alike in groupby(items, size):
        room = max(1, min(most, PIXELS_AT_ONCE // (height * width)))
        while group := list(islice(alike, room)):
            yield group
