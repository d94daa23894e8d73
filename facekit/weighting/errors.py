"""What sample weighting refuses, one class for each cause. Scripts read ``code``; people read the message.

A UsageError is decidable from flags alone (exit code 2); the others needed a file to be found (exit code 1).
"""

from __future__ import annotations

from facekit.core.errors import ArtefactMismatch, InputError, NonFinite, UsageError


class NeedsClean(InputError):
    """A weighter needs clean images and has none, or they are training or test images too."""

    code = "AW-CLEAN"


class NeedsTruth(InputError):
    """``clean_only`` on data whose true labels nobody recorded."""

    code = "AW-TRUTH"


class WrongAction(InputError):
    """An action of another length than the features and the layout ask for."""

    code = "AW-ACTION"


class OtherSearch(ArtefactMismatch):
    """A policy, noise plan, split or replay of another configuration."""

    code = "AW-HASH"


class UnknownWeighting(UsageError):
    """No weighter, setting, feature or profile has this name."""

    code = "AW-NAME"


class SmallBatch(UsageError):
    """Fewer than two samples cannot be normalised."""

    code = "AW-BATCH"


class WrongStages(UsageError):
    """Fewer than two stages, warm-up that leaves none, or stages without a step."""

    code = "AW-STAGES"


class OutOfRange(UsageError):
    """A number that the method is not defined for."""

    code = "AW-RANGE"


class NotANumber(NonFinite):
    """A loss, weight or reward that is not finite."""

    code = "AW-NAN"


class UnknownSamples(InputError):
    """Sample numbers that are missing, or not unique."""

    code = "AW-IDS"
