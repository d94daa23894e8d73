from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="no faces here")
def test_left_out(): pass
@pytest.fixture
def broken(): raise OSError("no disk")
def test_error(broken): pass
@pytest.mark.parametrize("n", [1, 2])
def test_twice(n): pass
"""


def test_the_summary_counts_what_happened_and_says_why(root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("record_results", root / "tests" / "record_results.py")
    assert spec and spec.loader
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
        "--junitxml=j.xml",
        "test_it.py",
    ]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1

    summary = record.summarise(tmp_path / "j.xml")

    counts = {k: summary[k] for k in ("total", "passed", "failed", "errors", "skipped")}
    assert counts == {"total": 6, "passed": 3, "failed": 1, "errors": 1, "skipped": 1}
    assert summary["not_passed"]["skipped"] == {"test_it::test_left_out": "no faces here"}
    assert "1 == 2" in summary["not_passed"]["failed"]["test_it::test_bad"]
    assert "no disk" in summary["not_passed"]["errors"]["test_it::test_error"]
    assert summary["seconds"] >= 0
