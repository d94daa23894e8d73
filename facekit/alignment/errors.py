"""What an alignment refuses, one class for each cause. Scripts read ``code``; people read the message.

A UsageError is decidable from flags alone (exit code 2); the others needed a file to be found (exit code 1).
"""

from __future__ import annotations

from facekit.core.errors import ArtefactMismatch, InputError, UsageError


class BadEmbedding(InputError):
    """NaN, infinity, a row of zeros, or rows of another length than the bank's."""

    code = "ALIGN-EMB"


class OtherModel(ArtefactMismatch):
    """A bank, estimator or policy was made by another model or with another preprocessing."""

    code = "ALIGN-HASH"


class IdentityLeak(InputError):
    """A person of the support set or of the tuning set is also in the test set."""

    code = "ALIGN-LEAK"


class NeedsDev(UsageError):
    """A choice among strengths needs people to choose on."""

    code = "ALIGN-DEV"


class DevOverlap(InputError):
    """A person is both in the dev and in the test set."""

    code = "ALIGN-DEV"


class UndefinedSides(UsageError):
    """The operator has no such form, or there is no such rule."""

    code = "ALIGN-SIDES"


class UnknownAlignment(UsageError):
    """No operator, statistic, score or selection has this name, or it cannot work with what it was given."""

    code = "ALIGN-OP"


class OutOfRange(UsageError):
    """A number that the formula is not defined for."""

    code = "ALIGN-RANGE"


class CentreBank(InputError):
    """Centres are closer to everybody than images are: strong alignment by them must be tried on dev people."""

    code = "ALIGN-CENTRE"


class SmallBank(InputError):
    """Fewer than ten identities."""

    code = "ALIGN-SMALL"


class FewNeighbours(InputError):
    """An image has fewer than ten usable entries in the bank."""

    code = "ALIGN-FEW"


class SmallGallery(InputError):
    """The gallery is its own support set, and has too few people for that."""

    code = "ALIGN-GALLERY"


class PoorVirtualBank(InputError):
    """Virtual people that say nothing about crowded and lonely faces, or hardly any of them."""

    code = "ALIGN-VIRTUAL"


class RerankTooLarge(InputError):
    """Reranking compares all images of the list with each other."""

    code = "ALIGN-RERANK-SIZE"
