"""How much RAM may be used without pushing others out."""

from __future__ import annotations

import re
from pathlib import Path

ASSUMED = 2 << 30


def free_ram() -> int:
    """Bytes available to this process: the kernel's estimate, or what the container's limit leaves, if that is less."""
    found = [n for n in (available_in_kernel(), available_in_container()) if n is not None]
    return min(found) if found else ASSUMED


def available_in_kernel() -> int | None:
    """MemAvailable of /proc/meminfo, where there is one."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def available_in_container() -> int | None:
    """Limit minus use of this control group (v2); its file cache counts as free, since the kernel gives it back."""
    limit, used = read("/sys/fs/cgroup/memory.max").strip(), read("/sys/fs/cgroup/memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    cache = re.search(r"^file (\d+)", read("/sys/fs/cgroup/memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(cache[1]) if cache else 0))


def read(path: str) -> str:
    """The file's text, empty where it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
