"""The entropy coder: streams by hand, equal backends, exact round trips, and what damage does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import facekit.codec
from bench.latents import draw
from facekit.codec.errors import EntropyDesync
from facekit.codec.mixture import Mixture, bits, quantised
from facekit.codec.rans import (
    Backend,
    decode,
    decode_static,
    decode_static_prefix,
    encode,
    encode_joint,
    encode_static,
    loops,
)
from facekit.core.errors import InputError, MissingExtra
from tests.codec.extremes import any_mixture

try:
    import numba
except ImportError:
    numba = None

needs_numba = pytest.mark.skipif(numba is None, reason="numba is not installed")
BACKENDS: tuple[Backend, ...] = ("reference",) if numba is None else ("reference", "numba")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def both(values: np.ndarray, mixture: Mixture) -> bytes:
    """The stream, after all backends made the same one and read it back."""
    streams = {backend: encode(values, mixture, backend) for backend in BACKENDS}
    assert len(set(streams.values())) == 1
    for backend in BACKENDS:
        np.testing.assert_array_equal(decode(streams[backend], mixture, backend), values)
    return streams["reference"]


def outcome(data: bytes, mixture: Mixture, backend: Backend) -> bytes | None:
    """The values that a stream decodes to, or None where it is refused."""
    try:
        return decode(data, mixture, backend).tobytes()
    except EntropyDesync:
        return None


def some_edges(channels: int, seed: int = 0) -> np.ndarray:
    """A rising table uint32 [C,256]."""
    counts = np.random.default_rng(seed).gamma(0.2, size=(channels, 255))
    share = np.floor((counts / counts.sum(axis=1, keepdims=True)).cumsum(axis=1) * ((1 << 24) - 255)).astype(int)
    edges = np.concatenate([np.zeros((channels, 1), int), share + np.arange(1, 256)], axis=1)
    edges[:, -1] = 1 << 24
    return edges.astype(np.uint32)


def draw_static(edges: np.ndarray, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Hyper-latents int16 [C,h,w] as likely as the table says."""
    slots = np.random.default_rng(seed).integers(0, 1 << 24, (len(edges), *shape))
    j = [np.searchsorted(row, slot, side="right") - 1 for row, slot in zip(edges, slots, strict=True)]
    return (np.array(j) - 127).astype(np.int16)


def dependent(z: np.ndarray, count: int) -> Mixture:
    """A mixture for ``count`` latents that any change of the hyper-latents z changes, as a network's would."""
    near = np.resize(z, (3, count)).astype(np.int16)
    level = np.full((3, count), 20, np.uint8)
    return Mixture(16 * near, level, np.array([[1024], [2048], [1024]], np.uint16).repeat(count, axis=1))


def joint_case(shape: tuple[int, int, int], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Mixture]:
    """z, edges, y and the mixture of y that follows from z."""
    edges = some_edges(shape[0])
    z = draw_static(edges, shape[1:])
    mixture = dependent(z, count)
    spread = np.random.default_rng(0).integers(-2, 3, count)
    return z, edges, (mixture.mean[1] // 16 + spread).astype(np.int16), mixture


def joint_outcome(data: bytes, edges: np.ndarray, shape: tuple[int, int, int], count: int, backend: Backend) -> object:
    """Both kinds of values that a joint stream decodes to, or None where it is refused."""
    try:
        z, rest = decode_static_prefix(data, edges, shape, backend)
        return z.tobytes(), decode(rest, dependent(z, count), backend).tobytes()
    except EntropyDesync:
        return None


# --- by hand --------------------------------------------------------------------------------------------------

NARROW_THEN_WIDE = np.array([[*range(255), 1 << 24]], np.uint32)
"""Symbols 0..253 own one count each, symbol 254 the rest."""


@every_backend
def test_streams_by_hand(backend: Backend) -> None:
    def coded(*z: int) -> bytes:
        return encode_static(np.array(z, np.int16).reshape(1, 1, -1), NARROW_THEN_WIDE, backend)

    assert coded() == bytes.fromhex("00000000 00000080")  # the encoder's first state, 2^31: high word, low word
    assert coded(-127) == bytes.fromhex("00008000 00000000")  # 2^31 / 1 * 2^24 = 2^55
    assert coded(-125) == bytes.fromhex("00008000 02000000")  # the same, and the interval's start
    # 2^31 = 128 * (2^24 - 254) + 32512, so 128 * 2^24 + 32512 + 254
    assert coded(127) == bytes.fromhex("00000000 fe7f0080")
    # the second is pushed first: 2^55 >= 1 * 2^39 sends the low word 0, and 2^23 becomes 2^47
    assert coded(-127, -127) == bytes.fromhex("00800000 00000000 00000000")


@every_backend
def test_a_stream_is_the_same_for_ever(backend: Backend) -> None:
    """Any change of this hash is a change of the file format."""
    i = np.arange(3000)
    mean = np.stack([i * 7 % 400 - 200, i * 11 % 300 - 150, 0 * i]).astype(np.int16)
    level = np.stack([i % 64, i * 5 % 64, i * 3 % 40]).astype(np.uint8)
    weight = np.stack([i % 1000, i % 1500, 4096 - i % 1000 - i % 1500]).astype(np.uint16)
    values = (i * i % 23 - 11).astype(np.int16)
    data = encode(values, Mixture(mean, level, weight), backend)
    assert (len(data), hashlib.sha256(data).hexdigest()[:16]) == (3172, "128cc593bf7b4167")


@every_backend
def test_a_joint_stream_by_hand(backend: Backend) -> None:
    """The latent 0 owns all of 2^24 but 557 counts at either end; the hyper-latent -125 owns [2, 3)."""
    sure = Mixture(np.zeros((1, 1), np.int16), np.zeros((1, 1), np.uint8), np.full((1, 1), 4096, np.uint16))
    z, y = np.full((1, 1, 1), -125, np.int16), np.zeros(1, np.int16)
    data = encode_joint(z, NARROW_THEN_WIDE, y, sure, backend)
    # 2^31 = 128 * (2^24 - 1114) + 142592, so y makes it 128 * 2^24 + 142592 + 557 = 0x80022f2d, then z 0x80022f2d000002
    assert data == bytes.fromhex("2f028000 0200002d")
    found, rest = decode_static_prefix(data, NARROW_THEN_WIDE, z.shape, backend)
    assert (found.tolist(), rest) == (z.tolist(), bytes.fromhex("00000000 2d2f0280"))
    assert decode(rest, sure, backend).tolist() == [0]


# --- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 7))])
@pytest.mark.parametrize("count", [0, 1, 2, 4000])
def test_backends_agree_and_decoding_undoes_encoding(components: int, count: int) -> None:
    floats, values = draw(components, count)
    mixture = quantised(*floats)
    data = both(values, mixture)
    assert 8 * len(data) <= bits(mixture, values) * 1.0005 + 64 + 32


@pytest.mark.parametrize("components", [1, 3])
def test_extremes(components: int) -> None:
    """Any value under any parameters: up to 24 bits each."""
    mixture = any_mixture(components, 3000)
    values = np.random.default_rng(1).choice([-512, -511, -1, 0, 1, 510, 511], 3000).astype(np.int16)
    assert 8 * len(both(values, mixture)) <= bits(mixture, values) * 1.0005 + 64 + 32


def test_a_value_costs_what_its_share_says() -> None:
    """A thousand sure values are nearly free, a thousand impossible ones take 24 bits each."""
    sure = Mixture(np.zeros((1, 1000), np.int16), np.zeros((1, 1000), np.uint8), np.full((1, 1000), 4096, np.uint16))
    assert len(both(np.zeros(1000, np.int16), sure)) == 8
    assert len(both(np.full(1000, 300, np.int16), sure)) == pytest.approx(8 + 3000, abs=4)


def test_equal_components_give_the_stream_of_one() -> None:
    floats, values = draw(1, 2000)
    logit = np.random.default_rng(0).normal(size=(3, 2000))
    three = quantised(floats.mean.repeat(3, axis=0), floats.log_scale.repeat(3, axis=0), logit)
    assert both(values, three) == both(values, quantised(*floats))


def test_memory_order_and_write_protection_do_not_matter() -> None:
    floats, values = draw(3, 500)
    mixture = quantised(*floats)
    across = Mixture(*(np.asfortranarray(array) for array in mixture))
    spread = np.repeat(values, 2)[::2]
    locked = values.copy()
    for array in (*across, spread, locked):
        array.setflags(write=False)
    data = both(values, mixture)
    assert both(spread, across) == both(locked, mixture) == data


@every_backend
def test_static_tables(backend: Backend) -> None:
    edges = some_edges(5)
    z = draw_static(edges, (9, 13))
    data = encode_static(z, edges, backend)
    assert data == encode_static(z, edges, "reference")
    np.testing.assert_array_equal(decode_static(data, edges, z.shape, backend), z)
    share = np.take_along_axis(np.diff(edges.astype(int), axis=1), z.reshape(5, -1) + 127, axis=1) / (1 << 24)
    assert 8 * len(data) <= -np.log2(share).sum() * 1.0005 + 64 + 32


@every_backend
@pytest.mark.parametrize(("shape", "count"), [((3, 2, 2), 60), ((5, 9, 13), 1500), ((1, 0, 4), 5), ((2, 1, 1), 0)])
def test_a_joint_stream_is_eight_bytes_less_than_two(shape: tuple[int, int, int], count: int, backend: Backend) -> None:
    z, edges, y, mixture = joint_case(shape, count)
    data = encode_joint(z, edges, y, mixture, backend)
    assert data == encode_joint(z, edges, y, mixture, "reference")
    apart, behind = encode_static(z, edges, backend), encode(y, mixture, backend)
    assert len(data) == pytest.approx(len(apart) + len(behind) - 8, abs=4)  # where words of 32 bits end is luck
    found, rest = decode_static_prefix(data, edges, shape, backend)
    np.testing.assert_array_equal(found, z)
    assert rest == behind
    np.testing.assert_array_equal(decode(rest, dependent(found, count), backend), y)


@needs_numba
def test_threads_do_not_disturb_each_other() -> None:
    cases = [draw(3, 20_000, seed) for seed in range(8)]
    mixtures = [quantised(*floats) for floats, _ in cases]
    alone = [encode(values, mixture, "numba") for (_, values), mixture in zip(cases, mixtures, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(lambda i: encode(cases[i][1], mixtures[i], "numba"), range(8)))
        decoded = list(pool.map(lambda i: decode(alone[i], mixtures[i], "numba"), range(8)))
    assert streams == alone
    for (_, values), again in zip(cases, decoded, strict=True):
        np.testing.assert_array_equal(again, values)


# --- damage -----------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused_or_a_wrong_picture_and_backends_agree() -> None:
    floats, values = draw(3, 150)
    mixture = quantised(*floats)
    data = both(values, mixture)
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found = {outcome(bytes(flipped), mixture, backend) for backend in BACKENDS}
        assert len(found) == 1
        assert found != {values.tobytes()}
        refused += found == {None}
    assert refused > 0.99 * 8 * len(data)


@every_backend
def test_every_cut_and_every_addition_is_refused(backend: Backend) -> None:
    floats, values = draw(3, 150)
    mixture, edges = quantised(*floats), some_edges(2)
    z = draw_static(edges, (5, 6))
    data, z_data = encode(values, mixture, backend), encode_static(z, edges, backend)
    for kept in range(len(data)):
        assert outcome(data[:kept], mixture, backend) is None
    assert outcome(data + bytes(4), mixture, backend) is None
    assert outcome(data + b"\0", mixture, backend) is None
    for wrong in (*(z_data[:kept] for kept in range(len(z_data))), z_data + bytes(4)):
        with pytest.raises(EntropyDesync, match="damaged"):
            decode_static(wrong, edges, z.shape, backend)


def test_every_flip_and_cut_of_a_joint_stream_is_refused_or_wrong_values() -> None:
    shape, count = (3, 2, 2), 24
    z, edges, y, mixture = joint_case(shape, count)
    data = encode_joint(z, edges, y, mixture)
    cuts = [data[:kept] for kept in range(len(data))]
    flips = [(int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little") for bit in range(8 * len(data))]
    refused = 0
    for wrong in (*cuts, *flips, data + bytes(4), data + b"\0"):
        found = {joint_outcome(wrong, edges, shape, count, backend) for backend in BACKENDS}
        assert len(found) == 1
        assert found != {(z.tobytes(), y.tobytes())}
        assert found == {None} or len(wrong) == len(data)
        refused += found == {None}
    assert refused > 0.99 * len(cuts + flips)


def test_a_joint_stream_is_no_stream_of_hyper_latents_alone() -> None:
    z, edges, y, mixture = joint_case((3, 2, 2), 24)
    with pytest.raises(EntropyDesync):
        decode_static(encode_joint(z, edges, y, mixture), edges, z.shape)


@every_backend
def test_another_mixture_is_refused(backend: Backend) -> None:
    floats, values = draw(3, 400)
    data = encode(values, quantised(*floats), backend)
    for i in range(3):
        other = quantised(*floats)
        other.mean[i, 10 * i] += 1
        assert outcome(data, other, backend) != values.tobytes()
    assert outcome(data, quantised(*draw(3, 400, seed=1)[0]), backend) is None


def test_garbage_never_crashes_and_backends_agree() -> None:
    rng = np.random.default_rng(0)
    for seed in range(300):
        mixture = any_mixture(3, int(rng.integers(0, 60)), seed)
        data = bytearray(rng.bytes(4 * int(rng.integers(0, 40))))
        if seed % 2 and data:
            data[3] &= 0x7F  # a sound first state, or nothing is decoded at all
        assert len({outcome(bytes(data), mixture, backend) for backend in BACKENDS}) == 1
        joint = {joint_outcome(bytes(data), some_edges(2, seed), (2, 1, 3), 20, backend) for backend in BACKENDS}
        assert len(joint) == 1


@needs_numba
def test_weights_that_add_up_to_anything_end_too() -> None:
    """No model makes them; still no place outside a table is read and every search ends."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        mixture = any_mixture(3, 50, seed)
        wild = mixture._replace(weight=rng.integers(0, 1 << 16, (3, 50)).astype(np.uint16))
        outcome(b"\x00\x00\x00\x40" + rng.bytes(400), wild, "numba")


def test_what_no_mixture_or_no_latent_is_is_refused() -> None:
    floats, values = draw(3, 10)
    mixture = quantised(*floats)
    wrong = {
        "level": mixture._replace(level=np.full((3, 10), 64, np.uint8)),
        "kind": mixture._replace(mean=mixture.mean.astype(np.int32)),
        "shape": mixture._replace(weight=mixture.weight[:2]),
        "count": Mixture(*(array[:, :9] for array in mixture)),
        "none": Mixture(*(array[:0] for array in mixture)),
    }
    for bad in wrong.values():
        with pytest.raises(ValueError, match="a mixture of"):
            encode(values, bad)
    for latents in (values.astype(np.int32), values + np.int16(512), values - np.int16(600)):
        with pytest.raises(ValueError, match="from -512 to 511"):
            encode(latents, mixture)
    with pytest.raises(ValueError, match="from -127 to 127"):
        encode_static(np.full((1, 1, 1), 128, np.int16), some_edges(1))


def test_a_strangers_table_is_checked() -> None:
    good = some_edges(2)
    late, short, level, last = (good.copy() for _ in range(4))
    late[1, 0] = 1
    short[1, -1] -= 1
    level[0, 100] = level[0, 99]
    last[0, -2] = 1 << 24
    for edges in (late, short, level, last, good[:1], good[:, :255], good.astype(np.int64)):
        with pytest.raises(InputError, match="table for hyper-latents"):
            decode_static(bytes(8), edges, (2, 1, 1))
        with pytest.raises(InputError, match="table for hyper-latents"):
            encode_static(np.zeros((2, 1, 1), np.int16), edges)


# --- backends -----------------------------------------------------------------------------------------------------


def test_without_numba_the_reference_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(facekit.codec, "rans_numba", raising=False)
    monkeypatch.setitem(sys.modules, "facekit.codec.rans_numba", None)
    assert loops(None) is loops("reference")
    with pytest.raises(MissingExtra, match=r"facekit\[codec\]"):
        loops("numba")


@needs_numba
def test_with_numba_it_is_the_default_and_frees_the_interpreter() -> None:
    from facekit.codec import rans_numba

    assert loops(None) is rans_numba
    fill = rans_numba.compiled(rans_numba.fill_words, rans_numba.WORDS, rans_numba.WORDS, numba.uint32[::1])
    assert fill.targetoptions["nogil"]


ONE_STREAM = """
import numpy as np
from facekit.codec import rans
from facekit.codec.mixture import Mixture
values = np.arange(-9, 9, dtype=np.int16)
mixture = Mixture(np.zeros((1, 18), np.int16), np.full((1, 18), 40, np.uint8), np.full((1, 18), 4096, np.uint16))
data = rans.encode(values, mixture, "numba")
assert data == rans.encode(values, mixture, "reference")
assert (rans.decode(data, mixture, "numba") == values).all()
"""


def code_with_cache_in(folder: Path, root: Path) -> None:
    """Encode and decode in a process of its own that keeps its machine code there."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", ONE_STREAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_numba
@pytest.mark.slow
def test_machine_code_is_kept_and_a_damaged_or_impossible_cache_is_done_without(tmp_path: Path, root: Path) -> None:
    cache = tmp_path / "cache"
    code_with_cache_in(cache, root)
    kept = sorted(cache.rglob("*.nb?"))
    assert len(kept) >= 6  # an index and the code of three loops
    for path in kept:
        path.write_bytes(b"")
    code_with_cache_in(cache, root)
    no_folder = tmp_path / "file"
    no_folder.write_bytes(b"")
    code_with_cache_in(no_folder / "below", root)
