"""``facekit profile``: by name, by file, as a table, as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from facekit.configs import ProfileConfig
from facekit.core.errors import MissingFile, UsageError
from facekit.engines import profile
from facekit.models import build_backbone


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def test_a_name_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    profile.run(ProfileConfig(model="mbf_half", embedding=128, repeats=3, json=True))
    result = json.loads(capsys.readouterr().out)
    assert (result["name"], result["parameters"], result["macs"]) == ("mbf_half", 351_680, 59_950_592)
    assert result["latency_ms"] > 0 and result["device"]["threads"] == torch.get_num_threads()
    assert result["device"]["precision"] == "fp32"


def test_a_file_beats_a_backbone_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_backbone("mbf_nano", 16).state_dict(), tmp_path / "mbf_half")
    monkeypatch.chdir(tmp_path)
    profile.run(ProfileConfig(model="mbf_half", repeats=3))
    shown = capsys.readouterr().out
    assert "mbf_nano" in shown and "14." in shown and "licence" in shown and "unknown" in shown


def test_neither_name_nor_file() -> None:
    with pytest.raises(UsageError, match=r"unknown network or file 'mbf_hal'. Did you mean 'mbf_half'\?"):
        profile.run(ProfileConfig(model="mbf_hal"))
    with pytest.raises(MissingFile, match=r"runs/mbf does not exist; give a run folder"):
        profile.run(ProfileConfig(model="runs/mbf"))
