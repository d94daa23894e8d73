"""Verification .bin: every real form loads, nothing foreign ever runs, damage is explained."""

from __future__ import annotations

import builtins
import functools
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.core.errors import CorruptFile, FacekitError, InputError, MissingFile
from facekit.data import binfile
from facekit.data.binfile import ForeignPickle, read_bin, walk
from facekit.data.pairs import open_benchmark

Save = Callable[[bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def to_file(data: bytes) -> Path:
        (tmp_path / "set.bin").write_bytes(data)
        return tmp_path / "set.bin"

    return to_file


@pytest.fixture
def images(make_jpeg: Any) -> list[bytes]:
    return [make_jpeg(k) for k in range(8)]


SAME = [True, False, True, False]
ITEMS: dict[str, Callable[[bytes], object]] = {
    "bytes": lambda b: b,
    "bytearray": bytearray,
    "array": lambda b: np.frombuffer(b, np.uint8),
    "own array": lambda b: np.frombuffer(b, np.uint8).copy(),
    "column": lambda b: np.frombuffer(b, np.uint8).reshape(-1, 1),
}
LABELS: dict[str, Callable[[list[bool]], object]] = {
    "bools": list,
    "tuple": tuple,
    "ints": lambda s: [int(v) for v in s],
    "numpy bools": lambda s: [np.bool_(v) for v in s],
    "numpy ints": lambda s: [np.int64(v) for v in s],
    "array": np.array,
    "int array": lambda s: np.array(s, np.int32),
    "big endian": lambda s: np.array(s, ">i8"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("numpy_1", [False, True])
def test_every_kind_of_image_item_loads(
    save: Save, images: list[bytes], protocol: int, item: str, numpy_1: bool
) -> None:
    data = pickle.dumps(([ITEMS[item](b) for b in images], SAME), protocol)
    if numpy_1:
        data = as_numpy_1(data, protocol)
    found = read_bin(save(data))
    assert found.bins == images and found.same.tolist() == SAME
    assert all(type(b) is bytes for b in found.bins)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("numpy_1", [False, True])
def test_every_kind_of_label_loads(save: Save, images: list[bytes], protocol: int, label: str, numpy_1: bool) -> None:
    data = pickle.dumps((images, LABELS[label](SAME)), protocol)
    found = read_bin(save(as_numpy_1(data, protocol) if numpy_1 else data))
    assert found.same.tolist() == SAME and found.same.dtype == np.bool_


def as_numpy_1(data: bytes, protocol: int) -> bytes:
    """The spelling of numpy 1; text lines up to protocol 3, counted strings in one frame after it."""
    if protocol < 4:
        return data.replace(b"numpy._core.", b"numpy.core.")
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        data = data.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    assert data[2] == 0x95  # FRAME, whose length would have to fit: it is only a hint to the reader
    return data[:2] + data[11:]


def test_the_empty_bytes_object_of_old_protocols(save: Save, images: list[bytes]) -> None:
    for protocol in range(3):
        found = read_bin(save(pickle.dumps(([*images[:-1], b""], SAME), protocol)))
        assert found.bins == [*images[:-1], b""]


def python_2(images: list[bytes], labels: bytes) -> bytes:
    """What cPickle of Python 2 wrote: byte strings as BINSTRING, protocol 2."""
    items = b"".join(b"T" + struct.pack("<i", len(b)) + b for b in images)
    return b"\x80\x02](" + items + b"e](" + labels + b"e\x86."


def test_python_2_byte_strings(save: Save, images: list[bytes]) -> None:
    found = read_bin(save(python_2(images, b"\x88\x89\x88\x89")))
    assert found.bins == images and found.same.tolist() == SAME


def test_python_2_text_protocol(save: Save, images: list[bytes]) -> None:
    items = b"".join(b"S'" + "".join(f"\\x{c:02x}" for c in b).encode() + b"'\np0\na" for b in images)
    found = read_bin(save(b"((lp1\n" + items + b"(lp2\nI01\naI00\naI01\naI00\natp3\n."))
    assert found.bins == images and found.same.tolist() == SAME


def test_python_2_numpy_arrays(save: Save, images: list[bytes]) -> None:
    def array(content: bytes) -> bytes:
        length = struct.pack("<i", len(content))
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01J" + length + b"\x85"
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89T" + length + content + b"tb"
        )

    data = b"\x80\x02](" + b"".join(map(array, images)) + b"e](\x88\x89\x88\x89e\x86."
    found = read_bin(save(data))
    assert found.bins == images


def test_python_2_bytearrays(save: Save, images: list[bytes]) -> None:
    def item(content: bytes) -> bytes:
        text = content.decode("latin-1").encode()
        return b"c__builtin__\nbytearray\nX" + struct.pack("<i", len(text)) + text + b"U\x07latin-1\x86R"

    found = read_bin(save(b"\x80\x02](" + b"".join(map(item, images)) + b"e](\x88\x89\x88\x89e\x86."))
    assert found.bins == images


# --- nothing foreign runs -------------------------------------------------------------------------------------


class Evil:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (builtins.eval, "eval"), (functools.partial, "partial"), (os.mkdir, "mkdir")],
)
def test_foreign_globals_are_named_and_never_run(
    save: Save, images: list[bytes], tmp_path: Path, protocol: int, function: Callable[..., object], name: str
) -> None:
    mark = tmp_path / "ran"
    argument = {"eval": f"__import__('os').mkdir({str(mark)!r})", "system": f"mkdir {mark}"}.get(name, str(mark))
    evil = Evil(function, print if name == "partial" else argument)
    for content in ((images, evil), ([*images[:-1], evil], SAME), {"x": evil}):
        with pytest.raises(ForeignPickle, match=rf"\.{name}, .*not loaded"):
            read_bin(save(pickle.dumps(content, protocol)))
    assert not mark.exists()


def test_spelled_globals_are_refused_before_the_unpickler_starts(
    save: Save, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binfile, "load", lambda data: pytest.fail("the unpickler was started"))
    with pytest.raises(ForeignPickle, match=r"posix\.system|nt\.system"):
        read_bin(save(pickle.dumps((images, Evil(os.system, "true")), 2)))


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"\x80\x02r\xff\xff\xff\x7f.", "memory"),  # LONG_BINPUT: a table of 2^31 slots
        (b"p99999999\n.", "memory"),
        (b"pabc\n.", "memory"),
        (b"Pid\n.", "PERSID"),
        (b"NQ.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\no.", "os.system"),
        (b"]]\x81.", "NEWOBJ"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\xff.", "opcode 255"),
        (b"]" * 20_000 + b".", "opcodes"),
        (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "int"),
        (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "int"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "latin-1 is read"),
        (b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "'O8'"),
        (b"cnumpy\ndtype\nX\x03\x00\x00\x00V99\x85R.", "'V99'"),
        (b"N.", "a pair"),
        (b"](NNe.", "list of encoded"),
        (b"](](K\x01K\x02e](\x88ee.", "neither bytes nor"),
        (b"](](e](ee.", "do not make"),
        (b"](](NNe](\x88ee.", "neither bytes nor"),
        (b"](](C\x01aC\x01be](K\x02ee.", "neither 0 nor 1"),
        (b"](](C\x01aC\x01be](Nee.", "list of bools"),
        (b"](](C\x01aC\x01be](\x88\x89ee.", "2 images do not make 2 pairs"),
    ],
)
def test_crafted_streams_are_refused(save: Save, stream: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_bin(save(stream))
    assert words in str(caught.value) and "set.bin" in str(caught.value)


def state(shape: object, raw: object, dtype: bytes = b"U\x02u1") -> bytes:
    inner = pickle.dumps((1, shape), 2)[2:-1].replace(b"\x86", b"")
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return array + b"(" + inner + b"cnumpy\ndtype\n" + dtype + b"\x85R\x89" + pickle.dumps(raw, 2)[2:-1] + b"tb."


@pytest.mark.parametrize(
    ("shape", "raw"),
    [((10**12,), ""), ((-1,), ""), ((2, 2**62), ""), (("x",), ""), (None, ""), ((0,), None), ((0,), [])],
)
def test_arrays_whose_shape_and_bytes_disagree_are_refused(save: Save, shape: object, raw: object) -> None:
    with pytest.raises(InputError, match="array"):
        read_bin(save(b"\x80\x02" + state(shape, raw)))


def test_object_arrays_are_refused(save: Save, images: list[bytes]) -> None:
    for protocol in range(6):
        with pytest.raises(ForeignPickle, match="dtype 'O8'"):
            read_bin(save(pickle.dumps((np.array(images, object), SAME), protocol)))
        with pytest.raises(ForeignPickle, match="dtype|neither bytes"):
            read_bin(save(pickle.dumps(([np.zeros(4)] * 8, SAME), protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_every_cut_is_called_one(save: Save, images: list[bytes], protocol: int) -> None:
    data = pickle.dumps(([np.frombuffer(b, np.uint8) for b in images], SAME), protocol)
    for keep in [*range(40), *range(40, len(data) - 1, 97), len(data) - 1]:
        with pytest.raises(CorruptFile, match="cut off"):
            read_bin(save(data[:keep]))


@given(st.data())
def test_damaged_pickles_load_or_are_explained(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    protocol = data.draw(st.integers(0, 5))
    items = [np.frombuffer(bytes(range(60)), np.uint8), b"abc" * 9, bytearray(b"de" * 7), b"f"]
    stream = bytearray(pickle.dumps((items, [True, np.bool_(False)]), protocol))
    for _ in range(data.draw(st.integers(1, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(stream)
    try:
        found = read_bin(path)
    except FacekitError as error:
        assert "fuzz.bin" in str(error)
    else:
        assert len(found.bins) == 4 and all(type(b) is bytes for b in found.bins)


def test_walk_accepts_exactly_what_pickle_writes(images: list[bytes]) -> None:
    for protocol in range(6):
        walk(pickle.dumps((images, SAME), protocol))
        walk(pickle.dumps((images, SAME), protocol) + b"trailing bytes are not read")


def test_missing_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Save) -> None:
    with pytest.raises(MissingFile):
        read_bin(tmp_path / "none.bin")
    monkeypatch.setattr(binfile, "MAX_FILE", 10)
    with pytest.raises(InputError, match="MiB long"):
        read_bin(save(b"." * 11))


def test_one_bytearray_listed_again_and_again_is_held_once(save: Save) -> None:
    # 1 MB on disk; a copy for each of 40,000 items would be 40 GB.
    stream = b"\x80\x05](\x96" + struct.pack("<Q", 1 << 20) + bytes(1 << 20) + b"q\x00" + b"h\x00" * 39_999
    found = read_bin(save(stream + b"e](" + b"\x88\x89" * 10_000 + b"e\x86."))
    assert len(found.bins) == 40_000 and len({id(b) for b in found.bins}) == 1


# --- as a benchmark --------------------------------------------------------------------------------------------


def interleaved(make_jpeg: Any, pairs: int = 40) -> tuple[list[bytes], list[bool]]:
    return [make_jpeg(k) for k in range(2 * pairs)], [k % 2 == 0 for k in range(pairs)]


def test_a_bin_is_a_benchmark_with_contiguous_tenths(save: Save, make_jpeg: Any) -> None:
    bins, same = interleaved(make_jpeg)
    found = open_benchmark(str(save(pickle.dumps((bins, same), 4))))
    assert found.name == "set" and found.identity is None and found.failed == 0
    assert found.left.tolist() == list(range(0, 80, 2)) and found.right.tolist() == list(range(1, 80, 2))
    assert found.fold is not None and found.fold.tolist() == np.repeat(np.arange(10), 4).tolist()
    assert found.fold_rule == "contiguous tenths" and found.same.tolist() == same
    assert found.source.read(np.array([3])).shape == (1, 24, 24, 3) and len(found.source.fingerprint) == 64


def test_a_bin_sorted_by_class_is_not_scored_by_contiguous_tenths(save: Save, make_jpeg: Any) -> None:
    bins, same = interleaved(make_jpeg)
    found = open_benchmark(str(save(pickle.dumps((bins, sorted(same, reverse=True)), 4))))
    assert found.fold_rule == "position within its class mod 10"


def test_undecodable_images_of_a_bin_are_counted(save: Save, make_jpeg: Any) -> None:
    bins, same = interleaved(make_jpeg)
    bins[3] = b"nothing"
    bins[9] = bins[9][:-40]
    bins[12] = make_jpeg(1, (30, 30))
    bins[13] = b""
    found = open_benchmark(str(save(pickle.dumps((bins, same), 4))))
    assert found.failed == 4 and len(found.same) == 37 and len(found.source) == 76
    assert "4 of 80 images cannot be used (the first is 000003" in found.notes[0]
    assert "3 of 40 pairs are left out" in found.notes[0]
    assert found.fold is not None and len(found.fold) == 37
    with pytest.raises(InputError, match="none of the 8 images"):
        open_benchmark(str(save(pickle.dumps(([b"x"] * 8, SAME), 4))))


def test_a_bin_takes_neither_allpairs_nor_images(save: Save, tmp_path: Path) -> None:
    path = save(b"")
    for text, images in ((f"allpairs:{path}", None), (str(path), tmp_path)):
        with pytest.raises(InputError, match="neither allpairs: nor --images"):
            open_benchmark(text, images)
