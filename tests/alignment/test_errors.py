"""Every refusal has its code, its exit code and its builtin class."""

from __future__ import annotations

import inspect

from facekit.alignment import errors
from facekit.core.errors import FacekitError

BY_FLAGS = {"ALIGN-SIDES", "ALIGN-OP", "ALIGN-RANGE"}
BY_FILES = {
    "ALIGN-EMB",
    "ALIGN-HASH",
    "ALIGN-LEAK",
    "ALIGN-CENTRE",
    "ALIGN-SMALL",
    "ALIGN-FEW",
    "ALIGN-GALLERY",
    "ALIGN-VIRTUAL",
    "ALIGN-RERANK-SIZE",
}


def test_every_code_has_its_exit_code() -> None:
    own = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(c, FacekitError) and issubclass(c, ValueError) for c in own)
    exits = {(c.code, c.exit_code) for c in own}
    assert exits == {(code, 2) for code in BY_FLAGS} | {(code, 1) for code in BY_FILES} | {
        ("ALIGN-DEV", 1),  # dev and test share people: the files say so
        ("ALIGN-DEV", 2),  # a choice without --dev: the flags say so
    }
