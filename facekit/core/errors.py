"""Errors a user can act on.

Every one says what was given, what is allowed and what to do. The command line prints them as one
sentence without a traceback and leaves with their ``exit_code``; any other exception is a bug and
keeps its traceback. Standard library only: the command line imports this module at start-up.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FacekitError(Exception):
    """Base of all explained errors. ``code`` is a stable name for scripts, where one is defined."""

    exit_code = 1
    code: str | None = None


class UsageError(FacekitError, ValueError):
    """Decidable from flags or config alone: an unknown name, a value out of range. Exit code 2."""

    exit_code = 2


class InputError(FacekitError, ValueError):
    """A file or folder was readable but its content is not usable."""


class MissingFile(FacekitError, FileNotFoundError):
    """A file or folder that was named does not exist or cannot be read."""


class MissingExtra(FacekitError, ImportError):
    """An optional library is needed and not installed; the message holds the command that adds it."""


class ArtefactMismatch(FacekitError, ValueError):
    """A stored file was made from something else than what it is now used with."""


class CorruptFile(FacekitError, ValueError):
    """A file is truncated or its hash differs from the recorded one."""


class OutputExists(FacekitError, FileExistsError):
    """The output folder holds something already and neither --resume nor --init was given."""


class WriteFailed(FacekitError, OSError):
    """The disk is full or the folder is not writable; earlier files are untouched."""


class NonFinite(FacekitError, FloatingPointError):
    """A loss term became NaN or infinite; the message names the term and the step."""


class Unfinished(FacekitError):
    """The time budget ran out; the state is saved. Exit code 3."""

    exit_code = 3


class Interrupted(FacekitError):
    """Ctrl-C or SIGTERM; the state is saved. Exit code 128 + signal number."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum, self.exit_code = signum, 128 + signum


class ProcessLost(FacekitError, ConnectionError):
    """Another process of the run died or cannot be reached; what was saved last is whole."""


class EndedElsewhere(FacekitError):
    """Another process of the run ended with this explained error, and tells it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """``unknown student 'mbx'. Did you mean 'mbf'? Choose from: mbf, mbf_half, r18.``"""
    names = list(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"unknown {kind} {given!r}.{hint} Choose from: {', '.join(names)}.")


def missing_extra(module: str, extra: str) -> MissingExtra:
    """An optional import failed: name the command that adds it."""
    return MissingExtra(f"{module} is not installed; add it with: pip install 'facekit[{extra}]'")
