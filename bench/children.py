"""Benches that run in a process of their own, so that nothing else counts as their memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_child(module: str, *arguments: object) -> dict[str, float]:
    """Run ``python -m module arguments``; its last line is a JSON object of numbers."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def anonymous() -> int:
    """Bytes of this process that are no mapped file (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def with_peak(call: Callable[[], Any], every: float = 0.02) -> tuple[Any, int]:
    """(the result, the largest ``anonymous()`` seen every few milliseconds meanwhile)."""
    peak, done = anonymous(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = call()
    finally:
        done.set()
        watcher.join()
    return result, max(peak, anonymous())
