"""Images to files and back: exact latents, sizes near the estimate, every size and kind, damage and strangers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from facekit.codec import container, mixture, rans
from facekit.codec.arch import Arch
from facekit.codec.archive import Entry, read_archive, write_archive
from facekit.codec.archiveindex import Shape
from facekit.codec.coder import Coder, cut, grouped, of_entry, padded, padded_size, shape_of
from facekit.codec.errors import (
    EdicError,
    EntropyDesync,
    ModelMismatch,
    NonFiniteParameters,
    SizeLimit,
    TrailingData,
)
from facekit.codec.export import exported
from facekit.codec.modelfile import CodecModel
from facekit.codec.networks import Codec


def model(seed: int = 0) -> CodecModel:
    """Weights off their start, so that latents and distributions differ from place to place."""
    torch.manual_seed(seed)
    net = Codec(Arch(16, 24, enhancement="ps2-32x3", reduction=2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return exported(net, {})


@pytest.fixture(scope="module")
def coder() -> Coder:
    return Coder(model())


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


KINDS: dict[str, Callable[[], np.ndarray]] = {
    "one pixel": lambda: picture(1, 1),
    "odd": lambda: picture(63, 65),
    "whole blocks": lambda: picture(64, 64),
    "long": lambda: picture(1000, 16),
    "constant": lambda: np.full((40, 40, 3), 255, np.uint8),
    "grey": lambda: picture(50, 70)[..., 0],
}
each_kind = pytest.mark.parametrize("kind", KINDS)


# --- the round trip ---------------------------------------------------------------------------------------


@each_kind
def test_what_is_decoded_is_what_was_coded(kind: str, coder: Coder) -> None:
    image = KINDS[kind]()
    (latent,) = coder.latents([image])
    coded = coder.file(latent)
    begun = coder.begun(coder.stream(container.unpack(coded.data, coder.model_id)))
    y = coder.latent(begun)
    np.testing.assert_array_equal(y, latent.y)
    np.testing.assert_array_equal(begun.mixture, latent.mixture)
    decoded = coder.decode(coded.data)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    whole = coder.frozen.reconstruct(latent.y[None])[0][: image.shape[0], : image.shape[1]]
    expected = whole if image.ndim == 3 else np.floor(whole.mean(axis=2) + 0.5)
    np.testing.assert_array_equal(decoded, expected)
    assert coder.encode(image) == coded.data


@each_kind
def test_a_file_is_as_large_as_the_integer_model_says(kind: str, coder: Coder) -> None:
    (latent,) = coder.latents([KINDS[kind]()])
    coded = coder.file(latent)
    charged = mixture.bits(latent.mixture, latent.y.ravel())
    j = latent.z.reshape(len(latent.z), -1).astype(int) + 127
    charged += float(-np.log2(np.take_along_axis(np.diff(coder.edges.astype(float)), j, axis=1) / 2**24).sum())
    assert coded.bits == pytest.approx(charged, rel=1e-9)
    assert charged / 8 <= len(coded.data) <= 1.005 * charged / 8 + 38 + 16
    assert coder.entry(latent).bits == pytest.approx(charged, rel=1e-9)


def test_without_the_latents_crc_a_file_is_four_bytes_shorter(coder: Coder) -> None:
    (latent,) = coder.latents([picture(20, 20)])
    short = coder.file(latent, checked=False).data
    assert len(coder.file(latent).data) - len(short) == 4
    np.testing.assert_array_equal(coder.decode(short), coder.decode(coder.file(latent).data))


def test_bytes_do_not_depend_on_the_backend(coder: Coder) -> None:
    (latent,) = coder.latents([picture(64, 128)])
    content = container.unpack(coder.file(latent).data, coder.model_id)
    assert content.z == rans.encode_static(latent.z, coder.edges, "reference")
    assert content.y == rans.encode(latent.y.ravel(), latent.mixture, "reference")
    joint = rans.encode_joint(latent.z, coder.edges, latent.y.ravel(), latent.mixture, "reference")
    assert coder.entry(latent).data == joint


def test_a_batch_is_coded_as_its_images_alone(coder: Coder) -> None:
    images = [picture(60, 64, 1), picture(64, 40, 2), picture(64, 64, 3)[..., 0]]
    together = coder.latents(images)
    alone = [coder.latents([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert a.shape == b.shape
        # Sums in another order may round a value that lies at a half to its other neighbour.
        assert np.abs(a.y - b.y).max() <= 1 and (a.y != b.y).mean() < 1e-3
    files = [coder.file(latent).data for latent in together]
    decoded = coder.pictures([latent.shape for latent in together], [latent.y for latent in together])
    for data, image in zip(files, decoded, strict=True):
        assert np.abs(coder.decode(data).astype(int) - image).max() <= 1


def test_an_archive_holds_the_same_images(coder: Coder, tmp_path: object) -> None:
    images = [picture(112, 112, i) for i in range(5)]
    latents = coder.latents(images)
    path = tmp_path / "faces.edica"  # type: ignore[operator]
    entries = [Entry(coder.entry(latent).data, latent.shape) for latent in latents]
    write_archive(path, coder.model_id, coder.mode, entries)
    charged = sum(coder.entry(latent).bits for latent in latents) / 8
    assert path.stat().st_size - charged <= 5 * 16 + 50 + 5
    found = read_archive(path, coder.model_id)
    for i in (4, 0, 2):
        np.testing.assert_array_equal(coder.latent(coder.begun(of_entry(found[i]))), latents[i].y)


# --- damage -----------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_every_cut_is_refused(coder: Coder) -> None:
    data = coder.encode(picture(1, 1))
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EdicError) as refusal:
            coder.decode(bytes(broken))
        assert refusal.value.code
    for length in range(len(data)):
        with pytest.raises(EdicError):
            coder.decode(data[:length])


def test_damage_that_every_checksum_misses_gives_an_error_or_a_picture(coder: Coder) -> None:
    (latent,) = coder.latents([picture(9, 9)])
    content = container.unpack(coder.file(latent).data, coder.model_id)
    outcomes = set()
    for part in ("z", "y"):
        stream = getattr(content, part)
        for bit in range(0, 8 * len(stream), 11):
            broken = bytearray(stream)
            broken[bit // 8] ^= 1 << bit % 8
            forged = container.pack(*content._replace(**{part: bytes(broken), "latent_crc": None}))
            try:
                outcomes.add(coder.decode(forged).shape)
            except EntropyDesync as refusal:
                assert "numeric mode f64" in str(refusal)
                outcomes.add("refused")
    assert outcomes <= {"refused", (9, 9, 3)} and "refused" in outcomes


def test_another_latent_than_the_encoders_is_noticed_by_its_crc(coder: Coder) -> None:
    (latent,) = coder.latents([picture(9, 9)])
    content = container.unpack(coder.file(latent).data, coder.model_id)
    assert content.latent_crc is not None
    forged = container.pack(*content._replace(latent_crc=content.latent_crc ^ 1))
    with pytest.raises(EntropyDesync, match="is not the encoder's"):
        coder.decode(forged)


def test_strangers_files(coder: Coder) -> None:
    data = coder.encode(picture(8, 8))
    with pytest.raises(ModelMismatch):
        Coder(model(seed=1)).decode(data)
    with pytest.raises(TrailingData):
        coder.decode(data + b"\0")
    with pytest.raises(SizeLimit, match="at most 63"):
        coder.decode(data, max_pixels=63)
    huge = bytearray(data)
    huge[14:18] = struct.pack("<HH", 65535, 65535)
    huge[26:30] = zlib.crc32(huge[:26]).to_bytes(4, "little")
    with pytest.raises(SizeLimit, match="65535 x 65535"):
        coder.decode(bytes(huge))
    content = container.unpack(data, coder.model_id)
    other = container.pack(content.header._replace(mode="int"), *content[1:])
    with pytest.raises(ModelMismatch, match="numeric mode int"):
        coder.decode(other)


def test_a_size_that_its_stream_cannot_fill_is_refused_before_the_networks_run(
    coder: Coder, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = container.unpack(coder.encode(picture(8, 8)), coder.model_id)
    bomb = container.pack(content.header._replace(height=8192, width=8192), *content[1:])
    monkeypatch.setattr(coder.frozen, "parameters", lambda z: pytest.fail("h_s ran"))
    with pytest.raises(EntropyDesync):
        coder.decode(bomb)


def test_an_image_too_long_for_a_file_is_refused_before_anything_is_allocated(coder: Coder) -> None:
    with pytest.raises(SizeLimit, match="65536"):
        coder.latents([np.broadcast_to(np.uint8(0), (65536, 1 << 20, 3))])


def test_models_that_compute_nonsense(coder: Coder) -> None:
    good = model()
    wild = {name: 1e30 * tensor if name.startswith("analysis") else tensor for name, tensor in good.encoder.items()}
    with pytest.raises(NonFiniteParameters, match="not finite"):
        Coder(CodecModel(good.arch, good.mode, good.decoder, wild)).latents([picture(8, 8)])
    name = next(n for n in good.decoder if n.startswith("hyper_synthesis") and n.endswith("bias"))
    broken = Coder(CodecModel(good.arch, good.mode, {**good.decoder, name: good.decoder[name] * float("nan")}))
    content = container.unpack(coder.encode(picture(8, 8)), coder.model_id)
    forged = container.pack(content.header._replace(model_id=broken.model_id), *content[1:])
    with pytest.raises(EntropyDesync, match="no distribution"):
        broken.decode(forged)


# --- pixels -----------------------------------------------------------------------------------------------


def test_padding_repeats_the_last_row_and_column() -> None:
    image = picture(112, 65)
    wide = padded(image)
    assert wide.shape == (*padded_size(112, 65), 3) == (128, 128, 3)
    np.testing.assert_array_equal(wide[:112, :65], image)
    assert (wide[112:, :65] == image[-1]).all() and (wide[:, 65:] == wide[:, 64:65]).all()
    np.testing.assert_array_equal(cut(wide, shape_of(image)), image)


def test_grey_is_the_mean_of_the_channels_to_the_nearest() -> None:
    sums = np.arange(766)
    rgb = np.stack([(sums + k) // 3 for k in range(3)], axis=1).astype(np.uint8)[None]
    expected = [round(s / 3) for s in sums.tolist()]
    assert cut(rgb, Shape(1, 766, True))[0].tolist() == expected


def test_groups_are_neighbours_of_one_size() -> None:
    sizes = [(64, 64)] * 5 + [(64, 128)] + [(64, 64)] * 2 + [(4096, 4096)] * 2
    found = list(grouped(enumerate(sizes), lambda item: item[1], 3))
    assert [[i for i, _ in group] for group in found] == [[0, 1, 2], [3, 4], [5], [6, 7], [8], [9]]
