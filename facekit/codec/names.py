"""Names in an archive: where a decoder would write each image, so a stranger's are judged before anyone does."""

from __future__ import annotations

from collections.abc import Iterable

from facekit.codec.errors import UnsafeName

SEPARATOR = "\0"
RESERVED = frozenset('\\:*?"<>|')
"""What some systems read as a drive, a folder or a pattern."""


def pack_names(names: Iterable[str]) -> bytes:
    """UTF-8, a NUL between two names. Raises UnsafeName."""
    return SEPARATOR.join(checked(names)).encode()


def unpack_names(data: bytes, origin: str) -> list[str]:
    """Undo ``pack_names``; ``origin`` is what messages call the archive. Raises UnsafeName."""
    try:
        return checked(data.decode().split(SEPARATOR))
    except UnicodeDecodeError as error:
        raise UnsafeName(f"the names in {origin} are not UTF-8: {error}") from None
    except UnsafeName as error:
        raise UnsafeName(f"{origin} is not unpacked: {error}") from None


def checked(names: Iterable[str]) -> list[str]:
    """The names; UnsafeName for one that could lead out of a folder, or that is there twice."""
    listed, seen = list(names), set[str]()
    for name in listed:
        if not is_plain(name):
            raise UnsafeName(f"the name {name!r} is no plain path below a folder")
        if name in seen:
            raise UnsafeName(f"the name {name!r} is there twice")
        seen.add(name)
    return listed


def is_plain(name: str) -> bool:
    """True for ``anna/3.png``; False for ``/anna``, ``../anna``, ``a//b``, drives, and signs that cannot be printed."""
    return name.isprintable() and RESERVED.isdisjoint(name) and all(p not in ("", ".", "..") for p in name.split("/"))
