"""What the codec refuses, one class for each cause. Scripts read ``code``; people read the message.

From ``Truncated`` to ``EntropyDesync`` in the order in which a reader checks: a file with several faults is refused for
the first of them, on every machine.
"""

from __future__ import annotations

from facekit.core.errors import InputError


class EdicError(InputError):
    """Base of all refusals of a compressed file."""


class Truncated(EdicError):
    """Shorter than the smallest file, or than its header says."""

    code = "EDIC-TRUNCATED"


class BadMagic(EdicError):
    """Not a file of this kind."""

    code = "EDIC-MAGIC"


class UnsupportedVersion(EdicError):
    """Of another version of the format."""

    code = "EDIC-VERSION"


class HeaderCorrupt(EdicError):
    """What describes the images differs from its CRC."""

    code = "EDIC-HEADER"


class UnknownFlags(EdicError):
    """Flags without a meaning in this version, or that exclude each other."""

    code = "EDIC-FLAGS"


class ModelMismatch(EdicError):
    """Made by another model than the one at hand."""

    code = "EDIC-MODEL"


class SizeLimit(EdicError):
    """A size of zero, or beyond what the format or the user allows."""

    code = "EDIC-SIZE"


class TrailingData(EdicError):
    """Longer than the header says."""

    code = "EDIC-TRAILING"


class PayloadCorrupt(EdicError):
    """What was compressed differs from its CRC."""

    code = "EDIC-PAYLOAD"


class EntropyDesync(EdicError):
    """The entropy coder did not end where an undamaged stream of this model ends."""

    code = "EDIC-DESYNC"


class NonFiniteParameters(EdicError):
    """The model gives NaN or infinity for this image; there is nothing that could be decoded."""

    code = "EDIC-NONFINITE"


class UnsafeName(EdicError):
    """A name in an archive that is no plain path below a folder, or is there twice."""

    code = "EDIC-NAME"
