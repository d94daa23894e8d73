"""What every test starts from: no user settings, no user cache, the same random examples each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("facekit", deadline=None, derandomize=True, database=None)
settings.load_profile("facekit")


@pytest.fixture(autouse=True)
def no_user_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read the user's data and caches nor write there; child processes inherit this."""
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path_factory.getbasetemp() / "facekit-cache"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent
