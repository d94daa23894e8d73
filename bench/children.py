"""Benches that run in a process of their own: nothing else counts as their memory, and a peer stays among its own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_child(module: str, *arguments: object, python: str = sys.executable) -> dict[str, float]:
    """Run ``python -m module arguments``; its last line is a JSON object of numbers."""
    command = [python, "-m", module, *map(str, arguments)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def status(name: str) -> int:
    """Bytes of an entry of /proc/self/status (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def anonymous() -> int:
    """Bytes of this process that are no mapped file."""
    return status("RssAnon")


def extra_peak(call: Callable[[], object], times: int = 5) -> int:
    """Bytes that ``call`` needs at its peak beyond what there is before it, the largest of some calls.

    The kernel keeps the peak, so calls of milliseconds count too. One call goes before: pages of libraries that it
    touches do not count, and what a call freed is given back to the system before the next.
    """
    call()
    grown = 0
    for _ in range(times):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        call()
        grown = max(grown, status("VmHWM") - before)
    return grown


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
