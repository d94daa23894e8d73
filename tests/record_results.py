"""Run every test, the slow ones too, and keep the summary: ``python tests/record_results.py results.json``."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
OUTCOMES = {"failed": "failure", "errors": "error", "skipped": "skipped"}  # ours -> the tag in the file


def git(*arguments: str) -> str:
    """What git says, or nothing outside a repository."""
    answer = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def reasons(cases: list[ElementTree.Element], tag: str) -> dict[str, str]:
    """The tests that carry this tag, with the first line of its message."""
    found = ((case, case.find(tag)) for case in cases)
    return {
        f"{case.get('classname')}::{case.get('name')}": (mark.get("message") or "").partition("\n")[0]
        for case, mark in found
        if mark is not None
    }


def summarise(junit: Path) -> dict[str, object]:
    """Counts, seconds and the names of failed and skipped tests of a JUnit file."""
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    outcomes = {kind: reasons(cases, tag) for kind, tag in OUTCOMES.items()}
    return {
        "total": len(cases),
        "passed": len(cases) - len(set().union(*outcomes.values())),
        **{kind: len(tests) for kind, tests in outcomes.items()},
        "seconds": round(sum(float(c.get("time", 0)) for c in cases), 1),
        "not_passed": {kind: tests for kind, tests in outcomes.items() if tests},
    }


def main(target: Path) -> int:
    """pytest's exit status; the summary is written whether or not the tests passed."""
    # Asked before the run: what the tests or this file write must not make the tree look changed.
    commit, changed = git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", f":!{target}"))
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "", f"--junitxml={junit}"], cwd=ROOT, check=False
        ).returncode
        summary = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit or None,
            "uncommitted_changes": changed,
            "python": platform.python_version(),
            "exit_status": status,
            **(summarise(junit) if junit.exists() else {}),
        }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
