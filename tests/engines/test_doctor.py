from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from facekit import __version__
from facekit.configs import DoctorConfig
from facekit.engines import doctor


def names(requirements: list[str]) -> set[str]:
    """``torch>=2.6`` -> ``torch``."""
    return {re.split(r"[<>=!~\[; ]", r)[0] for r in requirements}


def cell(facts: dict[str, Any], what: str) -> tuple[str, str]:
    """State and advice of one row."""
    return next((state, todo) for name, state, todo in doctor.rows(facts) if name == what)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return doctor.survey()


def test_the_packages_looked_for_are_those_declared(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(doctor.REQUIRED) == names(project["dependencies"])
    assert {k: set(v) for k, v in doctor.EXTRAS.items()} == {
        k: names(v) for k, v in project["optional-dependencies"].items()
    }
    assert set(doctor.PURPOSE) == set(doctor.EXTRAS)


def test_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(DoctorConfig(json=True))
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert document["schema"] == "facekit.doctor/1"
    assert document["versions"]["facekit"] == __version__
    assert document["versions"]["torch"] == document["run"]["torch"]
    assert document["run"]["precision"] in ("fp32", "bf16")
    assert document["run"]["cores"] >= 1
    assert document["disk_free"]["here"] > 0


def test_the_table_names_every_extra_and_is_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(DoctorConfig())
    out = capsys.readouterr().out
    for extra in doctor.EXTRAS:
        assert f"extra [{extra}]" in out
    assert __version__ in out


def test_a_missing_extra_comes_with_the_command_that_adds_it(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "onnxscript" else real(name))
    state = doctor.extra_state("onnx", doctor.EXTRAS["onnx"])
    assert state["missing"] == ["onnxscript"]
    shown, todo = cell({**facts, "extras": {"onnx": state}}, "extra [onnx]")
    assert "missing onnxscript" in shown
    assert todo == "pip install 'facekit[onnx]'"


def test_an_absent_package_has_no_version() -> None:
    assert doctor.installed_version("facekit-has-no-such-package") is None
    assert doctor.installed_version("pytest") == pytest.__version__
    assert doctor.version_row("torch", None) == ("torch", "missing", "pip install torch")


def test_data_is_unset_absent_or_there(tmp_path: Path) -> None:
    unset = doctor.data_row(doctor.folder_state(None))
    assert unset[1] == "not set"
    assert "--data" in unset[2]
    absent = doctor.data_row(doctor.folder_state(tmp_path / "no"))
    assert absent[1].endswith("does not exist")
    assert doctor.data_row(doctor.folder_state(tmp_path)) == ("$FACEKIT_DATA", str(tmp_path), "")


def test_the_environment_decides_data_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "not" / "made" / "yet"))
    facts = doctor.survey()
    assert facts["data"] == {"path": str(tmp_path), "exists": True, "readable": True}
    assert facts["cache"]["path"] == str(tmp_path / "not" / "made" / "yet")
    assert not (tmp_path / "not").exists(), "doctor looks, it makes nothing"


def test_memory_and_disk_are_of_this_machine(tmp_path: Path) -> None:
    ram = doctor.memory()
    assert ram["total"] is None or ram["total"] > 2**28
    assert ram["available"] is None or 0 < ram["available"] <= (ram["total"] or 0)
    free = doctor.free_disk(tmp_path / "a" / "b")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, abs=2**30)
    assert doctor.gigabytes(3_200_000_000) == "3.2 GB"
    assert doctor.gigabytes(None) == "unknown"


def test_without_a_kernel_table_the_total_is_still_known_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, encoding: str = "") -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    ram = doctor.memory()
    assert ram["available"] is None
    assert ram["total"] is None or ram["total"] > 2**28
