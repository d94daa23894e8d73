"""The stages of a student's way along a route: which are planned, which are done, and how that is kept on disk.

A stage is one training with its own optimiser. It has one anchor; a one-stage training has all of them, each for its
share of the epochs. ``anchors.json`` is written after every stage and holds nothing that a repeat would not write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from facekit.core.errors import CorruptFile
from facekit.core.files import read_json, write_json
from facekit.training.anchors import Anchors, one_stage_bounds
from facekit.training.greedy import Greedy

ANCHORS_FILE, ANCHORS_SCHEMA = "anchors.json", "facekit.anchors/1"
_SEEDS_APART = 1_000_003


class Stage(NamedTuple):
    """One training: its anchors in the order of use, and how many epochs it has."""

    anchors: Anchors
    epochs: int

    @property
    def bounds(self) -> tuple[int, ...]:
        """The first epoch of each anchor, from 0, and the number of epochs behind them."""
        return one_stage_bounds(self.epochs, len(self.anchors))


class Finished(NamedTuple):
    """A stage that is done."""

    stage: Stage
    weights_sha256: str
    """Of the student after it."""
    hardness: list[float] | None
    """H(last anchor of the stage, j) for every state j of the route; None without held-out images."""


class StagePlan(Protocol):
    """Decides the stages one by one."""

    def following(self, finished: Sequence[Finished]) -> Stage | None:
        """The stage after those that are done; None where all are."""


@dataclass(frozen=True)
class FixedStages:
    """Stages known from the start."""

    stages: tuple[Stage, ...]

    def following(self, finished: Sequence[Finished]) -> Stage | None:
        """The next of them."""
        return self.stages[len(finished)] if len(finished) < len(self.stages) else None


@dataclass(frozen=True)
class SearchedStages:
    """A greedy search among the states of ``epochs``; every stage has ``length`` epochs."""

    search: Greedy
    epochs: Sequence[int]
    length: int

    def following(self, finished: Sequence[Finished]) -> Stage | None:
        """Decided by the hardness measured after the last stage."""
        used = [self.epochs.index(done.stage.anchors[-1]) for done in finished]
        if not finished:
            return self.at(self.search.start())
        row = finished[-1].hardness
        assert row is not None
        found = self.search.following(used, row)
        return None if found is None else self.at(found)

    def at(self, position: int) -> Stage:
        """A stage on one state."""
        return Stage((self.epochs[position],), self.length)


def stage_seed(seed: int, number: int) -> int:
    """Seed of stage ``number``, counted from 1. The first is the run's own: one stage alone is a plain distillation."""
    return seed + (number - 1) * _SEEDS_APART


@dataclass
class StageLog:
    """``anchors.json``: what the plan was made from (``about``), and the stages that are done."""

    about: dict[str, Any]
    finished: list[Finished] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace the file."""
        stages = [
            {
                "stage": number,
                "anchors": list(done.stage.anchors),
                "epochs": done.stage.epochs,
                "bounds": list(done.stage.bounds),
                "weights_sha256": done.weights_sha256,
                "hardness": done.hardness,
            }
            for number, done in enumerate(self.finished, 1)
        ]
        write_json(folder / ANCHORS_FILE, {"schema": ANCHORS_SCHEMA, **self.about, "stages": stages})


def read_log(folder: Path) -> dict[str, Any]:
    """The file as it is; without one, a log without stages. Raises CorruptFile for what is none."""
    file = folder / ANCHORS_FILE
    if not file.is_file():
        return {"stages": []}
    content = read_json(file)
    if not isinstance(content, dict) or content.get("schema") != ANCHORS_SCHEMA or "stages" not in content:
        raise CorruptFile(f"{file} is not the {ANCHORS_FILE} of a route-train run; start anew with another --out")
    return dict(content)


def finished_of(content: Mapping[str, Any]) -> list[Finished]:
    """The stages of a log that was read. Raises CorruptFile where one is not described as such."""
    try:
        return [
            Finished(Stage(tuple(map(int, s["anchors"])), int(s["epochs"])), str(s["weights_sha256"]), s["hardness"])
            for s in content["stages"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{ANCHORS_FILE} has a stage that is not described as one: {error!r}") from error
