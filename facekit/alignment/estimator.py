"""The learnable estimator: a face's discrepancy from its embedding alone, with no other image at evaluation.

The idea is of the abstract of arXiv 2103.01559; network and loss are ours. An estimator is two files: weights in
``NAME.safetensors``, and ``NAME.json``, written last, which says what it was learned from and holds their hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facekit.alignment.bank import REDUCE, require_same
from facekit.alignment.rows import unit_rows
from facekit.alignment.search import People
from facekit.alignment.settings import STATISTICS
from facekit.alignment.statistics import Stats
from facekit.core.checkpoints import read_tensors, state_hash, write_tensors
from facekit.core.errors import CorruptFile, InputError
from facekit.core.files import read_json, write_json

SUFFIX = ".safetensors"
_SCHEMA = "facekit.estimator/1"
_HIDDEN = (256, 128)
_BLOCK = 16_384  # embeddings estimated at once


class Estimator(nn.Module):
    """Unit embeddings [B,D] -> [B,2]: discrepancy d, and log v of the deviation v.

    Its outputs are ``centre + spread x network``, so that all it learns is of order 1. The last layer starts at zero:
    an untrained estimator says ``centre`` of every face, and scores keep their raw order.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, width: int, centre: Tensor | None = None, spread: Tensor | None = None) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _HIDDEN[0]),
            nn.PReLU(),
            nn.Linear(_HIDDEN[0], _HIDDEN[1]),
            nn.PReLU(),
        )
        self.last = nn.Linear(_HIDDEN[1], 2)
        self.register_buffer("centre", torch.zeros(2) if centre is None else centre.float())
        self.register_buffer("spread", torch.ones(2) if spread is None else spread.float())
        self.forget()

    def forget(self) -> None:
        """Become a constant."""
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """[B,D] -> [B,2]."""
        return self.centre + self.spread * self.last(self.layers(vectors))


@dataclass(frozen=True)
class Lesson:
    """What an estimator was learned from, and how well."""

    neighbours: int
    statistic: str
    tau: float
    reduce: str
    dbar: float
    """Mean discrepancy of the images it learned from."""
    vbar: float
    model_sha: str
    preproc_sha: str
    bank_sha: str
    """Of the bank behind the targets."""
    r2: float
    """On people it has not seen; 0 or less: no better than a constant, which it then is."""
    spearman: float
    people: int
    images: int


@dataclass(frozen=True, eq=False)
class LearnedEstimator:
    """A trained network and what is known of it."""

    network: Estimator
    lesson: Lesson

    @cached_property
    def sha(self) -> str:
        """Names its weights in a policy."""
        return state_hash(self.network.state_dict())

    @property
    def constant(self) -> bool:
        """True where it learned nothing: aligned scores are the raw ones."""
        return self.lesson.r2 <= 0


class EstimatorStatistics:
    """A source of statistics that needs no bank: the estimator's word for every image."""

    def __init__(self, learned: LearnedEstimator) -> None:
        self.learned = learned

    def __call__(self, vectors: np.ndarray, people: People | None = None) -> Stats:
        """Unit rows [N,D] -> Stats; ``people`` does not matter, for nobody else is looked at.

        m is d: the mean similarity is what the estimator learns, or the statistic in its place. There are no
        neighbours, so ``idx`` is [N,0]. Raises ALIGN-EMB for broken rows and for another width.
        """
        network, lesson = self.learned.network, self.learned.lesson
        rows, _ = unit_rows(vectors, "embeddings", network.width)
        said = estimate(network, rows)
        count = np.full(len(rows), lesson.neighbours, np.int64)
        return Stats(said[:, 0], said[:, 0], np.exp(said[:, 1]), count, np.empty((len(rows), 0), np.int64))


@torch.inference_mode()
def estimate(network: Estimator, vectors: np.ndarray) -> np.ndarray:
    """d and log v of unit rows [N,D], float64 [N,2]. The network is used as it is, in evaluation mode or not."""
    parts = [
        network(torch.from_numpy(np.ascontiguousarray(vectors[i : i + _BLOCK], np.float32)).to(network.centre.device))
        for i in range(0, len(vectors), _BLOCK)
    ]
    return torch.cat(parts).cpu().double().numpy() if parts else np.empty((0, 2))


def require_estimator(learned: LearnedEstimator, model_sha: str, preproc_sha: str) -> None:
    """Raise ALIGN-HASH where it was learned from another network or another preparation of images."""
    require_same("the estimator", "model", learned.lesson.model_sha, model_sha)
    require_same("the estimator", "preprocessing", learned.lesson.preproc_sha, preproc_sha)


# --- inside a network that ships ---------------------------------------------------------------------------


def module_with_aligned_output(
    net: nn.Module, learned: LearnedEstimator, alpha: float, flip: str = "none"
) -> nn.Module:
    """A network that also returns aligned vectors: their inner product is the score of operator ``add``, sides both.

    Its forward takes what ``net`` takes, float [B,3,H,W], and returns three tensors: the embedding as ``net`` gives it,
    the enrolled vector [f, t, 1] and the probe vector [f, 1, t], [B,D+2] each, with t = -alpha (d - dbar)/2: the rows
    of ``extended.extend``. f is the unit embedding, fused with that of the mirrored image as ``flip`` says (none, sum,
    concat): as the estimator was fitted. Raises InputError for another flip rule.
    """
    if flip not in ("none", "sum", "concat"):
        raise InputError(f"flip rule {flip!r} is not one of none, sum, concat")
    return _AlignedOutput(net, learned, alpha, flip)


class _AlignedOutput(nn.Module):
    def __init__(self, net: nn.Module, learned: LearnedEstimator, alpha: float, flip: str) -> None:
        super().__init__()
        self.net, self.estimator = net, learned.network
        self.share, self.usual, self.flip = alpha / 2, learned.lesson.dbar, flip

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding: Tensor = self.net(data).embedding
        f = F.normalize(self.fused(embedding, data))
        term = -self.share * (self.estimator(f)[:, :1] - self.usual)
        one = torch.ones_like(term)
        return embedding, torch.cat([f, term, one], dim=1), torch.cat([f, one, term], dim=1)

    def fused(self, embedding: Tensor, data: Tensor) -> Tensor:
        if self.flip == "none":
            return embedding
        mirrored: Tensor = self.net(data.flip(3)).embedding
        return embedding + mirrored if self.flip == "sum" else torch.cat([embedding, mirrored], dim=1)


# --- files -------------------------------------------------------------------------------------------------


def table_of(path: Path) -> Path:
    """The .json beside the weights."""
    return path.with_suffix(".json")


def write_estimator(path: Path, learned: LearnedEstimator) -> Path:
    """Write both files, each atomically; between the two an older .json does not fit the weights and is refused."""
    write_tensors(path, learned.network.state_dict())
    write_json(table_of(path), {"schema": _SCHEMA, **asdict(learned.lesson), "weights_sha256": learned.sha})
    return path


def read_estimator(path: Path) -> LearnedEstimator:
    """Read both files. Raises MissingFile, or CorruptFile for anything that ``write_estimator`` has not written."""
    if path.suffix != SUFFIX:
        raise InputError(f"{path} is no estimator: give the {SUFFIX} file that align-eval fit-estimator wrote")
    tensors, _ = read_tensors(path)
    table = read_json(table_of(path))
    try:
        lesson = _lesson(table)
        learned = LearnedEstimator(_network(tensors), lesson)
        if learned.sha != table["weights_sha256"]:
            raise ValueError(f"the weights have hash {learned.sha}, but {table_of(path).name} says otherwise")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is not an estimator, or is damaged: {error}; fit it anew") from error
    return learned


def _lesson(table: Mapping[str, Any]) -> Lesson:
    """Types and ranges, checked."""
    if table["schema"] != _SCHEMA:
        raise ValueError(f"its schema is {table['schema']!r}, and this version reads {_SCHEMA}")
    values = {name: kind(table[name]) for name, kind in get_type_hints(Lesson).items()}
    lesson = Lesson(**values)
    if lesson.statistic not in STATISTICS or lesson.reduce not in REDUCE or lesson.neighbours < 1:
        raise ValueError(
            f"statistic {lesson.statistic!r}, reduce {lesson.reduce!r} or K {lesson.neighbours} is unknown"
        )
    if not all(math.isfinite(value) for value in values.values() if isinstance(value, float)):
        raise ValueError("a number is not finite")
    return lesson


def _network(tensors: Mapping[str, Tensor]) -> Estimator:
    """Names, shapes and types as in an estimator of the file's own width, and every number finite."""
    with torch.device("meta"):
        network = Estimator(int(tensors["layers.0.weight"].numel()))
    wanted = network.state_dict()
    if wanted.keys() != tensors.keys():
        raise ValueError(f"it holds other tensors: {', '.join(sorted(wanted.keys() ^ tensors.keys()))}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)
