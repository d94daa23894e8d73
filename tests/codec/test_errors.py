"""Refusals of the codec: every one has a code of its own, and the page on file formats explains it."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekit.codec import errors
from facekit.core.errors import FacekitError

IN_CHECKING_ORDER = (
    errors.Truncated,
    errors.BadMagic,
    errors.UnsupportedVersion,
    errors.HeaderCorrupt,
    errors.UnknownFlags,
    errors.ModelMismatch,
    errors.SizeLimit,
    errors.TrailingData,
    errors.PayloadCorrupt,
    errors.EntropyDesync,
)
ALL = errors.EdicError.__subclasses__()


@pytest.mark.parametrize("error", ALL)
def test_a_script_and_an_engine_can_catch_it(error: type[errors.EdicError]) -> None:
    assert issubclass(error, FacekitError) and issubclass(error, ValueError)
    assert error.exit_code == 1 and str(error.code).startswith("EDIC-")


def test_codes_are_unique_and_the_file_lists_them_in_checking_order() -> None:
    assert len({error.code for error in ALL}) == len(ALL)
    assert tuple(ALL[: len(IN_CHECKING_ORDER)]) == IN_CHECKING_ORDER


def test_the_page_on_file_formats_knows_every_code(root: Path) -> None:
    page = (root / "docs" / "file-formats.md").read_text(encoding="utf-8")
    assert [error.code for error in ALL if f"`{error.code}`" not in page] == []
