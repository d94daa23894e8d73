"""Pickles from strangers, read without letting them run anything.

Before the unpickler starts, every opcode is walked: its argument must lie inside the file, it must be one that plain
data needs, and every global it spells out must be on the list. What the listed globals build are stand-ins written
here, so that no numpy or codecs code is ever called with a stranger's arguments.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facekit.core.errors import CorruptFile, InputError, MissingFile


class ForeignPickle(InputError):
    """The pickle names something that image data does not need; it was not run."""


# --- stand-ins for what numpy and Python pickle ----------------------------------------------------------


class FakeDtype:
    """``numpy.dtype(spec, align, copy)``; only plain numbers and bools of a few bytes."""

    ALLOWED = ("u1", "b1", "i1", "i4", "i8", "u4", "u8", "?")

    def __init__(self, spec: object = None, *_: object) -> None:
        text = spec.decode("latin-1") if isinstance(spec, bytes) else spec
        name = text.lstrip("|<=>") if isinstance(text, str) else ""
        if name not in self.ALLOWED:
            raise ForeignPickle(f"it holds arrays of dtype {text!r}; only whole numbers and bools are read")
        self.code = "b1" if name == "?" else name
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = ">" if order in (">", b">") else "<"

    def real(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return np.dtype(self.order + self.code)


class FakeArray:
    """``_reconstruct(ndarray, (0,), b"b")`` followed by ``__setstate__((version, shape, dtype, fortran, bytes))``."""

    def __init__(self, *_: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.columns_first = False
        self.dtype = FakeDtype("u1")
        self.raw = b""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ForeignPickle("it holds an array whose state is not an array's")
        shape, dtype, columns_first, raw = state[-4:]
        if isinstance(raw, bytearray):  # numpy writes bytes here; copies of one bytearray would not be metered
            raise ForeignPickle("it holds an array whose state is not an array's")
        self.fill(raw, dtype, shape, columns_first)

    def fill(self, raw: object, dtype: object, shape: object, columns_first: object = False) -> FakeArray:
        """Take over the content, if its length is what shape and dtype say."""
        if not isinstance(dtype, FakeDtype) or not isinstance(raw, bytes | bytearray):
            raise ForeignPickle("it holds an array of objects; only whole numbers and bools are read")
        lengths = shape if isinstance(shape, tuple) else (shape,)
        if not all(isinstance(n, int) and n >= 0 for n in lengths):
            raise ForeignPickle("it holds an array without a proper shape")
        expected = dtype.real().itemsize
        for n in lengths:
            expected *= n
        if expected != len(raw):
            raise ForeignPickle(f"it holds an array of shape {lengths} with {len(raw)} bytes")
        self.raw, self.dtype, self.shape, self.columns_first = bytes(raw), dtype, lengths, bool(columns_first)
        return self

    def real(self) -> np.ndarray:
        """The numpy array, read-only."""
        return np.frombuffer(self.raw, self.dtype.real()).reshape(self.shape, order="F" if self.columns_first else "C")


def fake_frombuffer(raw: object, dtype: object, shape: object, order: object = "C", *_: object) -> FakeArray:
    """Protocol 5's form of an array."""
    return FakeArray().fill(raw, dtype, shape, order == "F")


def fake_scalar(dtype: object, raw: object = b"", *_: object) -> int:
    """One numpy number, as a Python int."""
    return int(FakeArray().fill(raw, dtype, (1,)).real()[0])


def fake_encode(text: object, codec: object = None, *_: object) -> bytes:
    """``_codecs.encode(text, "latin1")``: how protocols 0 to 2 write bytes."""
    name = codec.decode("latin-1") if isinstance(codec, bytes) else codec
    if not isinstance(text, str) or name not in ("latin1", "latin-1"):
        raise ForeignPickle(f"it encodes text with {name!r}; only latin-1 is read")
    return text.encode("latin-1")


def fake_bytes(content: object = b"", codec: object = "latin-1", *_: object) -> bytes:
    """``bytes()`` and ``bytearray(...)``; a number is refused, since it would allocate that many bytes."""
    if isinstance(content, str):
        return fake_encode(content, codec)
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise ForeignPickle(f"it makes bytes from a {type(content).__name__}")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): FakeArray,
    ("numpy._core.multiarray", "_reconstruct"): FakeArray,
    ("numpy.core.numeric", "_frombuffer"): fake_frombuffer,
    ("numpy._core.numeric", "_frombuffer"): fake_frombuffer,
    ("numpy.core.multiarray", "scalar"): fake_scalar,
    ("numpy._core.multiarray", "scalar"): fake_scalar,
    ("numpy", "ndarray"): FakeArray,
    ("numpy", "dtype"): FakeDtype,
    ("_codecs", "encode"): fake_encode,
    ("builtins", "bytearray"): fake_bytes,
    ("__builtin__", "bytearray"): fake_bytes,
    ("builtins", "bytes"): fake_bytes,
    ("__builtin__", "bytes"): fake_bytes,
}


def allowed_global(module: str, name: str) -> Callable[..., Any]:
    """The stand-in, or a refusal that names the stranger."""
    try:
        return ALLOWED[module, name]
    except KeyError:
        raise ForeignPickle(
            f"it names {module}.{name}, which image data does not need and which may run code; it was not loaded"
        ) from None


class PlainUnpickler(pickle.Unpickler):
    """Resolves the listed names to stand-ins and refuses all others. Byte strings of Python 2 stay bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.left = 2 * len(data)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Called for every global the stream asks for."""
        make = allowed_global(module_name, global_name)

        def metered(*arguments: object) -> Any:
            # A stream of a few megabytes can hand one long text over a million times, each call making a copy.
            self.left -= sum(len(a) for a in arguments if isinstance(a, str | bytes | bytearray))
            if self.left < 0:
                raise ForeignPickle("it makes more bytes than it holds")
            return make(*arguments)

        return metered


# --- the walk before the run -----------------------------------------------------------------------------

REFUSED = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}
OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def walk(data: bytes) -> None:
    """Check every opcode up to STOP without running any. Raises ForeignPickle and EOFError (cut off)."""
    at = steps = 0
    while True:
        if at >= len(data):
            raise EOFError
        code = OPCODES.get(data[at])
        if code is None or code.name in REFUSED:
            raise ForeignPickle(f"it uses opcode {code.name if code else data[at]} at byte {at}")
        start = at + 1
        at = skip_argument(data, start, code)
        steps += 1
        if steps > len(data) // 8 + 10_000:
            raise ForeignPickle(f"it has {steps} opcodes in {at} bytes; encoded images need far fewer")
        check_argument(data[start:at] if code.name in ("GLOBAL", "PUT", "LONG_BINPUT") else b"", code.name, steps)
        if code.name == "STOP":
            return


def skip_argument(data: bytes, at: int, code: pickletools.OpcodeInfo) -> int:
    """Where the next opcode begins. Raises EOFError if the argument reaches beyond the file."""
    length = code.arg.n if code.arg else 0
    if length == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if code.name == "GLOBAL" else 1):
            at = data.find(b"\n", at) + 1
            if at == 0:
                raise EOFError
        return at
    if length < 0:
        width = LENGTH_BYTES[length]
        announced = int.from_bytes(data[at : at + width], "little")
        # FRAME only groups the opcodes that follow, which are walked one by one.
        length = width + (0 if code.name == "FRAME" else announced)
    if at + length > len(data):
        raise EOFError
    return at + length


def check_argument(argument: bytes, opcode: str, steps: int) -> None:
    """Globals must be on the list, and memo slots as dense as the steps: a huge slot number makes a huge table."""
    if opcode == "GLOBAL":
        module, name = argument.decode("utf-8", "replace").split("\n")[:2]
        allowed_global(module, name)
    elif opcode in ("PUT", "LONG_BINPUT"):
        slot = int.from_bytes(argument, "little") if opcode == "LONG_BINPUT" else decimal(argument)
        if not 0 <= slot <= steps:
            raise ForeignPickle(f"it numbers its memory {slot} after {steps} steps")


def decimal(argument: bytes) -> int:
    """A short decimal number, -1 for anything else."""
    text = argument.strip()
    return int(text) if text.isdigit() and len(text) < 12 else -1


# --- reading ---------------------------------------------------------------------------------------------


def read_limited(path: Path, limit: int) -> bytes:
    """The whole file, if it is not longer than ``limit`` bytes."""
    try:
        length = path.stat().st_size
        if length > limit:
            raise InputError(f"{path} is {length >> 20} MiB long; at most {limit >> 20} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error


def load(data: bytes) -> Any:
    """Unpickle what was walked."""
    return PlainUnpickler(data).load()


@contextmanager
def explain_pickle(path: Path, what: str) -> Iterator[None]:
    """One sentence with the file's name for whatever walking, unpickling and looking at the content raise."""
    try:
        yield
    except EOFError:
        raise CorruptFile(f"{path} is cut off; copy or download it again") from None
    except ForeignPickle as error:
        raise ForeignPickle(f"{path} is not a plain {what}: {error}") from None
    except Exception as error:  # the unpickler raises nearly anything on damaged data
        raise CorruptFile(f"{path} cannot be read as a {what}: {error or type(error).__name__}") from None
