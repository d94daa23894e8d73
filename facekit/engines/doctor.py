"""``facekit doctor``: what is installed, where a run would run, what is missing and the command that adds it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from facekit import __version__
from facekit.configs import DoctorConfig
from facekit.core.device import Device
from facekit.core.files import plain
from facekit.data.decode import decoder_name
from facekit.data.embeddings import default_cache_dir

REQUIRED = ("torch", "numpy", "pandas", "safetensors", "pillow", "simplejpeg", "typer", "rich", "jinja2")
EXTRAS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "report": ("matplotlib",),
    "codec": ("numba",),
    "faiss": ("faiss-cpu",),
    "dev": ("pytest", "hypothesis", "ruff", "mypy", "pandas-stubs"),
}
"""As in pyproject.toml; a test equates the two. Read from there it would be unknown in an uninstalled checkout."""

PURPOSE = {
    "onnx": "export, and .onnx files as models",
    "report": "figures",
    "codec": "fast entropy coding",
    "faiss": "search in galleries above a million rows",
    "dev": "tests, lint and types",
}


def run(settings: DoctorConfig) -> None:
    """Print the table, or with ``json`` the document."""
    facts = survey()
    if settings.json:
        print(json.dumps(plain(facts), indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("state", overflow="fold")
    table.add_column("to do", overflow="fold")
    for row in rows(facts):
        table.add_row(*row)
    # Names and paths from the machine are printed as they are, not read as markup.
    Console(markup=False, highlight=False).print(table)


def survey() -> dict[str, Any]:
    """Everything the table shows, in JSON's types; sizes in bytes, None where this machine does not tell."""
    cache = default_cache_dir()
    return {
        "schema": "facekit.doctor/1",
        "versions": {"facekit": __version__, "python": platform.python_version(), **versions(REQUIRED)},
        "platform": platform.platform(),
        "run": {**Device.pick("auto").describe(), "cores": usable_cores()},
        "jpeg": decoder_name(),
        "extras": {name: extra_state(name, packages) for name, packages in EXTRAS.items()},
        "data": folder_state(os.environ.get("FACEKIT_DATA")),
        "cache": {**folder_state(cache), "from_environment": "FACEKIT_CACHE" in os.environ},
        "memory": memory(),
        "disk_free": {"here": free_disk(Path.cwd()), "cache": free_disk(cache)},
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed version of each package, None where it is missing. Nothing is imported."""
    return {name: installed_version(name) for name in packages}


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def extra_state(name: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """Which packages of an extra are there, and the command that adds the others."""
    found = versions(packages)
    missing = [package for package, version in found.items() if version is None]
    return {"versions": found, "missing": missing, "command": f"pip install 'facekit[{name}]'" if missing else None}


def folder_state(path: Path | str | None) -> dict[str, Any]:
    """Whether a folder (or, for data, a file) is there and can be read."""
    if not path:
        return {"path": None, "exists": False, "readable": False}
    return {"path": str(path), "exists": os.path.exists(path), "readable": os.access(path, os.R_OK)}


def usable_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> dict[str, int | None]:
    """Total and available RAM in bytes, from the kernel where it says, else the total alone."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return {"total": table["MemTotal"], "available": table["MemAvailable"]}
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return {"total": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "available": None}
    except (AttributeError, OSError, ValueError):
        return {"total": None, "available": None}


def free_disk(path: Path) -> int | None:
    """Free bytes where ``path`` is, or where it would be made."""
    try:
        return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
    except OSError:
        return None


def gigabytes(size: int | None) -> str:
    """``3200000000`` -> ``3.2 GB``."""
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The table: what, its state, and what to do about it (empty where nothing is)."""
    run_on, ram, disk, cache = facts["run"], facts["memory"], facts["disk_free"], facts["cache"]
    return [
        *(version_row(name, version) for name, version in facts["versions"].items()),
        ("device", f"{run_on['device']}, {run_on['precision']}", ""),
        ("threads", f"{run_on['threads']} of {run_on['cores']} cores", ""),
        ("JPEG decoder", facts["jpeg"], "" if facts["jpeg"].startswith("simplejpeg") else "pip install simplejpeg"),
        *(extra_row(name, state) for name, state in facts["extras"].items()),
        data_row(facts["data"]),
        ("$FACEKIT_CACHE" if cache["from_environment"] else "cache", cache["path"], ""),
        ("free disk", f"{gigabytes(disk['here'])} here, {gigabytes(disk['cache'])} for the cache", ""),
        ("RAM", f"{gigabytes(ram['total'])}, {gigabytes(ram['available'])} available", ""),
    ]


def version_row(name: str, version: str | None) -> tuple[str, str, str]:
    """One required package."""
    return (name, version, "") if version else (name, "missing", f"pip install {name}")


def extra_row(name: str, state: Mapping[str, Any]) -> tuple[str, str, str]:
    """One extra: what it is for, and what is missing of it."""
    what = f"missing {', '.join(state['missing'])}" if state["missing"] else "installed"
    return f"extra [{name}]", f"{what} ({PURPOSE[name]})", state["command"] or ""


def data_row(state: Mapping[str, Any]) -> tuple[str, str, str]:
    """Where verbs without --data look."""
    if state["path"] is None:
        return "$FACEKIT_DATA", "not set", "give --data, or export FACEKIT_DATA=FOLDER"
    if not state["readable"]:
        reason = "cannot be read" if state["exists"] else "does not exist"
        return "$FACEKIT_DATA", f"{state['path']} {reason}", "export FACEKIT_DATA=FOLDER with a folder of images"
    return "$FACEKIT_DATA", state["path"], ""
