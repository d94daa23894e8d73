"""Run folders: one run, one ``run.json`` that says what it is, how far it got and how to repeat it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facekit import __version__
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import ArtefactMismatch, OutputExists, UsageError
from facekit.core.files import read_json, write_json

# Options that change neither the numbers nor what is trained: a resume may give others.
NEUTRAL = frozenset(
    {
        "out",
        "resume",
        "budget_s",
        "save_minutes",
        "save_steps",
        "keep",
        "tensorboard",
        "dry_run",
        "cache",
        "cache_dir",
        "threads",
    }
)


def config_hash(config: Mapping[str, Any]) -> str:
    """Eight hex digits that name a configuration, neutral options left out."""
    relevant = {k: v for k, v in config.items() if k not in NEUTRAL}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]


@dataclass
class Run:
    """An opened run folder."""

    folder: Path
    verb: str
    config: Mapping[str, Any]
    resuming: bool
    done: bool
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.folder)

    @property
    def init(self) -> Path | None:
        """The weights to start from; None where the run goes on from a state of its own."""
        named = self.record["config"].get("init")
        return None if named is None or (self.resuming and self.store.has("last")) else Path(named)

    def write(self, status: str, facts: Mapping[str, Any]) -> None:
        """Update run.json."""
        self.record |= dict(facts)
        self.record.update(status=status, updated=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        write_json(self.folder / "run.json", self.record)


def open_run(
    verb: str, config: Mapping[str, Any], *, out: Path | None, resume: bool, init: Path | None, dry_run: bool = False
) -> Run:
    """Open a new or an interrupted run; refuses to overwrite one, or to continue one with other options.

    Raises UsageError for --resume with --init, OutputExists for a folder in use, ArtefactMismatch for a resume
    whose options differ.
    """
    if resume and init:
        raise UsageError("--resume continues a run and --init starts one from weights: give one of them")
    folder = out if out is not None else Path("runs") / f"{verb.replace(' ', '-')}-{config_hash(config)}"
    file = folder / "run.json"
    fresh = Run(folder, verb, config, resuming=False, done=False, record=new_record(verb, config))
    if dry_run:
        return fresh
    if is_free(folder):
        return fresh
    if not resume:
        raise OutputExists(f"{folder} exists already; add --resume to continue it, or choose another --out")
    if not file.is_file():
        raise OutputExists(f"{folder} exists but is no run (no run.json); choose another --out")
    record = read_json(file)
    if record.get("verb") != verb:
        raise ArtefactMismatch(f"{folder} was made by 'facekit {record.get('verb')}', not by 'facekit {verb}'")
    earlier = record.get("config", {})
    # A resume cannot name --init again: the run goes on from the weights it was started with.
    changed = sorted(k for k in {*earlier, *config} - NEUTRAL - {"init"} if earlier.get(k) != config.get(k))
    if changed:
        shown = ", ".join(f"{k}: {earlier.get(k)!r} then, {config.get(k)!r} now" for k in changed)
        raise ArtefactMismatch(
            f"{folder} was started with other options ({shown}); repeat those, or choose another --out"
        )
    remove_leftovers(folder)
    return Run(folder, verb, config, resuming=True, done=record.get("status") == "done", record=record)


def is_free(folder: Path) -> bool:
    """True where a run may begin: nothing is there, or only what a kill left of the first file."""
    return not folder.exists() or (folder.is_dir() and {*folder.iterdir()} == {*half_written(folder)})


def half_written(folder: Path) -> Iterator[Path]:
    """Files that ``write_atomic`` had not yet given their names."""
    return folder.glob(".*.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written; whole files are never touched."""
    CheckpointStore(folder).clean()
    for temporary in half_written(folder):
        temporary.unlink(missing_ok=True)


def new_record(verb: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The first content of run.json."""
    return {
        "schema": "facekit.run/1",
        "verb": verb,
        "facekit": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": "facekit " + " ".join(sys.argv[1:]),
        "status": "started",
        "config": dict(config),
    }
