"""Margin-head rows in files: PartialFC's shards, one whole head, and the way between them.

arcface_torch's PartialFC gives rank r of W ``C//W + (r < C%W)`` of the C class centres, from row
``r*(C//W) + min(r, C%W)`` on, and writes them beside the other states of training to ``checkpoint_gpu_{r}.pt``
(earlier versions: alone, to ``softmax_fc_gpu_{r}.pt``). A run can only be resumed on the number of GPUs that wrote it.
Here the shards of any number of ranks become one head, and a head becomes the shards of any other number. What the
optimiser remembers of each row (SGD's momentum, AdamW's moments) moves with the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facekit.core.checkpoints import read_tensors
from facekit.core.errors import InputError
from facekit.models.adopt import dense
from facekit.models.heads import MarginHead

Rows = dict[str, Tensor]
"""Float32 matrices with one row per class: ``weight`` and, under the optimiser's names, what it keeps of it."""

_HEAD, _OPTIMISER = "state_dict_softmax_fc", "state_optimizer"


def rows_of(classes: int, world: int, rank: int) -> slice:
    """The rows of a rank: ``rows_of(10, 4, 1)`` is 3..5."""
    share, rest = divmod(classes, world)
    first = rank * share + min(rank, rest)
    return slice(first, first + share + (rank < rest))


def read_rows(path: Path) -> Rows:
    """A head, or one shard: .safetensors with ``weight``, ``checkpoint_gpu_{r}.pt`` or ``softmax_fc_gpu_{r}.pt``.

    Raises MissingFile, CorruptFile, or InputError where the file holds no such matrix.
    """
    content, _ = read_tensors(path)
    head = content.get(_HEAD, content)
    weight = head.get("weight") if isinstance(head, Mapping) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or min(weight.shape) < 1:
        found = f"a weight of shape {list(weight.shape)}" if isinstance(weight, Tensor) else "no weight"
        raise InputError(
            f"{path} holds {found}, where a matrix with one row per class was expected; give a head that facekit "
            "wrote, or arcface_torch's checkpoint_gpu_N.pt or softmax_fc_gpu_N.pt"
        )
    memory = _optimiser(content).of_head if _HEAD in content else head
    kept = {str(k): v for k, v in memory.items() if isinstance(v, Tensor) and v.shape == weight.shape}
    try:
        return {name: dense(name, tensor, torch.float32) for name, tensor in {**kept, "weight": weight}.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


class _Optimiser(NamedTuple):
    """What a checkpoint holds of the optimiser."""

    states: Mapping[Any, Any]
    head: int | None  # its number for the head; None where the checkpoint has no optimiser as torch writes it

    @property
    def of_head(self) -> Mapping[Any, Any]:
        kept = self.states.get(self.head)
        return kept if isinstance(kept, Mapping) else {}


def _optimiser(content: Mapping[str, Any]) -> _Optimiser:
    try:
        stored = content[_OPTIMISER]
        # arcface_torch hands the head over last.
        return _Optimiser(dict(stored["state"]), int(stored["param_groups"][-1]["params"][-1]))
    except (TypeError, KeyError, IndexError, ValueError):
        return _Optimiser({}, None)


# --- shards to head ------------------------------------------------------------------------------------


def merge(paths: Sequence[Path]) -> Rows:
    """The whole head of all shards of one run, in the order of the ranks in their names.

    Raises InputError where a rank is missing, given twice, or does not fit the others.
    """
    ordered = by_rank(paths)
    shards = [read_rows(path) for path in ordered]
    check_shards(ordered, shards)
    return {name: torch.cat([shard.pop(name) for shard in shards]) for name in list(shards[0])}


def by_rank(paths: Sequence[Path]) -> list[Path]:
    """Sort shards by the number that ends their names: rank 10 comes after rank 9."""
    ranks: dict[int, Path] = {}
    for path in paths:
        number = re.search(r"(\d+)$", path.stem)
        if number is None:
            raise InputError(f"{path} does not name its rank: its name must end in a number, as softmax_fc_gpu_0.pt")
        rank = int(number[1])
        if rank in ranks:
            raise InputError(f"{ranks[rank]} and {path} are both rank {rank}: give each rank once, of one run")
        ranks[rank] = path
    missing = sorted(set(range(len(ranks))) - set(ranks))
    if missing:
        raise InputError(
            f"{len(ranks)} shards up to rank {max(ranks)} were given, but not rank {', '.join(map(str, missing))}: "
            "give the shards of all ranks, from 0 on"
        )
    return [ranks[rank] for rank in sorted(ranks)]


def check_shards(paths: Sequence[Path], shards: Sequence[Rows]) -> None:
    """All shards must have the same width and matrices, and the numbers of rows that PartialFC gives its ranks."""
    classes = sum(len(shard["weight"]) for shard in shards)
    first = shards[0]
    for rank, (path, shard) in enumerate(zip(paths, shards, strict=True)):
        rows, width = shard["weight"].shape
        if width != first["weight"].shape[1]:
            raise InputError(f"{path} is {width} wide and {paths[0]} {first['weight'].shape[1]}: not of one run")
        if set(shard) != set(first):
            raise InputError(
                f"{path} holds {', '.join(sorted(shard))}, but {paths[0]} {', '.join(sorted(first))}: not of one save"
            )
        part = rows_of(classes, len(shards), rank)
        if rows != part.stop - part.start:
            raise InputError(
                f"{path} holds {rows:,} rows, but of {classes:,} classes rank {rank} of {len(shards)} has "
                f"{part.stop - part.start:,}: a shard is missing at the end, or they are of several runs"
            )


# --- head to shards ------------------------------------------------------------------------------------


def shards(head: Rows, world: int, frame: Mapping[str, Any] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """File name and content of each rank's shard, for ``torch.save``.

    Without ``frame`` the dictionary that PartialFC's ``load_state_dict`` takes. ``frame`` is the content of any
    checkpoint_gpu_N.pt of the run: each shard becomes a whole one, its network, schedule and optimiser repeated.
    Raises InputError where there are fewer classes than ranks, or ``frame`` is no such checkpoint.
    """
    classes = len(head["weight"])
    if world > classes:
        raise InputError(f"a head of {classes:,} classes cannot be cut into {world} shards: a rank would have none")
    if frame is not None:
        check_frame(frame, head)
    for rank in range(world):
        part = rows_of(classes, world, rank)
        # A slice would be saved with the memory of the whole.
        rows = {name: matrix[part].clone() for name, matrix in head.items()}
        if frame is None:
            yield f"softmax_fc_gpu_{rank}.pt", {"weight": rows["weight"]}
        else:
            yield f"checkpoint_gpu_{rank}.pt", framed(frame, rows)


def check_frame(frame: Mapping[str, Any], head: Rows) -> None:
    """``frame`` must hold a PartialFC head of this width, and an optimiser that knows it."""
    part = frame.get(_HEAD)
    weight = part.get("weight") if isinstance(part, Mapping) else None
    width = head["weight"].shape[1]
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != width:
        raise InputError(f"--checkpoint holds no {_HEAD} of width {width}; give a checkpoint_gpu_N.pt of the same run")
    if _optimiser(frame).head is None:
        raise InputError(f"--checkpoint holds no {_OPTIMISER} as torch writes it; give a checkpoint_gpu_N.pt")


def framed(frame: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """A checkpoint of arcface_torch with the head's rows, and what its optimiser keeps of them, replaced."""
    optimiser = _optimiser(frame)
    states = {k: v for k, v in optimiser.states.items() if k != optimiser.head}
    kept = {name: matrix for name, matrix in rows.items() if name != "weight"}
    if kept:
        numbers = {k: v for k, v in optimiser.of_head.items() if not isinstance(v, Tensor) or v.ndim == 0}
        states[optimiser.head] = {**numbers, **kept}  # AdamW's step count is a number
    return {
        **frame,
        _HEAD: {"weight": rows["weight"]},
        _OPTIMISER: {**frame[_OPTIMISER], "state": states},
    }


# --- a head to train -----------------------------------------------------------------------------------


def load_head(head: MarginHead, path: Path) -> None:
    """Start ``head`` with stored class centres (``--init-head``). Raises InputError where the sizes differ."""
    stored, wanted = read_rows(path)["weight"], head.weight
    if stored.shape != wanted.shape:
        raise InputError(
            f"{path} holds {stored.shape[0]:,} classes of width {stored.shape[1]}, but this run has "
            f"{wanted.shape[0]:,} identities and embeddings of width {wanted.shape[1]}: rows belong to identities in "
            "the order of their labels, so both must be the same"
        )
    with torch.no_grad():
        wanted.copy_(stored)
