"""Reading run folders: what a run is, how far it got, what became of it. Nothing is written, torch is not loaded.

Whatever a folder holds, reading it gives an answer: a ``run.json`` that cannot be used is a run with a ``fault``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from facekit.core.errors import FacekitError, MissingFile
from facekit.core.files import read_json

STATUSES = ("done", "running", "silent", "unfinished", "interrupted", "failed", "broken")
"""``silent``: run.json says running, the folder has not changed for long. ``unfinished``: the time budget ended."""
NETWORKS = ("checkpoints", "route")
"""Folders of a run whose own folders have a run.json each and are networks, not runs."""
LARGEST = 16 << 20
"""Bytes of a run.json, results.json or the metrics.jsonl of a run that are read; real ones are far below."""
_TAIL = 1 << 16
_ENDED_BY = {"Unfinished": "unfinished"} | dict.fromkeys(
    ("Interrupted", "KeyboardInterrupt", "ProcessLost"), "interrupted"
)
_LEAST_SILENCE_S = 300.0
_HEADLINE = (1e-3, 1e-2, 1e-4)


@dataclass(frozen=True)
class StoredRun:
    """A run folder (or a checkpoint in one) as found: its run.json, and why that cannot be used."""

    path: Path
    record: dict[str, Any]
    fault: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The options it was started with."""
        return table(self.record.get("config"))


def find_runs(root: Path) -> tuple[list[StoredRun], list[str]]:
    """(all runs at and below ``root`` by path, folders that could not be read). Networks inside a run are no runs.

    Raises MissingFile where ``root`` is no folder.
    """
    if not root.is_dir():
        raise MissingFile(f"{root} is no folder; give the folder that holds the runs")
    found: list[StoredRun] = []
    refused: list[str] = []

    def refuse(error: OSError) -> None:
        refused.append(f"{error.filename}: {error.strerror}")

    for folder, inner, files in os.walk(root, onerror=refuse):
        is_run = "run.json" in files
        inner[:] = [name for name in inner if not name.startswith(".") and not (is_run and name in NETWORKS)]
        run = read_run(Path(folder)) if is_run else None
        if run is not None and not is_network(run.record):
            found.append(run)
    return sorted(found, key=lambda run: run.path), refused


def read_run(folder: Path) -> StoredRun:
    """What ``folder/run.json`` says. Never raises: what is wrong with it is the ``fault``."""
    try:
        record = read_small(folder / "run.json")
    except FacekitError as error:
        return StoredRun(folder, {}, str(error))
    if not isinstance(record, dict):
        return StoredRun(folder, {}, "run.json holds no table")
    schema, status, fault = record.get("schema"), record.get("status"), ""
    if not is_network(record):
        if schema != "facekit.run/1":
            fault = f"run.json has the schema {schema!r}, not 'facekit.run/1'"
        elif status not in ("done", "running", "interrupted"):
            fault = f"run.json has the unknown status {status!r}"
    return StoredRun(folder, record, fault)


def is_network(record: Mapping[str, Any]) -> bool:
    """True for the run.json of a checkpoint: it vouches for files and has neither schema nor status."""
    return "files" in record and "schema" not in record


# --- strangers' tables -----------------------------------------------------------------------------------


def read_small(path: Path) -> Any:
    """JSON of a small file. Raises a FacekitError that begins with the file's name, whatever is in it."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise FacekitError(f"{path.name} has {size:,} bytes; more than {LARGEST:,} are not read")
        return read_json(path)
    except FacekitError as error:
        raise FacekitError(str(error).replace(str(path), path.name)) from error
    except (ValueError, RecursionError, OSError) as error:  # endless digits or brackets, a link to nowhere
        raise FacekitError(f"{path.name} cannot be read: {error}") from error


def table(value: Any) -> dict[str, Any]:
    """``value`` where it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def tables(value: Any) -> list[dict[str, Any]]:
    """The tables in ``value`` where it is a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """``value`` where it is a number that a table can show; NaN, infinity and astronomic ones are none."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if usable else None


def words(value: Any) -> str | None:
    """``value`` where it is a text."""
    return value if isinstance(value, str) else None


# --- what became of it -------------------------------------------------------------------------------------


def last_sign(run: StoredRun) -> float:
    """When the run last gave a sign, in seconds since 1970: its end where that is written, else its newest file."""
    ended = moment(run.record.get("updated")) if run.record.get("status") in ("done", "interrupted") else None
    files = ("run.json", "metrics.jsonl", "train.log", "checkpoints/last/run.json")
    return ended or max(modified(run.path / name) for name in files)


def moment(value: Any) -> float | None:
    """``2026-11-20T13:39:20+0000`` in seconds since 1970."""
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def modified(file: Path) -> float:
    """When a file was last written, 0 where it is absent."""
    try:
        return file.lstat().st_mtime
    except OSError:
        return 0.0


def status_of(run: StoredRun, now: float) -> tuple[str, str]:
    """(a name of STATUSES, the reason where one is known).

    A live run writes its state every --save-minutes; one that was silent for three times as long is not called
    running, but whether its process lives cannot be read from a folder.
    """
    if run.fault:
        return "broken", run.fault
    written = run.record["status"]
    if written == "running":
        patience = max(180.0 * (number(run.config.get("save_minutes")) or 5.0), _LEAST_SILENCE_S)
        return ("silent" if now - last_sign(run) > patience else "running"), ""
    if written == "done":
        return "done", ""
    error = words(run.record.get("error"))
    status = "interrupted" if error is None else _ENDED_BY.get(error, "failed")
    return status, words(run.record.get("reason")) or ""


# --- how far it got ------------------------------------------------------------------------------------------


def metric_rows(folder: Path, last_bytes: int = LARGEST) -> list[dict[str, Any]]:
    """The whole rows among the last bytes of metrics.jsonl; a row that is being written is left out."""
    try:
        with open(folder / "metrics.jsonl", "rb") as stream:
            start = max(0, os.fstat(stream.fileno()).st_size - last_bytes)
            stream.seek(start)
            lines = stream.read(last_bytes).split(b"\n")
    except OSError:
        return []
    return list(parsed(lines[1:-1] if start else lines[:-1]))


def parsed(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that are JSON tables."""
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def method_of(run: StoredRun) -> str | None:
    """The loss terms of a distillation, ``fcd+rad``; None for a run without any."""
    method = run.config.get("method")
    return "+".join(map(str, method)) if isinstance(method, list) else words(method)


def best_dev(run: StoredRun) -> dict[str, Any] | None:
    """The leading number of --dev in the best epoch: ``{"metric", "value", "epoch"}``."""
    stored = read_run(run.path / "checkpoints" / "best").record
    for metric, value in table(stored.get("dev")).items():
        return {"metric": metric, "value": number(value), "epoch": number(stored.get("epoch"))}
    return None


def weights_of(run: StoredRun) -> dict[str, str]:
    """SHA-256 of the run's networks by name: last, best."""
    stored = {name: read_run(run.path / "checkpoints" / name).record for name in ("last", "best")}
    found = {name: words(record.get("weights_sha256")) for name, record in stored.items()}
    return {name: sha for name, sha in found.items() if sha}


def summary(run: StoredRun, now: float) -> dict[str, Any]:
    """A run in a few facts, in JSON's types; None where the folder does not say."""
    status, reason = status_of(run, now)
    record, config, seen = run.record, run.config, last_sign(run)
    last: dict[str, Any] = next(reversed(metric_rows(run.path, _TAIL)), {})
    return {
        "path": run.path.as_posix(),
        "verb": words(record.get("verb")),
        "method": method_of(run),
        "network": words(config.get("student")) or words(config.get("model")),
        "seed": number(config.get("seed")),
        "status": status,
        "reason": reason or None,
        "epoch": number(last.get("epoch")),
        "epochs": number(config.get("epochs")),
        "step": number(last.get("step")),
        "dev": best_dev(run),
        "test": headline(run),
        "created": words(record.get("created")),
        "last_sign": datetime.fromtimestamp(seen).astimezone().isoformat(timespec="seconds"),
        "age_s": max(0.0, round(now - seen, 1)),
    }


# --- what it was measured to be ----------------------------------------------------------------------------------


def read_results(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """(the newest results document of ``align-eval`` in a run's folder or its results/, why it cannot be used)."""
    files = [file for name in (".", "results") if (file := folder / name / "results.json").is_file()]
    if not files:
        return None, ""
    try:
        content = table(read_small(max(files, key=modified)))
    except FacekitError as error:
        return None, str(error)
    if not str(content.get("schema")).startswith("facekit.results/"):
        return None, f"results.json has the schema {content.get('schema')!r}, not 'facekit.results/1'"
    return (None, "") if "swap" in content else (content, "")


def measured_on(run: StoredRun, content: Mapping[str, Any]) -> str:
    """Which network the results are of: last or best; ``other`` for weights that the run no longer has."""
    shas = [words(model.get("sha256")) for model in tables(content.get("models"))]
    return next((name for name, sha in weights_of(run).items() if sha in shas), "other")


def measured_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of raw scores that hold a number."""
    return [r for r in tables(content.get("rows")) if r.get("score") == "raw" and number(r.get("value")) is not None]


def headline(run: StoredRun) -> dict[str, Any] | None:
    """The one number to list a run by: TAR on the first benchmark, at FAR 1e-3 where it was measured, or accuracy."""
    content, fault = read_results(run.path)
    if content is None:
        return {"fault": fault} if fault else None
    rows = measured_rows(content)
    tar = {number(row.get("at")): row for row in reversed(rows) if row.get("metric") == "tar@far"}
    others = [row for row in rows if row.get("metric") in ("accuracy_10fold", "top1")]
    chosen = next((tar[far] for far in _HEADLINE if far in tar), next(iter([*tar.values(), *others]), None))
    if chosen is None:
        return None
    kept = ("benchmark", "variant", "metric", "at", "value", "low", "high", "status")
    return {**{name: chosen.get(name) for name in kept}, "weights": measured_on(run, content)}
